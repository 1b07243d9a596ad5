#include "masked_attention/cpu.h"

#include <stdexcept>

#include "attention/cpu.h"

namespace glide_fast {

void masked_attention(const MaskedAttention& m, int threads, const char* isa) {
    if (m.queries < 1 || m.keys < 1) throw std::invalid_argument("masked_attention: sizes must be positive");
    if (m.causal && m.queries != m.keys)
        throw std::invalid_argument("masked_attention: a causal mask wants as many keys as queries");

    const auto heads_of = [&](const Rows& rows) {
        return HeadRows{rows.data, rows.sample_stride, rows.row_stride, m.head_size};
    };
    Attention a{};
    a.queries = heads_of(m.q);
    a.keys = heads_of(m.k);
    a.values = heads_of(m.v);
    a.y = m.y.data;
    a.y_sample_stride = m.y.sample_stride;
    a.y_token_stride = m.y.row_stride;
    a.dtype = m.dtype;
    a.samples = m.samples;
    a.heads = m.heads;
    a.head_size = m.head_size;
    a.query_tokens = m.queries;
    a.key_tokens = m.keys;
    a.causal = m.causal;
    a.lengths = m.lengths;
    attention("masked_attention", a, m.q.data && m.k.data && m.v.data && m.y.data, threads, isa);
}

}  // namespace glide_fast
