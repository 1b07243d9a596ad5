#include "text_attention/cpu.h"

#include <cstdint>
#include <stdexcept>

#include "attention/cpu.h"

namespace glide_fast {

void text_attention(const TextAttention& t, int threads, const char* isa) {
    if (t.tokens < 1 || t.text_tokens < 0) throw std::invalid_argument("text_attention: sizes must be positive");
    // In qkv the q, k and v of a head lie side by side; in text its k and v do.
    const std::int64_t part = t.head_size * bytes_of(t.dtype);
    const auto at = [&](const void* first, int index) -> const void* {
        return first ? static_cast<const char*>(first) + index * part : nullptr;
    };
    const auto rows = [&](int index) {
        return HeadRows{at(t.qkv, index), t.qkv_sample_stride, t.qkv_token_stride, 3 * t.head_size};
    };
    const auto text_rows = [&](int index) {
        return HeadRows{at(t.text, index), t.text_sample_stride, t.text_token_stride, 2 * t.head_size};
    };
    Attention a{};
    a.queries = rows(0);
    a.keys = rows(1);
    a.values = rows(2);
    a.text_keys = text_rows(0);
    a.text_values = text_rows(1);
    a.y = t.y;
    a.y_sample_stride = t.y_sample_stride;
    a.y_token_stride = t.y_token_stride;
    a.dtype = t.dtype;
    a.samples = t.samples;
    a.heads = t.heads;
    a.head_size = t.head_size;
    a.query_tokens = a.key_tokens = t.tokens;
    a.text_tokens = t.text_tokens;
    attention("text_attention", a, t.qkv && t.y && !t.text == (t.text_tokens == 0), threads, isa);
}

}  // namespace glide_fast
