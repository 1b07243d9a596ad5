// A vector of fp32 lanes for the instruction set that this file is compiled for (see isa.h), loaded from and stored to
// fp32 or bf16, and the functions that kernels build on it. bf16 is rounded to nearest even; NaN stays NaN.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "dtype.h"

namespace glide_fast {
namespace GLIDE_FAST_ISA {

static inline float widen(bf16 x) {
    const std::uint32_t bits = std::uint32_t(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Element `index` of a small array whose type is known only at run time.
static inline float element(const void* data, Dtype dtype, std::int64_t index) {
    return dtype == Dtype::f32 ? static_cast<const float*>(data)[index] : widen(static_cast<const bf16*>(data)[index]);
}

// A split pair is two vectors that hold 2 * lanes neighbouring elements: one the even elements, the other the odd ones, which
// is the cheapest order to read from bf16 and to write to it. load_split(p, even, odd) and store_split(p, even, odd) read and
// write such a pair, straighten(even, odd) puts it into the order of memory. stream and stream_split write past the caches
// where the instruction set can (`streams`); p must be aligned to a vector, whole cache lines must be written, and
// finish_streams() must be called before another thread reads.

#if defined(__AVX512F__)

struct Vec {
    static constexpr int lanes = 16;
    __m512 v;

    static Vec all(float x) { return {_mm512_set1_ps(x)}; }

    static __mmask16 first(int count) { return __mmask16((1u << count) - 1); }
    static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
    static Vec load(const float* p, int count) { return {_mm512_maskz_loadu_ps(first(count), p)}; }
    static Vec load(const bf16* p) { return widened(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
    static Vec load(const bf16* p, int count) { return widened(_mm256_maskz_loadu_epi16(first(count), p)); }
    void store(float* p) const { _mm512_storeu_ps(p, v); }
    void store(float* p, int count) const { _mm512_mask_storeu_ps(p, first(count), v); }
    void store(bf16* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrowed()); }
    void store(bf16* p, int count) const { _mm256_mask_storeu_epi16(p, first(count), narrowed()); }

    static Vec widened(__m256i bits) {
        return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
    }
#if defined(__AVX512BF16__)
    __m256i narrowed() const { return (__m256i)_mm512_cvtneps_pbh(v); }
#else
    // A bf16 in the upper half of each lane; the lower half is meaningless.
    __m512i rounded() const {
        const __m512i bits = _mm512_castps_si512(v);
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        const __m512i nearest = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
        const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
        return _mm512_mask_mov_epi32(nearest, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), quiet);
    }
    __m256i narrowed() const { return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded(), 16)); }
#endif
};

static inline void load_split(const bf16* p, Vec& even, Vec& odd) {
    const __m512i bits = _mm512_loadu_si512(p);
    even = {_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16))};
    odd = {_mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(int(0xffff0000))))};
}
static inline void load_split(const float* p, Vec& even, Vec& odd) {
    const __m512i evens = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512 low = _mm512_loadu_ps(p), high = _mm512_loadu_ps(p + Vec::lanes);
    even = {_mm512_permutex2var_ps(low, evens, high)};
    odd = {_mm512_permutex2var_ps(low, _mm512_add_epi32(evens, _mm512_set1_epi32(1)), high)};
}
static inline __m512i joined(Vec even, Vec odd) {
#if defined(__AVX512BF16__)
    const __m512i apart = (__m512i)_mm512_cvtne2ps_pbh(odd.v, even.v);
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                                           23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, apart);
#else
    const __m512i low = _mm512_srli_epi32(even.rounded(), 16);
    return _mm512_or_si512(low, _mm512_and_si512(odd.rounded(), _mm512_set1_epi32(int(0xffff0000))));
#endif
}
static inline void store_split(bf16* p, Vec even, Vec odd) { _mm512_storeu_si512(p, joined(even, odd)); }
static inline void stream_split(bf16* p, Vec even, Vec odd) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(p), joined(even, odd));
}
static inline void straighten(Vec& even, Vec& odd) {
    const __m512i first = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512 low = _mm512_permutex2var_ps(even.v, first, odd.v);
    odd = {_mm512_permutex2var_ps(even.v, _mm512_add_epi32(first, _mm512_set1_epi32(8)), odd.v)};
    even = {low};
}
static inline void stream(float* p, Vec x) { _mm512_stream_ps(p, x.v); }

