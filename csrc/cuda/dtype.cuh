// How a CUDA kernel reads and writes the element types of dtype.h.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "dtype.h"

namespace glide_fast::cuda {

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ inline T narrow(float x);
template <>
__device__ inline float narrow<float>(float x) {
    return x;
}
template <>
__device__ inline __half narrow<__half>(float x) {
    return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

// N neighbouring elements that are read or written by one instruction.
template <typename T, int N, bool Paired = sizeof(T) == 2 && N % 2 == 0>
struct alignas(sizeof(T) * N) Pack {
    T v[N];

    __device__ void unpack(float (&to)[N]) const {
#pragma unroll
        for (int k = 0; k < N; ++k) to[k] = widen(v[k]);
    }
    __device__ static Pack of(const float (&from)[N]) {
        Pack pack;
#pragma unroll
        for (int k = 0; k < N; ++k) pack.v[k] = narrow<T>(from[k]);
        return pack;
    }
};

__device__ inline void unpack(__half, std::uint32_t word, float& low, float& high) {
    low = __half2float(__ushort_as_half(static_cast<unsigned short>(word)));
    high = __half2float(__ushort_as_half(static_cast<unsigned short>(word >> 16)));
}
__device__ inline void unpack(__nv_bfloat16, std::uint32_t word, float& low, float& high) {
    low = __uint_as_float(word << 16);
    high = __uint_as_float(word & 0xffff0000u);
}
__device__ inline std::uint32_t bits(__half x) { return __half_as_ushort(x); }
__device__ inline std::uint32_t bits(__nv_bfloat16 x) { return __bfloat16_as_ushort(x); }

// Two to a word: single 16-bit elements that wait for their use would take a register each.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack<T, N, true> {
    std::uint32_t words[N / 2];

    __device__ void unpack(float (&to)[N]) const {
#pragma unroll
        for (int k = 0; k < N; k += 2) cuda::unpack(T{}, words[k / 2], to[k], to[k + 1]);
    }
    __device__ static Pack of(const float (&from)[N]) {
        Pack pack;
#pragma unroll
        for (int k = 0; k < N; k += 2)
            pack.words[k / 2] = bits(narrow<T>(from[k])) | bits(narrow<T>(from[k + 1])) << 16;
        return pack;
    }
};

// An element of a small operand whose type is known only at run time; every thread of a grid takes the same branch.
__device__ inline float read(const void* from, Dtype type, std::int64_t i) {
    switch (type) {
        case Dtype::bf16: return widen(static_cast<const __nv_bfloat16*>(from)[i]);
        case Dtype::f16: return widen(static_cast<const __half*>(from)[i]);
        default: return static_cast<const float*>(from)[i];
    }
}

__device__ inline void write(void* to, Dtype type, std::int64_t i, float value) {
    switch (type) {
        case Dtype::bf16: static_cast<__nv_bfloat16*>(to)[i] = narrow<__nv_bfloat16>(value); break;
        case Dtype::f16: static_cast<__half*>(to)[i] = narrow<__half>(value); break;
        default: static_cast<float*>(to)[i] = value;
    }
}

}  // namespace glide_fast::cuda
