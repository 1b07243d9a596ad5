// Python's entry to the CPU kernel of text_attention: checks, scratch memory, choice of the instruction set.
#include "text_attention.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "entries.h"
#include "isa.h"

namespace glide_fast {

#define X(name)                                    \
    namespace name {                               \
    void text_attention(const TextAttention& g);   \
    }
GLIDE_FAST_FOR_EACH_ISA(X)
#undef X

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

}  // namespace

void text_attention(std::uintptr_t qkv, std::uintptr_t text, std::uintptr_t y, int dtype, std::int64_t samples,
                    std::int64_t heads, std::int64_t head_size, std::int64_t tokens, std::int64_t text_tokens,
                    std::int64_t qkv_sample_stride, std::int64_t qkv_token_stride, std::int64_t text_sample_stride,
                    std::int64_t text_token_stride, std::int64_t y_sample_stride, std::int64_t y_token_stride,
                    int threads, const std::string& isa) {
    if (samples < 0 || heads < 1 || tokens < 1 || text_tokens < 0)
        throw std::invalid_argument("text_attention: sizes must be positive");
    if (head_size != 32 && head_size != 64 && head_size != 128)
        throw std::invalid_argument("text_attention: heads are 32, 64 or 128 wide");
    if (!qkv || !y || !text != (text_tokens == 0))
        throw std::invalid_argument("text_attention: qkv and y are needed, and text where it has tokens");
    if (dtype != int(Dtype::f32) && dtype != int(Dtype::bf16))
        throw std::invalid_argument("text_attention: a type code is 0 (fp32) or 1 (bf16)");
    if (samples == 0) return;

    TextAttention g{};
    g.qkv = reinterpret_cast<const void*>(qkv);
    g.text = reinterpret_cast<const void*>(text);
    g.y = reinterpret_cast<void*>(y);
    g.dtype = Dtype(dtype);
    g.samples = samples;
    g.heads = heads;
    g.head_size = head_size;
    g.tokens = tokens;
    g.text_tokens = text_tokens;
    g.qkv_sample_stride = qkv_sample_stride;
    g.qkv_token_stride = qkv_token_stride;
    g.text_sample_stride = text_sample_stride;
    g.text_token_stride = text_token_stride;
    g.y_sample_stride = y_sample_stride;
    g.y_token_stride = y_token_stride;
    const std::int64_t products = samples * heads * tokens * g.keys() * head_size;
    const std::int64_t all_heads = samples * heads;
    g.threads = int(std::clamp<std::int64_t>(products / products_a_thread, 1,
                                             std::min<std::int64_t>(std::max(threads, 1), all_heads * g.tiles())));
    if (g.threads > 1)
        g.parts = std::min((tasks_a_thread * g.threads + all_heads - 1) / all_heads, g.tiles());
    else
        g.parts = 1;
    g.scratch = scratch(g.threads * g.scratch_floats());

#define X(name)                                                              \
    if ((isa.empty() && supported(Isa::name)) || isa == #name) {             \
        if (!supported(Isa::name))                                           \
            throw std::invalid_argument("this CPU does not support " #name); \
        return name::text_attention(g);                                      \
    }
    GLIDE_FAST_FOR_EACH_ISA(X)
#undef X
    throw std::invalid_argument("unknown instruction set " + isa);
}

}  // namespace glide_fast