static inline Vec rounded_to(Vec x, bf16) { return Vec::widened(x.narrowed()); }
static inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline Vec multiply_add(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
static inline Vec clamp(Vec x, float low, float high) {
    // For a NaN, min and max return their second operand: the NaN stays.
    return {_mm512_min_ps(_mm512_set1_ps(high), _mm512_max_ps(_mm512_set1_ps(low), x.v))};
}
static inline Vec larger(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }  // b where either is NaN
static inline Vec round(Vec x) { return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT)}; }
// x * 2^floor(exponent).
static inline Vec times_power_of_two(Vec x, Vec exponent) { return {_mm512_scalef_ps(x.v, exponent.v)}; }
static inline Vec rough_reciprocal(Vec x) { return {_mm512_rcp14_ps(x.v)}; }
static inline Vec reciprocal(Vec x) {
    const Vec guess = rough_reciprocal(x);
    return guess * Vec{_mm512_fnmadd_ps(x.v, guess.v, _mm512_set1_ps(2.0f))};
}

#elif defined(__AVX2__)

struct Vec {
    static constexpr int lanes = 8;
    __m256 v;

    static Vec all(float x) { return {_mm256_set1_ps(x)}; }

    static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
    static Vec load(const float* p, int count) { return partial(p, count); }
    static Vec load(const bf16* p) {
        const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
    }
    static Vec load(const bf16* p, int count) { return partial(p, count); }
    void store(float* p) const { _mm256_storeu_ps(p, v); }
    void store(float* p, int count) const { partial(p, count, *this); }
    // A bf16 in the upper half of each lane; the lower half is meaningless.
    __m256i rounded() const {
        const __m256i bits = _mm256_castps_si256(v);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i nearest = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
        const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
        const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
        return _mm256_blendv_epi8(nearest, quiet, nan);
    }
    void store(bf16* p) const {
        const __m256i high = _mm256_srli_epi32(rounded(), 16);
        const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
    }
    void store(bf16* p, int count) const { partial(p, count, *this); }

    template <typename T>
    static Vec partial(const T* p, int count) {
        if (count == lanes) return load(p);
        T whole[lanes] = {};
        std::memcpy(whole, p, count * sizeof(T));
        return load(whole);
    }
    template <typename T>
    static void partial(T* p, int count, Vec x) {
        if (count == lanes) return x.store(p);
        T whole[lanes];
        x.store(whole);
        std::memcpy(p, whole, count * sizeof(T));
    }
};

static inline void load_split(const bf16* p, Vec& even, Vec& odd) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    even = {_mm256_castsi256_ps(_mm256_slli_epi32(bits, 16))};
    odd = {_mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(int(0xffff0000))))};
}
static inline void load_split(const float* p, Vec& even, Vec& odd) {
    const __m256 low = _mm256_loadu_ps(p), high = _mm256_loadu_ps(p + Vec::lanes);
    // Neighbouring quarters of low and high alternate after the shuffle: 0 2 1 3 puts each source's side by side.
    const auto ordered = [](__m256 x) {
        return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(x), _MM_SHUFFLE(3, 1, 2, 0)));
    };
    even = {ordered(_mm256_shuffle_ps(low, high, _MM_SHUFFLE(2, 0, 2, 0)))};
    odd = {ordered(_mm256_shuffle_ps(low, high, _MM_SHUFFLE(3, 1, 3, 1)))};
}
static inline __m256i joined(Vec even, Vec odd) {
    const __m256i high = _mm256_and_si256(odd.rounded(), _mm256_set1_epi32(int(0xffff0000)));
    return _mm256_or_si256(_mm256_srli_epi32(even.rounded(), 16), high);
}
static inline void store_split(bf16* p, Vec even, Vec odd) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), joined(even, odd));
}
static inline void stream_split(bf16* p, Vec even, Vec odd) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), joined(even, odd));
}
static inline void straighten(Vec& even, Vec& odd) {
    const __m256 low = _mm256_unpacklo_ps(even.v, odd.v), high = _mm256_unpackhi_ps(even.v, odd.v);
    even = {_mm256_permute2f128_ps(low, high, 0x20)};
    odd = {_mm256_permute2f128_ps(low, high, 0x31)};
}
static inline void stream(float* p, Vec x) { _mm256_stream_ps(p, x.v); }

