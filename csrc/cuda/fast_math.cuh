// Functions of a few instructions, to the accuracy of the special-function unit (some 2^-22, relative). Numbers below 2^-126 are
// zero.
#pragma once

#include <cuda_runtime.h>

namespace glide_fast::cuda {

__device__ inline float reciprocal(float x) {
#ifdef __CUDACC__
    float inverse;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
    return inverse;
#else
    return 1.0f / x;
#endif
}

__device__ inline float power_of_two(float x) {
#ifdef __CUDACC__
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
#else
    return std::exp2(x);
#endif
}

// z / (1 + exp(-z)). Where exp(-z) overflows, the limit: zero.
__device__ inline float silu(float z) { return z * reciprocal(1.0f + power_of_two(-1.442695041f * z)); }

}  // namespace glide_fast::cuda
