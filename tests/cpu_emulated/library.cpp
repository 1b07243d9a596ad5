// A library for tests of any processor: text_attention and masked_attention of csrc with the AMX kernel, on the processor that
// immintrin.h in this folder stands in for. Plain C functions, which return null, or why the arguments were refused.
#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>

#include "attention/cpu.h"
#include "cpu/isa.h"
#include "masked_attention/cpu.h"
#include "text_attention/cpu.h"
#include "tiles_emulated.h"

namespace glide_fast {

// In place of csrc/cpu/isa.cpp.
bool supported(Isa isa) { return isa == Isa::amx; }
Isa chosen(const char* name) {
    if (*name && std::string(name) != "amx") throw std::invalid_argument(std::string("unknown instruction set ") + name);
    return Isa::amx;
}

// The other instruction sets' kernels are in the library that is shipped.
#define NOT_HERE(name, ...)                                                                            \
    namespace name {                                                                                   \
    void attention(const AttentionWork&) { throw std::invalid_argument("the emulated kernel takes bf16"); } \
    }
GLIDE_FAST_FOR_EACH_ISA(NOT_HERE, )
#undef NOT_HERE

}  // namespace glide_fast

using namespace glide_fast;

namespace {

template <typename Call>
const char* refused(Call call) {
    static thread_local std::string why;
    try {
        call();
    } catch (const std::exception& error) {
        why = error.what();
        return why.c_str();
    }
    return nullptr;
}

struct RowsArgument {
    void* data;
    std::int64_t sample_stride, row_stride;
};

}  // namespace

#define SHOWN extern "C" __attribute__((visibility("default")))

SHOWN const char* text_attention_emulated(const void* qkv, const void* text, void* y, int dtype, const std::int64_t* sizes,
                                          int threads, const char* isa) {
    return refused([&] {
        TextAttention t{};
        t.qkv = qkv;
        t.text = text;
        t.y = y;
        t.dtype = Dtype(dtype);
        std::int64_t* const to[] = {&t.samples, &t.heads, &t.head_size, &t.tokens, &t.text_tokens, &t.qkv_sample_stride,
                                    &t.qkv_token_stride, &t.text_sample_stride, &t.text_token_stride, &t.y_sample_stride,
                                    &t.y_token_stride};
        for (std::int64_t* value : to) *value = *sizes++;
        text_attention(t, threads, isa);
    });
}

SHOWN const char* masked_attention_emulated(const RowsArgument* rows, const std::int64_t* lengths, int causal, int dtype,
                                            const std::int64_t* sizes, int threads, const char* isa) {
    return refused([&] {
        MaskedAttention m{};
        Rows* const to[] = {&m.q, &m.k, &m.v, &m.y};
        for (Rows* part : to) {
            part->data = rows->data;
            part->sample_stride = rows->sample_stride;
            part->row_stride = rows->row_stride;
            ++rows;
        }
        m.lengths = lengths;
        m.causal = causal;
        m.dtype = Dtype(dtype);
        std::int64_t* const values[] = {&m.samples, &m.heads, &m.head_size, &m.queries, &m.keys};
        for (std::int64_t* value : values) *value = *sizes++;
        masked_attention(m, threads, isa);
    });
}

// Threads that still have tiles in use.
SHOWN int tiles_in_use() { return emulated::configured_threads; }