static inline Vec rounded_to(Vec x, bf16) {
    return {_mm256_castsi256_ps(_mm256_and_si256(x.rounded(), _mm256_set1_epi32(int(0xffff0000))))};
}
static inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
static inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
static inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
static inline Vec multiply_add(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
static inline Vec clamp(Vec x, float low, float high) {
    // For a NaN, min and max return their second operand: the NaN stays.
    return {_mm256_min_ps(_mm256_set1_ps(high), _mm256_max_ps(_mm256_set1_ps(low), x.v))};
}
static inline Vec larger(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
static inline Vec round(Vec x) { return {_mm256_round_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
static inline Vec times_power_of_two(Vec x, Vec exponent) {
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(exponent.v), _mm256_set1_epi32(127));
    return {_mm256_mul_ps(x.v, _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23)))};
}
static inline Vec rough_reciprocal(Vec x) { return {_mm256_rcp_ps(x.v)}; }
static inline Vec reciprocal(Vec x) { return {_mm256_div_ps(_mm256_set1_ps(1.0f), x.v)}; }

#else

// The vector types of GCC and Clang: SSE2 on any x86-64, NEON on Arm, plain code elsewhere.
struct Vec {
    static constexpr int lanes = 4;
    typedef float Floats __attribute__((vector_size(16)));
    typedef std::uint16_t Halves __attribute__((vector_size(16)));
    typedef std::uint32_t Bits __attribute__((vector_size(16)));  // unsigned: NaN's bits would overflow a signed sum
    Floats v;

    static Vec all(float x) { return {Floats{x, x, x, x}}; }

    static Vec load(const float* p) {
        Vec x;
        std::memcpy(&x.v, p, sizeof x.v);
        return x;
    }
    static Vec load(const float* p, int count) {
        float whole[lanes] = {};
        std::memcpy(whole, p, count * sizeof(float));
        return load(whole);
    }
    static Vec load(const bf16* p) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        Halves bits{};
        std::memcpy(&bits, p, lanes * sizeof(bf16));
        return {(Floats)__builtin_shufflevector(Halves{}, bits, 0, 8, 1, 9, 2, 10, 3, 11)};
#else
        return {Floats{widen(p[0]), widen(p[1]), widen(p[2]), widen(p[3])}};
#endif
    }
    static Vec load(const bf16* p, int count) {
        bf16 whole[lanes] = {};
        std::memcpy(whole, p, count * sizeof(bf16));
        return load(whole);
    }
    void store(float* p) const { std::memcpy(p, &v, sizeof v); }
    void store(float* p, int count) const { std::memcpy(p, &v, count * sizeof(float)); }
    // A bf16 in the upper half of each lane; the lower half is meaningless.
    Bits rounded() const {
        const Bits bits = (Bits)v;
        const Bits nearest = bits + 0x7fff + ((bits >> 16) & 1);
        const Bits nan = (Bits)(v != v);
        return (nan & (bits | 0x400000)) | (~nan & nearest);
    }
    void store(bf16* p) const { store(p, lanes); }
    void store(bf16* p, int count) const {
        const Bits bits = rounded();
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        const Halves high = __builtin_shufflevector((Halves)bits, (Halves)bits, 1, 3, 5, 7, 1, 3, 5, 7);
        std::memcpy(p, &high, count * sizeof(bf16));
#else
        for (int i = 0; i < count; ++i) p[i].bits = std::uint16_t(bits[i] >> 16);
#endif
    }
};

// Without such instructions a split pair simply holds the first half of the elements and the second, in the order of memory.
template <typename T>
static inline void load_split(const T* p, Vec& first, Vec& second) {
    first = Vec::load(p);
    second = Vec::load(p + Vec::lanes);
}
static inline void store_split(bf16* p, Vec first, Vec second) {
    first.store(p);
    second.store(p + Vec::lanes);
}
static inline void stream_split(bf16* p, Vec first, Vec second) { store_split(p, first, second); }
static inline void straighten(Vec&, Vec&) {}
static inline void stream(float* p, Vec x) { x.store(p); }

