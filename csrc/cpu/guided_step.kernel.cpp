// One step of the reverse diffusion in one pass over memory: every operand is read once, every result written once.
//
// Products and sums are rounded one by one in the order of the reference, without fused multiply-adds: at the noisiest step x0
// is the difference of two numbers 2e4 times as large, and any other rounding of those would show in the result.
#include "guided_step.h"
#include "philox.h"

namespace glide_fast {
namespace GLIDE_FAST_ISA {
namespace {

std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

float number(float x) { return x; }
float number(bf16 x) { return widen(x); }

// e^y, relative error 3e-7 (the polynomial is that of silu in vec.h); y is clamped to +-87, NaN stays NaN.
Vec exponential(Vec y) {
    const Vec bounded = clamp(y, -87.0f, 87.0f);
    const Vec whole = round(bounded * Vec::all(1.44269504f));
    Vec rest = multiply_add(whole, Vec::all(-0.693359375f), bounded);
    rest = multiply_add(whole, Vec::all(2.12194440e-4f), rest) * Vec::all(1.44269504f);
    Vec p = Vec::all(0.00132764725f);
    p = multiply_add(p, rest, Vec::all(0.00967554096f));
    p = multiply_add(p, rest, Vec::all(0.0555071309f));
    p = multiply_add(p, rest, Vec::all(0.240221202f));
    p = multiply_add(p, rest, Vec::all(0.693146944f));
    p = multiply_add(p, rest, Vec::all(1.0f));
    return times_power_of_two(p, whole);
}

// Where a vector's elements are: `count` of an image's elements from `element`, which is position `position` of `channel`.
struct Place {
    std::int64_t element, channel, position;
    int count;
};

template <typename T>
Vec load(const T* p, int count) {
    return count == Vec::lanes ? Vec::load(p) : Vec::load(p, count);
}
template <typename T>
void store(T* p, int count, Vec x) {
    count == Vec::lanes ? x.store(p) : x.store(p, count);
}

// Calls take(i, channel, position) for each element of a place, whose channels may change on the way.
template <typename Take>
void each(const Place& at, std::int64_t positions, Take take) {
    std::int64_t channel = at.channel, position = at.position;
    for (int i = 0; i < at.count; ++i) {
        take(i, channel, position);
        if (++position == positions) {
            position = 0;
            ++channel;
        }
    }
}

template <typename T>
Vec gather(const T* image, const Layout& layout, std::int64_t positions, const Place& at) {
    if (layout.position == 1 && layout.channel == positions) return load(image + at.element, at.count);
    float values[Vec::lanes] = {};
    if (at.count == Vec::lanes && at.position + Vec::lanes <= positions) {
        const T* first = image + at.channel * layout.channel + at.position * layout.position;
        for (int i = 0; i < Vec::lanes; ++i) values[i] = number(first[i * layout.position]);
        return Vec::load(values);
    }
    each(at, positions, [&](int i, std::int64_t channel, std::int64_t position) {
        values[i] = number(image[channel * layout.channel + position * layout.position]);
    });
    return Vec::load(values);
}

template <typename T>
void scatter(T* image, const Layout& layout, std::int64_t positions, const Place& at, Vec x) {
    if (layout.position == 1 && layout.channel == positions) return store(image + at.element, at.count, x);
    T values[Vec::lanes];
    x.store(values);
    each(at, positions, [&](int i, std::int64_t channel, std::int64_t position) {
        image[channel * layout.channel + position * layout.position] = values[i];
    });
}

Vec mask_at(const float* mask, std::int64_t positions, const Place& at) {
    if (at.position + at.count <= positions) return load(mask + at.position, at.count);
    return gather(mask, Layout{0, 0, 1}, positions, at);
}

// What is the same for a whole image.
template <typename T>
struct Image {
    const GuidedStep& g;
    const T *conditional, *unconditional;
    const float* mask;
    std::int64_t index, start;  // start: of the image in dense tensors
    Vec c[GuidedStep::columns];
    Vec guidance;
    bool needs_std;
    std::uint64_t seed;
    std::uint32_t step;

    Image(const GuidedStep& args, std::int64_t image) : g(args), index(image) {
        start = image * g.channels * g.positions;
        conditional = static_cast<const T*>(g.model_out) + image * g.model_layout.image;
        unconditional = conditional + g.images * g.model_layout.image;
        mask = g.known_mask ? g.known_mask + image * g.positions : nullptr;
        const std::int64_t row = g.step[image * g.step_stride];
        const float* values = g.table + row * GuidedStep::columns;
        for (int i = 0; i < GuidedStep::columns; ++i) c[i] = Vec::all(values[i]);
        guidance = Vec::all(g.guided ? g.guidance[image * g.guidance_stride] : 0.0f);
        needs_std = values[GuidedStep::c_learned] != 0.0f || g.score;
        seed = g.seeds ? std::uint64_t(g.seeds[image]) : 0;
        step = std::uint32_t(row);
    }

