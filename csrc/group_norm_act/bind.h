// The bindings of group_norm_act. Included by bindings.cpp alone.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "from_python.h"
#include "group_norm_act/cpu.h"
#ifdef GLIDE_FAST_CUDA
#include "group_norm_act/cuda.h"
#endif

namespace glide_fast {

inline void bind_group_norm_act(py::module_& module) {
    py::class_<GroupNormAct>(module, "GroupNormAct",
                             "Arguments of group_norm_act. Activations are (address, sample stride, row stride), vectors of "
                             "channels (address, type code, sample stride).")
        .def(py::init([](int dtype, int out_dtype, std::int64_t samples, std::int64_t rows, std::int64_t x_channels,
                         std::int64_t channels, std::int64_t groups, std::int64_t width, const Rows& x,
                         const Rows& x2, const Rows& residual, const Rows& sum, const Rows& y,
                         const PerChannel& x_bias, const PerChannel& weight, const PerChannel& bias,
                         const PerChannel& scale, const PerChannel& shift, double eps, bool silu, int resample,
                         bool windows) {
                 GroupNormAct g{};
                 g.dtype = Dtype(dtype);
                 g.out_dtype = Dtype(out_dtype);
                 g.samples = samples;
                 g.rows = rows;
                 g.x_channels = x_channels;
                 g.channels = channels;
                 g.groups = groups;
                 g.width = width;
                 g.x = x;
                 g.x2 = x2;
                 g.residual = residual;
                 g.sum = sum;
                 g.y = y;
                 g.x_bias = x_bias;
                 g.weight = weight;
                 g.bias = bias;
                 g.scale = scale;
                 g.shift = shift;
                 g.eps = eps;
                 g.silu = silu;
                 g.resample = Resampling(resample);
                 g.windows = windows;
                 return g;
             }),
             py::arg("dtype"), py::arg("out_dtype"), py::arg("samples"), py::arg("rows"), py::arg("x_channels"),
             py::arg("channels"), py::arg("groups"), py::arg("width"), py::arg("x"), py::arg("x2"), py::arg("residual"),
             py::arg("sum"), py::arg("y"), py::arg("x_bias"), py::arg("weight"), py::arg("bias"), py::arg("scale"),
             py::arg("shift"), py::arg("eps"), py::arg("silu"), py::arg("resample"), py::arg("windows"));
    module.def(
        "group_norm_act",
        [](const GroupNormAct& arguments, int threads, const std::string& isa) { group_norm_act(arguments, threads, isa.c_str()); },
        py::call_guard<py::gil_scoped_release>(), py::arg("arguments"), py::arg("threads"), py::arg("isa") = "",
        "y = resample(act(film(group_norm(cat(x + x_bias + residual, x2))))) over channels-last rows.");
}

#ifdef GLIDE_FAST_CUDA
namespace cuda {

inline void bind_group_norm_act(py::module_& module) {
    py::class_<Device>(module, "Device", "The properties of a device that a Plan depends on.")
        .def(py::init([](int multiprocessors, int shared_bytes, int max_cluster) {
                 return Device{multiprocessors, shared_bytes, max_cluster};
             }),
             py::arg("multiprocessors"), py::arg("shared_bytes"), py::arg("max_cluster"))
        .def_readonly("multiprocessors", &Device::multiprocessors)
        .def_readonly("shared_bytes", &Device::shared_bytes)
        .def_readonly("max_cluster", &Device::max_cluster);
    module.def("current_device", &current_device, "The calling thread's current device.");

    py::class_<Plan>(module, "Plan", "How the work of group_norm_act is divided over a device.")
        .def_readonly("one_pass", &Plan::one_pass)
        .def_readonly("held", &Plan::held)
        .def_readonly("vector", &Plan::vector)
        .def_readonly("threads", &Plan::threads)
        .def_readonly("slab", &Plan::slab)
        .def_readonly("columns", &Plan::columns)
        .def_readonly("lanes", &Plan::lanes)
        .def_readonly("pieces", &Plan::pieces)
        .def_readonly("slabs", &Plan::slabs)
        .def_readonly("chunks", &Plan::chunks)
        .def_readonly("chunk_rows", &Plan::chunk_rows)
        .def_readonly("shared_bytes", &Plan::shared_bytes)
        .def_readonly("workspace_bytes", &Plan::workspace_bytes);
    module.def("plan_group_norm_act",
               py::overload_cast<const GroupNormAct&, const Device&, const std::string&>(&plan_group_norm_act),
               py::arg("arguments"), py::arg("device"), py::arg("variant") = "",
               "A plan that fits these arguments; variant forces one_pass or two_pass.");
    module.def(
        "plan_group_norm_act",
        [](const GroupNormAct& arguments, const Device& device, bool one_pass, int slab, int chunks, int threads, bool held) {
            return plan_group_norm_act(arguments, device, Choice{one_pass, slab, chunks, threads, held});
        },
        py::arg("arguments"), py::arg("device"), py::kw_only(), py::arg("one_pass"), py::arg("slab"), py::arg("chunks"),
        py::arg("threads"), py::arg("held"), "The plan that this choice makes; ValueError where it does not fit the arguments.");
    module.def(
        "fitting_plans",
        [](const GroupNormAct& arguments, const Device& device, const std::vector<std::array<int, 5>>& choices) {
            std::vector<py::object> plans;
            for (const auto& [one_pass, slab, chunks, threads, held] : choices) {
                Plan plan{};
                const bool fits = plan_fits(arguments, device, Choice{one_pass != 0, slab, chunks, threads, held != 0}, plan);
                plans.push_back(fits ? py::cast(plan) : py::none());
            }
            return plans;
        },
        py::arg("arguments"), py::arg("device"), py::arg("choices"),
        "The plan of each choice (one_pass, slab, chunks, threads, held), None where it does not fit.");
    py::enum_<Overlap>(module, "Overlap", "Which kernels may start before those before them have ended.")
        .value("none", Overlap::none)
        .value("second", Overlap::second)
        .value("earlier", Overlap::earlier);
    module.def("group_norm_act", &group_norm_act, py::call_guard<py::gil_scoped_release>(), py::arg("arguments"),
               py::arg("plan"), py::arg("workspace"), py::arg("stream"), py::arg("overlap") = Overlap::none,
               "Launches y = resample(act(film(group_norm(cat(x + x_bias + residual, x2))))) on a stream of the current device.");
}

}  // namespace cuda
#endif

}  // namespace glide_fast
