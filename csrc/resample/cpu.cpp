// Entry to the CPU kernel of resample: checks the arguments, divides the work and chooses the instruction set.
#include "resample/cpu.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "cpu/cache.h"
#include "cpu/isa.h"

namespace glide_fast {

GLIDE_FAST_KERNEL(resample, ResampleWork)

namespace {

// A thread with fewer elements of x and y than this costs more to wake than it saves.
constexpr std::int64_t elements_a_thread = 32768;

// A vector converted to fp32, once for all pixels that read it.
std::vector<float> widened(const void* data, Dtype dtype, std::int64_t count) {
    std::vector<float> wide(count);
    for (std::int64_t i = 0; i < count; ++i) {
        if (dtype == Dtype::f32) {
            wide[i] = static_cast<const float*>(data)[i];
            continue;
        }
        const std::uint32_t bits = std::uint32_t(static_cast<const bf16*>(data)[i].bits) << 16;
        std::memcpy(&wide[i], &bits, sizeof bits);
    }
    return wide;
}

void check(const Resample& r) {
    if (r.images < 0 || r.height < 1 || r.width < 1 || r.channels < 1)
        throw std::invalid_argument("resample: sizes must be positive");
    if (!r.up && (r.height % 2 || r.width % 2))
        throw std::invalid_argument("resample: a mean of 2x2 pixels needs an even height and width");
    if (!r.x || !r.y) throw std::invalid_argument("resample: x and y are needed");
    for (const Dtype type : {r.dtype, r.bias_dtype}) {
        if (type != Dtype::f32 && type != Dtype::bf16)
            throw std::invalid_argument("resample: a type code is 0 (fp32) or 1 (bf16)");
    }
}

}  // namespace

void resample(const Resample& arguments, int threads, const char* isa) {
    check(arguments);
    ResampleWork r{arguments};
    if (r.images == 0) return;

    const std::vector<float> wide = r.bias ? widened(r.bias, r.bias_dtype, r.channels) : std::vector<float>();
    r.wide_bias = r.bias ? wide.data() : nullptr;
    r.stream = r.up && too_large_to_keep(4 * r.images * r.height * r.width * r.channels * bytes_of(r.dtype));
    const std::int64_t elements = 5 * r.images * r.height * r.width * r.channels / (r.up ? 1 : 4);
    r.threads = int(std::clamp<std::int64_t>((elements + elements_a_thread - 1) / elements_a_thread, 1,
                                             std::max(threads, 1)));
    run_resample(isa, r);
}

}  // namespace glide_fast
