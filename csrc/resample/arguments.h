// Arguments of the kernels of resample; glide_fast/ops/resample/__init__.py holds the contract.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace glide_fast {

// Strides, in elements, of [images, height, width, channels]; the channels of a pixel lie side by side.
struct PixelStrides {
    std::int64_t image, row, column;
};

struct Resample {
    const void *x, *residual;  // the same shape and type; residual may be null
    void* y;                   // twice the height and width of x with `up`, else half
    Dtype dtype;
    const void* bias;  // [channels], or null
    Dtype bias_dtype;
    bool up;                                       // nearest x2, else the mean of 2x2 pixels
    std::int64_t images, height, width, channels;  // of x
    PixelStrides x_strides, y_strides, residual_strides;
};

}  // namespace glide_fast
