// A thread's channels of what is normalised: x + x_bias + residual, or the second input.
#pragma once

#include "cuda/channel_vector.cuh"
#include "cuda/dtype.cuh"
#include "group_norm_act/slab.cuh"

namespace glide_fast::cuda {

template <typename T, int N>
struct Input {
    const T *x, *residual;
    T* sum;
    int x_stride, residual_stride, sum_stride;
    bool adds, biased;
    Dtype bias_type;
    ChannelVector<N> bias;

    // from_sum: an earlier kernel has written the sum, and it is read in place of its parts.
    __device__ Input(const GroupNormAct& g, const Slab& slab, int channel, bool from_sum) {
        const bool second = channel >= int(g.x_channels);
        const bool added = !second && (g.residual.data || g.x_bias.data);
        adds = added && !from_sum;
        const Rows& rows = second ? g.x2 : added && from_sum ? g.sum : g.x;
        x = rows_of<const T>(rows, slab.sample, second ? channel - int(g.x_channels) : channel) +
            std::int64_t(slab.begin) * rows.row_stride;
        x_stride = int(rows.row_stride);
        residual = nullptr;
        sum = nullptr;
        if (adds && g.residual.data)
            residual = rows_of<const T>(g.residual, slab.sample, channel) + slab.begin * g.residual.row_stride;
        if (adds && g.sum.data) sum = rows_of<T>(g.sum, slab.sample, channel) + slab.begin * g.sum.row_stride;
        residual_stride = int(g.residual.row_stride);
        sum_stride = int(g.sum.row_stride);
        biased = adds && g.x_bias.data;
        bias_type = g.x_bias.dtype;
        if (biased) bias.fetch(g.x_bias, slab.sample, channel);
    }

    struct Fetched {
        Pack<T, N> x, residual;
    };

    // Loads only, so that several can be under way before the first is used. Rows count from the block's first.
    __device__ Fetched fetch(int row) const {
        Fetched fetched;
        fetched.x = *reinterpret_cast<const Pack<T, N>*>(x + std::int64_t(row) * x_stride);
        if (residual) fetched.residual = *reinterpret_cast<const Pack<T, N>*>(residual + std::int64_t(row) * residual_stride);
        return fetched;
    }

    // Of rows from `first` on, `step` apart, as far as they lie below `end`.
    template <int Count>
    __device__ void fetch(int first, int step, int end, Fetched (&fetched)[Count]) const {
#pragma unroll
        for (int i = 0; i < Count; ++i)
            if (first + i * step < end) fetched[i] = fetch(first + i * step);
    }

    // The sum is rounded to T before anything uses it: the same value whoever reads it, and wherever from.
    __device__ Pack<T, N> finish(const Fetched& fetched, const float (&bias)[N]) const {
        if (!adds) return fetched.x;
        float total[N];
        fetched.x.unpack(total);
#pragma unroll
        for (int k = 0; k < N; ++k) total[k] += bias[k];
        if (residual) {
            float other[N];
            fetched.residual.unpack(other);
#pragma unroll
            for (int k = 0; k < N; ++k) total[k] += other[k];
        }
        return Pack<T, N>::of(total);
    }

    // Waits for the bias, so call it when all loads are under way.
    __device__ void unpack_bias(float (&to)[N]) const {
#pragma unroll
        for (int k = 0; k < N; ++k) to[k] = 0.0f;
        if (biased) bias.unpack(bias_type, to);
    }

    __device__ void keep(const Pack<T, N>& total, int row) const {
        if (sum) *reinterpret_cast<Pack<T, N>*>(sum + std::int64_t(row) * sum_stride) = total;
    }
};

}  // namespace glide_fast::cuda
