// Arguments of the CPU kernel of group_norm_act; glide_fast/ops/group_norm_act.py holds the contract.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace glide_fast {

struct GroupNormAct {
    // x and y are [samples, rows, channels]: a row is one position, its channels lie side by side. Strides in elements.
    const void* x;
    void* y;
    Dtype dtype;
    std::int64_t samples, rows, channels, groups;
    std::int64_t x_sample_stride, x_row_stride, y_sample_stride, y_row_stride;
    // [channels] each.
    const void *weight, *bias;
    Dtype affine_dtype;
    // [samples, channels] each, or both null. Strides between samples, in elements.
    const void *scale, *shift;
    Dtype film_dtype;
    std::int64_t scale_stride, shift_stride;
    double eps;
    bool silu;
    int threads;

    // Rows that one partial mean is taken over. Fixed, so that a result does not depend on the number of threads.
    static constexpr std::int64_t block_rows = 128;
    std::int64_t blocks;

    // Scratch, from the caller: means and sums of squared deviations of [samples, blocks, channels], then of
    // [samples, channels], then the three coefficients of each [samples, channels].
    double *block_mean;
    float *block_m2;
    double *channel_mean, *channel_m2;
    float *center, *factor, *offset;
};

}  // namespace glide_fast
