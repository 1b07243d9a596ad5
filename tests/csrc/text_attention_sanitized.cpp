// text_attention's CPU kernel for one instruction set, against a plain fp64 loop; every buffer is just as long as it must be.
// Prints the largest error of fp32 and of bf16 results.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "text_attention.kernel.cpp"

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

float read(float x) { return x; }
float read(bf16 x) { return GLIDE_FAST_ISA::widen(x); }
void write(float& x, double value) { x = float(value); }
void write(bf16& x, double value) {
    const float narrow = float(value);
    std::uint32_t bits;
    std::memcpy(&bits, &narrow, sizeof bits);
    x.bits = std::uint16_t(bits >> 16);
}

// NaN where either is.
double larger(double a, double b) { return a <= b || std::isnan(b) ? b : a; }

template <typename T>
double error(Dtype dtype, std::int64_t head_size, std::int64_t tokens, std::int64_t text_tokens, int threads) {
    TextAttention g{};
    g.dtype = dtype;
    g.samples = 2;
    g.heads = 2;
    g.head_size = head_size;
    g.tokens = tokens;
    g.text_tokens = text_tokens;
    const std::int64_t width = g.heads * head_size;
    g.qkv_token_stride = 3 * width + 1;  // odd: no row of bf16 is aligned to a pair
    g.text_token_stride = 2 * width + 3;
    g.y_token_stride = width + 5;
    g.qkv_sample_stride = tokens * g.qkv_token_stride;
    g.text_sample_stride = text_tokens * g.text_token_stride;
    g.y_sample_stride = tokens * g.y_token_stride;
    g.threads = threads;
    g.parts = threads < g.tiles() ? threads : g.tiles();

    Random random;
    // The last token's row ends with its last channel.
    std::vector<T> qkv((2 * tokens - 1) * g.qkv_token_stride + 3 * width);
    std::vector<T> text(text_tokens ? (2 * text_tokens - 1) * g.text_token_stride + 2 * width : 0);
    std::vector<T> y((2 * tokens - 1) * g.y_token_stride + width);
    for (T& x : qkv) write(x, random.next());
    for (T& x : text) write(x, random.next());
    for (T& x : y) write(x, NAN);
    float* scratch = static_cast<float*>(std::aligned_alloc(64, threads * g.scratch_floats() * sizeof(float)));
    std::memset(static_cast<void*>(scratch), 0xff, threads * g.scratch_floats() * sizeof(float));  // NaN
    g.qkv = qkv.data();
    g.text = text_tokens ? text.data() : nullptr;
    g.y = y.data();
    g.scratch = scratch;
    GLIDE_FAST_ISA::text_attention(g);
    std::free(scratch);

    double worst = 0.0;
    const std::int64_t keys = g.keys();
    std::vector<double> weights(keys);
    for (std::int64_t sample = 0; sample < 2; ++sample) {
        for (std::int64_t h = 0; h < g.heads; ++h) {
            const auto key = [&](std::int64_t i) {
                if (i < text_tokens)
                    return &text[sample * g.text_sample_stride + i * g.text_token_stride + h * 2 * head_size];
                return &qkv[sample * g.qkv_sample_stride + (i - text_tokens) * g.qkv_token_stride +
                            h * 3 * head_size + head_size];
            };
            for (std::int64_t t = 0; t < tokens; ++t) {
                const T* query = &qkv[sample * g.qkv_sample_stride + t * g.qkv_token_stride + h * 3 * head_size];
                double most = -INFINITY, total = 0.0;
                for (std::int64_t i = 0; i < keys; ++i) {
                    weights[i] = 0.0;
                    for (std::int64_t c = 0; c < head_size; ++c) weights[i] += double(read(query[c])) * read(key(i)[c]);
                    weights[i] /= std::sqrt(double(head_size));
                    most = std::fmax(most, weights[i]);
                }
                for (double& w : weights) total += w = std::exp(w - most);
                const T* result = &y[sample * g.y_sample_stride + t * g.y_token_stride + h * head_size];
                for (std::int64_t c = 0; c < head_size; ++c) {
                    double sum = 0.0;
                    for (std::int64_t i = 0; i < keys; ++i) sum += weights[i] * read(key(i)[head_size + c]);
                    const double off = std::fabs(read(result[c]) - sum / total);
                    worst = larger(off, worst);
                }
            }
        }
    }
    return worst;
}

}  // namespace

int main() {
    const std::int64_t shapes[][3] = {{1, 0, 1}, {1, 1, 1}, {5, 33, 3}, {64, 96, 1}, {67, 0, 2}, {130, 1, 3}};
    double single = 0.0, half = 0.0;
    for (const auto& [tokens, text_tokens, threads] : shapes) {
        for (int head_size : {32, 64, 128}) {
            single = larger(error<float>(Dtype::f32, head_size, tokens, text_tokens, int(threads)), single);
            half = larger(error<bf16>(Dtype::bf16, head_size, tokens, text_tokens, int(threads)), half);
        }
    }
    std::printf("%.3g %.3g\n", single, half);
}
