// Entry to the CPU kernel of group_norm_act: checks the arguments, allocates scratch memory, divides the work and chooses the
// instruction set.
#include "group_norm_act/cpu.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "cpu/cache.h"
#include "cpu/isa.h"
#include "cpu/pages.h"

namespace glide_fast {

GLIDE_FAST_KERNEL(group_norm_act, GroupNormActWork)

namespace {

// A thread with fewer elements than this costs more to wake than it saves.
constexpr std::int64_t elements_a_thread = 16384;

constexpr std::int64_t least_block = 128, most_blocks = 64;  // rows of a block, and blocks of a sample

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(std::string("group_norm_act: ") + what);
}

bool known(Dtype dtype) { return dtype == Dtype::f32 || dtype == Dtype::bf16; }

std::int64_t divided(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Cuts one allocation into arrays that each begin at a cache line. With null for memory it only adds up their sizes.
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

// Points the scratch arrays of g into memory, unless that is null; returns how many bytes they take.
std::size_t lay_out_scratch(GroupNormActWork& g, std::byte* memory) {
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

void check(const GroupNormAct& g) {
    require(known(g.dtype) && known(g.out_dtype), "a type code is 0 (fp32) or 1 (bf16)");
    require(g.out_dtype == g.dtype || g.out_dtype == Dtype::f32, "out_dtype is dtype or fp32");
    require(g.samples >= 0 && g.rows >= 1 && g.x_channels >= 1 && g.channels >= g.x_channels, "sizes must be positive");
    require(g.groups >= 1 && g.channels % g.groups == 0, "groups must divide channels");
    require(g.x.data && g.y.data, "x and y must be there");
    require(!g.x2.data == (g.channels == g.x_channels), "x2 comes with its channels");
    for (const PerChannel& vector : {g.x_bias, g.weight, g.bias, g.scale, g.shift})
        require(known(vector.dtype), "a type code is 0 (fp32) or 1 (bf16)");
    require(g.weight.data && g.bias.data, "weight and bias must be there");
    require(!g.scale.data == !g.shift.data, "scale and shift come together");
    require(!g.sum.data || g.x_bias.data || g.residual.data, "a sum comes with something to add");
    require(!g.windows, "the kernel writes pictures, not windows");
    require(g.resample >= Resampling::none && g.resample <= Resampling::mean_2x2, "resample is 0, 1 or 2");
    if (g.resample == Resampling::none) return;
    require(g.width >= 1 && g.rows % g.width == 0, "width must divide rows");
    if (g.resample == Resampling::mean_2x2)
        require(g.width % 2 == 0 && g.rows / g.width % 2 == 0, "the mean needs even sides");
}

}  // namespace

void group_norm_act(const GroupNormAct& arguments, int threads, const char* isa) {
    check(arguments);
    GroupNormActWork g{arguments};
    if (g.samples == 0) return;

    g.threads = int(std::clamp<std::int64_t>(divided(g.samples * g.rows * g.channels, elements_a_thread), 1,
                                             std::max(threads, 1)));
    g.block_rows = divided(std::max(least_block, divided(g.rows, most_blocks)), least_block) * least_block;
    g.blocks = divided(g.rows, g.block_rows);

    const std::int64_t y_rows = g.resample == Resampling::nearest_x2 ? 4 * g.rows : g.rows;
    const std::int64_t y_bytes = g.samples * y_rows * g.channels * bytes_of(g.out_dtype);
    g.stream = too_large_to_keep(y_bytes);
    const bool dense = g.y.row_stride == g.channels && g.y.sample_stride == y_rows * g.channels;
    if (dense && g.resample != Resampling::mean_2x2) prefer_large_pages(g.y.data, y_bytes);

    const std::size_t size = lay_out_scratch(g, nullptr);
    const std::unique_ptr<std::byte[]> memory(new std::byte[size + Scratch::line]);
    const auto misaligned = reinterpret_cast<std::uintptr_t>(memory.get()) % Scratch::line;
    lay_out_scratch(g, memory.get() + (Scratch::line - misaligned) % Scratch::line);
    if (g.adds()) std::memset(g.zeros, 0, g.x_channels * sizeof(float));
    run_group_norm_act(isa, g);
}

}  // namespace glide_fast
