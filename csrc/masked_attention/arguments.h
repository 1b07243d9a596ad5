// Arguments of the kernels of masked_attention; glide_fast/ops/masked_attention/__init__.py holds the contract.
#pragma once

#include <cstdint>

#include "tensors.h"

namespace glide_fast {

struct MaskedAttention {
    Rows q, k, v, y;  // a row is a token; its heads lie side by side
    Dtype dtype;
    std::int64_t samples, heads, head_size, queries, keys;
    bool causal;                  // query i sees keys 0 to i
    const std::int64_t* lengths;  // [samples]: how many keys each sample has; null: all of them
};

}  // namespace glide_fast
