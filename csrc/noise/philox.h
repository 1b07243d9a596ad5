// Standard normals from Philox4x32-10 (Salmon et al. 2011) and Box-Muller, a vector of blocks at a time; a block is four
// numbers. glide_fast/diffusion/noise.py is the definition. The integers are the same; the normals are within 2e-6 of the
// definition in exact arithmetic. Before rounding the polynomial of the logarithm has a relative error of 3.2e-8, those of sine
// and cosine have 5e-9 (all are minimax polynomials, by Remez).
#pragma once

#include "cpu/vec.h"

namespace glide_fast {
namespace GLIDE_FAST_ISA {

// The compiler's vector types with as many lanes as Vec: their integer arithmetic, comparisons and selections need no
// intrinsics.
typedef float Floats __attribute__((vector_size(4 * Vec::lanes)));
typedef std::uint32_t Words __attribute__((vector_size(4 * Vec::lanes)));
typedef std::int32_t Integers __attribute__((vector_size(4 * Vec::lanes)));

static inline Floats floats(Vec x) { return (Floats)x.v; }
static inline Vec vec(Floats x) { return {(decltype(Vec::v))x}; }

// High and low halves of the 64-bit products of each lane and a constant.
static inline void multiply(Words a, std::uint32_t constant, Words& high, Words& low) {
#if defined(__AVX512F__)
    const __m512i c = _mm512_set1_epi32(int(constant));
    const __m512i even = _mm512_mul_epu32((__m512i)a, c);
    const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64((__m512i)a, 32), c);
    high = (Words)_mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xaaaa, odd);
    low = (Words)_mm512_mask_mov_epi32(even, 0xaaaa, _mm512_slli_epi64(odd, 32));
#elif defined(__AVX2__)
    const __m256i c = _mm256_set1_epi32(int(constant));
    const __m256i even = _mm256_mul_epu32((__m256i)a, c);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64((__m256i)a, 32), c);
    high = (Words)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
    low = (Words)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
#else
    for (int i = 0; i < Vec::lanes; ++i) {
        const std::uint64_t product = std::uint64_t(a[i]) * constant;
        high[i] = std::uint32_t(product >> 32);
        low[i] = std::uint32_t(product);
    }
#endif
}

// Each lane as fp32, rounded once.
static inline Vec to_float(Words x) {
#if defined(__AVX512F__)
    return {_mm512_cvtepu32_ps((__m512i)x)};
#else
    const Vec high = vec(__builtin_convertvector((Integers)(x >> 16), Floats));
    const Vec low = vec(__builtin_convertvector((Integers)(x & 0xffff), Floats));
    return multiply_add(high, Vec::all(65536.0f), low);  // both parts and the product are exact
#endif
}

static inline Vec square_root(Vec x) {
#if defined(__AVX512F__)
    return {_mm512_sqrt_ps(x.v)};
#elif defined(__AVX2__)
    return {_mm256_sqrt_ps(x.v)};
#else
    Vec y = x;
    for (int i = 0; i < Vec::lanes; ++i) y.v[i] = __builtin_sqrtf(x.v[i]);
    return y;
#endif
}

// ln u for u > 0 that is not subnormal: u = 2^k m with m in [sqrt(1/2), sqrt(2)), ln m = f - f^2 / 2 + f^3 P(f), f = m - 1. In
// this form the relative error stays small near u = 1 too, where ln u is close to 0 and Box-Muller takes its square root.
static inline Vec logarithm(Vec u) {
    const Integers bits = (Integers)floats(u);
    const Integers k = (bits - 0x3f3504f3) >> 23;
    const Vec f = vec((Floats)(bits - (k << 23))) - Vec::all(1.0f);
    const Vec exponent = vec(__builtin_convertvector(k, Floats));
    Vec p = Vec::all(0.0870043784f);
    p = multiply_add(p, f, Vec::all(-0.142674878f));
    p = multiply_add(p, f, Vec::all(0.149147674f));
    p = multiply_add(p, f, Vec::all(-0.16577585f));
    p = multiply_add(p, f, Vec::all(0.199630633f));
    p = multiply_add(p, f, Vec::all(-0.250013381f));
    p = multiply_add(p, f, Vec::all(0.333339095f));
    const Vec square = f * f;
    // ln 2 in two parts, the first of few enough bits for its product with k to be exact.
    Vec rest = multiply_add(exponent, Vec::all(-2.12194440e-4f), square * f * p);
    rest = multiply_add(square, Vec::all(-0.5f), rest) + f;
    return multiply_add(exponent, Vec::all(0.693359375f), rest);
}

