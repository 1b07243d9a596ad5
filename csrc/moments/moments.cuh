// Mean and sum of squared deviations in fp32, from deviations from a pivot: with d = x - pivot, mean = pivot + sum(d) / n and
// m2 = sum(d^2) - sum(d)^2 / n. No division for each element, and sums about one pivot simply add.
//
// The difference loses digits where the pivot is far from the mean, by a factor of 1 + (pivot - mean)^2 / variance. Each pivot
// here is one of the n values that it is subtracted from (or the mean of some of them), so that factor is at most n (Samuelson's
// inequality), whatever the data, and about 2 for a value taken at random. Pivots are a thread's own, so n is small, a few
// hundred values; what threads, warps and blocks merge are means and deviations, not raw sums.
#pragma once

#include <cuda_runtime.h>

#include "cuda/fast_math.cuh"

namespace glide_fast::cuda {

struct Moments {
    float mean, m2;
};

// Of values, or of sets of values by their moments, as they come.
struct PivotedSums {
    float count = 0.0f, pivot = 0.0f, sum = 0.0f, square = 0.0f;

    __device__ void add(float more, const Moments& set) {
        if (count == 0.0f) pivot = set.mean;
        const float away = set.mean - pivot, weighted = more * away;
        count += more;
        sum += weighted;
        square += set.m2;
        square += weighted * away;
    }

    __device__ Moments moments() const {
        const float shift = count > 0.0f ? sum * reciprocal(count) : 0.0f, m2 = square - shift * sum;
        return {pivot + shift, m2 < 0.0f ? 0.0f : m2};  // not fmaxf, which would swallow NaN
    }
};

// The moments of what each run of `lanes` neighbours has (a power of two), for all of them, by the formula of Chan, Golub & LeVeque
// (1983). Always merged in the same order. The divisions wait for counts only, not for values.
__device__ inline Moments merge_lanes(const PivotedSums& sums, int lanes) {
    Moments mine = sums.moments();
    float count = sums.count;
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
        const float others = __shfl_xor_sync(0xffffffffu, count, distance), total = count + others;
        // Exactly 1 for a lane without values: a reciprocal is not quite exact, and of one value the mean must be that value.
        const float share = count == 0.0f ? (others > 0.0f ? 1.0f : 0.0f) : others * reciprocal(total);
        const float away = __shfl_xor_sync(0xffffffffu, mine.mean, distance) - mine.mean;
        mine.m2 += __shfl_xor_sync(0xffffffffu, mine.m2, distance) + away * (away * (count * share));  // not infinity times no values
        mine.mean += away * share;
        count = total;
    }
    // What two lanes add in different orders may differ in its last bit.
    return {__shfl_sync(0xffffffffu, mine.mean, 0, lanes), __shfl_sync(0xffffffffu, mine.m2, 0, lanes)};
}

}  // namespace glide_fast::cuda
