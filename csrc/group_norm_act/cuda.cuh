// Group norm + FiLM + SiLU on channels-last rows, with what surrounds it in a residual block: a second input in place of a
// concatenation, a residual and a bias added on the way in, nearest x2 or 2x2 mean on the way out.
//
// one_pass: a cluster of blocks holds a slab (some groups, all rows) in its shared memory. Each block takes the moments of
// its rows as they come in, the blocks read each other's through distributed shared memory, and the result is computed from
// shared memory: every input byte crosses the bus once.
// statistics, result: two kernels with partial moments in global memory between them, for slabs too large and for devices
// without clusters. The second reads its input again, mostly out of L2.
#pragma once

#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#include "cuda/dtype.cuh"
#include "cuda/shared_memory.cuh"
#include "group_norm_act/arguments.h"
#include "group_norm_act/plan.h"
#include "moments/moments.cuh"

namespace glide_fast::cuda {

struct Statistics {
    float mean, inverse_std;
};

static_assert(sizeof(Moments) == part_bytes);

// What a block works on.
struct Slab {
    std::int64_t sample;
    int first_channel, channels;
    int first_group, groups, group_channels;  // of a group, as far as it lies in this slab
    int piece;
    int begin, end;  // rows

    __device__ Slab(const GroupNormAct& g, const Plan& plan, int chunk, int slab, std::int64_t sample) : sample(sample) {
        const int width = int(g.channels) / int(g.groups);
        if (plan.pieces > 1) {
            first_group = slab / plan.pieces;
            piece = slab % plan.pieces;
            first_channel = first_group * width + piece * plan.slab;
            group_channels = channels = min(plan.slab, width - piece * plan.slab);
            groups = 1;
        } else {
            piece = 0;
            first_channel = slab * plan.slab;
            channels = plan.slab;
            groups = plan.slab / width;
            first_group = slab * groups;
            group_channels = width;
        }
        begin = min(chunk * plan.chunk_rows, int(g.rows));
        end = min(begin + plan.chunk_rows, int(g.rows));
    }
};

// Which part of a slab a thread works on: N neighbouring channels, and every `lanes`th row from `lane` on.
struct Place {
    int columns, column, lanes, lane;
    bool works;

    __device__ Place(const Slab& slab, int vector) {
        columns = slab.channels / vector;
        lanes = int(blockDim.x) / columns;
        column = int(threadIdx.x) % columns;
        lane = int(threadIdx.x) / columns;
        works = lane < lanes;
    }

    // Rows that the threads of a lane walk.
    __device__ int rows(const Slab& slab, int of_lane) const {
        return (slab.end - slab.begin - of_lane + lanes - 1) / lanes;
    }
};

template <typename T>
__device__ inline T* rows_of(const Rows& rows, std::int64_t sample, std::int64_t channel) {
    return rows.data ? static_cast<T*>(rows.data) + sample * rows.sample_stride + channel : nullptr;
}

__device__ inline float read(const PerChannel& from, std::int64_t sample, int channel) {
    return read(from.data, from.dtype, sample * from.sample_stride + channel);
}

// A thread's N channels of what is normalised.
template <typename T, int N>
struct Input {
    const T *x, *residual;
    T* sum;
    int x_stride, residual_stride, sum_stride;
    bool adds;
    float bias[N];

    // FromSum: an earlier kernel has written the sum, and it is read in place of its parts.
    __device__ Input(const GroupNormAct& g, std::int64_t sample, int channel, bool from_sum) {
        const bool second = channel >= int(g.x_channels);
        const bool added = !second && (g.residual.data || g.x_bias.data);
        adds = added && !from_sum;
        const Rows& rows = second ? g.x2 : added && from_sum ? g.sum : g.x;
        x = rows_of<const T>(rows, sample, second ? channel - int(g.x_channels) : channel);
        x_stride = int(rows.row_stride);
        residual = adds ? rows_of<const T>(g.residual, sample, channel) : nullptr;
        residual_stride = int(g.residual.row_stride);
        sum = adds ? rows_of<T>(g.sum, sample, channel) : nullptr;
        sum_stride = int(g.sum.row_stride);
#pragma unroll
        for (int k = 0; k < N; ++k) bias[k] = adds && g.x_bias.data ? read(g.x_bias, sample, channel + k) : 0.0f;
    }

    struct Fetched {
        Pack<T, N> x, residual;
    };

