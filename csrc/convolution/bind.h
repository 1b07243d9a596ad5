// The bindings of convolution. Included by bindings.cpp alone.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <tuple>

#include "convolution/winograd.h"
#include "from_python.h"

namespace glide_fast {

inline void bind_convolution(py::module_& module) {
    module.def(
        "winograd_scratch",
        [](const SizesTuple& sizes, int threads) {
            Winograd w{};
            std::tie(w.images, w.height, w.width, w.channels) = sizes;
            return winograd_scratch(w, threads);
        },
        py::arg("sizes"), py::arg("threads"),
        "Bytes of scratch memory that winograd needs for an x of `sizes` (images, height, width, channels).");
    module.def(
        "winograd",
        [](Address x, Address weight, Address bias, int bias_dtype, Address residual, Address y, const SizesTuple& sizes,
           std::int64_t outputs, Address scratch, int threads, const std::string& isa) {
            Winograd w{};
            w.x = pointer<const bf16>(x);
            w.weight = pointer<const bf16>(weight);
            w.bias = pointer<const void>(bias);
            w.bias_dtype = Dtype(bias_dtype);
            w.residual = pointer<const bf16>(residual);
            w.y = pointer<bf16>(y);
            std::tie(w.images, w.height, w.width, w.channels) = sizes;
            w.outputs = outputs;
            w.scratch = pointer<unsigned char>(scratch);
            winograd(w, threads, isa.c_str());
        },
        py::call_guard<py::gil_scoped_release>(), py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("bias_dtype"),
        py::arg("residual"), py::arg("y"), py::arg("sizes"), py::arg("outputs"), py::arg("scratch"), py::arg("threads"),
        py::arg("isa") = "",
        "y = conv3x3(x) + bias + residual, channels-last and dense; csrc/convolution/arguments.h has the layout of the weight.");
}

}  // namespace glide_fast
