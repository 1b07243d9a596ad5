// Arguments of the kernels of guided_step, for CPUs and for CUDA; glide_fast/ops/guided_step/__init__.py holds the contract.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace glide_fast {

// Columns of a row of the coefficient table, as in glide_fast.ops.guided_step.Column.
struct Column {
    enum : int {
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
        COUNT,
    };
};

// [samples, channels, positions] in any order of memory; strides are in elements.
struct Images {
    void* data;  // null: absent
    Dtype dtype;
    std::int64_t sample_stride, channel_stride, position_stride;
};

struct GuidedStep {
    static constexpr int remembered = 3;  // predictions in a history

    std::int64_t samples, channels, positions;

    // fp32 [samples, channels, positions] without gaps, or null; known_mask is [samples, positions], history and next_history
    // [remembered, samples, channels, positions], the latest first. next_x and x0 may be x, next_history may be history.
    const float *x, *noise, *known, *known_mask, *score, *history;
    float *next_x, *x0, *next_history;
    bool clip, remember_eps;

    Images model_out;  // [samples, 2 channels, positions]; twice the samples where `guided`, the conditional ones first
    // Classifier-free guidance: the scale is guidance_scale for all samples, unless guidance_scales (fp32) holds one for each.
    bool guided;
    float guidance_scale;
    const float* guidance_scales;
    std::int64_t guidance_stride;

    const float* table;  // [table_rows, Column::COUNT]
    std::int64_t table_rows;
    const std::int64_t* step;  // one for all samples (stride 0), or one for each
    std::int64_t step_stride;

    // Null, or one seed for each sample; `noise` is then null, and noise is a function of (seed, stream, step, element).
    const std::int64_t* seeds;
    std::uint32_t stream;

    // The network's next input, or null: next_x converted to inputs.dtype, `copies` batches one after another.
    Images inputs;
    std::int64_t copies;
};

}  // namespace glide_fast
