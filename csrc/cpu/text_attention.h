// Arguments of the CPU kernel of text_attention; glide_fast/ops/text_attention.py holds the contract.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace glide_fast {

struct TextAttention {
    const void *qkv, *text;  // a token's heads side by side, each with its q, k, v; text: its k, v, or null
    void* y;
    Dtype dtype;
    std::int64_t samples, heads, head_size, tokens, text_tokens;
    std::int64_t qkv_sample_stride, qkv_token_stride, text_sample_stride, text_token_stride, y_sample_stride,
        y_token_stride;
    // A task is a head of a sample and one of so many parts of its tiles of queries.
    std::int64_t parts;
    int threads;
    float* scratch;  // threads * scratch_floats(), on a cache line

    static constexpr std::int64_t tile = 64;   // queries that share a pass over the keys
    static constexpr std::int64_t block = 96;  // keys whose logits are held at once, at most
    static constexpr std::int64_t rows = 6;    // keys, then queries, that a micro-kernel takes

    std::int64_t keys() const { return text_tokens + tokens; }
    std::int64_t tiles() const { return (tokens + tile - 1) / tile; }

    // What a thread needs, in whole cache lines: the keys (to a multiple of `rows`) and values (to an even number) of a head,
    // a tile's queries, its logits, its sums, and three numbers a query. Fp32 needs all of it, bf16 less.
    std::int64_t scratch_floats() const {
        return (2 * keys() + rows + 2 * tile) * head_size + (block + 3) * tile;
    }
};

}  // namespace glide_fast
