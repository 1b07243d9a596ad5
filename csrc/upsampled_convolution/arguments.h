// Arguments of the kernels of upsampled_convolution; glide_fast/ops/upsampled_convolution/__init__.py holds the contract.
#pragma once

#include <cstdint>

namespace glide_fast {

// Four pictures side by side in x's pixels, one for each place, become one of twice the height and width. Pixel (i, j) of y's
// lower right places is (i + 1, j + 1) of the fourth pixels of x, and so on. Both are dense.
struct Interleave {
    const char* x;  // [images, height + 1, width + 1, 4 pixels]
    char* y;        // [images, 2 height, 2 width, pixel]
    std::int64_t images, height, width;
    std::int64_t pixel;  // bytes
};

}  // namespace glide_fast
