// One step of the reverse diffusion in one pass over memory: every operand is read once, every result written once.
//
// Products and sums are rounded one by one in the order of the reference, without fused multiply-adds (except in the variance):
// at the noisiest step x0 is the difference of two numbers 2e4 times as large, and any other rounding of those would show in
// the result.
#include "guided_step/cpu.h"
#include "noise/philox.h"

namespace glide_fast {
namespace GLIDE_FAST_ISA {
namespace {

std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

float number(float x) { return x; }
float number(bf16 x) { return widen(x); }

// For the functions of the inner loop. They apply each operation to several vectors before the next one: while the result of
// one vector is not ready a processor works on the others.
#define GLIDE_FAST_INLINE inline __attribute__((always_inline))

// Replaces t by 4^t, relative error 2e-7; infinity or 0 past fp32's exponents, NaN stays NaN.
template <int n>
GLIDE_FAST_INLINE void powers_of_four(Vec (&t)[n]) {
    Vec whole[n];
    for (int i = 0; i < n; ++i) t[i] = clamp(t[i], -126.0f, 126.0f);
    for (int i = 0; i < n; ++i) whole[i] = round(t[i]);
    for (int i = 0; i < n; ++i) t[i] = power_of_two(whole[i], t[i] - whole[i], 0.0f);
    for (int i = 0; i < n; ++i) t[i] = t[i] * t[i];
}

// Which elements of an image are in one or more vectors: those from `element` on, which is position `position` of `channel`.
// `count` is for each vector. Several vectors are full and lie in one channel; a single one may have fewer elements than lanes,
// and may go on into the next channels.
struct Elements {
    std::int64_t element, channel, position;
    int count;

