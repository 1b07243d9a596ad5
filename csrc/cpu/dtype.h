// Element types that cross the boundary from Python, as codes, and their scalar conversions.
#pragma once

#include <cstdint>
#include <cstring>

namespace glide_fast {

enum class Dtype : int { f32 = 0, bf16 = 1 };

struct bf16 {
    std::uint16_t bits;
};

}  // namespace glide_fast
