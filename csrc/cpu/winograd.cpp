// Python's entry to the CPU kernel of Winograd's algorithm: checks and the choice of the instruction set.
#include "winograd.h"

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "entries.h"
#include "isa.h"

namespace glide_fast {

#define X(name)                         \
    namespace name {                    \
    void winograd(const Winograd& w);   \
    }
GLIDE_FAST_FOR_EACH_ISA(X)
#undef X

namespace {

void check(const PictureSizes& sizes) {
    const auto [images, height, width, channels] = sizes;
    const auto refuse = [](const char* name, std::int64_t given, const char* accepted) {
        throw std::invalid_argument(std::string("winograd: ") + name + " is " + std::to_string(given) + "; accepted: " + accepted);
    };
    if (images < 0) refuse("images", images, "0 or more");
    if (height < 1) refuse("height", height, "1 or more");
    if (width < 2 || width % 2) refuse("width", width, "an even number");
    if (channels < 32 || channels % 32) refuse("channels", channels, "a multiple of 32");
}

}  // namespace

std::int64_t winograd_scratch(const PictureSizes& sizes, int threads) {
    check(sizes);
    const auto [images, height, width, channels] = sizes;
    return WinogradPlan(std::max<std::int64_t>(images, 1), height, width, channels, std::max(threads, 1)).bytes;
}

void winograd(std::uintptr_t x, std::uintptr_t weight, std::uintptr_t bias, int bias_dtype, std::uintptr_t residual,
              std::uintptr_t y, const PictureSizes& sizes, std::int64_t outputs, std::uintptr_t scratch, int threads,
              const std::string& isa) {
    check(sizes);
    if (outputs < 16 || outputs % 16) 
        throw std::invalid_argument("winograd: outputs is " + std::to_string(outputs) + "; accepted: a multiple of 16");
    if (bias_dtype != int(Dtype::f32) && bias_dtype != int(Dtype::bf16))
        throw std::invalid_argument("winograd: a type code is 0 (fp32) or 1 (bf16)");
    if (!x || !weight || !y || !scratch) throw std::invalid_argument("winograd: x, weight, y and scratch are needed");
    Winograd w{};
    std::tie(w.images, w.height, w.width, w.channels) = sizes;
    if (w.images == 0) return;
    w.x = reinterpret_cast<const bf16*>(x);
    w.weight = reinterpret_cast<const bf16*>(weight);
    w.bias = reinterpret_cast<const void*>(bias);
    w.bias_dtype = Dtype(bias_dtype);
    w.residual = reinterpret_cast<const bf16*>(residual);
    w.y = reinterpret_cast<bf16*>(y);
    w.outputs = outputs;
    w.scratch = reinterpret_cast<unsigned char*>(scratch);
    w.threads = std::max(threads, 1);

#define X(name)                                                              \
    if ((isa.empty() && supported(Isa::name)) || isa == #name) {             \
        if (!supported(Isa::name))                                           \
            throw std::invalid_argument("this CPU does not support " #name); \
        return name::winograd(w);                                            \
    }
    GLIDE_FAST_FOR_EACH_ISA(X)
#undef X
    throw std::invalid_argument("unknown instruction set " + isa);
}

}  // namespace glide_fast
