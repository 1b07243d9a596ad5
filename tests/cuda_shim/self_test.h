// Kernels with the mistakes that the shim must find, and their right counterparts.
#pragma once

#include <cooperative_groups.h>

#include <iostream>
#include <stdexcept>
#include <string>

#include "cuda/divider.h"
#include "cuda/launch.cuh"

namespace self_test {

// Each block's warps reduce their thread numbers and sum up in shared memory; every block then adds all of its cluster's.
inline void sum(int* out, int mistake) {
    GLIDE_FAST_SHARED_MEMORY(memory);
    int* const held = reinterpret_cast<int*>(memory);
    const auto cluster = cooperative_groups::this_cluster();
    int mine = int(threadIdx.x);
    for (int distance = 16; distance; distance /= 2) mine += __shfl_down_sync(0xffffffffu, mine, unsigned(distance));
    const int warps = int(blockDim.x) / 32;
    if (threadIdx.x % 32 == 0) held[1 + int(threadIdx.x) / 32] = mine;
    if (mistake == 1 && threadIdx.x == 5) return;              // never reaches the barriers
    if (mistake == 2 && threadIdx.x == 0) held[1 + warps] = 0; // one past the end
    if (mistake != 3) __syncthreads();                         // else a race
    if (threadIdx.x == 0) {
        held[0] = 0;
        for (int warp = 0; warp < warps; ++warp) held[0] += held[1 + warp];
    }
    if (mistake == 4 && threadIdx.x < 32) __syncthreads();     // barriers that do not match
    cluster.sync();
    if (threadIdx.x == 0) {
        int total = 0;
        for (unsigned rank = 0; rank < gridDim.x; ++rank) total += *cluster.map_shared_rank(held, rank);
        out[blockIdx.x] = total;
    }
    if (mistake != 5) cluster.sync();  // else a block has left when the next one reads its memory
}

// A quotient that differs from the machine's own, if there is any.
inline void divide() {
    for (int by : {1, 2, 3, 5, 6, 7, 12, 18, 48, 85, 127, 128, 255, 1000, 65535, 65536, 1 << 30, INT32_MAX})
        for (std::int64_t n : {0, 1, by - 1, by, INT32_MAX / 2, INT32_MAX - 1, INT32_MAX})
            for (std::int64_t near = n - 3; near <= n + 3; ++near)
                if (near >= 0 && near <= INT32_MAX && int(near) / glide_fast::cuda::Divider::by(by) != int(near) / by)
                    std::cout << near << "/" << by << " ";
}

inline void run(const std::string& name) {
    if (name == "divide") return divide();
    static const char* const names[] = {"right", "missing_thread", "out_of_bounds", "race", "mismatch", "left_early", "early"};
    for (int mistake = 0; mistake < 7; ++mistake) {
        if (name != names[mistake]) continue;
        int out[4] = {};
        glide_fast::cuda::Launch how{dim3(4), 96, 16};
        how.cluster = 4;
        how.overlap = mistake == 6;  // and it never waits
        glide_fast::cuda::launch(sum, how, 0, out, mistake);
        for (int total : out) std::cout << total << " ";
        return;
    }
    throw std::runtime_error("no such request: " + name);
}

}  // namespace self_test
