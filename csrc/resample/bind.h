// The binding of resample. Included by bindings.cpp alone.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <tuple>

#include "from_python.h"
#include "resample/cpu.h"

namespace glide_fast {

using PixelStridesTuple = std::tuple<Stride, Stride, Stride>;  // of images, rows and columns

inline PixelStrides pixel_strides_from(const PixelStridesTuple& tuple) {
    return {std::get<0>(tuple), std::get<1>(tuple), std::get<2>(tuple)};
}

inline void bind_resample(py::module_& module) {
    module.def(
        "resample",
        [](Address x, Address y, Address residual, int dtype, Address bias, int bias_dtype, bool up, const SizesTuple& sizes,
           const PixelStridesTuple& x_strides, const PixelStridesTuple& y_strides, const PixelStridesTuple& residual_strides,
           int threads, const std::string& isa) {
            Resample r{};
            r.x = pointer<const void>(x);
            r.y = pointer<void>(y);
            r.residual = pointer<const void>(residual);
            r.dtype = Dtype(dtype);
            r.bias = pointer<const void>(bias);
            r.bias_dtype = Dtype(bias_dtype);
            r.up = up;
            std::tie(r.images, r.height, r.width, r.channels) = sizes;
            r.x_strides = pixel_strides_from(x_strides);
            r.y_strides = pixel_strides_from(y_strides);
            r.residual_strides = pixel_strides_from(residual_strides);
            resample(r, threads, isa.c_str());
        },
        py::call_guard<py::gil_scoped_release>(), py::arg("x"), py::arg("y"), py::arg("residual"), py::arg("dtype"),
        py::arg("bias"), py::arg("bias_dtype"), py::arg("up"), py::arg("sizes"), py::arg("x_strides"), py::arg("y_strides"),
        py::arg("residual_strides"), py::arg("threads"), py::arg("isa") = "",
        "y is x + bias + residual with each pixel repeated 2x2 times (up), or with each 2x2 pixels averaged; channels-last.");
}

}  // namespace glide_fast
