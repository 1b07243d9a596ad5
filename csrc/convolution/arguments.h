// Arguments of the kernels of convolution; glide_fast/ops/convolution holds the contracts.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace glide_fast {

// A 3x3 convolution by Winograd's algorithm, called by glide_fast/ops/convolution/winograd.py. All tensors but bias are bf16
// and dense.
struct Winograd {
    const bf16* x;       // [images, height, width, channels]
    const bf16* weight;  // for each block of outputs [3 columns, 3 rows, channels / 2, outputs of the block, 2]
    const void* bias;    // [outputs], or null
    Dtype bias_dtype;
    const bf16* residual;  // the shape of y, or null
    bf16* y;               // [images, height, width, outputs]
    std::int64_t images, height, width, channels, outputs;
    unsigned char* scratch;  // winograd_scratch() bytes
};

}  // namespace glide_fast
