// One step of the reverse diffusion in one kernel: glide_fast/ops/guided_step/__init__.py holds the formulas.
//
// A thread owns the four neighbouring elements that one call of Philox gives numbers for. States are small (200 kB at most
// for each image), so the kernel is bound by latency: everything is loaded before anything is used, and types and options
// are branches that a whole grid takes alike instead of instantiations.
//
// Products and sums are rounded one by one, in the reference's order: at the noisiest step x0 is the difference of two numbers
// 2e4 times as large. setup.py compiles this file without fused multiply-adds.
#include "guided_step.h"

#include <cuda_runtime.h>

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "dtype.cuh"
#include "entries.h"
#include "launch.cuh"
#include "philox.cuh"
#include "require.h"

namespace glide_fast::cuda {

namespace {

constexpr int threads = 128;
constexpr int elements_a_thread = 4;

__device__ inline float read(const Image& image, std::int64_t sample, std::int64_t channel, std::int64_t position) {
    return read(reinterpret_cast<const void*>(image.data), image.dtype,
                sample * image.sample_stride + channel * image.channel_stride + position * image.position_stride);
}

__device__ inline const float* floats(std::uintptr_t data) { return reinterpret_cast<const float*>(data); }
__device__ inline float* writable(std::uintptr_t data) { return reinterpret_cast<float*>(data); }

// The row of a step outside the table.
__device__ const float outside[COLUMNS] = {NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN};

// grid (blocks of an image's elements, samples).
__global__ void __launch_bounds__(threads) advance(const GuidedStep g) {
    const std::int64_t sample = blockIdx.y;
    const std::int64_t elements = g.channels * g.positions;
    const std::int64_t block = std::int64_t(blockIdx.x) * threads + threadIdx.x;
    const std::int64_t first = block * elements_a_thread;
    if (first >= elements) return;

    const std::int64_t step = reinterpret_cast<const std::int64_t*>(g.step)[sample * g.step_stride];
    // A step outside the table means a counter that ran too far: its image becomes NaN, since an old one would pass for a result.
    const float* const row = step < 0 || step >= g.table_rows ? outside : floats(g.table) + step * COLUMNS;
    const float guidance = g.guidance_data ? floats(g.guidance_data)[sample * g.guidance_stride] : g.guidance;

    float normals[elements_a_thread] = {};
    if (!g.noise && g.seeds)
        philox_normals(reinterpret_cast<const std::int64_t*>(g.seeds)[sample], g.stream, std::uint32_t(step),
                       std::uint32_t(block), normals);

#pragma unroll
    for (int i = 0; i < elements_a_thread; ++i) {
        const std::int64_t element = first + i;
        if (element >= elements) break;
        const std::int64_t channel = element / g.positions, position = element % g.positions;
        const std::int64_t at = sample * elements + element;

        const float x = floats(g.x)[at];
        float eps = read(g.model_out, sample, channel, position);
        const float v = read(g.model_out, sample, g.channels + channel, position);
        if (g.guided) {
            const float unconditional = read(g.model_out, g.samples + sample, channel, position);
            eps = unconditional + guidance * (eps - unconditional);
        }
        const float frac = (v + 1.0f) * 0.5f;
        const float log_variance = frac * row[MAX_LOG] + (1.0f - frac) * row[MIN_LOG];

        float x0 = row[SQRT_RECIP] * x - row[SQRT_RECIPM1] * eps;
        if (g.known) {
            const float mask = floats(g.known_mask)[sample * g.positions + position];
            x0 = x0 * (1.0f - mask) + floats(g.known)[at] * mask;
        }
        // Not fmin and fmax, which would turn a NaN into a bound and hide it.
        if (g.clip) x0 = x0 < -1.0f ? -1.0f : x0 > 1.0f ? 1.0f : x0;

        const float score = g.score ? floats(g.score)[at] : 0.0f;
        if (g.score) x0 += row[SCORE_TO_X0] * score;
        float out = row[X] * x + row[X0] * x0;
        if (g.score) out += row[SCORE_TO_MEAN] * expf(log_variance) * score;
        if (g.history_in) {
            const std::int64_t stride = g.samples * elements;
            const float h0 = floats(g.history_in)[at], h1 = floats(g.history_in)[at + stride],
                        h2 = floats(g.history_in)[at + 2 * stride];
            out += row[HISTORY] * h0;
            out += row[HISTORY + 1] * h1;
            out += row[HISTORY + 2] * h2;
            float* const history = writable(g.history_out);
            history[at] = g.remember_eps ? (row[SQRT_RECIP] * x - x0) / row[SQRT_RECIPM1] : x0;
            history[at + stride] = h0;
            history[at + 2 * stride] = h1;
        }
        const float noise = g.noise ? floats(g.noise)[at] : normals[i];
        if (g.noise || g.seeds) out += (row[NOISE] + row[LEARNED_NOISE] * expf(0.5f * log_variance)) * noise;

        writable(g.x_out)[at] = out;
        if (g.x0_out) writable(g.x0_out)[at] = x0;
        if (g.next.data)
            for (int copy = 0; copy < g.copies; ++copy)
                write(reinterpret_cast<void*>(g.next.data), g.next.dtype,
                      (copy * g.samples + sample) * g.next.sample_stride + channel * g.next.channel_stride +
                          position * g.next.position_stride,
                      out);
    }
}

void check_arguments(const GuidedStep& g) {
    constexpr Require require{"guided_step"};
    require(g.samples >= 1 && g.samples <= 65535 && g.channels >= 1 && g.positions >= 1,
            "sizes must be positive, samples below 65536");
    require(g.channels * g.positions < std::int64_t(1) << 33, "an image has less than 2^33 elements");
    require(g.x && g.x_out && g.model_out.data && g.table && g.table_rows >= 1 && g.step,
            "x, x_out, model_out, table and step are needed");
    require(!g.known == !g.known_mask, "known and known_mask come together");
    require(!g.history_in == !g.history_out, "history_in and history_out come together");
    require(!(g.noise && g.seeds), "noise is given or drawn from seeds, not both");
    require(!g.next.data || g.copies >= 1, "copies must be positive");
    for (const Dtype type : {g.model_out.dtype, g.next.dtype})
        require(type == Dtype::f32 || type == Dtype::bf16 || type == Dtype::f16,
                "a type code is 0 (fp32), 1 (bf16) or 2 (fp16)");
}

}  // namespace

void guided_step(const GuidedStep& g, std::uintptr_t stream) {
    check_arguments(g);
    constexpr std::int64_t a_block = std::int64_t(threads) * elements_a_thread;
    const std::int64_t blocks = (g.channels * g.positions + a_block - 1) / a_block;
    launch(advance, {dim3(unsigned(blocks), unsigned(g.samples)), threads}, stream, g);
}

}  // namespace glide_fast::cuda
