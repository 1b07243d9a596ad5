// Attention over one or two segments of keys, in bf16, with both products in the tiles of AMX and an online softmax between them
// (Milakov and Gimelshein 2018; Dao et al. 2022).
//
// Rows of all tiles of results are queries. In the first product a tile of queries is as memory has it and keys are the
// transposed operand, so the logits lie as [queries][keys]; their weights, rounded to bf16 in that order, are the first operand
// of the second product as they are, and the result is token-major. What tiles want in pairs is arranged once a head: the keys'
// channels in pairs, the values' tokens in pairs.
//
// The softmax is fp32 vectors along the keys. A row's weights are relative to its reference, a logit that is at least the
// largest of the row less `slack`: it is raised where a block has a logit above that, so that the sums, which are in memory
// between blocks, are scaled in hardly any block but the first ones. A row decides by its own logits alone.
//
// The tiles of the next block of keys are multiplied while this block's weights are computed: the two come alternately, a tile's
// product needs few instructions, and the processor finds the others behind them.
//
// A query's result depends on nothing but its own row and the keys: neither tasks nor threads change a bit of it.
#include <omp.h>

#include <cstdint>

#include "attention/cpu.h"
#include "attention/rows.h"
#include "cpu/tiles.h"
#include "cpu/transpose.h"
#include "cpu/vec.h"

