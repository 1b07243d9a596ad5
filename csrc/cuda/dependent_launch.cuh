// Programmatic dependent launch (compute capability 9 and later): a kernel that was launched with Launch::overlap may start
// while the kernel before it on its stream still runs. Without it both functions do nothing.
#pragma once

#include <cuda_runtime.h>

namespace glide_fast::cuda {

// Returns once the kernels before this one have ended and all that they wrote can be seen. Before it a kernel may read only what
// none of them writes, and may write nothing that any of them reads.
__device__ inline void wait_for_earlier_kernels() {
#if !defined(__CUDACC__)
    shim::wait_for_earlier_kernels();
#elif __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel start as soon as every block has come this far. Call it after wait_for_earlier_kernels: what earlier
// kernels have written is then written for the next one, too.
__device__ inline void let_next_kernel_start() {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace glide_fast::cuda
