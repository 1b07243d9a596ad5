// Stands in for the compiler's <immintrin.h>: what csrc/cpu/vec.h, csrc/cpu/transpose.h and csrc/attention/cpu.amx.cpp use of
// AVX-512, AVX-512 BF16 and AMX, for any processor. The very same sources are compiled against it, with __AVX512F__ and
// __AVX512BF16__ defined by hand. The functions do what Intel's Software Developer's Manual says of the instruction.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "tiles_emulated.h"

typedef float __m512 __attribute__((vector_size(64), aligned(64)));
typedef long long __m512i __attribute__((vector_size(64), aligned(64)));
typedef long long __m256i __attribute__((vector_size(32), aligned(32)));
typedef short __m512bh __attribute__((vector_size(64), aligned(64)));
typedef short __m256bh __attribute__((vector_size(32), aligned(32)));
typedef std::uint16_t __mmask16;

#define _MM_FROUND_TO_NEAREST_INT 0
#define _MM_FROUND_TO_NEG_INF 1
#define _MM_FROUND_NO_EXC 8
#define _CMP_GT_OQ 30

namespace emulated {

typedef std::int32_t Ints __attribute__((vector_size(64)));
typedef std::uint16_t Halves __attribute__((vector_size(64)));
typedef std::uint16_t HalfOfHalves __attribute__((vector_size(32)));

template <typename V, typename P>
inline V read(const P* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

template <typename F>
inline __m512 each(F f) {
    __m512 r{};
    for (int i = 0; i < 16; ++i) r[i] = f(i);
    return r;
}
template <typename F>
inline __m512i each_word(F f) {
    Words r{};
    for (int i = 0; i < 16; ++i) r[i] = f(i);
    return (__m512i)r;
}

// To nearest even; a denormal number is taken for zero, NaN becomes a quiet one.
inline HalfOfHalves narrow(__m512 x) {
    const Words bits = (Words)x, upper = bits >> 16;
    const Words nan = (Words)(x != x), denormal = (Words)((bits & 0x7fffffffu) < 0x00800000u);
    const Words nearest = (bits + 0x7fffu + (upper & 1u)) >> 16;
    const Words number = (denormal & upper & 0x8000u) | (~denormal & nearest);
    return __builtin_convertvector((nan & (upper | 0x40u)) | (~nan & number), HalfOfHalves);
}

// x * 2^floor(exponent), rounded once.
inline float scaled(float x, float exponent) {
    if (x != x || exponent != exponent) return x + exponent;
    if (std::isinf(exponent)) return exponent > 0 ? (x == 0 ? NAN : x * INFINITY) : std::isinf(x) ? NAN : x * 0.0f;
    const double whole = std::fmin(std::fmax(std::floor(double(exponent)), -1000.0), 1000.0);
    return float(std::ldexp(double(x), int(whole)));
}

inline float reduced(float x) { return std::isinf(x) ? 0.0f : x - std::floor(x); }

}  // namespace emulated

inline __m512 _mm512_set1_ps(float x) {
    return emulated::each([&](int) { return x; });
}
inline __m512i _mm512_set1_epi32(int x) {
    return emulated::each_word([&](int) { return std::uint32_t(x); });
}
inline __m512i _mm512_set_epi32(int p, int o, int n, int m, int l, int k, int j, int i, int h, int g, int f, int e, int d,
                                int c, int b, int a) {
    return (__m512i)emulated::Ints{a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p};
}
template <typename... Shorts>
inline __m512i _mm512_set_epi16(Shorts... last_first) {
    static_assert(sizeof...(last_first) == 32, "a number for each lane");
    const int given[32] = {int(last_first)...};
    emulated::Halves r{};
    for (int i = 0; i < 32; ++i) r[i] = std::uint16_t(given[31 - i]);
    return (__m512i)r;
}

inline __m512 _mm512_loadu_ps(const void* p) { return emulated::read<__m512>(p); }
inline __m512i _mm512_loadu_si512(const void* p) { return emulated::read<__m512i>(p); }
inline __m256i _mm256_loadu_si256(const __m256i* p) { return emulated::read<__m256i>(p); }
inline void _mm512_storeu_ps(void* p, __m512 x) { std::memcpy(p, &x, sizeof x); }
inline void _mm512_storeu_si512(void* p, __m512i x) { std::memcpy(p, &x, sizeof x); }
inline void _mm256_storeu_si256(__m256i* p, __m256i x) { std::memcpy(static_cast<void*>(p), &x, sizeof x); }
inline void _mm512_stream_ps(float* p, __m512 x) { std::memcpy(p, &x, sizeof x); }
inline void _mm512_stream_si512(__m512i* p, __m512i x) { std::memcpy(static_cast<void*>(p), &x, sizeof x); }
inline void _mm_sfence() {}

inline __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const float* p) {
    return emulated::each([&](int i) { return mask >> i & 1 ? p[i] : 0.0f; });
}
inline void _mm512_mask_storeu_ps(float* p, __mmask16 mask, __m512 x) {
    for (int i = 0; i < 16; ++i) {
        if (mask >> i & 1) p[i] = x[i];
    }
}
inline __m256i _mm256_maskz_loadu_epi16(__mmask16 mask, const void* p) {
    emulated::HalfOfHalves r{};
    for (int i = 0; i < 16; ++i) {
        if (!(mask >> i & 1)) continue;
        std::uint16_t bits;
        std::memcpy(&bits, static_cast<const char*>(p) + 2 * i, sizeof bits);
        r[i] = bits;
    }
    return (__m256i)r;
}
inline void _mm256_mask_storeu_epi16(void* p, __mmask16 mask, __m256i x) {
    for (int i = 0; i < 16; ++i) {
        const std::uint16_t bits = ((emulated::HalfOfHalves)x)[i];
        if (mask >> i & 1) std::memcpy(static_cast<char*>(p) + 2 * i, &bits, sizeof bits);
    }
}

