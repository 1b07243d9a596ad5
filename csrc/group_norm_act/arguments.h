// Arguments of the kernels of group_norm_act, for CPUs and for CUDA; glide_fast/ops/group_norm_act/__init__.py holds the
// contract.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "tensors.h"

namespace glide_fast {

enum class Resampling : int { none = 0, nearest_x2 = 1, mean_2x2 = 2 };

struct GroupNormAct {
    Dtype dtype;      // of x, x2, residual and sum
    Dtype out_dtype;  // of y: dtype, or fp32
    std::int64_t samples, rows, groups;
    std::int64_t x_channels, channels;  // the channels past x's are x2's
    std::int64_t width;                 // rows of an image line; read only to resample and for windows

    // The input of the norm is x + x_bias + residual, rounded to dtype, followed by the channels of x2 (a skip connection);
    // they are never concatenated in memory. The rounded sum is also written to `sum` unless that is null.
    Rows x, x2, residual, sum, y;
    PerChannel x_bias;
    PerChannel weight, bias, scale, shift;
    double eps;
    bool silu;
    Resampling resample;

    // Whether y is written as 3x3 windows: its row is the neighbourhood of a position of the (resampled) picture, nine times
    // `channels` values side by side from the upper left to the lower right, zeros beyond the picture. y.row_stride is from
    // window to window.
    bool windows = false;
};

}  // namespace glide_fast
