// Division by a number that is known before a kernel is launched: a product and a shift in place of some 60 to 100 cycles.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define GLIDE_FAST_ANYWHERE __host__ __device__
#else
#define GLIDE_FAST_ANYWHERE
#endif

namespace glide_fast::cuda {

// n / by for 0 <= n < 2^31 and 0 < by < 2^31 is n * multiplier / 2^(31 + shift) (Granlund & Montgomery 1994): multiplier exceeds
// 2^(31 + shift) / by by at most 1, which adds at most n / 2^(31 + shift) < 1 / by to the quotient.
struct Divider {
    std::uint32_t multiplier;
    int shift;

    static Divider by(int divisor) {
        int bits = 0;
        while ((std::int64_t(1) << bits) < divisor) ++bits;
        return {std::uint32_t((std::uint64_t(1) << (31 + bits)) / std::uint32_t(divisor) + 1), bits};
    }
};

GLIDE_FAST_ANYWHERE inline int operator/(int n, const Divider& by) {
#ifdef __CUDA_ARCH__
    return int(__umulhi(std::uint32_t(n) << 1, by.multiplier) >> by.shift);
#else
    return int((std::uint64_t(std::uint32_t(n) << 1) * by.multiplier >> 32) >> by.shift);
#endif
}

}  // namespace glide_fast::cuda