    // Loads only, so that several can be under way before the first is used.
    __device__ Fetched fetch(int row) const {
        Fetched fetched;
        fetched.x = *reinterpret_cast<const Pack<T, N>*>(x + std::int64_t(row) * x_stride);
        if (residual) fetched.residual = *reinterpret_cast<const Pack<T, N>*>(residual + std::int64_t(row) * residual_stride);
        return fetched;
    }

    // The sum is rounded to T before anything uses it: the same value whoever reads it, and wherever from.
    __device__ Pack<T, N> finish(const Fetched& fetched) const {
        if (!adds) return fetched.x;
        float total[N], other[N];
        fetched.x.unpack(total);
#pragma unroll
        for (int k = 0; k < N; ++k) total[k] += bias[k];
        if (residual) {
            fetched.residual.unpack(other);
#pragma unroll
            for (int k = 0; k < N; ++k) total[k] += other[k];
        }
        return Pack<T, N>::of(total);
    }

    __device__ void keep(const Pack<T, N>& total, int row) const {
        if (sum) *reinterpret_cast<Pack<T, N>*>(sum + std::int64_t(row) * sum_stride) = total;
    }
};

// Calls use(pack, row) for every row of a thread, and writes the sum where one is wanted.
template <typename T, int N, typename Use>
__device__ inline void for_each_row(const Input<T, N>& input, const Slab& slab, const Place& place, Use use) {
    for (int first = slab.begin + place.lane; first < slab.end; first += rows_a_thread * place.lanes) {
        typename Input<T, N>::Fetched fetched[rows_a_thread];
#pragma unroll
        for (int u = 0; u < rows_a_thread; ++u) {
            const int row = first + u * place.lanes;
            if (row < slab.end) fetched[u] = input.fetch(row);
        }
#pragma unroll
        for (int u = 0; u < rows_a_thread; ++u) {
            const int row = first + u * place.lanes;
            if (row < slab.end) {
                const Pack<T, N> total = input.finish(fetched[u]);
                input.keep(total, row);
                use(total, row);
            }
        }
    }
}

// Where a block's threads put their moments to be merged: [N][threads] means, then the same of m2.
template <int N>
struct Reduction {
    float *mean, *m2;

    __device__ explicit Reduction(unsigned char* at)
        : mean(reinterpret_cast<float*>(at)), m2(mean + N * blockDim.x) {}

    __device__ unsigned char* end() const { return reinterpret_cast<unsigned char*>(m2 + N * blockDim.x); }

    __device__ void put(const ChannelMoments<N>& moments) const {
#pragma unroll
        for (int k = 0; k < N; ++k) {
            mean[k * blockDim.x + threadIdx.x] = moments.mean[k];
            m2[k * blockDim.x + threadIdx.x] = moments.m2[k];
        }
    }

    // Calls use(group, moments) on lane 0 of one warp for each group of the slab.
    template <typename Use>
    __device__ void merge_groups(const Slab& slab, const Place& place, Use use) const {
        const int warp = int(threadIdx.x) / 32, warps = int(blockDim.x) / 32, lane = int(threadIdx.x) % 32;
        for (int group = warp; group < slab.groups; group += warps) {
            Moments total{};
            for (int i = lane; i < slab.group_channels * place.lanes; i += 32) {
                const int channel = group * slab.group_channels + i % slab.group_channels;
                const int from = i / slab.group_channels;
                const int at = (channel % N) * int(blockDim.x) + from * place.columns + channel / N;
                total = merge(total, {float(place.rows(slab, from)), mean[at], m2[at]});
            }
            total = merge_warp(total);
            if (lane == 0) use(group, total);
        }
    }
};

__device__ inline Statistics finish(const Moments& moments, float eps) {
    return {moments.mean, 1.0f / sqrtf(moments.m2 / moments.count + eps)};
}

// From a thread's N channels to the output.
template <typename T, int N>
struct Output {
    // The mean is subtracted first, not folded into the offset: their difference would cost digits.
    float mean[N], factor[N], offset[N];
    unsigned char* y;
    std::int64_t stride;  // bytes
    bool silu, wide;      // wide: y is fp32, whatever T is

