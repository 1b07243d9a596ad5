// Sixteen vectors of sixteen lanes as a square: its transpose, and what joins each row's lanes.
#pragma once

#include "cpu/vec.h"

#if defined(__AVX512F__)

namespace glide_fast {
namespace GLIDE_FAST_ISA {

// Of two vectors, blocks of 2^step lanes change places across the diagonal: what is left in the first, and in the second. Index
// 16 + i is lane i of the second vector.
constexpr struct Exchanged {
    alignas(64) int first[4][16], second[4][16];
    constexpr Exchanged() : first(), second() {
        for (int step = 0; step < 4; ++step) {
            const int size = 1 << step;
            for (int lane = 0; lane < 16; ++lane) {
                first[step][lane] = lane & size ? 16 + lane - size : lane;
                second[step][lane] = lane & size ? 16 + lane : lane + size;
            }
        }
    }
} exchanged;

template <int step>
static inline void transpose_step(__m512i (&r)[16]) {
    constexpr int size = 1 << step;
    const __m512i first = _mm512_loadu_si512(exchanged.first[step]), second = _mm512_loadu_si512(exchanged.second[step]);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
        if (i & size) continue;
        const __m512i a = r[i], b = r[i + size];
        r[i] = _mm512_permutex2var_epi32(a, first, b);
        r[i + size] = _mm512_permutex2var_epi32(a, second, b);
    }
}

// Element j of row i goes to lane i of vector j.
static inline void transpose(__m512i (&r)[16]) {
    transpose_step<0>(r);
    transpose_step<1>(r);
    transpose_step<2>(r);
    transpose_step<3>(r);
}

template <int step, typename Join>
static inline void join_step(Vec (&r)[16], Join join) {
    constexpr int size = 1 << step;
    const __m512i first = _mm512_loadu_si512(exchanged.first[step]), second = _mm512_loadu_si512(exchanged.second[step]);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 2 * size) {
        const __m512 a = r[i].v, b = r[i + size].v;
        r[i] = join(Vec{_mm512_permutex2var_ps(a, first, b)}, Vec{_mm512_permutex2var_ps(a, second, b)});
    }
}

// Lane i of the result: the lanes of r[i], joined by `join` of two vectors; always in the same order.
template <typename Join>
static inline Vec across(Vec (&r)[16], Join join) {
    join_step<0>(r, join);
    join_step<1>(r, join);
    join_step<2>(r, join);
    join_step<3>(r, join);
    return r[0];
}

}  // namespace GLIDE_FAST_ISA
}  // namespace glide_fast

#endif
