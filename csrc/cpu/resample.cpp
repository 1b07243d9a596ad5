// Python's entry to the CPU kernel of resample: checks and the choice of the instruction set.
#include "resample.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "cache.h"
#include "entries.h"
#include "isa.h"

namespace glide_fast {

#define X(name)                      \
    namespace name {                 \
    void resample(const Resample& r); \
    }
GLIDE_FAST_FOR_EACH_ISA(X)
#undef X

namespace {

// Below this many elements of x and y a thread, waking it costs more than it saves.
constexpr std::int64_t elements_a_thread = 32768;

PixelStrides strides_of(const Strides& strides) {
    return {std::get<0>(strides), std::get<1>(strides), std::get<2>(strides)};
}

// A vector in fp32, whatever its type: some hundred numbers, read for every pixel.
std::vector<float> widened(std::uintptr_t data, Dtype dtype, std::int64_t count) {
    std::vector<float> wide(count);
    for (std::int64_t i = 0; i < count; ++i) {
        if (dtype == Dtype::f32) {
            wide[i] = reinterpret_cast<const float*>(data)[i];
            continue;
        }
        const std::uint32_t bits = std::uint32_t(reinterpret_cast<const bf16*>(data)[i].bits) << 16;
        std::memcpy(&wide[i], &bits, sizeof bits);
    }
    return wide;
}

}  // namespace

void resample(std::uintptr_t x, std::uintptr_t y, std::uintptr_t residual, int dtype, std::uintptr_t bias,
              int bias_dtype, bool up,
              const std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t>& sizes,
              const Strides& x_strides, const Strides& y_strides, const Strides& residual_strides, int threads,
              const std::string& isa) {
    Resample r{};
    r.images = std::get<0>(sizes);
    r.height = std::get<1>(sizes);
    r.width = std::get<2>(sizes);
    r.channels = std::get<3>(sizes);
    if (r.images < 0 || r.height < 1 || r.width < 1 || r.channels < 1)
        throw std::invalid_argument("resample: sizes must be positive");
    if (!up && (r.height % 2 || r.width % 2))
        throw std::invalid_argument("resample: a mean of 2x2 pixels needs an even height and width");
    if (!x || !y) throw std::invalid_argument("resample: x and y are needed");
    for (int code : {dtype, bias_dtype}) {
        if (code != int(Dtype::f32) && code != int(Dtype::bf16))
            throw std::invalid_argument("resample: a type code is 0 (fp32) or 1 (bf16)");
    }
    if (r.images == 0) return;

    r.x = reinterpret_cast<const void*>(x);
    r.y = reinterpret_cast<void*>(y);
    r.residual = reinterpret_cast<const void*>(residual);
    r.dtype = Dtype(dtype);
    const std::vector<float> offsets = bias ? widened(bias, Dtype(bias_dtype), r.channels) : std::vector<float>();
    r.bias = bias ? offsets.data() : nullptr;
    r.up = up;
    r.x_strides = strides_of(x_strides);
    r.y_strides = strides_of(y_strides);
    r.residual_strides = strides_of(residual_strides);
    r.stream = up && too_large_to_keep(4 * r.images * r.height * r.width * r.channels * (r.dtype == Dtype::f32 ? 4 : 2));
    const std::int64_t elements = 5 * r.images * r.height * r.width * r.channels / (up ? 1 : 4);
    r.threads = int(std::clamp<std::int64_t>((elements + elements_a_thread - 1) / elements_a_thread, 1,
                                             std::max(threads, 1)));

#define X(name)                                                              \
    if ((isa.empty() && supported(Isa::name)) || isa == #name) {             \
        if (!supported(Isa::name))                                           \
            throw std::invalid_argument("this CPU does not support " #name); \
        return name::resample(r);                                            \
    }
    GLIDE_FAST_FOR_EACH_ISA(X)
#undef X
    throw std::invalid_argument("unknown instruction set " + isa);
}

}  // namespace glide_fast