static inline Vec rounded_to(Vec x, bf16) { return {(Vec::Floats)(x.rounded() & 0xffff0000u)}; }
static inline Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
static inline Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
static inline Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
static inline Vec multiply_add(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
static inline Vec clamp(Vec x, float low, float high) {
    const Vec l = Vec::all(low), h = Vec::all(high);
    const Vec::Floats raised = x.v < l.v ? l.v : x.v;
    return {raised > h.v ? h.v : raised};
}
static inline Vec larger(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
// 1.5 * 2^23: a sum with it has no bits below one and holds an integer in its lowest bits, for |x| < 2^22.
constexpr float integer_shift = 12582912.0f;
static inline Vec round(Vec x) {
    const Vec shift = Vec::all(integer_shift);
    return (x + shift) - shift;
}
static inline Vec times_power_of_two(Vec x, Vec exponent) {
    const Vec::Bits integer = (Vec::Bits)(exponent + Vec::all(integer_shift)).v;
    return {x.v * (Vec::Floats)((integer + 127) << 23)};
}
static inline Vec reciprocal(Vec x) { return {Vec::all(1.0f).v / x.v}; }
#if defined(__SSE__)
static inline Vec rough_reciprocal(Vec x) { return {(Vec::Floats)_mm_rcp_ps((__m128)x.v)}; }
#else
static inline Vec rough_reciprocal(Vec x) { return reciprocal(x); }
#endif

#endif

static inline Vec rounded_to(Vec x, float) { return x; }

#if defined(__AVX2__)
constexpr bool streams = true;
static inline void finish_streams() { _mm_sfence(); }
#else
constexpr bool streams = false;
static inline void finish_streams() {}
#endif

// 2^(whole + rest) for an integer `whole` within fp32's exponents and |rest| <= 1/2: the minimax polynomial of `rest` (Remez,
// relative error), scaled.
//
// For a result that stays fp32: degree 5 (7.5e-8 before rounding).
static inline Vec power_of_two(Vec whole, Vec rest, float) {
    Vec p = Vec::all(0.00132764725f);
    p = multiply_add(p, rest, Vec::all(0.00967554096f));
    p = multiply_add(p, rest, Vec::all(0.0555071309f));
    p = multiply_add(p, rest, Vec::all(0.240221202f));
    p = multiply_add(p, rest, Vec::all(0.693146944f));
    p = multiply_add(p, rest, Vec::all(1.0f));
    return times_power_of_two(p, whole);
}

// For a result that will be rounded to bf16 (half a unit: 3.9e-3): degree 3 (7.5e-5).
static inline Vec power_of_two(Vec whole, Vec rest, bf16) {
    Vec p = Vec::all(0.0551716685f);
    p = multiply_add(p, rest, Vec::all(0.242611125f));
    p = multiply_add(p, rest, Vec::all(0.693260968f));
    p = multiply_add(p, rest, Vec::all(0.999928057f));
    return times_power_of_two(p, whole);
}

// 2^t for any t, as precise as power_of_two(whole, rest, bf16). Past fp32's exponents the result is 0 or infinity with AVX-512,
// 2^-126 or 2^126 without. Each operation is applied to all vectors before the next one: while the result of one vector is not
// ready a processor works on the others, and it looks only so far ahead.
template <int n>
__attribute__((always_inline)) static inline void powers_of_two(const Vec (&t)[n], Vec (&p)[n], bf16) {
#if defined(__AVX512F__)
    // scalef takes t's floor itself and overflows as it should, so there is nothing to round or clamp. The same polynomial,
    // moved to [0, 1).
    Vec rest[n];
    for (int i = 0; i < n; ++i) rest[i] = {_mm512_reduce_ps(t[i].v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
    for (int i = 0; i < n; ++i) p[i] = multiply_add(Vec::all(0.0780245215f), rest[i], Vec::all(0.226067156f));
    for (int i = 0; i < n; ++i) p[i] = multiply_add(p[i], rest[i], Vec::all(0.695833504f));
    for (int i = 0; i < n; ++i) p[i] = multiply_add(p[i], rest[i], Vec::all(0.999925196f));
    for (int i = 0; i < n; ++i) p[i] = times_power_of_two(p[i], t[i]);
#else
    for (int i = 0; i < n; ++i) {
        const Vec bounded = clamp(t[i], -126.0f, 126.0f), whole = round(bounded);
        p[i] = power_of_two(whole, bounded - whole, bf16{});
    }
#endif
}
static inline Vec power_of_two(Vec t, bf16) {
    const Vec exponent[1] = {t};
    Vec power[1];
    powers_of_two(exponent, power, bf16{});
    return power[0];
}

// Replaces y by y * sigmoid(y) = y / (1 + 2^t), t = -y log2 e, in n vectors. Where 2^t would leave fp32's range the result is
// y, or within 2e-36 of 0.
//
// For a result that stays fp32: within 1e-6 of the exact value, relatively.
template <int n>
__attribute__((always_inline)) static inline void silu(Vec (&y)[n], float) {
    const Vec log2e = Vec::all(-1.44269504f);
    for (int i = 0; i < n; ++i) {
        const Vec bounded = clamp(y[i], -87.0f, 87.0f);
        const Vec whole = round(bounded * log2e);
        const Vec rest = multiply_add(bounded, log2e, Vec::all(0.0f) - whole);
        y[i] = y[i] * reciprocal(Vec::all(1.0f) + power_of_two(whole, rest, 0.0f));
    }
}

// For a result that will be rounded to bf16: also with the CPU's approximate reciprocal (6e-5 with AVX-512, 3.7e-4 with AVX2
// and SSE).
template <int n>
__attribute__((always_inline)) static inline void silu(Vec (&y)[n], bf16) {
    Vec t[n], power[n];
    for (int i = 0; i < n; ++i) t[i] = y[i] * Vec::all(-1.44269504f);
    powers_of_two(t, power, bf16{});
    for (int i = 0; i < n; ++i) power[i] = rough_reciprocal(Vec::all(1.0f) + power[i]);
    for (int i = 0; i < n; ++i) y[i] = y[i] * power[i];
}

}  // namespace GLIDE_FAST_ISA
}  // namespace glide_fast
