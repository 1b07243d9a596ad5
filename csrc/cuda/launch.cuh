// Launching a kernel on a stream, with errors as exceptions.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
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
};

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), const Launch& how, std::uintptr_t stream, Arguments&&... arguments) {
    constexpr std::int64_t given_to_all = 48 * 1024;
    if (how.shared_bytes > given_to_all)
        check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   int(how.shared_bytes)),
              "asking for shared memory");
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = unsigned(how.cluster);
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = how.grid;
    config.blockDim = dim3(unsigned(how.threads));
    config.dynamicSmemBytes = std::size_t(how.shared_bytes);
    config.stream = reinterpret_cast<cudaStream_t>(stream);
    config.attrs = &attribute;
    config.numAttrs = how.cluster > 0 ? 1 : 0;
    check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), "launching a kernel");
}

}  // namespace glide_fast::cuda
