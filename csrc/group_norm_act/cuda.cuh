// Group norm + FiLM + SiLU on channels-last rows, with what surrounds it in a residual block: a second input in place of a
// concatenation, a residual and a bias added on the way in, nearest x2, 2x2 mean or a convolution's windows on the way out.
//
// one_pass: a cluster of blocks holds a slab (some groups, all rows) in its registers or its shared memory. Each block takes the
// moments of its rows as they come in and writes them into the shared memory of all others; after one barrier the result is
// computed from what is held: every input byte crosses the bus once.
// statistics, result: two kernels with partial moments in global memory between them, for slabs too large and for devices
// without clusters. The second reads its input again, mostly out of L2.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/cluster.cuh"
#include "cuda/dependent_launch.cuh"
#include "cuda/shared_memory.cuh"
#include "group_norm_act/input.cuh"
#include "group_norm_act/output.cuh"
#include "group_norm_act/reduction.cuh"

namespace glide_fast::cuda {

static_assert(sizeof(Moments) == moments_bytes && sizeof(Statistics) == moments_bytes);

// Adds all rows of a thread to its sums, and calls use(pack, row).
template <typename T, int N, typename Use>
__device__ inline void add_rows(const Input<T, N>& input, const Slab& slab, const Groups<N>& groups, ChannelSums<N>& sums, Use use) {
    const int end = slab.works ? slab.rows : 0;
    for (int first = slab.lane; first < end; first += batch * slab.lanes) {
        typename Input<T, N>::Fetched fetched[batch];
        input.fetch(first, slab.lanes, end, fetched);
        float bias[N];
        input.unpack_bias(bias);
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            const int row = first + i * slab.lanes;
            if (row >= end) continue;
            const Pack<T, N> x = input.finish(fetched[i], bias);
            sums.add(x, groups, i == 0 && first == slab.lane);
            use(x, row);
        }
    }
}

