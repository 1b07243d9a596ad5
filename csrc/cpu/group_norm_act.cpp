// Python's entry to the CPU kernel of group_norm_act: checks, scratch memory, choice of the instruction set.
#include "group_norm_act.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "entries.h"
#include "isa.h"

namespace glide_fast {

#define X(name)                                  \
    namespace name {                             \
    void group_norm_act(const GroupNormAct& g);  \
    }
GLIDE_FAST_FOR_EACH_ISA(X)
#undef X

namespace {

// Below this many elements a thread, waking it costs more than it saves.
constexpr std::int64_t elements_a_thread = 16384;

template <typename T>
T* take(std::byte*& free, std::int64_t count) {
    T* taken = reinterpret_cast<T*>(free);
    free += (count * sizeof(T) + 63) / 64 * 64;
    return taken;
}

}  // namespace

void group_norm_act(std::uintptr_t x, std::uintptr_t y, int dtype, std::int64_t samples, std::int64_t rows,
                    std::int64_t channels, std::int64_t groups, std::int64_t x_sample_stride,
                    std::int64_t x_row_stride, std::int64_t y_sample_stride, std::int64_t y_row_stride,
                    std::uintptr_t weight, std::uintptr_t bias, int affine_dtype, std::uintptr_t scale,
                    std::uintptr_t shift, int film_dtype, std::int64_t scale_stride, std::int64_t shift_stride,
                    double eps, bool silu, int threads, const std::string& isa) {
    if (samples < 0 || rows < 1 || channels < 1 || groups < 1 || channels % groups != 0)
        throw std::invalid_argument("group_norm_act: sizes must be positive and groups must divide channels");
    if (!scale != !shift) throw std::invalid_argument("group_norm_act: scale and shift come together");
    for (int code : {dtype, affine_dtype, film_dtype}) {
        if (code != int(Dtype::f32) && code != int(Dtype::bf16))
            throw std::invalid_argument("group_norm_act: a type code is 0 (fp32) or 1 (bf16)");
    }
    if (samples == 0) return;

    GroupNormAct g{};
    g.x = reinterpret_cast<const void*>(x);
    g.y = reinterpret_cast<void*>(y);
    g.dtype = Dtype(dtype);
    g.samples = samples;
    g.rows = rows;
    g.channels = channels;
    g.groups = groups;
    g.blocks = (rows + g.block_rows - 1) / g.block_rows;
    g.x_sample_stride = x_sample_stride;
    g.x_row_stride = x_row_stride;
    g.y_sample_stride = y_sample_stride;
    g.y_row_stride = y_row_stride;
    g.weight = reinterpret_cast<const void*>(weight);
    g.bias = reinterpret_cast<const void*>(bias);
    g.affine_dtype = Dtype(affine_dtype);
    g.scale = reinterpret_cast<const void*>(scale);
    g.shift = reinterpret_cast<const void*>(shift);
    g.film_dtype = Dtype(film_dtype);
    g.scale_stride = scale_stride;
    g.shift_stride = shift_stride;
    g.eps = eps;
    g.silu = silu;
    const std::int64_t elements = samples * rows * channels;
    g.threads = int(std::clamp<std::int64_t>((elements + elements_a_thread - 1) / elements_a_thread, 1,
                                             std::max(threads, 1)));

    const std::int64_t per_channel = samples * channels, per_block = per_channel * g.blocks;
    const std::unique_ptr<std::byte[]> scratch(
        new std::byte[per_block * (sizeof(double) + sizeof(float)) +
                      per_channel * (2 * sizeof(double) + 3 * sizeof(float)) + 7 * 64]);
    std::byte* free = scratch.get();
    g.block_mean = take<double>(free, per_block);
    g.block_m2 = take<float>(free, per_block);
    g.channel_mean = take<double>(free, per_channel);
    g.channel_m2 = take<double>(free, per_channel);
    g.center = take<float>(free, per_channel);
    g.factor = take<float>(free, per_channel);
    g.offset = take<float>(free, per_channel);

#define X(name)                                                              \
    if ((isa.empty() && supported(Isa::name)) || isa == #name) {             \
        if (!supported(Isa::name))                                           \
            throw std::invalid_argument("this CPU does not support " #name); \
        return name::group_norm_act(g);                                      \
    }
    GLIDE_FAST_FOR_EACH_ISA(X)
#undef X
    throw std::invalid_argument("unknown instruction set " + isa);
}

}  // namespace glide_fast