namespace glide_fast {
namespace GLIDE_FAST_ISA {
namespace {

using i64 = std::int64_t;
using Word = std::uint32_t;  // two bf16, the first in the lower half

constexpr i64 side = tile_side;
constexpr i64 pair = AttentionWork::tile_pair;  // rows, or columns, of two tiles: products are of two by two
constexpr i64 block = AttentionWork::tile_block;
static_assert(Vec::lanes == side && pair == 2 * side, "a vector is a row of a tile");
static_assert(block % pair == 0 && AttentionWork::tile % pair == 0, "blocks and tiles of queries are whole pairs");

constexpr i64 smaller(i64 a, i64 b) { return a < b ? a : b; }
constexpr i64 larger(i64 a, i64 b) { return a > b ? a : b; }
constexpr i64 to_pairs(i64 count) { return (count + pair - 1) / pair * pair; }

// A bit for each lane: whether a's is larger.
unsigned above(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ); }
// a where a lane's bit is set, else b.
Vec chosen(unsigned bits, Vec a, Vec b) { return {_mm512_mask_mov_ps(b.v, __mmask16(bits), a.v)}; }

constexpr float lowest = -3.40282347e38f;

// What an inner loop is: a function of its own has all registers to itself, and can be found in the machine code.
#define OWN_REGISTERS __attribute__((noinline))

// Tiles 0 to 3 are sums, [rows of 16][columns of 16]; 4 and 5 rows of the first operand, 6 and 7 columns of the second. One step
// of a product of `groups` times 16 rows.
template <int groups>
void multiply_step(const void* rows, const void* more_rows, i64 stride, const Word* columns, const Word* more_columns) {
    _tile_loadd(4, rows, stride);
    _tile_loadd(6, columns, tile_row_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, more_columns, tile_row_bytes);
    _tile_dpbf16ps(1, 4, 7);
    if (groups == 2) {
        _tile_loadd(5, more_rows, stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

template <int groups>
void clear_sums() {
    _tile_zero(0);
    _tile_zero(1);
    if (groups == 2) {
        _tile_zero(2);
        _tile_zero(3);
    }
}

template <int groups>
void load_sums(const float* from, i64 stride) {
    _tile_loadd(0, from, stride * sizeof(float));
    _tile_loadd(1, from + side, stride * sizeof(float));
    if (groups == 2) {
        _tile_loadd(2, from + side * stride, stride * sizeof(float));
        _tile_loadd(3, from + side * stride + side, stride * sizeof(float));
    }
}

template <int groups>
void store_sums(float* to, i64 stride) {
    _tile_stored(0, to, stride * sizeof(float));
    _tile_stored(1, to + side, stride * sizeof(float));
    if (groups == 2) {
        _tile_stored(2, to + side * stride, stride * sizeof(float));
        _tile_stored(3, to + side * stride + side, stride * sizeof(float));
    }
}

// What a thread holds while it works on one head of one sample.
template <int head>
struct Task {
    static constexpr i64 steps = head / pair;    // of the first product: 32 channels each
    static constexpr i64 halves = head / pair;   // of the second: 32 channels of the result at once
    static constexpr int whole = block / side;   // vectors of a query's logits in a whole block

    const Rows<bf16> at;
    const bool causal;
    const i64 keys_count;                                                    // that any query of the task sees
    const Vec scale = Vec::all(1.44269504f / __builtin_sqrtf(float(head)));  // log2(e) is in it
    // A weight is 2^8 at most, or little more: far from the ends of fp32, and of bf16, which has the same exponents.
    const Vec slack = Vec::all(8.0f / 1.44269504f * __builtin_sqrtf(float(head)));
    Word *keys, *values;  // tiles side by side: [16 keys][32 channels], [32 keys][16 channels]
    bf16* queries;        // [steps][32 queries][32 channels]
    // [two blocks][32 queries][block]; weights are written where their logits were, a row's at its beginning.
    float* logits;
    float* sums;    // [32 queries][head], not yet divided by their weights' totals
    float* totals;  // [32 queries][16]: of every 16th key's weights
    float *reference, *shrink;

    Task(const AttentionWork& g, const Rows<bf16>& rows, i64 seen, float* scratch)
        : at(rows), causal(g.causal), keys_count(seen) {
        const i64 padded = to_pairs(keys_count);
        const auto take = [&](i64 floats) {
            float* taken = scratch;
            scratch += floats;
            return taken;
        };
        keys = reinterpret_cast<Word*>(take(padded * head / 2));
        values = reinterpret_cast<Word*>(take(padded * head / 2));
        queries = reinterpret_cast<bf16*>(take(pair * head / 2));
        logits = take(2 * pair * block);
        sums = take(pair * head);
        totals = take(pair * side);
        reference = take(pair);
        shrink = take(pair);
        for (i64 i = 0; i < padded; i += side) arrange_keys(i);
        for (i64 i = 0; i < padded; i += 2) arrange_values(i);
    }

    // Tiles of 16 keys; what is past the last key is zero.
    void arrange_keys(i64 first) {
        for (i64 s = 0; s < steps; ++s) {
            __m512i r[side];
            for (i64 i = 0; i < side; ++i) {
                r[i] = _mm512_set1_epi32(0);
                if (first + i < keys_count) r[i] = _mm512_loadu_si512(at.key(first + i) + s * pair);
            }
            transpose(r);
            Word* to = keys + (first / side * steps + s) * tile_words;
            for (i64 i = 0; i < side; ++i) _mm512_storeu_si512(to + i * side, r[i]);
        }
    }

    // Row first / 2 % 16 of the tiles of these 32 keys.
    void arrange_values(i64 first) {
        const auto widened = [&](i64 key, i64 channel) {
            if (key >= keys_count) return _mm512_set1_epi32(0);
            return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at.value(key) + channel)));
        };
        Word* to = values + first / pair * (head / side) * tile_words + first % pair / 2 * side;
        for (i64 c = 0; c < head; c += side) {
            const __m512i lower = widened(first, c), upper = widened(first + 1, c);
            _mm512_storeu_si512(to + c * side, _mm512_or_si512(lower, _mm512_slli_epi32(upper, 16)));
        }
    }

    // `count` queries, up to 16 * groups.
    template <int groups>
    void attend(i64 first_query, i64 count) const {
        copy_queries<groups>(first_query, count);
        for (i64 q = 0; q < groups * side; ++q) Vec::all(0.0f).store(totals + q * side);
        for (i64 q = 0; q < groups * side; q += side) Vec::all(lowest).store(reference + q);
        const i64 end = causal ? smaller(keys_count, first_query + count) : keys_count;
        for (i64 s = 0; s < smaller(to_pairs(end), block); s += pair) multiply_keys<groups>(s, logits + s);
        i64 turn = 0;
        for (i64 key = 0; key < end; key += block, turn ^= 1) {
            const i64 some = smaller(block, to_pairs(end - key));
            float* now = logits + turn * pair * block;
            float* next = logits + (turn ^ 1) * pair * block;
            // Of the block, the first query sees least.
            if (key + some > (causal ? smaller(first_query + 1, keys_count) : keys_count))
                hide(first_query, key, some, groups * side, now);
            unsigned raised[groups];
            for (int g = 0; g < groups; ++g) {
                const float* rows = now + g * side * block;
                raised[g] = some == block ? raise<whole>(rows, block, g * side) : raise<2>(rows, some, g * side);
            }
            // A part of the next block's logits, a part of this block's weights, in turn.
            constexpr i64 parts = block / pair + 1, rows = groups * side;
            const i64 later = smaller(block, to_pairs(larger(end - key - block, 0)));
            for (i64 part = 0; part < parts; ++part) {
                if (part * pair < later) multiply_keys<groups>(key + block + part * pair, next + part * pair);
                const i64 first = rows * part / parts, last = rows * (part + 1) / parts;
                some == block ? weigh<whole>(now, block, first, last) : weigh<2>(now, some, first, last);
            }
            for (int g = 0; g < groups && key > 0; ++g) {
                if (raised[g]) rescale(raised[g], g * side);
            }
            for (i64 half = 0; half < halves; ++half) multiply_values<groups>(key, some, half, now);
        }
        write(first_query, count);
    }

    template <int groups>
    void copy_queries(i64 first_query, i64 count) const {
        for (i64 s = 0; s < steps; ++s) {
            for (i64 q = 0; q < groups * side; ++q) {
                __m512i row = _mm512_set1_epi32(0);
                if (q < count) row = _mm512_loadu_si512(at.query(first_query + q) + s * pair);
                _mm512_storeu_si512(queries + (s * pair + q) * pair, row);
            }
        }
    }

    // The logits of 32 keys.
    template <int groups>
    OWN_REGISTERS void multiply_keys(i64 key, float* to) const {
        const Word* tiles = keys + key / side * steps * tile_words;
        stores_come_first();
        clear_sums<groups>();
        for (i64 s = 0; s < steps; ++s) {
            const bf16* rows = queries + s * pair * pair;
            multiply_step<groups>(rows, rows + side * pair, tile_row_bytes, tiles + s * tile_words,
                                  tiles + (steps + s) * tile_words);
        }
        store_sums<groups>(to, block);
    }

    // Adds the weighted values of a block to 32 channels of the sums.
    template <int groups>
    OWN_REGISTERS void multiply_values(i64 key, i64 count, i64 half, const float* weights) const {
        stores_come_first();
        if (key == 0)
            clear_sums<groups>();
        else
            load_sums<groups>(sums + half * pair, head);
        for (i64 i = 0; i < count; i += pair) {
            const bf16* rows = reinterpret_cast<const bf16*>(weights) + i;
            const Word* tiles = values + ((key + i) / pair * (head / side) + 2 * half) * tile_words;
            multiply_step<groups>(rows, rows + 2 * side * block, block * sizeof(float), tiles, tiles + tile_words);
        }
        store_sums<groups>(sums + half * pair, head);
    }

    // Logits of keys that a query does not see become minus infinity, whose weight is exactly 0.
    void hide(i64 first_query, i64 key, i64 count, i64 rows, float* block_logits) const {
        for (i64 q = 0; q < rows; ++q) {
            const i64 last = causal ? smaller(first_query + q + 1, keys_count) : keys_count;
            const i64 visible = larger(0, smaller(last - key, count));
            for (i64 k = visible / side * side; k < count; k += side) {
                const __mmask16 hidden = __mmask16(0xffffu << larger(visible - k, 0));
                _mm512_mask_storeu_ps(block_logits + q * block + k, hidden, Vec::all(-__builtin_inff()).v);
            }
        }
    }

    // References of 16 queries after a block of `count` logits each, `n` vectors of which are read at a time, and what the weights so far shrink by; a bit for each query
    // whose reference rose. NaN is never the largest.
    template <int n>
    OWN_REGISTERS unsigned raise(const float* block_logits, i64 count, i64 q) const {
        Vec most[side];
#pragma GCC unroll 16
        for (i64 i = 0; i < side; ++i) {
            most[i] = Vec::all(-__builtin_inff());
            for (i64 k = 0; k < count; k += n * side) {
                for (int v = 0; v < n; ++v) most[i] = larger(Vec::load(block_logits + i * block + k + v * side), most[i]);
            }
        }
        const Vec found = across(most, [](Vec a, Vec b) { return larger(a, b); });
        const Vec before = Vec::load(reference + q);
        const unsigned rose = above(found, before + slack);
        if (rose) {
            chosen(rose, found, before).store(reference + q);
            chosen(rose, power_of_two((before - found) * scale, bf16{}), Vec::all(1.0f)).store(shrink + q);
            for (i64 i = 0; i < side; ++i) {
                float* total = totals + (q + i) * side;
                (Vec::load(total) * Vec::all(shrink[q + i])).store(total);
            }
        }
        return rose;
    }

    // e^((logit - reference) / sqrt(head)) for some queries, `n` vectors of keys at a time, rounded to bf16; adds them to the
    // queries' totals before they are rounded. The difference comes first, so that logits of any size are exact relative to the
    // reference.
    template <int n>
    OWN_REGISTERS void weigh(float* block_logits, i64 count, i64 first, i64 last) const {
        for (i64 q = first; q < last; ++q) {
            float* row = block_logits + q * block;
            const Vec from = Vec::all(reference[q]);
            Vec total = Vec::load(totals + q * side);
            for (i64 k = 0; k < count; k += n * side) {
                Vec t[n], w[n];
                for (int i = 0; i < n; ++i) t[i] = (Vec::load(row + k + i * side) - from) * scale;
                powers_of_two(t, w, bf16{});
                for (int i = 0; i < n; i += 2) {
                    total = total + (w[i] + w[i + 1]);
                    // In the order of memory: the second operand is the lower half.
                    _mm512_storeu_si512(row + (k + i * side) / 2, (__m512i)_mm512_cvtne2ps_pbh(w[i + 1].v, w[i].v));
                }
            }
            total.store(totals + q * side);
        }
    }

    void rescale(unsigned raised, i64 q) const {
        for (i64 i = 0; i < side; ++i) {
            if (!(raised >> i & 1)) continue;
            const Vec factor = Vec::all(shrink[q + i]);
            float* row = sums + (q + i) * head;
            for (i64 c = 0; c < head; c += side) (Vec::load(row + c) * factor).store(row + c);
        }
    }

    void write(i64 first_query, i64 count) const {
        for (i64 q = 0; q < count; q += side) {
            Vec parts[side];
            for (i64 i = 0; i < side; ++i) parts[i] = Vec::load(totals + (q + i) * side);
            across(parts, [](Vec a, Vec b) { return a + b; }).store(shrink + q);
        }
        for (i64 q = 0; q < count; ++q) {
            const Vec share = Vec::all(1.0f / shrink[q]);
            for (i64 c = 0; c < head; c += side)
                (Vec::load(sums + q * head + c) * share).store(at.y + (first_query + q) * at.y_stride + c);
        }
    }
};

template <int head>
void run(const AttentionWork& g) {
    const i64 tiles = g.tiles(), scratch = g.scratch_floats();
#pragma omp parallel num_threads(g.threads)
    {
        const Tiles configured;
#pragma omp for schedule(dynamic)
        for (i64 i = 0; i < g.samples * g.heads * g.parts; ++i) {
            const i64 part = i % g.parts, index = i / g.parts % g.heads, sample = i / (g.parts * g.heads);
            const i64 last = smaller(tiles * (part + 1) / g.parts * AttentionWork::tile, g.query_tokens);
            const Task<head> task(g, {g, sample, index}, g.seen(sample, last),
                                  g.scratch + omp_get_thread_num() * scratch);
            for (i64 q = tiles * part / g.parts * AttentionWork::tile; q < last; q += pair) {
                const i64 count = smaller(pair, last - q);
                count > side ? task.template attend<2>(q, count) : task.template attend<1>(q, count);
            }
        }
    }
}

}  // namespace

void attention(const AttentionWork& g) {
    switch (g.head_size) {
        case 32: return run<32>(g);
        case 64: return run<64>(g);
        case 128: return run<128>(g);
    }
}

}  // namespace GLIDE_FAST_ISA
}  // namespace glide_fast
