// Python's entries to the CPU kernel of text_attention and masked_attention: checks, scratch memory, choice of the
// instruction set.
#include "attention.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>

#include "entries.h"
#include "isa.h"

namespace glide_fast {

#define X(name)                            \
    namespace name {                       \
    void attention(const Attention& g);    \
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

void check(const char* op, std::int64_t samples, std::int64_t heads, std::int64_t head_size, int dtype, bool addresses) {
    const auto fail = [op](const char* reason) { throw std::invalid_argument(std::string(op) + ": " + reason); };
    if (samples < 0 || heads < 1) fail("sizes must be positive");
    if (head_size != 32 && head_size != 64 && head_size != 128) fail("heads are 32, 64 or 128 wide");
    if (dtype != int(Dtype::f32) && dtype != int(Dtype::bf16)) fail("a type code is 0 (fp32) or 1 (bf16)");
    if (!addresses) fail("an address is missing, or one is given of what has no tokens");
}

// Adds how the work is divided, and does it.
void run(Attention& g, int threads, const std::string& isa) {
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

#define X(name)                                                              \
    if ((isa.empty() && supported(Isa::name)) || isa == #name) {             \
        if (!supported(Isa::name))                                           \
            throw std::invalid_argument("this CPU does not support " #name); \
        return name::attention(g);                                           \
    }
    GLIDE_FAST_FOR_EACH_ISA(X)
#undef X
    throw std::invalid_argument("unknown instruction set " + isa);
}

}  // namespace

void text_attention(std::uintptr_t qkv, std::uintptr_t text, std::uintptr_t y, int dtype, std::int64_t samples,
                    std::int64_t heads, std::int64_t head_size, std::int64_t tokens, std::int64_t text_tokens,
                    std::int64_t qkv_sample_stride, std::int64_t qkv_token_stride, std::int64_t text_sample_stride,
                    std::int64_t text_token_stride, std::int64_t y_sample_stride, std::int64_t y_token_stride,
                    int threads, const std::string& isa) {
    check("text_attention", samples, heads, head_size, dtype, qkv && y && !text == (text_tokens == 0));
    if (tokens < 1 || text_tokens < 0) throw std::invalid_argument("text_attention: sizes must be positive");

    // A head has its q, k and v side by side, or the text's k and v.
    const std::uintptr_t part = head_size * (dtype == int(Dtype::f32) ? sizeof(float) : sizeof(bf16));
    const auto rows = [&](std::uintptr_t first, int index) {
        return HeadRows{reinterpret_cast<const void*>(first + index * part), qkv_sample_stride, qkv_token_stride,
                        3 * head_size};
    };
    const auto text_rows = [&](int index) {
        return HeadRows{text ? reinterpret_cast<const void*>(text + index * part) : nullptr, text_sample_stride,
                        text_token_stride, 2 * head_size};
    };
    Attention g{};
    g.queries = rows(qkv, 0);
    g.keys = rows(qkv, 1);
    g.values = rows(qkv, 2);
    g.text_keys = text_rows(0);
    g.text_values = text_rows(1);
    g.y = reinterpret_cast<void*>(y);
    g.y_sample_stride = y_sample_stride;
    g.y_token_stride = y_token_stride;
    g.dtype = Dtype(dtype);
    g.samples = samples;
    g.heads = heads;
    g.head_size = head_size;
    g.query_tokens = g.key_tokens = tokens;
    g.text_tokens = text_tokens;
    run(g, threads, isa);
}

void masked_attention(const RowsAt& q, const RowsAt& k, const RowsAt& v, const RowsAt& y, std::uintptr_t lengths,
                      bool causal, int dtype, std::int64_t samples, std::int64_t heads, std::int64_t head_size,
                      std::int64_t queries, std::int64_t keys, int threads, const std::string& isa) {
    check("masked_attention", samples, heads, head_size, dtype,
          std::get<0>(q) && std::get<0>(k) && std::get<0>(v) && std::get<0>(y));
    if (queries < 1 || keys < 1) throw std::invalid_argument("masked_attention: sizes must be positive");
    if (causal && queries != keys)
        throw std::invalid_argument("masked_attention: a causal mask wants as many keys as queries");

    const auto rows = [&](const RowsAt& at) {
        const auto [address, sample_stride, token_stride] = at;
        return HeadRows{reinterpret_cast<const void*>(address), sample_stride, token_stride, head_size};
    };
    Attention g{};
    g.queries = rows(q);
    g.keys = rows(k);
    g.values = rows(v);
    g.y = reinterpret_cast<void*>(std::get<0>(y));
    g.y_sample_stride = std::get<1>(y);
    g.y_token_stride = std::get<2>(y);
    g.dtype = Dtype(dtype);
    g.samples = samples;
    g.heads = heads;
    g.head_size = head_size;
    g.query_tokens = queries;
    g.key_tokens = keys;
    g.causal = causal;
    g.lengths = reinterpret_cast<const std::int64_t*>(lengths);
    run(g, threads, isa);
}

}  // namespace glide_fast
