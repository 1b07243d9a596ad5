// The CPU kernel that text_attention and masked_attention share: attention over one or two segments of keys, under a mask.
#pragma once

#include <algorithm>
#include <cstdint>

#include "dtype.h"

namespace glide_fast {

// Where one part (queries, keys or values) of all heads is; a head's channels lie side by side. Strides are in elements.
struct HeadRows {
    const void* data;
    std::int64_t sample_stride, token_stride, head_stride;
};

struct Attention {
    HeadRows queries, keys, values;
    HeadRows text_keys, text_values;  // come before the others; read where there are text_tokens
    void* y;                          // a token's heads side by side
    std::int64_t y_sample_stride, y_token_stride;
    Dtype dtype;
    std::int64_t samples, heads, head_size, query_tokens, key_tokens, text_tokens;
    // Masks, over all keys in their order: query i sees keys 0 to i, and sample n has lengths[n] of them (null: all).
    bool causal;
    const std::int64_t* lengths;

    std::int64_t all_keys() const { return text_tokens + key_tokens; }
};

// What a kernel is given: the arguments, how the work is divided, and scratch memory.
struct AttentionWork : Attention {
    // A task is a head of a sample and one of so many parts of its tiles of queries.
    std::int64_t parts = 0;
    int threads = 0;
    float* scratch = nullptr;  // threads * scratch_floats(), on a cache line

    static constexpr std::int64_t tile = 64;   // queries that share a pass over the keys
    static constexpr std::int64_t block = 96;  // keys whose logits are held at once, at most
    static constexpr std::int64_t rows = 6;    // keys, then queries, that a micro-kernel takes
    // With AMX: rows of two tiles, and keys whose logits are held at once. Logits of two blocks, a block's weights, sums and
    // queries of 32 rows are 36 KiB of the first cache's 48; keys and values stream through the rest.
    static constexpr std::int64_t tile_pair = 32, tile_block = 96;

    std::int64_t tiles() const { return (query_tokens + tile - 1) / tile; }

    // Keys that some query before `end` sees. One at least: a length below is outside the contract, and reads no memory that is
    // not there.
    std::int64_t seen(std::int64_t sample, std::int64_t end) const {
        std::int64_t count = all_keys();
        if (lengths) count = std::clamp<std::int64_t>(lengths[sample], 1, count);
        return causal ? std::min(count, end) : count;
    }

    // What a thread needs, in whole cache lines.
    std::int64_t scratch_floats() const { return std::max(scratch_floats_of_lanes(), scratch_floats_of_tiles()); }

private:
    // cpu.kernel.cpp: the keys (to a multiple of `rows`) and values (to an even number) of a head, a tile's queries, its logits,
    // its sums, and three numbers a query. Fp32 needs all of it, bf16 less.
    std::int64_t scratch_floats_of_lanes() const {
        return (2 * all_keys() + rows + 2 * tile) * head_size + (block + 3) * tile;
    }
    // cpu.amx.cpp: keys and values in bf16, to whole pairs of tiles; then of as many queries the channels, two blocks of logits,
    // sums, totals of 16 keys' weights each, and two numbers.
    std::int64_t scratch_floats_of_tiles() const {
        const std::int64_t padded = (all_keys() + tile_pair - 1) / tile_pair * tile_pair;
        return padded * head_size + tile_pair * (head_size / 2 + 2 * tile_block + head_size + 16 + 2);
    }
};

// Checks what both ops have (`op` is the name for messages; `addresses`: whether all that are needed are there), and computes y.
// `isa` is empty, or the name of one of the instruction sets in cpu/isa.h. Throws std::invalid_argument.
void attention(const char* op, const Attention& arguments, bool addresses, int threads, const char* isa);

}  // namespace glide_fast
