// What Python may call of the CPU kernels; csrc/bindings.cpp names the arguments. Addresses are integers (0: none), strides are
// in elements, types are the codes of dtype.h, and `isa` is empty or one of the names in isa.h. Each checks its arguments and
// throws std::invalid_argument before it touches memory.
#pragma once

#include <cstdint>
#include <string>

namespace glide_fast {

void group_norm_act(std::uintptr_t x, std::uintptr_t y, int dtype, std::int64_t samples, std::int64_t rows,
                    std::int64_t channels, std::int64_t groups, std::int64_t x_sample_stride,
                    std::int64_t x_row_stride, std::int64_t y_sample_stride, std::int64_t y_row_stride,
                    std::uintptr_t weight, std::uintptr_t bias, int affine_dtype, std::uintptr_t scale,
                    std::uintptr_t shift, int film_dtype, std::int64_t scale_stride, std::int64_t shift_stride,
                    double eps, bool silu, int threads, const std::string& isa);

}  // namespace glide_fast
