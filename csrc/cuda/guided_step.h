// Arguments of the CUDA kernel of guided_step; glide_fast/ops/guided_step/__init__.py holds the contract.
#pragma once

#include <cstdint>

#include "dtype_codes.h"

namespace glide_fast::cuda {

// Columns of a row of the coefficient table, as in glide_fast.ops.guided_step.Column.
enum Column : int {
    SQRT_RECIP,
    SQRT_RECIPM1,
    MIN_LOG,
    MAX_LOG,
    X,
    X0,
    HISTORY,
    NOISE = HISTORY + 3,
    LEARNED_NOISE,
    SCORE_TO_X0,
    SCORE_TO_MEAN,
    COLUMNS,
};

// [samples, channels, positions] in any order of memory; strides in elements.
struct Image {
    std::uintptr_t data;  // 0: absent
    Dtype dtype;
    std::int64_t sample_stride, channel_stride, position_stride;
};

struct GuidedStep {
    std::int64_t samples, channels, positions;

    // fp32, [samples, channels, positions] without gaps. x_out and x0_out may be x.
    std::uintptr_t x, known, score, noise, x_out, x0_out;
    std::uintptr_t known_mask;                // fp32 [samples, positions]
    std::uintptr_t history_in, history_out;   // fp32 [3, samples, channels, positions], latest first; may be the same
    bool remember_eps, clip;

    Image model_out;  // [samples or 2 samples, 2 channels, positions]
    // Classifier-free guidance: the scale of a sample is guidance, or is read from guidance_data (fp32).
    bool guided;
    float guidance;
    std::uintptr_t guidance_data;
    std::int64_t guidance_stride;

    std::uintptr_t table;  // fp32 [table_rows, COLUMNS]
    std::int64_t table_rows;
    std::uintptr_t step;  // int64, read on the device; one for all samples (stride 0) or one for each
    std::int64_t step_stride;

    // Without `noise`: int64 [samples], and noise is drawn for (seed, stream, step, element).
    std::uintptr_t seeds;
    std::uint32_t stream;

    // The next call's input to the network: x_out in its type, written `copies` times, samples apart.
    Image next;
    int copies;
};

}  // namespace glide_fast::cuda
