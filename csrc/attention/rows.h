// Where the rows of one head of one sample are, for the kernels of csrc/attention.
#pragma once

#include <cstdint>

#include "attention/cpu.h"

namespace glide_fast {
namespace GLIDE_FAST_ISA {

// One head of one sample: where its rows are.
template <typename T>
struct Rows {
    struct Part {
        const T* first;
        std::int64_t stride;

        Part(const HeadRows& all, std::int64_t sample, std::int64_t index)
            : first(static_cast<const T*>(all.data)), stride(all.token_stride) {
            if (first) first += sample * all.sample_stride + index * all.head_stride;
        }
        const T* row(std::int64_t i) const { return first + i * stride; }
    };
    const Part queries, keys, values, text_keys, text_values;
    T* const y;
    const std::int64_t y_stride, text_tokens;

    Rows(const AttentionWork& g, std::int64_t sample, std::int64_t index)
        : queries(g.queries, sample, index),
          keys(g.keys, sample, index),
          values(g.values, sample, index),
          text_keys(g.text_keys, sample, index),
          text_values(g.text_values, sample, index),
          y(static_cast<T*>(g.y) + sample * g.y_sample_stride + index * g.head_size),
          y_stride(g.y_token_stride),
          text_tokens(g.text_tokens) {}
    const T* query(std::int64_t i) const { return queries.row(i); }
    const T* key(std::int64_t i) const { return i < text_tokens ? text_keys.row(i) : keys.row(i - text_tokens); }
    const T* value(std::int64_t i) const { return i < text_tokens ? text_values.row(i) : values.row(i - text_tokens); }
};

}  // namespace GLIDE_FAST_ISA
}  // namespace glide_fast
