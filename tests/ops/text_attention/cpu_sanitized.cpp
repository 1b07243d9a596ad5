// The CPU kernel of text_attention and masked_attention for one instruction set, against a plain fp64 loop; every buffer is just as long as it must be.
// Prints the largest error of fp32 and of bf16 results. With GLIDE_FAST_AMX the kernel is the one with tiles.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#if defined(GLIDE_FAST_AMX)
#include "attention/cpu.amx.cpp"
#else
#include "attention/cpu.kernel.cpp"
#endif

using namespace glide_fast;

namespace {

struct Random {
    std::uint64_t state = 1;
    // Between -2 and 2, with few enough bits that bf16 holds it.
    double next() {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return (double(state >> 57) - 64.0) / 32.0;
    }
};

[[maybe_unused]] float read(float x) { return x; }
float read(bf16 x) { return GLIDE_FAST_ISA::widen(x); }
[[maybe_unused]] void write(float& x, double value) { x = float(value); }
void write(bf16& x, double value) {
    const float narrow = float(value);
    std::uint32_t bits;
    std::memcpy(&bits, &narrow, sizeof bits);
    x.bits = std::uint16_t(bits >> 16);
}

// NaN where either is.
double larger(double a, double b) { return a <= b || std::isnan(b) ? b : a; }

constexpr std::int64_t samples = 2, heads = 2;

// `length` rows of `width` numbers for each sample; the last row ends with its last number.
template <typename T>
struct Buffer {
    const std::int64_t token_stride, sample_stride;
    std::vector<T> values;

