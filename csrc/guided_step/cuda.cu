// One step of the reverse diffusion in one kernel: glide_fast/ops/guided_step/__init__.py holds the formulas.
//
// A thread computes four neighbouring elements, since one call of Philox returns four numbers. States are small (200 kB at most
// for each image), so the kernel is bound by latency: everything is loaded before anything is used. Types and options are
// run-time branches, which all threads of a launch take alike, instead of template instantiations.
//
// Products and sums are rounded one by one, in the reference's order: at the noisiest step x0 is the difference of two numbers
// 2e4 times as large. setup.py compiles this file without fused multiply-adds.
#include "guided_step/cuda.h"

#include <cuda_runtime.h>

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "cuda/dtype.cuh"
#include "cuda/launch.cuh"
#include "cuda/require.h"
#include "noise/philox.cuh"

namespace glide_fast::cuda {

namespace {

constexpr int threads = 128;
constexpr int elements_a_thread = 4;

__device__ inline float read(const Images& images, std::int64_t sample, std::int64_t channel, std::int64_t position) {
    return cuda::read(images.data, images.dtype,
                      sample * images.sample_stride + channel * images.channel_stride + position * images.position_stride);
}

// The coefficients for a step outside the table.
__device__ const float outside[Column::COUNT] = {NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN};

// Grid: (blocks of the elements of an image, samples).
__global__ void __launch_bounds__(threads) advance(const GuidedStep g) {
    const std::int64_t sample = blockIdx.y;
    const std::int64_t elements = g.channels * g.positions;
    const std::int64_t block = std::int64_t(blockIdx.x) * threads + threadIdx.x;
    const std::int64_t first = block * elements_a_thread;
    if (first >= elements) return;

    const std::int64_t step = g.step[sample * g.step_stride];
    // A step outside the table means a counter that ran too far. The image becomes NaN; an unchanged one would pass for a
    // result.
    const float* const row = step < 0 || step >= g.table_rows ? outside : g.table + step * Column::COUNT;
    const float guidance = g.guidance_scales ? g.guidance_scales[sample * g.guidance_stride] : g.guidance_scale;

    float normals[elements_a_thread] = {};
    if (!g.noise && g.seeds)
        philox_normals(g.seeds[sample], g.stream, std::uint32_t(step), std::uint32_t(block), normals);

#pragma unroll
    for (int i = 0; i < elements_a_thread; ++i) {
        const std::int64_t element = first + i;
        if (element >= elements) break;
        const std::int64_t channel = element / g.positions, position = element % g.positions;
        const std::int64_t at = sample * elements + element;

        const float x = g.x[at];
        float eps = read(g.model_out, sample, channel, position);
        const float v = read(g.model_out, sample, g.channels + channel, position);
        if (g.guided) {
            const float unconditional = read(g.model_out, g.samples + sample, channel, position);
            eps = unconditional + guidance * (eps - unconditional);
        }
        const float frac = (v + 1.0f) * 0.5f;
        const float log_variance = frac * row[Column::MAX_LOG] + (1.0f - frac) * row[Column::MIN_LOG];

        float x0 = row[Column::SQRT_RECIP] * x - row[Column::SQRT_RECIPM1] * eps;
        if (g.known) {
            const float mask = g.known_mask[sample * g.positions + position];
            x0 = x0 * (1.0f - mask) + g.known[at] * mask;
        }
        // Not fmin and fmax, which would turn a NaN into a bound and hide it.
        if (g.clip) x0 = x0 < -1.0f ? -1.0f : x0 > 1.0f ? 1.0f : x0;

        const float score = g.score ? g.score[at] : 0.0f;
        if (g.score) x0 += row[Column::SCORE_TO_X0] * score;
        float out = row[Column::X] * x + row[Column::X0] * x0;
        if (g.score) out += row[Column::SCORE_TO_MEAN] * expf(log_variance) * score;
        if (g.history) {
            const std::int64_t stride = g.samples * elements;
            const float h0 = g.history[at], h1 = g.history[at + stride], h2 = g.history[at + 2 * stride];
            out += row[Column::HISTORY] * h0;
            out += row[Column::HISTORY + 1] * h1;
            out += row[Column::HISTORY + 2] * h2;
            float* const history = g.next_history;
            history[at] = g.remember_eps ? (row[Column::SQRT_RECIP] * x - x0) / row[Column::SQRT_RECIPM1] : x0;
            history[at + stride] = h0;
            history[at + 2 * stride] = h1;
        }
        const float noise = g.noise ? g.noise[at] : normals[i];
        if (g.noise || g.seeds) out += (row[Column::NOISE] + row[Column::LEARNED_NOISE] * expf(0.5f * log_variance)) * noise;

        g.next_x[at] = out;
        if (g.x0) g.x0[at] = x0;
        if (g.inputs.data)
            for (int copy = 0; copy < int(g.copies); ++copy)
                write(g.inputs.data, g.inputs.dtype,
                      (copy * g.samples + sample) * g.inputs.sample_stride + channel * g.inputs.channel_stride +
                          position * g.inputs.position_stride,
                      out);
    }
}

void check_arguments(const GuidedStep& g) {
    constexpr Require require{"guided_step"};
    require(g.samples >= 1 && g.samples <= 65535 && g.channels >= 1 && g.positions >= 1,
            "sizes must be positive, samples below 65536");
    require(g.channels * g.positions < std::int64_t(1) << 33, "an image has less than 2^33 elements");
    require(g.x && g.next_x && g.model_out.data && g.table && g.table_rows >= 1 && g.step,
            "x, next_x, model_out, table and step are needed");
    require(!g.known == !g.known_mask, "known and known_mask come together");
    require(!g.history == !g.next_history, "history and next_history come together");
    require(!(g.noise && g.seeds), "noise is given or drawn from seeds, not both");
    require(!g.inputs.data || g.copies >= 1, "copies must be positive");
    for (const Dtype type : {g.model_out.dtype, g.inputs.dtype})
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