inline __m512 _mm512_castsi512_ps(__m512i x) { return (__m512)x; }
inline __m512i _mm512_cvtepu16_epi32(__m256i x) {
    return emulated::each_word([&](int i) { return std::uint32_t(((emulated::HalfOfHalves)x)[i]); });
}
inline __m256bh _mm512_cvtneps_pbh(__m512 x) {
    return (__m256bh)emulated::narrow(x);
}
inline __m512bh _mm512_cvtne2ps_pbh(__m512 upper, __m512 lower) {
    const emulated::HalfOfHalves both[2] = {emulated::narrow(lower), emulated::narrow(upper)};
    return emulated::read<__m512bh>(both);
}

inline __m512i _mm512_and_si512(__m512i a, __m512i b) { return a & b; }
inline __m512i _mm512_or_si512(__m512i a, __m512i b) { return a | b; }
inline __m512i _mm512_slli_epi32(__m512i x, unsigned count) { return (__m512i)((emulated::Words)x << count); }
inline __m512i _mm512_add_epi32(__m512i a, __m512i b) { return (__m512i)((emulated::Words)a + (emulated::Words)b); }
inline __m512i _mm512_mask_add_epi32(__m512i other, __mmask16 mask, __m512i a, __m512i b) {
    const emulated::Words sum = (emulated::Words)a + (emulated::Words)b, kept = (emulated::Words)other;
    return emulated::each_word([&](int i) { return mask >> i & 1 ? sum[i] : kept[i]; });
}
inline __mmask16 _mm512_test_epi32_mask(__m512i a, __m512i b) {
    const emulated::Words both = (emulated::Words)(a & b);
    unsigned mask = 0;
    for (int i = 0; i < 16; ++i) mask |= unsigned(both[i] != 0) << i;
    return __mmask16(mask);
}
inline __m512i _mm512_permutex2var_epi32(__m512i a, __m512i index, __m512i b) {
    return (__m512i)__builtin_shuffle((emulated::Words)a, (emulated::Words)b, (emulated::Words)index);
}
inline __m512 _mm512_permutex2var_ps(__m512 a, __m512i index, __m512 b) {
    return (__m512)_mm512_permutex2var_epi32((__m512i)a, index, (__m512i)b);
}
inline __m512i _mm512_permutexvar_epi16(__m512i index, __m512i x) {
    return (__m512i)__builtin_shuffle((emulated::Halves)x, (emulated::Halves)index);
}

inline __m512 _mm512_add_ps(__m512 a, __m512 b) { return a + b; }
inline __m512 _mm512_sub_ps(__m512 a, __m512 b) { return a - b; }
inline __m512 _mm512_mul_ps(__m512 a, __m512 b) { return a * b; }
inline __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
    return emulated::fused(a, b, c);
}
inline __m512 _mm512_fnmadd_ps(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(-a, b, c); }
// The second operand where they are equal, and where either is NaN.
inline __m512 _mm512_min_ps(__m512 a, __m512 b) { return a < b ? a : b; }
inline __m512 _mm512_max_ps(__m512 a, __m512 b) { return a > b ? a : b; }
inline __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int predicate) {
    if (predicate != _CMP_GT_OQ) emulated::fault("a comparison that this header does not have");
    unsigned mask = 0;
    for (int i = 0; i < 16; ++i) mask |= unsigned(a[i] > b[i]) << i;
    return __mmask16(mask);
}
inline __m512 _mm512_mask_mov_ps(__m512 other, __mmask16 mask, __m512 x) {
    return emulated::each([&](int i) { return mask >> i & 1 ? x[i] : other[i]; });
}
inline __m512 _mm512_roundscale_ps(__m512 x, int) {
    return emulated::each([&](int i) { return std::nearbyint(x[i]); });
}
inline __m512 _mm512_reduce_ps(__m512 x, int control) {
    if (control != (_MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)) emulated::fault("a rounding that this header does not have");
    return emulated::each([&](int i) { return emulated::reduced(x[i]); });
}
inline __m512 _mm512_scalef_ps(__m512 x, __m512 exponent) {
    // Powers that are fp32 numbers themselves: a product rounds once.
    float powers[16], exponents[16];
    std::memcpy(exponents, &exponent, sizeof exponents);
    bool small = true;
    for (float e : exponents) small &= e >= -126.0f && e < 128.0f;
    if (!small) return emulated::each([&](int i) { return emulated::scaled(x[i], exponent[i]); });
    for (int i = 0; i < 16; ++i) {
        const std::uint32_t bits = std::uint32_t(int(std::floor(exponents[i])) + 127) << 23;
        std::memcpy(&powers[i], &bits, sizeof bits);
    }
    return x * emulated::read<__m512>(powers);
}
inline __m512 _mm512_rcp14_ps(__m512 x) { return 1.0f / x; }

#define _tile_loadconfig(from) emulated::tiles().configure(from)
#define _tile_release() emulated::tiles().release()
#define _tile_zero(tile) emulated::tiles().zero(tile)
#define _tile_loadd(tile, from, stride) emulated::tiles().load(tile, from, stride)
#define _tile_stored(tile, to, stride) emulated::tiles().store(tile, to, stride)
#define _tile_dpbf16ps(sum, rows, columns) emulated::tiles().multiply(sum, rows, columns)
