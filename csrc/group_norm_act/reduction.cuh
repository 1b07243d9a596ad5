// From the values that a thread sees to the moments of each group of a block's slab.
#pragma once

#include "cuda/cluster.cuh"
#include "cuda/dtype.cuh"
#include "group_norm_act/slab.cuh"
#include "moments/moments.cuh"

namespace glide_fast::cuda {

// Sums over the rows of a thread, channel by channel, about a pivot for each of its groups: the group's first value there.
template <int N>
struct ChannelSums {
    float pivot[N], sum[N] = {}, square[N] = {};

    template <typename T>
    __device__ void add(const Pack<T, N>& x, const Groups<N>& groups, bool is_first) {
        float values[N];
        x.unpack(values);
        if (is_first) {
#pragma unroll
            for (int k = 0; k < N; ++k) pivot[k] = groups.in_first(k) ? values[0] : values[N - 1];
        }
#pragma unroll
        for (int k = 0; k < N; ++k) {
            const float away = values[k] - pivot[k];
            sum[k] += away;
            square[k] += away * away;
        }
    }

    // Of the thread's part of its first or its second group, over `rows` rows.
    __device__ Moments moments(const Groups<N>& groups, bool of_first, int rows) const {
        PivotedSums all;
        all.count = float(rows * (of_first ? groups.split : N - groups.split));
        all.pivot = of_first ? pivot[0] : pivot[N - 1];
#pragma unroll
        for (int k = 0; k < N; ++k) {
            const bool belongs = groups.in_first(k) == of_first;
            all.sum += belongs ? sum[k] : 0.0f;
            all.square += belongs ? square[k] : 0.0f;
        }
        return all.moments();
    }
};

// Where a block's threads put the moments of their parts to be merged: [2][columns][stride], first and second group.
template <int N>
struct Reduction {
    Moments* parts;
    int stride, columns;

    __device__ Reduction(unsigned char* at, const Plan& plan)
        : parts(reinterpret_cast<Moments*>(at)), stride(plan.stride), columns(plan.columns) {}

    __device__ Moments* end() const { return parts + 2 * columns * stride; }

    __device__ Moments* row(int place, int column) const { return parts + (place * columns + column) * stride; }

    __device__ void put(const ChannelSums<N>& sums, const Groups<N>& groups, const Slab& slab) const {
        const int rows = slab.rows_of_lane(slab.lane);
        row(0, slab.column)[slab.lane] = sums.moments(groups, true, rows);
        if (groups.split < N) row(1, slab.column)[slab.lane] = sums.moments(groups, false, rows);
    }

    // Calls use(group, moments) in all lanes of one warp for each group of the slab.
    template <typename Use>
    __device__ void merge_groups(const Slab& slab, Use use) const {
        const int warp = warp_of_block(), warps = int(blockDim.x) / 32, first_lane = int(threadIdx.x) % 32;
        const int lanes = min(slab.lanes, slab.rows);
        for (int group = warp; group < slab.groups; group += warps) {
            const int first = group * slab.group_channels, end = first + slab.group_channels;
            PivotedSums mine;
#pragma unroll 1
            for (int column = first / N; column * N < end; ++column) {
                const int from = column * N, channels = min(from + N, end) - max(from, first);
                const Moments* const parts = row(from < first, column);
#pragma unroll 1
                for (int lane = first_lane; lane < lanes; lane += 32)
                    mine.add(float(slab.rows_of_lane(lane) * channels), parts[lane]);
            }
            use(group, merge_lanes(mine, 32));
        }
    }
};

}  // namespace glide_fast::cuda
