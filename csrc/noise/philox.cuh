// Standard normals as a function of (seed, stream, step, element); glide_fast/diffusion/noise.py is the definition.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace glide_fast::cuda {

struct Words {
    std::uint32_t v[4];
};

// Philox4x32-10 (Salmon et al. 2011).
__device__ inline Words philox4x32(Words c, std::uint32_t k0, std::uint32_t k1) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const std::uint32_t m0 = 0xD2511F53u, m1 = 0xCD9E8D57u;
        const std::uint32_t high0 = __umulhi(m0, c.v[0]), high1 = __umulhi(m1, c.v[2]);
        c = {{high1 ^ c.v[1] ^ k0, m1 * c.v[2], high0 ^ c.v[3] ^ k1, m0 * c.v[0]}};
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

// Two normals from two random words (Box & Muller 1958). logf and sincospif are the accurate functions: CUDA's fast ones would
// differ from other backends. sincospif(x) = sin and cos of pi x needs no reduction of huge angles, and is closer to the exact
// values than sin and cos of a rounded 2 pi u.
__device__ inline void box_muller(std::uint32_t radius, std::uint32_t angle, float* normals) {
    const float scale = 2.3283064365386963e-10f, half = 1.1641532182693481e-10f;  // 2^-32, 2^-33
    const float u = float(radius) * scale + half;
    const float r = sqrtf(-2.0f * logf(u));
    float sine, cosine;
    sincospif(2.0f * (float(angle) * scale + half), &sine, &cosine);
    normals[0] = r * cosine;
    normals[1] = r * sine;
}

// Draws the normals of elements 4 block to 4 block + 3 of an image.
__device__ inline void philox_normals(std::int64_t seed, std::uint32_t stream, std::uint32_t step, std::uint32_t block,
                                      float* normals) {
    const Words words = philox4x32({{block, step, stream, 0u}}, std::uint32_t(seed), std::uint32_t(seed >> 32));
    box_muller(words.v[0], words.v[1], normals);
    box_muller(words.v[2], words.v[3], normals + 2);
}

}  // namespace glide_fast::cuda
