// What a block, and each of its threads, works on.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "group_norm_act/arguments.h"
#include "group_norm_act/plan.h"

namespace glide_fast::cuda {

template <typename T>
__device__ inline T* rows_of(const Rows& rows, std::int64_t sample, std::int64_t channel) {
    return rows.data ? static_cast<T*>(rows.data) + sample * rows.sample_stride + channel : nullptr;
}

// Rows and channels of a block. A thread has `vector` neighbouring channels, a column, and every `lanes`th row from `lane` on.
struct Slab {
    int sample, first_channel, channels, first_group, groups, piece;
    int group_channels;  // of a group, as far as it lies in this slab
    int begin, rows;
    int columns, lanes, column, lane;
    int rows_of_all, lanes_with_more;  // rows of every lane; of so many lanes one more
    bool works;  // whether this thread has channels and rows

    __device__ Slab(const GroupNormAct& g, const Plan& plan, int chunk, int slab, int sample)
        : sample(sample), columns(plan.columns), lanes(plan.lanes) {
        lane = int(threadIdx.x) / plan.by_columns;
        column = int(threadIdx.x) - lane * columns;
        piece = 0;
        if (plan.pieces > 1) {
            first_group = slab / plan.by_pieces;
            piece = slab - first_group * plan.pieces;
            first_channel = first_group * plan.width + piece * plan.slab;
            group_channels = channels = min(plan.slab, plan.width - piece * plan.slab);
            groups = 1;
        } else {
            first_channel = slab * plan.slab;
            channels = plan.slab;
            groups = channels / plan.by_width;
            first_group = slab * groups;
            group_channels = plan.width;
        }
        begin = min(chunk * plan.chunk_rows, int(g.rows));
        rows = rows_of_chunk(g, plan, chunk);
        rows_of_all = rows / plan.by_lanes;
        lanes_with_more = rows - rows_of_all * lanes;
        works = lane < min(lanes, rows) && column * plan.vector < channels;
    }

    __device__ int rows_of_lane(int of) const { return rows_of_all + (of < lanes_with_more); }

    __device__ static int rows_of_chunk(const GroupNormAct& g, const Plan& plan, int chunk) {
        return max(0, min(plan.chunk_rows, int(g.rows) - chunk * plan.chunk_rows));
    }
};

// To which groups of the slab a thread's N channels belong: the first `split` to `first`, the others to `second`.
template <int N>
struct Groups {
    int first, second, split;

    __device__ Groups(const Plan& plan, const Slab& slab) {
        const int channel = slab.column * N;
        first = plan.pieces > 1 ? 0 : channel / plan.by_width;
        second = min(first + 1, slab.groups - 1);
        split = plan.pieces > 1 ? N : min(N, (first + 1) * plan.width - channel);
    }

    __device__ bool in_first(int k) const { return k < split; }
};

}  // namespace glide_fast::cuda
