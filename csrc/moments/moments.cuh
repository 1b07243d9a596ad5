// Mean and sum of squared deviations in fp32: Welford's recurrence within a thread, Chan's formula between them
// (Welford 1962; Chan, Golub & LeVeque 1983). Both keep their digits where the mean is large beside the deviation.
#pragma once

#include <cuda_runtime.h>

#include "cuda/dtype.cuh"

namespace glide_fast::cuda {

struct Moments {
    float count, mean, m2;
};

__device__ inline Moments merge(const Moments& a, const Moments& b) {
    const float count = a.count + b.count;
    if (count == 0.0f) return a;
    const float delta = b.mean - a.mean, share = __fdividef(b.count, count);
    return {count, a.mean + delta * share, a.m2 + b.m2 + delta * delta * a.count * share};
}

// Lane 0 of the warp gets the moments of all 32 lanes, always merged in the same order.
__device__ inline Moments merge_warp(Moments mine) {
    for (int distance = 16; distance > 0; distance /= 2) {
        const Moments other{__shfl_down_sync(0xffffffffu, mine.count, distance),
                            __shfl_down_sync(0xffffffffu, mine.mean, distance),
                            __shfl_down_sync(0xffffffffu, mine.m2, distance)};
        mine = merge(mine, other);
    }
    return mine;
}

// The moments of N channels that one thread walks down.
template <int N>
struct ChannelMoments {
    float mean[N] = {}, m2[N] = {};
    float count = 0.0f;

    template <typename T>
    __device__ void add(const Pack<T, N>& x) {
        count += 1.0f;
        const float inverse = __fdividef(1.0f, count);
        float values[N];
        x.unpack(values);
#pragma unroll
        for (int k = 0; k < N; ++k) {
            const float delta = values[k] - mean[k];
            mean[k] += delta * inverse;
            m2[k] += delta * (values[k] - mean[k]);
        }
    }
};

}  // namespace glide_fast::cuda
