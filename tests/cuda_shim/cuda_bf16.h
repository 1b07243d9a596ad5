// bf16 in software: the conversions that csrc uses, rounded to nearest even.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
    std::uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x) {
    const std::uint32_t wide = std::uint32_t(x.bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    if (std::isnan(x)) return {0x7fff};
    std::uint32_t wide;
    std::memcpy(&wide, &x, 4);
    return {std::uint16_t((wide + 0x7fffu + (wide >> 16 & 1u)) >> 16)};
}

inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
