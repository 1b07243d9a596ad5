// A thread-block cluster's barrier in its two halves, and stores into the shared memory of its blocks (compute capability 9 and later).
#pragma once

#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <utility>

namespace glide_fast::cuda {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
struct ClusterBarrier {
    decltype(cooperative_groups::this_cluster().barrier_arrive()) token;

    // For those who only want to know that this thread has come so far: what it has written need not be seen.
    __device__ void arrive_without_memory() {
#ifdef __CUDACC__
        asm volatile("barrier.cluster.arrive.relaxed.aligned;");
#else
        arrive();
#endif
    }
    __device__ void arrive() { token = cooperative_groups::this_cluster().barrier_arrive(); }
    __device__ void wait() { cooperative_groups::this_cluster().barrier_wait(std::move(token)); }
};

template <typename T>
__device__ inline void store_in_block(T* address, int rank, const T& value) {
    *cooperative_groups::this_cluster().map_shared_rank(address, unsigned(rank)) = value;
}
#endif

// The number of this thread's warp, in a way that shows the compiler that all its lanes take the same branches.
__device__ inline int warp_of_block() { return __shfl_sync(0xffffffffu, int(threadIdx.x) / 32, 0); }

}  // namespace glide_fast::cuda
