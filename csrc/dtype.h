// Element types: the codes that Python passes for them, and bf16 as a CPU stores it.
#pragma once

#include <cstdint>

namespace glide_fast {

enum class Dtype : int { f32 = 0, bf16 = 1, f16 = 2 };

constexpr int bytes_of(Dtype type) { return type == Dtype::f32 ? 4 : 2; }

// The upper half of an fp32 number.
struct bf16 {
    std::uint16_t bits;
};

}  // namespace glide_fast
