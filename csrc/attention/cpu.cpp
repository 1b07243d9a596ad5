// Before the CPU kernel of text_attention and masked_attention: checks, scratch memory, how the work is divided, choice of the
// instruction set.
#include "attention/cpu.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "cpu/isa.h"

namespace glide_fast {

GLIDE_FAST_KERNEL(attention, AttentionWork)
#if defined(GLIDE_FAST_AMX)
GLIDE_FAST_DECLARE_KERNEL(amx, attention, AttentionWork)
#endif

namespace {

// Below this many products a thread, waking it costs more than it saves.
constexpr std::int64_t products_a_thread = 1 << 20;
// A thread is to have so many tasks where there are heads and tiles for it: the more, the better they even out, but each copies
// all keys and values of its head.
constexpr std::int64_t tasks_a_thread = 4;

// Memory for `floats`, on a cache line. It is the calling thread's, kept until it ends and grown only: an allocation of this
// size would be given back to the system at every call, and cost more than a small attention.
float* scratch(std::int64_t floats) {
    constexpr std::size_t line = 64 / sizeof(float);
    thread_local std::unique_ptr<float[]> memory;
    thread_local std::int64_t held = 0;
    if (floats > held) {
        memory.reset();
        held = 0;
        memory.reset(new float[std::size_t(floats) + line]);
        held = floats;
    }
    const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(memory.get());
    return reinterpret_cast<float*>((address + 63) / 64 * 64);
}

void check(const char* op, const Attention& a, bool addresses) {
    const auto require = [op](bool holds, const char* what) {
        if (!holds) throw std::invalid_argument(std::string(op) + ": " + what);
    };
    require(a.samples >= 0 && a.heads >= 1, "sizes must be positive");
    require(a.head_size == 32 || a.head_size == 64 || a.head_size == 128, "heads are 32, 64 or 128 wide");
    require(a.dtype == Dtype::f32 || a.dtype == Dtype::bf16, "a type code is 0 (fp32) or 1 (bf16)");
    require(addresses, "an address is missing, or one is given of what has no tokens");
}

}  // namespace

void attention(const char* op, const Attention& arguments, bool addresses, int threads, const char* isa) {
    check(op, arguments, addresses);
    AttentionWork g{arguments};
    if (g.samples == 0) return;
    const std::int64_t products = g.samples * g.heads * g.query_tokens * g.all_keys() * g.head_size;
    const std::int64_t all_heads = g.samples * g.heads;
    g.threads = int(std::clamp<std::int64_t>(products / products_a_thread, 1,
                                             std::min<std::int64_t>(std::max(threads, 1), all_heads * g.tiles())));
    if (g.threads > 1)
        g.parts = std::min((tasks_a_thread * g.threads + all_heads - 1) / all_heads, g.tiles());
    else
        g.parts = 1;
    g.scratch = scratch(g.threads * g.scratch_floats());
#if defined(GLIDE_FAST_AMX)
    // Tiles multiply bf16 alone.
    if (g.dtype == Dtype::bf16 && chosen(isa) == Isa::amx) return amx::attention(g);
#endif
    run_attention(isa, g);
}

}  // namespace glide_fast