    __device__ Output(const GroupNormAct& g, const Slab& slab, int channel, const Statistics* statistics)
        : silu(g.silu), wide(sizeof(T) < 4 && g.out_dtype == Dtype::f32) {
        const int bytes = wide ? 4 : int(sizeof(T));
        y = rows_of<unsigned char>(g.y, slab.sample * bytes, channel * bytes);
        stride = g.y.row_stride * bytes;
#pragma unroll
        for (int k = 0; k < N; ++k) {
            const int at = channel + k;
            const Statistics of_group = statistics[(at - slab.first_channel) / slab.group_channels];
            mean[k] = of_group.mean;
            factor[k] = of_group.inverse_std * read(g.weight, 0, at);
            offset[k] = read(g.bias, 0, at);
            if (g.scale.data) {
                const float scale = 1.0f + read(g.scale, slab.sample, at);
                factor[k] *= scale;
                offset[k] = offset[k] * scale + read(g.shift, slab.sample, at);
            }
        }
    }

    __device__ void activate(const Pack<T, N>& x, float (&result)[N]) const {
        x.unpack(result);
#pragma unroll
        for (int k = 0; k < N; ++k) {
            const float z = (result[k] - mean[k]) * factor[k] + offset[k];
            // A denominator beyond 2^126 makes __fdividef return 0, which is the limit.
            result[k] = silu ? __fdividef(z, 1.0f + __expf(-z)) : z;
        }
    }

    __device__ void store(const float (&value)[N], std::int64_t row) const {
        unsigned char* const to = y + row * stride;
        if (!wide) {
            *reinterpret_cast<Pack<T, N>*>(to) = Pack<T, N>::of(value);
            return;
        }
        constexpr int quad = N % 4 == 0 ? 4 : 1;  // 16 bytes at a time
#pragma unroll
        for (int k = 0; k < N; k += quad) {
            Pack<float, quad> part;
#pragma unroll
            for (int i = 0; i < quad; ++i) part.v[i] = value[k + i];
            reinterpret_cast<Pack<float, quad>*>(to)[k / quad] = part;
        }
    }

    // `source(row)` gives a row's N channels. Slabs begin and end between pairs of image lines where that matters.
    template <typename Source>
    __device__ void write(const GroupNormAct& g, const Slab& slab, const Place& place, Source source) const {
        const int width = int(g.width);
        switch (g.resample) {
            case Resampling::none:
                for (int first = slab.begin + place.lane; first < slab.end; first += rows_a_thread * place.lanes) {
                    Pack<T, N> values[rows_a_thread];
#pragma unroll
                    for (int u = 0; u < rows_a_thread; ++u) {
                        const int row = first + u * place.lanes;
                        if (row < slab.end) values[u] = source(row);
                    }
#pragma unroll
                    for (int u = 0; u < rows_a_thread; ++u) {
                        const int row = first + u * place.lanes;
                        if (row < slab.end) {
                            float result[N];
                            activate(values[u], result);
                            store(result, row);
                        }
                    }
                }
                break;
            case Resampling::nearest_x2:
                for (int row = slab.begin + place.lane; row < slab.end; row += place.lanes) {
                    float value[N];
                    activate(source(row), value);
                    const std::int64_t to = std::int64_t(row / width) * 4 * width + row % width * 2;
                    store(value, to);
                    store(value, to + 1);
                    store(value, to + 2 * width);
                    store(value, to + 2 * width + 1);
                }
                break;
            case Resampling::mean_2x2:
                for (int to = slab.begin / 4 + place.lane; to < slab.end / 4; to += place.lanes) {
                    const int half = width / 2;
                    const int from = to / half * 2 * width + to % half * 2;
                    float total[N] = {}, one[N];
#pragma unroll
                    for (int part = 0; part < 4; ++part) {
                        activate(source(from + part / 2 * width + part % 2), one);
#pragma unroll
                        for (int k = 0; k < N; ++k) total[k] += 0.25f * one[k];
                    }
                    store(total, to);
                }
                break;
        }
    }
};

// grid (plan.chunks, plan.slabs, samples), clusters of (plan.chunks, 1, 1). eps is g.eps, made fp32 once and not in every thread.
template <typename T, int N>
__global__ void __launch_bounds__(max_one_pass_threads) one_pass(const GroupNormAct g, const Plan plan, const float eps) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    GLIDE_FAST_SHARED_MEMORY(memory);
    const auto cluster = cooperative_groups::this_cluster();
    const Slab slab(g, plan, int(blockIdx.x), int(blockIdx.y), blockIdx.z);
    const Place place(slab, N);
    const int channel = slab.first_channel + place.column * N;