// cos and sin of 2 pi u for u in [0, 1]. Whole quarter turns are subtracted before the factor 2 pi, where that is exact.
static inline void cosine_sine(Vec u, Vec& cosine, Vec& sine) {
    const Vec quarters = u * Vec::all(4.0f);
    const Vec whole = round(quarters);
    const Vec r = quarters - whole, z = r * r;
    Vec s = Vec::all(-0.00460217707f);
    s = multiply_add(s, z, Vec::all(0.0796802267f));
    s = multiply_add(s, z, Vec::all(-0.64596349f));
    s = multiply_add(s, z, Vec::all(1.57079637f)) * r;
    Vec c = Vec::all(0.000903631677f);
    c = multiply_add(c, z, Vec::all(-0.0208600722f));
    c = multiply_add(c, z, Vec::all(0.253669202f));
    c = multiply_add(c, z, Vec::all(-1.23370051f));
    c = multiply_add(c, z, Vec::all(1.0f));
    const Integers quadrant = __builtin_convertvector(floats(whole), Integers);
    const Integers swap = (quadrant & 1) != 0;
    const Integers cosine_bits = (swap & (Integers)floats(s)) | (~swap & (Integers)floats(c));
    const Integers sine_bits = (swap & (Integers)floats(c)) | (~swap & (Integers)floats(s));
    cosine = vec((Floats)((Words)cosine_bits ^ ((Words)((quadrant + 1) & 2) << 30)));
    sine = vec((Floats)((Words)sine_bits ^ ((Words)(quadrant & 2) << 30)));
}

static inline Vec uniform(Words r) { return multiply_add(to_float(r), Vec::all(0x1p-32f), Vec::all(0x1p-33f)); }

// Transposes the 4 x 4 elements that four vectors hold in each of their 128-bit parts.
static inline void transpose_parts(Vec n[4]) {
#if defined(__AVX512F__)
    const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(n[0].v, n[1].v));
    const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(n[0].v, n[1].v));
    const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(n[2].v, n[3].v));
    const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(n[2].v, n[3].v));
    n[0].v = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    n[1].v = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    n[2].v = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    n[3].v = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
#elif defined(__AVX2__)
    const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(n[0].v, n[1].v));
    const __m256d b = _mm256_castps_pd(_mm256_unpackhi_ps(n[0].v, n[1].v));
    const __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(n[2].v, n[3].v));
    const __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(n[2].v, n[3].v));
    n[0].v = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
    n[1].v = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
    n[2].v = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
    n[3].v = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
#else
    for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < i; ++j) {
            const float kept = n[i].v[j];
            n[i].v[j] = n[j].v[i];
            n[j].v[i] = kept;
        }
    }
#endif
}

// Draws `lanes` blocks of an image, from `block` on: four vectors of normals, for elements 4 block, 4 block + 1, ...
static inline void normals(std::uint64_t seed, std::uint32_t step, std::uint32_t stream, std::uint32_t block, Vec n[4]) {
    Words c0, c1 = Words{} + step, c2 = Words{} + stream, c3 = Words{};
    // Block `parts` * i + g goes to lane 4 * g + i: the transposition within each part then puts the elements into order.
    constexpr int parts = Vec::lanes / 4;
    for (int lane = 0; lane < Vec::lanes; ++lane) c0[lane] = block + std::uint32_t(parts * (lane % 4) + lane / 4);
    std::uint32_t k0 = std::uint32_t(seed), k1 = std::uint32_t(seed >> 32);
    for (int i = 0; i < 10; ++i) {
        Words high0, low0, high1, low1;
        multiply(c0, 0xD2511F53u, high0, low0);
        multiply(c2, 0xCD9E8D57u, high1, low1);
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    const Vec minus_two = Vec::all(-2.0f);
    Vec cosine, sine;
    const Vec first = square_root(minus_two * logarithm(uniform(c0)));
    cosine_sine(uniform(c1), cosine, sine);
    n[0] = first * cosine;
    n[1] = first * sine;
    const Vec second = square_root(minus_two * logarithm(uniform(c2)));
    cosine_sine(uniform(c3), cosine, sine);
    n[2] = second * cosine;
    n[3] = second * sine;
    transpose_parts(n);
}

}  // namespace GLIDE_FAST_ISA
}  // namespace glide_fast
