// Codes of the element types, the same numbers as in csrc/cpu/dtype.h where both know a type.
#pragma once

namespace glide_fast::cuda {

enum class Dtype : int { f32 = 0, bf16 = 1, f16 = 2 };

constexpr int bytes_of(Dtype type) { return type == Dtype::f32 ? 4 : 2; }

}  // namespace glide_fast::cuda