    auto* const held = reinterpret_cast<Pack<T, N>*>(memory);  // [plan.chunk_rows][place.columns]
    const Reduction<N> reduction(memory + std::int64_t(plan.chunk_rows) * place.columns * sizeof(Pack<T, N>));
    auto* const local = reinterpret_cast<Moments*>(reduction.end());                // [slab.groups]
    auto* const statistics = reinterpret_cast<Statistics*>(local + slab.groups);    // [slab.groups]

    ChannelMoments<N> moments;
    if (place.works) {
        const Input<T, N> input(g, slab.sample, channel, false);
        for_each_row(input, slab, place, [&](const Pack<T, N>& x, int row) {
            held[(row - slab.begin) * place.columns + place.column] = x;
            moments.add(x);
        });
        reduction.put(moments);
    }
    __syncthreads();
    reduction.merge_groups(slab, place, [&](int group, const Moments& total) { local[group] = total; });
    cluster.sync();

    // Every block merges in the order of the ranks, so that all arrive at the same bits.
    for (int group = int(threadIdx.x); group < slab.groups; group += int(blockDim.x)) {
        Moments total{};
        for (int rank = 0; rank < plan.chunks; ++rank) total = merge(total, *cluster.map_shared_rank(local + group, rank));
        statistics[group] = finish(total, eps);
    }
    // A block may not leave while another reads its memory; the wait is at the end, where nobody is late.
    auto arrived = cluster.barrier_arrive();
    __syncthreads();

    if (place.works) {
        const Output<T, N> output(g, slab, channel, statistics);
        output.write(g, slab, place,
                     [&](int row) { return held[(row - slab.begin) * place.columns + place.column]; });
    }
    cluster.barrier_wait(std::move(arrived));
#endif
}

// [samples][groups][pieces * chunks] partial moments.
__device__ inline Moments* parts_of(Moments* workspace, const GroupNormAct& g, const Plan& plan, const Slab& slab, int group) {
    return workspace + ((slab.sample * int(g.groups) + slab.first_group + group) * plan.pieces) * plan.chunks;
}

// grid (plan.chunks, plan.slabs, samples).
template <typename T, int N>
__global__ void __launch_bounds__(two_pass_threads)
    statistics(const GroupNormAct g, const Plan plan, Moments* workspace) {
    GLIDE_FAST_SHARED_MEMORY(memory);
    const Slab slab(g, plan, int(blockIdx.x), int(blockIdx.y), blockIdx.z);
    const Place place(slab, N);
    const Reduction<N> reduction(memory);
    ChannelMoments<N> moments;
    if (place.works) {
        const Input<T, N> input(g, slab.sample, slab.first_channel + place.column * N, false);
        for_each_row(input, slab, place, [&](const Pack<T, N>& x, int) { moments.add(x); });
        reduction.put(moments);
    }
    __syncthreads();
    reduction.merge_groups(slab, place, [&](int group, const Moments& total) {
        parts_of(workspace, g, plan, slab, group)[slab.piece * plan.chunks + int(blockIdx.x)] = total;
    });
}

// grid (plan.chunks, plan.slabs, samples).
template <typename T, int N>
__global__ void __launch_bounds__(two_pass_threads)
    result(const GroupNormAct g, const Plan plan, const float eps, Moments* workspace) {
    GLIDE_FAST_SHARED_MEMORY(memory);
    // Last chunk first: it was read last, and is the likeliest to be in L2 still.
    const Slab slab(g, plan, int(gridDim.x - 1 - blockIdx.x), int(blockIdx.y), blockIdx.z);
    const Place place(slab, N);
    auto* const statistics = reinterpret_cast<Statistics*>(memory);  // [slab.groups]

    const int warp = int(threadIdx.x) / 32, warps = int(blockDim.x) / 32, lane = int(threadIdx.x) % 32;
    for (int group = warp; group < slab.groups; group += warps) {
        const Moments* const parts = parts_of(workspace, g, plan, slab, group);
        Moments total{};
        for (int part = lane; part < plan.pieces * plan.chunks; part += 32) total = merge(total, parts[part]);
        total = merge_warp(total);
        if (lane == 0) statistics[group] = finish(total, eps);
    }
    __syncthreads();

    if (place.works) {
        const int channel = slab.first_channel + place.column * N;
        const Input<T, N> input(g, slab.sample, channel, g.sum.data != 0);
        const Output<T, N> output(g, slab, channel, statistics);
        output.write(g, slab, place, [&](int row) { return input.finish(input.fetch(row)); });
    }
}

}  // namespace glide_fast::cuda