    Buffer(std::int64_t length, std::int64_t width, std::int64_t gap)
        : token_stride(width + gap),
          sample_stride(length * token_stride),
          values(length ? (samples * length - 1) * token_stride + width : 0) {}
    HeadRows part(std::int64_t first, std::int64_t head_stride) const {
        return {values.empty() ? nullptr : values.data() + first, sample_stride, token_stride, head_stride};
    }
};

template <typename T>
const T* row(const HeadRows& part, std::int64_t sample, std::int64_t head, std::int64_t token) {
    return static_cast<const T*>(part.data) + sample * part.sample_stride + head * part.head_stride +
           token * part.token_stride;
}

enum class Mask { none, causal, lengths, both };

template <typename T>
double error(Dtype dtype, std::int64_t head_size, std::int64_t tokens, std::int64_t text_tokens, int threads, Mask mask) {
    const std::int64_t width = heads * head_size;
    // Odd gaps: no row of bf16 is aligned to a pair.
    Buffer<T> qkv(tokens, 3 * width, 1), text(text_tokens, 2 * width, 3), y(tokens, width, 5);
    const std::vector<std::int64_t> lengths{(tokens + 1) / 2, tokens + 7};
    AttentionWork g{};
    g.queries = qkv.part(0, 3 * head_size);
    g.keys = qkv.part(head_size, 3 * head_size);
    g.values = qkv.part(2 * head_size, 3 * head_size);
    g.text_keys = text.part(0, 2 * head_size);
    g.text_values = text.part(text_tokens ? head_size : 0, 2 * head_size);
    g.y = y.values.data();
    g.y_sample_stride = y.sample_stride;
    g.y_token_stride = y.token_stride;
    g.dtype = dtype;
    g.samples = samples;
    g.heads = heads;
    g.head_size = head_size;
    g.query_tokens = g.key_tokens = tokens;
    g.text_tokens = text_tokens;
    g.causal = mask == Mask::causal || mask == Mask::both;
    if (mask == Mask::lengths || mask == Mask::both) g.lengths = lengths.data();
    g.threads = threads;
    g.parts = threads < g.tiles() ? threads : g.tiles();

    Random random;
    for (T& x : qkv.values) write(x, random.next());
    for (T& x : text.values) write(x, random.next());
    for (T& x : y.values) write(x, NAN);
    // What no query of the first sample sees.
    for (std::int64_t i = g.seen(0, tokens); mask != Mask::none && i < tokens; ++i) {
        for (std::int64_t c = 0; c < 3 * width; ++c) {
            if (c / head_size % 3) write(qkv.values[i * qkv.token_stride + c], NAN);
        }
    }
    float* scratch = static_cast<float*>(std::aligned_alloc(64, threads * g.scratch_floats() * sizeof(float)));
    std::memset(static_cast<void*>(scratch), 0xff, threads * g.scratch_floats() * sizeof(float));  // NaN
    g.scratch = scratch;
    GLIDE_FAST_ISA::attention(g);
    std::free(scratch);

    double worst = 0.0;
    std::vector<double> weights(g.all_keys());
    for (std::int64_t sample = 0; sample < samples; ++sample) {
        for (std::int64_t h = 0; h < heads; ++h) {
            const auto key = [&](std::int64_t i) {
                return i < text_tokens ? row<T>(g.text_keys, sample, h, i) : row<T>(g.keys, sample, h, i - text_tokens);
            };
            const auto value = [&](std::int64_t i) {
                return i < text_tokens ? row<T>(g.text_values, sample, h, i)
                                       : row<T>(g.values, sample, h, i - text_tokens);
            };
            for (std::int64_t t = 0; t < tokens; ++t) {
                const T* query = row<T>(g.queries, sample, h, t);
                std::int64_t keys = g.lengths && lengths[sample] < g.all_keys() ? lengths[sample] : g.all_keys();
                if (g.causal && t + 1 < keys) keys = t + 1;
                double most = -INFINITY, total = 0.0;
                for (std::int64_t i = 0; i < keys; ++i) {
                    weights[i] = 0.0;
                    for (std::int64_t c = 0; c < head_size; ++c) weights[i] += double(read(query[c])) * read(key(i)[c]);
                    weights[i] /= std::sqrt(double(head_size));
                    most = std::fmax(most, weights[i]);
                }
                for (std::int64_t i = 0; i < keys; ++i) total += weights[i] = std::exp(weights[i] - most);
                const T* result = &y.values[sample * y.sample_stride + t * y.token_stride + h * head_size];
                for (std::int64_t c = 0; c < head_size; ++c) {
                    double sum = 0.0;
                    for (std::int64_t i = 0; i < keys; ++i) sum += weights[i] * read(value(i)[c]);
                    const double off = std::fabs(read(result[c]) - sum / total);
                    worst = larger(off, worst);
                }
            }
        }
    }
    return worst;
}

#if defined(GLIDE_FAST_AMX)
// Emulated tiles take their time: one shape that is masked, one of two blocks of keys with a part of a tile at every end.
constexpr std::int64_t shapes[][3] = {{1, 0, 1}, {5, 33, 3}, {100, 0, 2}, {35, 70, 1}};
constexpr Mask masks[] = {Mask::none, Mask::both};
#else
constexpr std::int64_t shapes[][3] = {{1, 0, 1}, {1, 1, 1}, {5, 33, 3}, {64, 96, 1}, {67, 0, 2}, {130, 1, 3}, {130, 0, 3}};
constexpr Mask masks[] = {Mask::none, Mask::causal, Mask::lengths, Mask::both};
#endif

}  // namespace

int main() {
    double single = 0.0, half = 0.0;
    for (const auto& [tokens, text_tokens, threads] : shapes) {
        for (int head_size : {32, 64, 128}) {
            for (Mask mask : masks) {
                if (mask != Mask::none && text_tokens) continue;  // no op has both
#if !defined(GLIDE_FAST_AMX)  // whose tiles multiply bf16 alone
                single = larger(error<float>(Dtype::f32, head_size, tokens, text_tokens, int(threads), mask), single);
#endif
                half = larger(error<bf16>(Dtype::bf16, head_size, tokens, text_tokens, int(threads), mask), half);
            }
        }
    }
    std::printf("%.3g %.3g\n", single, half);
}
