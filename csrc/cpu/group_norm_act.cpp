// Python's entry to the CPU kernel of group_norm_act: checks, scratch memory, choice of the instruction set.
#include "group_norm_act.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>

#include "cache.h"
#include "entries.h"
#include "isa.h"
#include "pages.h"

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

constexpr std::int64_t least_block = 128, most_blocks = 64;

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(std::string("group_norm_act: ") + what);
}

bool known(int dtype) { return dtype == int(Dtype::f32) || dtype == int(Dtype::bf16); }

RowsOf rows_of(const RowsAt& at) {
    return {reinterpret_cast<void*>(std::get<0>(at)), std::get<1>(at), std::get<2>(at)};
}

PerChannel per_channel(const ChannelsAt& at) {
    require(known(std::get<1>(at)), "a type code is 0 (fp32) or 1 (bf16)");
    return {reinterpret_cast<const void*>(std::get<0>(at)), Dtype(std::get<1>(at)), std::get<2>(at)};
}

std::int64_t divided(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Hands out pieces of one allocation, each on a cache line of its own. Called twice: without memory to add up the sizes.
class Scratch {
public:
    explicit Scratch(std::byte* memory) : memory_(memory) {}
    template <typename T>
    void take(T*& piece, std::int64_t count) {
        if (memory_) piece = reinterpret_cast<T*>(memory_ + size_);
        size_ += (count * sizeof(T) + line - 1) / line * line;
    }
    std::size_t size() const { return size_; }
    static constexpr std::size_t line = 64;

private:
    std::byte* memory_;
    std::size_t size_ = 0;
};

std::size_t place(GroupNormAct& g, std::byte* memory) {
    Scratch scratch(memory);
    const std::int64_t per_sample = g.samples * g.channels;
    scratch.take(g.block_mean, per_sample * g.blocks);
    scratch.take(g.block_m2, per_sample * g.blocks);
    scratch.take(g.channel_mean, per_sample);
    scratch.take(g.channel_m2, per_sample);
    scratch.take(g.center, per_sample);
    scratch.take(g.factor, per_sample);
    scratch.take(g.offset, per_sample);
    if (g.adds()) {
        float* zeros = nullptr;
        scratch.take(g.added_bias, g.x_channels);
        scratch.take(zeros, g.x_channels);
        g.zeros = zeros;
    }
    return scratch.size();
}

}  // namespace

void group_norm_act(int dtype, int out_dtype, std::int64_t samples, std::int64_t rows, std::int64_t x_channels,
                    std::int64_t x2_channels, std::int64_t groups, std::int64_t width, const RowsAt& x,
                    const RowsAt& x2, const RowsAt& residual, const RowsAt& sum, const RowsAt& y,
                    const ChannelsAt& x_bias, const ChannelsAt& weight, const ChannelsAt& bias, const ChannelsAt& scale,
                    const ChannelsAt& shift, double eps, bool silu, int resample, int threads, const std::string& isa) {
    GroupNormAct g{};
    require(known(dtype) && known(out_dtype), "a type code is 0 (fp32) or 1 (bf16)");
    g.dtype = Dtype(dtype);
    g.out_dtype = Dtype(out_dtype);
    require(g.out_dtype == g.dtype || g.out_dtype == Dtype::f32, "out_dtype is dtype or fp32");
    g.samples = samples;
    g.rows = rows;
    g.groups = groups;
    g.x_channels = x_channels;
    g.channels = x_channels + x2_channels;
    require(samples >= 0 && rows >= 1 && x_channels >= 1 && x2_channels >= 0, "sizes must be positive");
    require(groups >= 1 && g.channels % groups == 0, "groups must divide channels");
    g.x = rows_of(x);
    g.x2 = rows_of(x2);
    g.residual = rows_of(residual);
    g.sum = rows_of(sum);
    g.y = rows_of(y);
    require(g.x.data && g.y.data, "x and y must be there");
    require(!g.x2.data == (x2_channels == 0), "x2 comes with its channels");
    g.x_bias = per_channel(x_bias);
    g.weight = per_channel(weight);
    g.bias = per_channel(bias);
    g.scale = per_channel(scale);
    g.shift = per_channel(shift);
    require(g.weight.data && g.bias.data, "weight and bias must be there");
    require(!g.scale.data == !g.shift.data, "scale and shift come together");
    require(!g.sum.data || g.adds(), "a sum comes with something to add");
    require(resample >= 0 && resample <= int(Resampling::mean_2x2), "resample is 0, 1 or 2");
    g.resample = Resampling(resample);
    g.width = width;
    if (g.resample != Resampling::none) require(width >= 1 && rows % width == 0, "width must divide rows");
    if (g.resample == Resampling::mean_2x2) require(width % 2 == 0 && rows / width % 2 == 0, "the mean needs even sides");
    g.eps = eps;
    g.silu = silu;
    if (samples == 0) return;

    g.threads = int(std::clamp<std::int64_t>(divided(samples * rows * g.channels, elements_a_thread), 1,
                                             std::max(threads, 1)));
    g.block_rows = divided(std::max(least_block, divided(rows, most_blocks)), least_block) * least_block;
    g.blocks = divided(rows, g.block_rows);

    const std::int64_t y_rows = g.resample == Resampling::nearest_x2 ? 4 * rows : rows;
    const std::int64_t y_bytes = samples * y_rows * g.channels * (g.out_dtype == Dtype::f32 ? 4 : 2);
    g.stream = too_large_to_keep(y_bytes);
    const bool dense = g.y.row_stride == g.channels && g.y.sample_stride == y_rows * g.channels;
    if (dense && g.resample != Resampling::mean_2x2) prefer_large_pages(g.y.data, y_bytes);

    const std::size_t size = place(g, nullptr);
    const std::unique_ptr<std::byte[]> memory(new std::byte[size + Scratch::line]);
    const auto misplaced = reinterpret_cast<std::uintptr_t>(memory.get()) % Scratch::line;
    place(g, memory.get() + (Scratch::line - misplaced) % Scratch::line);
    if (g.adds()) std::memset(g.zeros, 0, g.x_channels * sizeof(float));

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
