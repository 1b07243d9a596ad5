// The submodule glide_fast._C.cuda. Included by csrc/bindings.cpp alone; needs no header of CUDA.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <tuple>

#include "entries.h"

namespace glide_fast::cuda {

namespace py = pybind11;

using RowsTuple = std::tuple<std::uintptr_t, std::int64_t, std::int64_t>;
using PerChannelTuple = std::tuple<std::uintptr_t, int, std::int64_t>;
using ImageTuple = std::tuple<std::uintptr_t, int, std::int64_t, std::int64_t, std::int64_t>;

inline Rows rows_from(const RowsTuple& t) { return {std::get<0>(t), std::get<1>(t), std::get<2>(t)}; }

inline PerChannel per_channel_from(const PerChannelTuple& t) { return {std::get<0>(t), Dtype(std::get<1>(t)), std::get<2>(t)}; }

inline Image image_from(const ImageTuple& t) {
    return {std::get<0>(t), Dtype(std::get<1>(t)), std::get<2>(t), std::get<3>(t), std::get<4>(t)};
}

inline void bind_group_norm_act(py::module_& module) {
    const RowsTuple no_rows{0, 0, 0};
    const PerChannelTuple no_channels{0, 0, 0};
    py::class_<GroupNormAct>(module, "GroupNormAct", "Arguments of group_norm_act.")
        .def(py::init([](int dtype, std::int64_t samples, int rows, int channels, int groups, const RowsTuple& x,
                         const RowsTuple& y, const PerChannelTuple& weight, const PerChannelTuple& bias,
                         const PerChannelTuple& scale, const PerChannelTuple& shift, float eps, bool silu,
                         const RowsTuple& x2, int x_channels, const RowsTuple& residual, const RowsTuple& sum,
                         const PerChannelTuple& in_bias, int resample, int width, int y_dtype) {
                 GroupNormAct g{};
                 g.dtype = Dtype(dtype);
                 g.samples = samples;
                 g.rows = rows;
                 g.channels = channels;
                 g.groups = groups;
                 g.width = width;
                 g.x = rows_from(x);
                 g.x2 = rows_from(x2);
                 g.x_channels = x_channels ? x_channels : channels;
                 g.residual = rows_from(residual);
                 g.sum = rows_from(sum);
                 g.in_bias = per_channel_from(in_bias);
                 g.weight = per_channel_from(weight);
                 g.bias = per_channel_from(bias);
                 g.scale = per_channel_from(scale);
                 g.shift = per_channel_from(shift);
                 g.eps = eps;
                 g.silu = silu;
                 g.resample = Resample(resample);
                 g.y = rows_from(y);
                 g.y_dtype = Dtype(y_dtype < 0 ? dtype : y_dtype);
                 return g;
             }),
             py::kw_only(), py::arg("dtype"), py::arg("samples"), py::arg("rows"), py::arg("channels"), py::arg("groups"),
             py::arg("x"), py::arg("y"), py::arg("weight"), py::arg("bias"), py::arg("scale") = no_channels,
             py::arg("shift") = no_channels, py::arg("eps") = 1e-5f, py::arg("silu") = false, py::arg("x2") = no_rows,
             py::arg("x_channels") = 0, py::arg("residual") = no_rows, py::arg("sum") = no_rows,
             py::arg("in_bias") = no_channels, py::arg("resample") = 0, py::arg("width") = 0,
             py::arg("y_dtype") = -1);

    py::class_<Device>(module, "Device", "What a plan depends on.")
        .def(py::init([](int multiprocessors, int shared_bytes, bool clusters) {
                 return Device{multiprocessors, shared_bytes, clusters};
             }),
             py::arg("multiprocessors"), py::arg("shared_bytes"), py::arg("clusters"));
    module.def("current_device", &current_device, "The calling thread's current device.");

    py::class_<Plan>(module, "Plan", "How group_norm_act is laid over a device.")
        .def_readonly("one_pass", &Plan::one_pass)
        .def_readonly("vector", &Plan::vector)
        .def_readonly("threads", &Plan::threads)
        .def_readonly("slab", &Plan::slab)
        .def_readonly("pieces", &Plan::pieces)
        .def_readonly("slabs", &Plan::slabs)
        .def_readonly("chunks", &Plan::chunks)
        .def_readonly("chunk_rows", &Plan::chunk_rows)
        .def_readonly("shared_bytes", &Plan::shared_bytes)
        .def_readonly("workspace_bytes", &Plan::workspace_bytes);
    module.def("plan_group_norm_act", &plan_group_norm_act, py::arg("arguments"), py::arg("device"), py::arg("variant") = "",
               "The plan for these arguments; variant forces one_pass or two_pass.");
    module.def("group_norm_act", &group_norm_act, py::call_guard<py::gil_scoped_release>(), py::arg("arguments"),
               py::arg("plan"), py::arg("workspace"), py::arg("stream"),
               "Launches y = act(film(group_norm(x))) on a stream of the current device.");
}

inline void bind_guided_step(py::module_& module) {
    py::class_<GuidedStep> step(module, "GuidedStep", "Arguments of guided_step; csrc/cuda/guided_step.h describes them.");
    step.def(py::init([] { return GuidedStep{}; }));
#define FIELD(name) step.def_readwrite(#name, &GuidedStep::name);
    FIELD(samples)
    FIELD(channels)
    FIELD(positions)
    FIELD(x)
    FIELD(known)
    FIELD(score)
    FIELD(noise)
    FIELD(x_out)
    FIELD(x0_out)
    FIELD(known_mask)
    FIELD(history_in)
    FIELD(history_out)
    FIELD(remember_eps)
    FIELD(clip)
    FIELD(guided)
    FIELD(guidance)
    FIELD(guidance_data)
    FIELD(guidance_stride)
    FIELD(table)
    FIELD(table_rows)
    FIELD(step)
    FIELD(step_stride)
    FIELD(seeds)
    FIELD(stream)
    FIELD(copies)
#undef FIELD
    step.def_property("model_out", nullptr, [](GuidedStep& g, const ImageTuple& t) { g.model_out = image_from(t); });
    step.def_property("next", nullptr, [](GuidedStep& g, const ImageTuple& t) { g.next = image_from(t); });
    module.def("guided_step", &guided_step, py::call_guard<py::gil_scoped_release>(), py::arg("arguments"),
               py::arg("stream"), "Launches one step of the reverse diffusion on a stream of the current device.");
}

inline void bind(py::module_& parent) {
    py::module_ module = parent.def_submodule(
        "cuda",
        "CUDA kernels. Activations are (address, sample stride, row stride), vectors of channels (address, type code, sample "
        "stride), images (address, type code, sample stride, channel stride, position stride); type codes are 0 (fp32), "
        "1 (bf16) and 2 (fp16).");
    bind_group_norm_act(module);
    bind_guided_step(module);
}

}  // namespace glide_fast::cuda
