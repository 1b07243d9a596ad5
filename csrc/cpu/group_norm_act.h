// Arguments of the CPU kernel of group_norm_act; glide_fast/ops/group_norm_act/__init__.py holds the contract.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace glide_fast {

enum class Resampling : int { none = 0, nearest_x2 = 1, mean_2x2 = 2 };

// [samples, rows, channels]: a row is one position, its channels lie side by side. Strides in elements.
struct RowsOf {
    void* data;  // null: absent
    std::int64_t sample_stride, row_stride;
};

// [channels], or [samples, channels] with a stride between samples, in elements.
struct PerChannel {
    const void* data;  // null: absent
    Dtype dtype;
    std::int64_t sample_stride;
};

struct GroupNormAct {
    Dtype dtype;      // of x, x2, residual and sum
    Dtype out_dtype;  // of y: dtype, or fp32
    std::int64_t samples, rows, groups;
    std::int64_t x_channels, channels;  // the channels past x's are x2's
    std::int64_t width;                 // rows of an image line; read only to resample

    // What is normalised: x + x_bias + residual, rounded to dtype, and the channels of x2 behind it. The rounded values are
    // written to `sum` where there is one.
    RowsOf x, x2, residual, sum, y;
    PerChannel x_bias;
    PerChannel weight, bias, scale, shift;
    double eps;
    bool silu;
    bool stream;  // y past the caches, where the kernel can: it is larger than what they would keep for the next reader
    Resampling resample;
    int threads;

    // Rows that one partial mean is taken over. A function of the shape alone, so that a result does not depend on the number
    // of threads; and so large that the partial results stay small beside the data.
    std::int64_t block_rows, blocks;

    // Scratch, from the caller: means and sums of squared deviations of [samples, blocks, channels], then of
    // [samples, channels]; the three coefficients of each [samples, channels]; x_bias, or zeros; a row of zeros of dtype.
    double *block_mean, *block_m2, *channel_mean, *channel_m2;
    float *center, *factor, *offset, *added_bias;
    void* zeros;

    bool adds() const { return x_bias.data || residual.data; }
};

}  // namespace glide_fast
