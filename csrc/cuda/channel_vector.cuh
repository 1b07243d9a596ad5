// N neighbouring elements of a vector of channels whose type is known only at run time. They are fetched as they lie in memory,
// by at most two instructions, and converted where they are used, so that a thread waits for all its vectors at once.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "tensors.h"

namespace glide_fast::cuda {

template <int N>
struct ChannelVector {
    std::uint32_t words[N];  // N of fp32, or N 16-bit elements in the first half of it

    // The elements begin where N of their type may be read at once.
    __device__ void fetch(const PerChannel& from, std::int64_t sample, int channel) {
        const std::int64_t first = sample * from.sample_stride + channel;
        if constexpr (N == 1) {
            words[0] = from.dtype == Dtype::f32 ? static_cast<const std::uint32_t*>(from.data)[first]
                                                : static_cast<const std::uint16_t*>(from.data)[first];
        } else {
            constexpr int half = N / 2;
            struct alignas(2 * N) Words {
                std::uint32_t v[half];
            };
            const bool whole = from.dtype == Dtype::f32;
            const auto* const at = reinterpret_cast<const Words*>(static_cast<const unsigned char*>(from.data) + first * (whole ? 4 : 2));
            const Words low = at[0], high = whole ? at[1] : low;
#pragma unroll
            for (int k = 0; k < half; ++k) {
                words[k] = low.v[k];
                words[half + k] = high.v[k];
            }
        }
    }

    __device__ void unpack(Dtype type, float (&to)[N]) const {
        if (type == Dtype::f32) {
#pragma unroll
            for (int k = 0; k < N; ++k) to[k] = __uint_as_float(words[k]);
        } else if (type == Dtype::bf16) {
#pragma unroll
            for (int k = 0; k < N; ++k) to[k] = __uint_as_float(k % 2 ? words[k / 2] & 0xffff0000u : words[k / 2] << 16);
        } else {
#pragma unroll
            for (int k = 0; k < N; ++k)
                to[k] = __half2float(__ushort_as_half(static_cast<unsigned short>(k % 2 ? words[k / 2] >> 16 : words[k / 2])));
        }
    }
};

}  // namespace glide_fast::cuda
