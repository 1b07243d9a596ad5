// Arguments of the CUDA kernels of group_norm_act; glide_fast/ops/group_norm_act/__init__.py holds the contract.
#pragma once

#include <cstdint>

#include "dtype_codes.h"

namespace glide_fast::cuda {

enum class Resample : int { none = 0, nearest_x2 = 1, mean_2x2 = 2 };

// Activations are [samples, rows, channels]: a row is one position, its channels lie side by side. Strides in elements.
struct Rows {
    std::uintptr_t data;  // 0: absent
    std::int64_t sample_stride, row_stride;
};

// A vector of channels for each sample, or one for all (stride 0).
struct PerChannel {
    std::uintptr_t data;
    Dtype dtype;
    std::int64_t sample_stride;
};

struct GroupNormAct {
    Dtype dtype;  // of x, x2, residual and sum
    std::int64_t samples;
    int rows, channels, groups;
    int width;  // rows of an image line; read only to resample

    // What is normalised: the channels of x, then those of x2 (a skip connection), never concatenated in memory. With a
    // residual or an in_bias, x + in_bias + residual stands for x, rounded to dtype and, if there is a `sum`, written to it.
    Rows x, x2;
    int x_channels;  // the others are x2's
    Rows residual, sum;
    PerChannel in_bias;

    PerChannel weight, bias, scale, shift;
    float eps;
    bool silu;
    Resample resample;
    Rows y;
    Dtype y_dtype;  // as dtype, or f32
};

}  // namespace glide_fast::cuda
