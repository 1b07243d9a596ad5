// Arguments of the kernels of upsampled_convolution; glide_fast/ops/upsampled_convolution/__init__.py holds the contract.
#pragma once

#include <cstdint>

namespace glide_fast {

// Interleaves four pictures into one of twice the height and width. A place is the position of a pixel of y in its 2x2 block:
// upper left 0, upper right 1, lower left 2, lower right 3. y[2 i + down, 2 j + right] is x[i + down, j + right, 2 down +
// right] for down and right 0 or 1. Both tensors are dense.
struct Interleave {
    const char* x;  // [images, height + 1, width + 1, 4 places, pixel]
    char* y;        // [images, 2 height, 2 width, pixel]
    std::int64_t images, height, width;
    std::int64_t pixel;  // bytes of a pixel: all its channels
};

}  // namespace glide_fast
