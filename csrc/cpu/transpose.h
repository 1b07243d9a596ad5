// Sixteen vectors of sixteen lanes as a square: its transpose, and what joins each row's lanes.
#pragma once

#include "cpu/vec.h"

#if defined(__AVX512F__)

namespace glide_fast {
namespace GLIDE_FAST_ISA {

// Blocks of `size` lanes of two vectors change places across the diagonal: the first vector keeps its lower block and takes the
// second's lower one, the second keeps its upper block and takes the first's upper one.
struct Exchange {
    __m512i first, second;

    explicit Exchange(int size) {
        const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        const __m512i bit = _mm512_set1_epi32(size), other = _mm512_set1_epi32(16 - size);
        const __mmask16 high = _mm512_test_epi32_mask(lane, bit);
        // Index 16 + i is lane i of the second operand.
        first = _mm512_mask_add_epi32(lane, high, lane, other);
        second = _mm512_mask_add_epi32(_mm512_add_epi32(lane, bit), high, lane, _mm512_set1_epi32(16));
    }
};

// Element j of row i goes to lane i of vector j.
static inline void transpose(__m512i (&r)[16]) {
#pragma GCC unroll 4
    for (int size = 1; size < 16; size *= 2) {
        const Exchange exchange(size);
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
            if (i & size) continue;
            const __m512i a = r[i], b = r[i + size];
            r[i] = _mm512_permutex2var_epi32(a, exchange.first, b);
            r[i + size] = _mm512_permutex2var_epi32(a, exchange.second, b);
        }
    }
}

// Lane i of the result: the lanes of r[i], joined by `join` of two vectors; always in the same order.
template <typename Join>
static inline Vec across(Vec (&r)[16], Join join) {
#pragma GCC unroll 4
    for (int size = 1; size < 16; size *= 2) {
        const Exchange exchange(size);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i += 2 * size) {
            const __m512 a = r[i].v, b = r[i + size].v;
            r[i] = join(Vec{_mm512_permutex2var_ps(a, exchange.first, b)}, Vec{_mm512_permutex2var_ps(a, exchange.second, b)});
        }
    }
    return r[0];
}

}  // namespace GLIDE_FAST_ISA
}  // namespace glide_fast

#endif
