// Arguments of the kernels of text_attention; glide_fast/ops/text_attention/__init__.py holds the contract.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace glide_fast {

// A token's channels lie side by side; strides are in elements.
struct TextAttention {
    const void* qkv;   // of each token its heads, and of each head q, k and v
    const void* text;  // of each token of the text its heads, and of each head k and v; null where there is no text
    void* y;           // of each token its heads
    Dtype dtype;
    std::int64_t samples, heads, head_size, tokens, text_tokens;
    std::int64_t qkv_sample_stride, qkv_token_stride;
    std::int64_t text_sample_stride, text_token_stride;
    std::int64_t y_sample_stride, y_token_stride;
};

}  // namespace glide_fast