    void advance(const Place& at, const Vec* seeded) const {
        const std::int64_t here = start + at.element, total = g.images * g.channels * g.positions;
        const Vec one = Vec::all(1.0f);
        const Vec x = load(g.x + here, at.count);
        Place variance = at;
        variance.element += g.channels * g.positions;
        variance.channel += g.channels;

        Vec eps = gather(conditional, g.model_layout, g.positions, at);
        if (g.guided) {
            const Vec without = gather(unconditional, g.model_layout, g.positions, at);
            eps = without + guidance * (eps - without);
        }
        const Vec noisy = c[GuidedStep::sqrt_recip] * x;
        Vec x0 = noisy - c[GuidedStep::sqrt_recipm1] * eps;
        if (mask) {
            const Vec kept = mask_at(mask, g.positions, at);
            x0 = x0 * (one - kept) + load(g.known + here, at.count) * kept;
        }
        if (g.clip) x0 = clamp(x0, -1.0f, 1.0f);

        Vec learned_std = one;
        if (needs_std) {
            const Vec frac = (gather(conditional, g.model_layout, g.positions, variance) + one) * Vec::all(0.5f);
            const Vec log_variance = frac * c[GuidedStep::max_log] + (one - frac) * c[GuidedStep::min_log];
            learned_std = exponential(Vec::all(0.5f) * log_variance);
        }
        const Vec score = g.score ? load(g.score + here, at.count) : one;
        if (g.score) x0 = x0 + c[GuidedStep::score_to_x0] * score;
        Vec next = c[GuidedStep::c_x] * x + c[GuidedStep::c_x0] * x0;
        if (g.score) next = next + c[GuidedStep::score_to_mean] * (learned_std * learned_std) * score;
        if (g.history) {
            // All are read before any is written: next_history may be history.
            Vec latest = x0;
            if (g.remember_eps) latest = vec(floats(noisy - x0) / floats(c[GuidedStep::sqrt_recipm1]));
            for (int k = 0; k < GuidedStep::remembered; ++k) {
                const Vec old = load(g.history + k * total + here, at.count);
                next = next + c[GuidedStep::c_history + k] * old;
                store(g.next_history + k * total + here, at.count, latest);
                latest = old;
            }
        }
        if (seeded || g.noise) {
            const Vec std = c[GuidedStep::c_noise] + c[GuidedStep::c_learned] * learned_std;
            next = next + std * (seeded ? *seeded : load(g.noise + here, at.count));
        }
        store(g.x0 + here, at.count, x0);
        store(g.next_x + here, at.count, next);
        for (std::int64_t copy = 0; copy < g.copies; ++copy) {
            const std::int64_t offset = (copy * g.images + index) * g.input_layout.image;
            if (g.input_dtype == Dtype::f32)
                scatter(static_cast<float*>(g.inputs) + offset, g.input_layout, g.positions, at, next);
            else
                scatter(static_cast<bf16*>(g.inputs) + offset, g.input_layout, g.positions, at, next);
        }
    }

    void span(std::int64_t first, std::int64_t last) const {
        std::int64_t channel = first / g.positions, position = first % g.positions;
        for (std::int64_t chunk = first; chunk < last; chunk += 4 * Vec::lanes) {
            Vec n[4];
            if (g.seeds) normals(seed, step, g.stream, std::uint32_t(chunk / 4), n);
            for (int k = 0; k < 4; ++k) {
                const std::int64_t element = chunk + k * Vec::lanes;
                if (element >= last) break;
                const int count = int(smaller(Vec::lanes, last - element));
                advance(Place{element, channel, position, count}, g.seeds ? &n[k] : nullptr);
                for (position += count; position >= g.positions; position -= g.positions) ++channel;
            }
        }
    }
};

template <typename T>
void run(const GuidedStep& g) {
    const std::int64_t elements = g.channels * g.positions;
    const std::int64_t tasks = (elements + g.task - 1) / g.task;
#pragma omp parallel for schedule(static) num_threads(g.threads)
    for (std::int64_t i = 0; i < g.images * tasks; ++i) {
        const std::int64_t first = i % tasks * g.task;
        Image<T>(g, i / tasks).span(first, smaller(first + g.task, elements));
    }
}

}  // namespace

void guided_step(const GuidedStep& g) {
    g.model_dtype == Dtype::f32 ? run<float>(g) : run<bf16>(g);
}

}  // namespace GLIDE_FAST_ISA
}  // namespace glide_fast
