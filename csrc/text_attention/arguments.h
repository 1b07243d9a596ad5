// Arguments of the kernels of text_attention; glide_fast/ops/text_attention/__init__.py holds the contract.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace glide_fast {

// The channels of a token lie side by side; strides are in elements.
struct TextAttention {
    const void* qkv;   // [samples, tokens, heads, 3 (q, k, v), head_size]
    const void* text;  // [samples, text_tokens, heads, 2 (k, v), head_size]; null where there is no text
    void* y;           // [samples, tokens, heads, head_size]
    Dtype dtype;
    std::int64_t samples, heads, head_size, tokens, text_tokens;
    std::int64_t qkv_sample_stride, qkv_token_stride;
    std::int64_t text_sample_stride, text_token_stride;
    std::int64_t y_sample_stride, y_token_stride;
};

}  // namespace glide_fast
