// The binding of masked_attention. Included by bindings.cpp alone.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "from_python.h"
#include "masked_attention/cpu.h"

namespace glide_fast {

inline void bind_masked_attention(py::module_& module) {
    module.def(
        "masked_attention",
        [](const Rows& q, const Rows& k, const Rows& v, const Rows& y, Address lengths, bool causal,
           int dtype, std::int64_t samples, std::int64_t heads, std::int64_t head_size, std::int64_t queries,
           std::int64_t keys, int threads, const std::string& isa) {
            MaskedAttention m{};
            m.q = q;
            m.k = k;
            m.v = v;
            m.y = y;
            m.lengths = pointer<const std::int64_t>(lengths);
            m.causal = causal;
            m.dtype = Dtype(dtype);
            m.samples = samples;
            m.heads = heads;
            m.head_size = head_size;
            m.queries = queries;
            m.keys = keys;
            masked_attention(m, threads, isa.c_str());
        },
        py::call_guard<py::gil_scoped_release>(), py::arg("q"), py::arg("k"), py::arg("v"), py::arg("y"), py::arg("lengths"),
        py::arg("causal"), py::arg("dtype"), py::arg("samples"), py::arg("heads"), py::arg("head_size"), py::arg("queries"),
        py::arg("keys"), py::arg("threads"), py::arg("isa") = "",
        "Attention under a mask; heads lie side by side in a row. q, k, v and y are (address, sample stride, row stride).");
}

}  // namespace glide_fast
