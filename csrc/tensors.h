// How tensors that several ops share lie in memory. Strides are in elements; data that is null stands for an absent tensor.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace glide_fast {

// [samples, rows, channels]: a row is one position (a pixel, a token), and its channels lie side by side.
struct Rows {
    void* data;
    std::int64_t sample_stride, row_stride;
};

// [channels], or [samples, channels] with a stride between samples.
struct PerChannel {
    const void* data;
    Dtype dtype;
    std::int64_t sample_stride;
};

}  // namespace glide_fast
