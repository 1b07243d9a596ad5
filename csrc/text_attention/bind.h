// The binding of text_attention. Included by bindings.cpp alone.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "from_python.h"
#include "text_attention/cpu.h"

namespace glide_fast {

inline void bind_text_attention(py::module_& module) {
    module.def(
        "text_attention",
        [](Address qkv, Address text, Address y, int dtype, std::int64_t samples, std::int64_t heads, std::int64_t head_size,
           std::int64_t tokens, std::int64_t text_tokens, Stride qkv_sample_stride, Stride qkv_token_stride,
           Stride text_sample_stride, Stride text_token_stride, Stride y_sample_stride, Stride y_token_stride, int threads,
           const std::string& isa) {
            TextAttention t{};
            t.qkv = pointer<const void>(qkv);
            t.text = pointer<const void>(text);
            t.y = pointer<void>(y);
            t.dtype = Dtype(dtype);
            t.samples = samples;
            t.heads = heads;
            t.head_size = head_size;
            t.tokens = tokens;
            t.text_tokens = text_tokens;
            t.qkv_sample_stride = qkv_sample_stride;
            t.qkv_token_stride = qkv_token_stride;
            t.text_sample_stride = text_sample_stride;
            t.text_token_stride = text_token_stride;
            t.y_sample_stride = y_sample_stride;
            t.y_token_stride = y_token_stride;
            text_attention(t, threads, isa.c_str());
        },
        py::call_guard<py::gil_scoped_release>(), py::arg("qkv"), py::arg("text"), py::arg("y"), py::arg("dtype"),
        py::arg("samples"), py::arg("heads"), py::arg("head_size"), py::arg("tokens"), py::arg("text_tokens"),
        py::arg("qkv_sample_stride"), py::arg("qkv_token_stride"), py::arg("text_sample_stride"),
        py::arg("text_token_stride"), py::arg("y_sample_stride"), py::arg("y_token_stride"), py::arg("threads"),
        py::arg("isa") = "",
        "Attention from the tokens of qkv to those of the text and of qkv; csrc/text_attention/arguments.h has the layout.");
}

}  // namespace glide_fast
