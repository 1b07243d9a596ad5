// Entry to the CPU kernel of Winograd's algorithm: checks the arguments and chooses the instruction set.
#include "convolution/winograd.h"

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "cpu/isa.h"

namespace glide_fast {

GLIDE_FAST_KERNEL(winograd, WinogradWork)

namespace {

void check_sizes(const Winograd& w) {
    const auto require = [](bool holds, const char* name, std::int64_t size, const char* accepted) {
        if (holds) return;
        throw std::invalid_argument(std::string("winograd: ") + name + " is " + std::to_string(size) + "; accepted: " +
                                    accepted);
    };
    require(w.images >= 0, "images", w.images, "0 or more");
    require(w.height >= 1, "height", w.height, "1 or more");
    require(w.width >= 2 && w.width % 2 == 0, "width", w.width, "an even number");
    require(w.channels >= 32 && w.channels % 32 == 0, "channels", w.channels, "a multiple of 32");
}

}  // namespace

std::int64_t winograd_scratch(const Winograd& w, int threads) {
    check_sizes(w);
    return WinogradPlan(std::max<std::int64_t>(w.images, 1), w.height, w.width, w.channels, std::max(threads, 1)).bytes;
}

void winograd(const Winograd& arguments, int threads, const char* isa) {
    check_sizes(arguments);
    WinogradWork w{arguments};
    if (w.outputs < 16 || w.outputs % 16)
        throw std::invalid_argument("winograd: outputs is " + std::to_string(w.outputs) + "; accepted: a multiple of 16");
    if (w.bias_dtype != Dtype::f32 && w.bias_dtype != Dtype::bf16)
        throw std::invalid_argument("winograd: a type code is 0 (fp32) or 1 (bf16)");
    if (!w.x || !w.weight || !w.y || !w.scratch)
        throw std::invalid_argument("winograd: x, weight, y and scratch are needed");
    if (w.images == 0) return;
    w.threads = std::max(threads, 1);
    run_winograd(isa, w);
}

}  // namespace glide_fast
