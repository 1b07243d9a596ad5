// The part of the CUDA runtime and of the device functions that csrc uses.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "shim.h"

#define __global__
#define __device__
#define __launch_bounds__(...)
#define GLIDE_FAST_SHARED_MEMORY(name) unsigned char* const name = shim::self().block->shared

namespace shim {

// threadIdx and its like: objects, since a launch configuration has members of the same names.
template <const dim3& (*get)()>
struct Index {
    struct {
        operator unsigned() const { return get().x; }
    } x;
    struct {
        operator unsigned() const { return get().y; }
    } y;
    struct {
        operator unsigned() const { return get().z; }
    } z;
};
inline const dim3& thread_index() { return self().thread; }
inline const dim3& block_index() { return self().block->index; }
inline const dim3& block_size() { return machine.block_dim; }
inline const dim3& grid_size() { return machine.grid_dim; }

}  // namespace shim

inline constexpr shim::Index<shim::thread_index> threadIdx{};
inline constexpr shim::Index<shim::block_index> blockIdx{};
inline constexpr shim::Index<shim::block_size> blockDim{};
inline constexpr shim::Index<shim::grid_size> gridDim{};

inline void __syncthreads() {
    shim::Barrier& barrier = shim::self().block->barrier;
    shim::wait(barrier, barrier.arrive(), "__syncthreads");
}

namespace shim {

inline void whole_warp(unsigned mask) {
    if (mask != 0xffffffffu) fail("only whole warps shuffle here");
}

}  // namespace shim

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance) {
    shim::whole_warp(mask);
    return shim::shuffle(value, shim::lane() + distance < 32 ? shim::lane() + distance : shim::lane());
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, unsigned bits) {
    shim::whole_warp(mask);
    return shim::shuffle(value, shim::lane() ^ bits);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, unsigned from, unsigned width = 32) {
    shim::whole_warp(mask);
    return shim::shuffle(value, shim::lane() / width * width + from % width);
}

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline std::uint32_t __umulhi(std::uint32_t a, std::uint32_t b) { return std::uint32_t(std::uint64_t(a) * b >> 32); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __uint_as_float(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline void sincospif(float x, float* sine, float* cosine) {
    *sine = float(std::sin(3.141592653589793 * x));
    *cosine = float(std::cos(3.141592653589793 * x));
}

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8, cudaFuncAttributeNonPortableClusterSizeAllowed = 13 };
enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension = 4, cudaLaunchAttributeProgrammaticStreamSerialization = 6 };
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount,
    cudaDevAttrMaxSharedMemoryPerBlockOptin,
    cudaDevAttrComputeCapabilityMajor,
};
struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    struct {
        dim3 clusterDim;
        int programmaticStreamSerializationAllowed;
    } val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    std::size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute* attrs;
    unsigned numAttrs;
};

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "invalid value"; }
inline cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    *value = attribute == cudaDevAttrMultiProcessorCount            ? shim::machine.multiprocessors
             : attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? shim::machine.shared_limit
                                                                    : shim::machine.capability;
    return cudaSuccess;
}
inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
    auto& allowed = attribute == cudaFuncAttributeNonPortableClusterSizeAllowed ? shim::machine.large_clusters : shim::machine.shared_allowed;
    allowed[kernel] = value;
    return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaOccupancyMaxPotentialClusterSize(int* size, Kernel, const cudaLaunchConfig_t*) {
    *size = shim::machine.max_cluster;
    return cudaSuccess;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments) {
    const auto allowed = shim::machine.shared_allowed.find(reinterpret_cast<const void*>(kernel));
    const std::size_t limit = allowed == shim::machine.shared_allowed.end() ? 48 * 1024 : std::size_t(allowed->second);
    if (config->dynamicSmemBytes > limit || config->gridDim.y > 65535 || config->gridDim.z > 65535) return cudaErrorInvalidValue;
    shim::machine.body = [&] { kernel(Parameters(arguments)...); };
    unsigned cluster = 1;
    shim::machine.waits = false;
    for (unsigned i = 0; i < config->numAttrs; ++i) {
        const cudaLaunchAttribute& attribute = config->attrs[i];
        if (attribute.id == cudaLaunchAttributeClusterDimension) cluster = attribute.val.clusterDim.x;
        if (attribute.id == cudaLaunchAttributeProgrammaticStreamSerialization)
            shim::machine.waits = attribute.val.programmaticStreamSerializationAllowed;
    }
    if (cluster > 8 && !shim::machine.large_clusters[reinterpret_cast<const void*>(kernel)]) return cudaErrorInvalidValue;
    shim::machine.run(config->gridDim, config->blockDim, config->dynamicSmemBytes, cluster);
    return cudaSuccess;
}
