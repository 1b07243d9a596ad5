// fp16 in software: the conversions that csrc uses, rounded to nearest even.
#pragma once

#include <cmath>
#include <cstdint>

struct __half {
    std::uint16_t bits;
};

inline float __half2float(__half x) {
    const int exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
    const float magnitude = exponent == 31  ? (fraction ? NAN : INFINITY)
                            : exponent == 0 ? std::ldexp(float(fraction), -24)
                                            : std::ldexp(float(1024 + fraction), exponent - 25);
    return x.bits >> 15 ? -magnitude : magnitude;
}

inline __half __float2half_rn(float x) {
    const unsigned sign = std::signbit(x) ? 0x8000u : 0u;
    const float magnitude = std::fabs(x);
    unsigned bits;
    if (std::isnan(x)) {
        bits = 0x7fffu;
    } else if (magnitude >= 65520.0f) {
        bits = 0x7c00u;
    } else if (magnitude < 6.103515625e-05f) {  // the smallest normal number, 2^-14
        bits = unsigned(std::nearbyint(std::ldexp(magnitude, 24)));
    } else {
        const int exponent = std::ilogb(magnitude);
        // A fraction that rounds up to 2048 carries into the exponent, as it should.
        bits = unsigned((exponent + 15) << 10) + unsigned(std::nearbyint(std::ldexp(magnitude, 10 - exponent))) - 1024u;
    }
    return {std::uint16_t(sign | bits)};
}

inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