// grid (plan.chunks, plan.slabs, samples), clusters of (plan.chunks, 1, 1). eps is g.eps, made fp32 once and not in every thread.
// Held: registers keep the rows, and not shared memory.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
template <typename T, int N, bool Held, Form form>
__device__ inline void one_pass_block(const GroupNormAct& g, const Plan& plan, float eps) {
    GLIDE_FAST_SHARED_MEMORY(memory);
    // Nobody may write into the memory of a block that has not started; the wait is before the first who does.
    ClusterBarrier barrier;
    if (plan.chunks > 1) barrier.arrive_without_memory();
    const Slab slab(g, plan, int(blockIdx.x), int(blockIdx.y), int(blockIdx.z));
    const Groups<N> groups(plan, slab);
    const int channel = slab.first_channel + slab.column * N;

    auto* const shared = reinterpret_cast<Pack<T, N>*>(memory);  // [plan.chunk_rows][columns], unless registers hold the rows
    const Reduction<N> reduction(memory + (Held ? 0 : std::int64_t(plan.chunk_rows) * slab.columns * sizeof(Pack<T, N>)), plan);
    Moments* const parts = reduction.end();                                                          // [groups][plan.chunks]
    auto* const statistics = reinterpret_cast<Statistics*>(parts + slab.groups * plan.chunks);       // [groups]

    Affine<N> affine;
    if (Held && slab.works) affine.fetch_weights(g, channel);
    wait_for_earlier_kernels();
    let_next_kernel_start();
    const Input<T, N> input(g, slab, channel, false);
    Pack<T, N> held[Held ? held_rows : 1];
    ChannelSums<N> sums;
    if constexpr (Held) {
        const int end = slab.works ? slab.rows : 0;
        typename Input<T, N>::Fetched fetched[held_rows];
        input.fetch(slab.lane, slab.lanes, end, fetched);
        if (slab.works) affine.fetch_film(g, slab.sample, channel);
        float bias[N];
        input.unpack_bias(bias);
#pragma unroll
        for (int i = 0; i < held_rows; ++i) {
            const int row = slab.lane + i * slab.lanes;
            if (row >= end) continue;
            held[i] = input.finish(fetched[i], bias);
            sums.add(held[i], groups, i == 0);
        }
    } else {
        add_rows(input, slab, groups, sums,
                 [&](const Pack<T, N>& x, int row) { shared[row * slab.columns + slab.column] = x; });
        // They arrive while the blocks exchange moments.
        if (slab.works) {
            affine.fetch_weights(g, channel);
            affine.fetch_film(g, slab.sample, channel);
        }
    }
    Output<T, N, form> output(g, plan, slab, channel);
    if (slab.works) reduction.put(sums, groups, slab);
    __syncthreads();

    const float count = float(g.rows) * float(plan.width);
    const int warp = warp_of_block(), warps = int(blockDim.x) / 32, lane = int(threadIdx.x) % 32;
    if (plan.chunks > 1) barrier.wait();
    reduction.merge_groups(slab, [&](int group, const Moments& total) {
        if (plan.chunks > 1) {
            if (lane < plan.chunks) store_in_block(parts + group * plan.chunks + int(blockIdx.x), lane, total);
        } else if (lane == 0) {
            statistics[group] = finish(total, count, eps);
        }
    });
    if (plan.chunks > 1) {
        barrier.arrive();
        barrier.wait();
        // All blocks merge in the order of the ranks, so that all arrive at the same bits.
        const int at_once = 32 >> plan.span_bits, rank = lane & ((1 << plan.span_bits) - 1);
        for (int first = warp * at_once; first < slab.groups; first += warps * at_once) {
            const int group = first + (lane >> plan.span_bits);
            PivotedSums mine;
            const int rows = rank < plan.chunks && group < slab.groups ? Slab::rows_of_chunk(g, plan, rank) : 0;
            if (rows > 0) mine.add(float(rows * plan.width), parts[group * plan.chunks + rank]);
            const Moments total = merge_lanes(mine, 1 << plan.span_bits);
            if (rank == 0 && group < slab.groups) statistics[group] = finish(total, count, eps);
        }
    }
    __syncthreads();
    if (!slab.works) return;

    output.set(g, affine);
    output.set(statistics, groups);
    // The sum is written here, not where it was formed: the cluster's barrier would wait until memory has it.
    if constexpr (form == Form::mean) {
        output.write_means(slab, g, plan, [&](int row, Pack<T, N>(&packs)[4]) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int from = row + i / 2 * int(g.width) + i % 2;
                packs[i] = shared[from * slab.columns + slab.column];
                input.keep(packs[i], from);
            }
        });
    } else if constexpr (Held) {
#pragma unroll
        for (int i = 0; i < held_rows; ++i) {
            const int row = slab.lane + i * slab.lanes;
            if (row >= slab.rows) continue;
            input.keep(held[i], row);
            output.write(held[i], row, slab, g, plan);
        }
    } else {
#pragma unroll 2
        for (int row = slab.lane; row < slab.rows; row += slab.lanes) {
            const Pack<T, N> x = shared[row * slab.columns + slab.column];
            input.keep(x, row);
            output.write(x, row, slab, g, plan);
        }
    }
}
#endif

template <typename T, int N, bool Held, Form form>
__global__ void __launch_bounds__(max_threads, 1) one_pass(const GroupNormAct g, const Plan plan, const float eps) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    one_pass_block<T, N, Held, form>(g, plan, eps);
#endif
}

// [samples][groups][pieces][chunks] partial moments.
__device__ inline Moments* parts_of(Moments* workspace, const GroupNormAct& g, const Plan& plan, const Slab& slab, int group) {
    return workspace + (std::int64_t(slab.sample) * int(g.groups) + slab.first_group + group) * (plan.pieces * plan.chunks);
}

// grid (plan.chunks, plan.slabs, samples).
template <typename T, int N>
__device__ inline void statistics_block(const GroupNormAct& g, const Plan& plan, Moments* workspace) {
    GLIDE_FAST_SHARED_MEMORY(memory);
    const Slab slab(g, plan, int(blockIdx.x), int(blockIdx.y), int(blockIdx.z));
    const Groups<N> groups(plan, slab);
    const Reduction<N> reduction(memory, plan);
    wait_for_earlier_kernels();
    let_next_kernel_start();
    const Input<T, N> input(g, slab, slab.first_channel + slab.column * N, false);
    ChannelSums<N> sums;
    add_rows(input, slab, groups, sums, [&](const Pack<T, N>& x, int row) { input.keep(x, row); });
    if (slab.works) reduction.put(sums, groups, slab);
    __syncthreads();
    reduction.merge_groups(slab, [&](int group, const Moments& total) {
        if (threadIdx.x % 32 == 0) parts_of(workspace, g, plan, slab, group)[slab.piece * plan.chunks + int(blockIdx.x)] = total;
    });
}

template <typename T, int N>
__global__ void __launch_bounds__(max_threads, 1) statistics(const GroupNormAct g, const Plan plan, Moments* workspace) {
    statistics_block<T, N>(g, plan, workspace);
}