    Elements vector(int i) const {
        return {element + i * Vec::lanes, channel, position + i * Vec::lanes, Vec::lanes};
    }
};

template <int n, typename T>
GLIDE_FAST_INLINE void load(const T* p, const Elements& at, Vec (&x)[n]) {
    if (n == 1 && at.count < Vec::lanes) {
        x[0] = Vec::load(p, at.count);
        return;
    }
    for (int i = 0; i < n; ++i) x[i] = Vec::load(p + i * Vec::lanes);
}
template <int n, typename T>
GLIDE_FAST_INLINE void store(T* p, const Elements& at, const Vec (&x)[n]) {
    if (n == 1 && at.count < Vec::lanes) return x[0].store(p, at.count);
    for (int i = 0; i < n; ++i) x[i].store(p + i * Vec::lanes);
}

// Calls take(i, channel, position) for element i of a vector, i from 0 to at.count - 1.
template <typename Take>
void each(const Elements& at, std::int64_t positions, Take take) {
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
Vec gather(const T* image, const Images& layout, std::int64_t positions, const Elements& at) {
    float values[Vec::lanes] = {};
    if (at.count == Vec::lanes && at.position + Vec::lanes <= positions) {
        const T* first = image + at.channel * layout.channel_stride + at.position * layout.position_stride;
        for (int i = 0; i < Vec::lanes; ++i) values[i] = number(first[i * layout.position_stride]);
        return Vec::load(values);
    }
    each(at, positions, [&](int i, std::int64_t channel, std::int64_t position) {
        values[i] = number(image[channel * layout.channel_stride + position * layout.position_stride]);
    });
    return Vec::load(values);
}
template <int n, typename T>
GLIDE_FAST_INLINE void gather(const T* image, const Images& layout, std::int64_t positions, const Elements& at, Vec (&x)[n]) {
    if (layout.position_stride == 1 && layout.channel_stride == positions) return load(image + at.element, at, x);
    for (int i = 0; i < n; ++i) x[i] = gather(image, layout, positions, n == 1 ? at : at.vector(i));
}

template <typename T>
void scatter(T* image, const Images& layout, std::int64_t positions, const Elements& at, Vec x) {
    T values[Vec::lanes];
    x.store(values);
    each(at, positions, [&](int i, std::int64_t channel, std::int64_t position) {
        image[channel * layout.channel_stride + position * layout.position_stride] = values[i];
    });
}
template <int n, typename T>
GLIDE_FAST_INLINE void scatter(T* image, const Images& layout, std::int64_t positions, const Elements& at, const Vec (&x)[n]) {
    if (layout.position_stride == 1 && layout.channel_stride == positions) return store(image + at.element, at, x);
    for (int i = 0; i < n; ++i) scatter(image, layout, positions, n == 1 ? at : at.vector(i), x[i]);
}

template <int n>
GLIDE_FAST_INLINE void mask_at(const float* mask, std::int64_t positions, const Elements& at, Vec (&x)[n]) {
    if (n > 1 || at.position + at.count <= positions) return load(mask + at.position, at, x);
    x[0] = gather(mask, Images{nullptr, Dtype::f32, 0, 0, 1}, positions, at);
}

constexpr float quarter_log2e = 0.36067376f;  // exp(y / 2) = 4^(y quarter_log2e)

// The values that all elements of an image share, and the step of that image.
template <typename T>
struct Image {
    const GuidedStepWork& g;
    const T *conditional, *unconditional;
    const float* mask;
    std::int64_t index, start;  // the image's number in the batch, and its offset in dense tensors
    Vec c[Column::COUNT];
    Vec guidance;
    bool needs_std;  // also where the coefficient is 0: a variance that is not finite must show in the result
    std::uint64_t seed;
    std::uint32_t step;

    Image(const GuidedStepWork& args, std::int64_t image) : g(args), index(image) {
        start = image * g.channels * g.positions;
        conditional = static_cast<const T*>(g.model_out.data) + image * g.model_out.sample_stride;
        unconditional = conditional + g.samples * g.model_out.sample_stride;
        mask = g.known_mask ? g.known_mask + image * g.positions : nullptr;
        const std::int64_t row = g.step[image * g.step_stride];
        const float* values = g.table + row * Column::COUNT;
        for (int i = 0; i < Column::COUNT; ++i) c[i] = Vec::all(values[i]);
        const float scale = g.guidance_scales ? g.guidance_scales[image * g.guidance_stride] : g.guidance_scale;
        guidance = Vec::all(g.guided ? scale : 0.0f);
        needs_std = g.noise || g.seeds || g.score;
        seed = g.seeds ? std::uint64_t(g.seeds[image]) : 0;
        step = std::uint32_t(row);
    }

    // Advances n vectors by one step. `seeded`: n vectors of noise drawn from the seeds, or null.
    template <int n>
    GLIDE_FAST_INLINE void advance(const Elements& at, const Vec* seeded) const {
        const std::int64_t here = start + at.element, total = g.samples * g.channels * g.positions;
        const Vec one = Vec::all(1.0f);
        Elements variance = at;
        variance.element += g.channels * g.positions;
        variance.channel += g.channels;
        Vec x[n], x0[n], noisy[n], next[n], learned_std[n], other[n];

        load(g.x + here, at, x);
        gather(conditional, g.model_out, g.positions, at, x0);  // eps, until it is used
        if (g.guided) {
            gather(unconditional, g.model_out, g.positions, at, other);
            for (int i = 0; i < n; ++i) x0[i] = other[i] + guidance * (x0[i] - other[i]);
        }
        for (int i = 0; i < n; ++i) noisy[i] = c[Column::SQRT_RECIP] * x[i];
        for (int i = 0; i < n; ++i) x0[i] = noisy[i] - c[Column::SQRT_RECIPM1] * x0[i];
        if (mask) {
            Vec kept[n];
            mask_at(mask, g.positions, at, kept);
            load(g.known + here, at, other);
            for (int i = 0; i < n; ++i) x0[i] = x0[i] * (one - kept[i]) + other[i] * kept[i];
        }
        if (g.clip) {
            for (int i = 0; i < n; ++i) x0[i] = clamp(x0[i], -1.0f, 1.0f);
        }
        for (int i = 0; i < n; ++i) learned_std[i] = one;
        if (needs_std) {
            gather(conditional, g.model_out, g.positions, variance, other);
            const Vec half = Vec::all(0.5f), scale = Vec::all(quarter_log2e);
            for (int i = 0; i < n; ++i) {
                const Vec part = (other[i] + one) * half;
                learned_std[i] =
                    (part * c[Column::MAX_LOG] + (one - part) * c[Column::MIN_LOG]) * scale;
            }
            powers_of_four(learned_std);
        }
        if (g.score) {
            load(g.score + here, at, other);
            for (int i = 0; i < n; ++i) x0[i] = x0[i] + c[Column::SCORE_TO_X0] * other[i];
        }
        for (int i = 0; i < n; ++i) next[i] = c[Column::X] * x[i] + c[Column::X0] * x0[i];
        if (g.score) {
            for (int i = 0; i < n; ++i)
                next[i] = next[i] + c[Column::SCORE_TO_MEAN] * (learned_std[i] * learned_std[i]) * other[i];
        }
        if (g.history) {
            // Each prediction is read before it is overwritten: next_history may be history.
            Vec latest[n];
            for (int i = 0; i < n; ++i) latest[i] = x0[i];
            if (g.remember_eps) {
                for (int i = 0; i < n; ++i)
                    latest[i] = vec(floats(noisy[i] - x0[i]) / floats(c[Column::SQRT_RECIPM1]));
            }
            for (int k = 0; k < GuidedStep::remembered; ++k) {
                load(g.history + k * total + here, at, other);
                for (int i = 0; i < n; ++i) next[i] = next[i] + c[Column::HISTORY + k] * other[i];
                store(g.next_history + k * total + here, at, latest);
                for (int i = 0; i < n; ++i) latest[i] = other[i];
            }
        }
        if (seeded || g.noise) {
            if (!seeded) load(g.noise + here, at, other);
            for (int i = 0; i < n; ++i) {
                const Vec std = c[Column::NOISE] + c[Column::LEARNED_NOISE] * learned_std[i];
                next[i] = next[i] + std * (seeded ? seeded[i] : other[i]);
            }
        }
        store(g.x0 + here, at, x0);
        store(g.next_x + here, at, next);
        for (std::int64_t copy = 0; copy < g.copies; ++copy) {
            const std::int64_t offset = (copy * g.samples + index) * g.inputs.sample_stride;
            if (g.inputs.dtype == Dtype::f32)
                scatter(static_cast<float*>(g.inputs.data) + offset, g.inputs, g.positions, at, next);
            else
                scatter(static_cast<bf16*>(g.inputs.data) + offset, g.inputs, g.positions, at, next);
        }
    }

    // Advances elements [first, last) of the image by one step.
    void span(std::int64_t first, std::int64_t last) const {
        constexpr int together = 4;  // vectors that one call of normals() draws
        constexpr std::int64_t step_size = together * Vec::lanes;
        std::int64_t channel = first / g.positions, position = first % g.positions;
        Vec n[together];
        for (std::int64_t chunk = first; chunk < last; chunk += step_size) {
            if (g.seeds) normals(seed, step, g.stream, std::uint32_t(chunk / 4), n);
            if (chunk + step_size <= last && position + step_size <= g.positions) {
                advance<together>(Elements{chunk, channel, position, Vec::lanes}, g.seeds ? n : nullptr);
                if ((position += step_size) == g.positions) {
                    position = 0;
                    ++channel;
                }
                continue;
            }
            for (int k = 0; k < together; ++k) {
                const std::int64_t element = chunk + k * Vec::lanes;
                if (element >= last) break;
                const int count = int(smaller(Vec::lanes, last - element));
                advance<1>(Elements{element, channel, position, count}, g.seeds ? &n[k] : nullptr);
                for (position += count; position >= g.positions; position -= g.positions) ++channel;
            }
        }
    }
};

template <typename T>
void run(const GuidedStepWork& g) {
    const std::int64_t elements = g.channels * g.positions;
    const std::int64_t tasks = (elements + g.task - 1) / g.task;
#pragma omp parallel for schedule(static) num_threads(g.threads)
    for (std::int64_t i = 0; i < g.samples * tasks; ++i) {
        const std::int64_t first = i % tasks * g.task;
        Image<T>(g, i / tasks).span(first, smaller(first + g.task, elements));
    }
}

#undef GLIDE_FAST_INLINE

}  // namespace

void guided_step(const GuidedStepWork& g) {
    g.model_out.dtype == Dtype::f32 ? run<float>(g) : run<bf16>(g);
}

}  // namespace GLIDE_FAST_ISA
}  // namespace glide_fast
