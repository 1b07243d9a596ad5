// Launching a kernel on a stream, with errors as exceptions.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

namespace glide_fast::cuda {

inline void check(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // forget it: the next call is not to blame
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

struct Launch {
    dim3 grid;
    int threads;
    std::int64_t shared_bytes = 0;
    int cluster = 0;  // blocks along the grid's x; 0 for a kernel that knows nothing of clusters
    // Let it start before the kernels before it have ended, where the device can (dependent_launch.cuh): for kernels that call
    // wait_for_earlier_kernels, if nothing that they read before is written by one of those.
    bool overlap = false;
};

constexpr int portable_cluster = 8;  // larger ones are not for every device, and have to be asked for

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), const Launch& how, std::uintptr_t stream, Arguments&&... arguments) {
    constexpr std::int64_t given_to_all = 48 * 1024;
    static std::mutex one_at_a_time;  // the size belongs to the kernel: that of another thread must not come before the launch
    std::unique_lock<std::mutex> lock(one_at_a_time, std::defer_lock);
    if (how.shared_bytes > given_to_all) lock.lock();
    if (how.shared_bytes > given_to_all)
        check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   int(how.shared_bytes)),
              "asking for shared memory");
    if (how.cluster > portable_cluster)
        check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
              "asking for a large cluster");
    cudaLaunchAttribute attributes[2]{};
    unsigned count = 0;
    if (how.cluster > 0) {
        attributes[count].id = cudaLaunchAttributeClusterDimension;
        attributes[count].val.clusterDim.x = unsigned(how.cluster);
        attributes[count].val.clusterDim.y = attributes[count].val.clusterDim.z = 1;
        ++count;
    }
    if (how.overlap) {
        attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[count].val.programmaticStreamSerializationAllowed = 1;
        ++count;
    }
    cudaLaunchConfig_t config{};
    config.gridDim = how.grid;
    config.blockDim = dim3(unsigned(how.threads));
    config.dynamicSmemBytes = std::size_t(how.shared_bytes);
    config.stream = reinterpret_cast<cudaStream_t>(stream);
    config.attrs = attributes;
    config.numAttrs = count;
    check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), "launching a kernel");
}

}  // namespace glide_fast::cuda
