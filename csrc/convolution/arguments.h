// Arguments of the kernels of convolution; glide_fast/ops/convolution holds the contracts.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace glide_fast {

// A 3x3 convolution by Winograd's algorithm; all but bias are bf16 and dense. glide_fast/ops/convolution/winograd.py.
struct Winograd {
    const bf16* x;       // [images, height, width, channels]
    const bf16* weight;  // for each block of outputs [3 columns, 3 rows, channels / 2, outputs of the block, 2]
    const void* bias;    // [outputs], or null
    Dtype bias_dtype;
    const bf16* residual;  // as y, or null
    bf16* y;               // [images, height, width, outputs]
    std::int64_t images, height, width, channels, outputs;
    unsigned char* scratch;  // as many bytes as winograd_scratch() says
};

}  // namespace glide_fast
