// The binding of upsampled_convolution. Included by bindings.cpp alone.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <tuple>

#include "from_python.h"
#include "upsampled_convolution/cpu.h"

namespace glide_fast {

inline void bind_upsampled_convolution(py::module_& module) {
    module.def(
        "interleave",
        [](Address x, Address y, const std::tuple<std::int64_t, std::int64_t, std::int64_t>& sizes, std::int64_t pixel,
           int threads) {
            const auto [images, height, width] = sizes;
            interleave({pointer<const char>(x), pointer<char>(y), images, height, width, pixel}, threads);
        },
        py::call_guard<py::gil_scoped_release>(), py::arg("x"), py::arg("y"), py::arg("sizes"), py::arg("pixel"),
        py::arg("threads"),
        "Interleaves the four pictures in the pixels of x, one for each position in a 2x2 block of y, into one.");
}

}  // namespace glide_fast