// A block's partial moments of the whole rows, merged by a warp for each group; several loads are under way at a time.
__device__ inline void merge_parts(const GroupNormAct& g, const Plan& plan, const Slab& slab, float eps, Moments* workspace,
                                   Statistics* statistics) {
    const int warp = warp_of_block(), warps = int(blockDim.x) / 32, lane = int(threadIdx.x) % 32;
    for (int group = warp; group < slab.groups; group += warps) {
        const Moments* parts = parts_of(workspace, g, plan, slab, group);
        PivotedSums mine;
        for (int piece = 0; piece < plan.pieces; ++piece, parts += plan.chunks) {
            const int channels = plan.pieces > 1 ? min(plan.slab, plan.width - piece * plan.slab) : plan.width;
            for (int first = lane; first < plan.chunks; first += 32 * batch) {
                Moments some[batch];
#pragma unroll
                for (int i = 0; i < batch; ++i)
                    if (first + 32 * i < plan.chunks) some[i] = parts[first + 32 * i];
#pragma unroll
                for (int i = 0; i < batch; ++i)
                    if (first + 32 * i < plan.chunks)
                        mine.add(float(Slab::rows_of_chunk(g, plan, first + 32 * i) * channels), some[i]);
            }
        }
        const float count = float(g.rows) * float(plan.width);
        const Moments total = merge_lanes(mine, 32);
        if (lane == 0) statistics[group] = finish(total, count, eps);
    }
}

// grid (plan.chunks, plan.slabs, samples).
template <typename T, int N, Form form>
__device__ inline void result_block(const GroupNormAct& g, const Plan& plan, float eps, Moments* workspace) {
    GLIDE_FAST_SHARED_MEMORY(memory);
    auto* const statistics = reinterpret_cast<Statistics*>(memory);  // [groups]
    // Last block first: what was read last is the likeliest to be in L2 still.
    const Slab slab(g, plan, int(gridDim.x - 1 - blockIdx.x), int(gridDim.y - 1 - blockIdx.y), int(gridDim.z - 1 - blockIdx.z));
    const Groups<N> groups(plan, slab);
    const int channel = slab.first_channel + slab.column * N;
    Affine<N> affine;
    if (slab.works) affine.fetch_weights(g, channel);
    wait_for_earlier_kernels();
    let_next_kernel_start();
    const Input<T, N> input(g, slab, channel, g.sum.data != nullptr);
    Output<T, N, form> output(g, plan, slab, channel);
    if (slab.works) affine.fetch_film(g, slab.sample, channel);
    const int end = slab.works ? slab.rows : 0;
    // Results that are stored several times keep the memory busy with fewer rows, and need registers for addresses.
    constexpr int ahead = form == Form::spread ? batch / 2 : batch;
    typename Input<T, N>::Fetched fetched[ahead];
    if constexpr (form != Form::mean) input.fetch(slab.lane, slab.lanes, end, fetched);
    merge_parts(g, plan, slab, eps, workspace, statistics);
    __syncthreads();
    if (!slab.works) return;
    output.set(g, affine);
    output.set(statistics, groups);
    float bias[N];
    input.unpack_bias(bias);
    if constexpr (form == Form::mean) {
        output.write_means(slab, g, plan, [&](int row, Pack<T, N>(&packs)[4]) {
#pragma unroll
            for (int i = 0; i < 4; ++i) fetched[i] = input.fetch(row + i / 2 * int(g.width) + i % 2);
#pragma unroll
            for (int i = 0; i < 4; ++i) packs[i] = input.finish(fetched[i], bias);
        });
    } else {
        for (int first = slab.lane; first < end;) {
            Pack<T, N> totals[ahead];
#pragma unroll
            for (int i = 0; i < ahead; ++i)
                if (first + i * slab.lanes < end) totals[i] = input.finish(fetched[i], bias);
            const int next = first + ahead * slab.lanes;
            input.fetch(next, slab.lanes, end, fetched);
#pragma unroll
            for (int i = 0; i < ahead; ++i) {
                const int row = first + i * slab.lanes;
                if (row < end) output.write(totals[i], row, slab, g, plan);
            }
            first = next;
        }
    }
}

template <typename T, int N, Form form>
__global__ void __launch_bounds__(max_threads, 1) result(const GroupNormAct g, const Plan plan, const float eps, Moments* workspace) {
    result_block<T, N, form>(g, plan, eps, workspace);
}

}  // namespace glide_fast::cuda
