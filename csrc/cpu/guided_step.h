// Arguments of the CPU kernel of guided_step; glide_fast/ops/guided_step/__init__.py holds the contract.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace glide_fast {

// How [images, channels, positions] lies in memory; strides in elements.
struct Layout {
    std::int64_t image, channel, position;
};

struct GuidedStep {
    // Columns of a table's row, as class Column of the Python module has them.
    enum { sqrt_recip, sqrt_recipm1, min_log, max_log, c_x, c_x0, c_history, c_noise = 9, c_learned, score_to_x0,
           score_to_mean, columns };
    static constexpr int remembered = 3;

    std::int64_t images, channels, positions;
    // Dense fp32 [images, channels, positions], or null; known_mask is [images, positions], history and next_history
    // [remembered, images, channels, positions].
    const float *x, *noise, *known, *known_mask, *score, *history;
    float *next_x, *x0, *next_history;
    // Twice the channels, and twice the images where `guided`.
    const void* model_out;
    Dtype model_dtype;
    Layout model_layout;
    bool guided;
    // A value for each image, or the same for all with stride 0.
    const float* guidance;
    std::int64_t guidance_stride;
    const float* table;
    const std::int64_t* step;
    std::int64_t step_stride;
    const std::int64_t* seeds;  // null: noise, if any, comes from memory
    std::uint32_t stream;
    bool clip, remember_eps;
    // `copies` of the next state one after another, or null.
    void* inputs;
    Dtype input_dtype;
    Layout input_layout;
    std::int64_t copies;
    int threads;

    // Elements of one image that a task takes.
    static constexpr std::int64_t task = 1024;
};

}  // namespace glide_fast
