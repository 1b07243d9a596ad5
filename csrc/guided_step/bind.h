// The bindings of guided_step. Included by bindings.cpp alone.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "from_python.h"
#include "guided_step/cpu.h"
#ifdef GLIDE_FAST_CUDA
#include "guided_step/cuda.h"
#endif

namespace pybind11::detail {

template <>
struct type_caster<glide_fast::Images> {
    PYBIND11_TYPE_CASTER(glide_fast::Images, const_name("tuple[int, int, int, int, int]"));
    bool load(handle from, bool) {
        return glide_fast::read_members(from, value.data, value.dtype, value.sample_stride, value.channel_stride,
                                        value.position_stride);
    }
};

}  // namespace pybind11::detail

namespace glide_fast {

inline void bind_guided_step(py::module_& module) {
    py::class_<GuidedStep>(module, "GuidedStep",
                           "Arguments of guided_step; csrc/guided_step/arguments.h describes them. model_out and inputs are "
                           "(address, type code, sample stride, channel stride, position stride).")
        .def(py::init([](std::int64_t samples, std::int64_t channels, std::int64_t positions, Address x,
                         const Images& model_out, bool guided, float guidance_scale, Address guidance_scales,
                         Stride guidance_stride, Address table, std::int64_t table_rows, Address step, Stride step_stride,
                         Address noise, Address seeds, std::uint32_t stream, Address known, Address known_mask,
                         Address score, Address history, bool clip, bool remember_eps, Address next_x, Address x0,
                         Address next_history, const Images& inputs, std::int64_t copies) {
                 GuidedStep g{};
                 g.samples = samples;
                 g.channels = channels;
                 g.positions = positions;
                 g.x = pointer<const float>(x);
                 g.model_out = model_out;
                 g.guided = guided;
                 g.guidance_scale = guidance_scale;
                 g.guidance_scales = pointer<const float>(guidance_scales);
                 g.guidance_stride = guidance_stride;
                 g.table = pointer<const float>(table);
                 g.table_rows = table_rows;
                 g.step = pointer<const std::int64_t>(step);
                 g.step_stride = step_stride;
                 g.noise = pointer<const float>(noise);
                 g.seeds = pointer<const std::int64_t>(seeds);
                 g.stream = stream;
                 g.known = pointer<const float>(known);
                 g.known_mask = pointer<const float>(known_mask);
                 g.score = pointer<const float>(score);
                 g.history = pointer<const float>(history);
                 g.clip = clip;
                 g.remember_eps = remember_eps;
                 g.next_x = pointer<float>(next_x);
                 g.x0 = pointer<float>(x0);
                 g.next_history = pointer<float>(next_history);
                 g.inputs = inputs;
                 g.copies = copies;
                 return g;
             }),
             py::arg("samples"), py::arg("channels"), py::arg("positions"), py::arg("x"), py::arg("model_out"),
             py::arg("guided"), py::arg("guidance_scale"), py::arg("guidance_scales"), py::arg("guidance_stride"),
             py::arg("table"), py::arg("table_rows"), py::arg("step"), py::arg("step_stride"), py::arg("noise"),
             py::arg("seeds"), py::arg("stream"), py::arg("known"), py::arg("known_mask"), py::arg("score"),
             py::arg("history"), py::arg("clip"), py::arg("remember_eps"), py::arg("next_x"), py::arg("x0"),
             py::arg("next_history"), py::arg("inputs"), py::arg("copies"));
    module.def(
        "guided_step",
        [](const GuidedStep& arguments, int threads, const std::string& isa) { guided_step(arguments, threads, isa.c_str()); },
        py::call_guard<py::gil_scoped_release>(), py::arg("arguments"), py::arg("threads"), py::arg("isa") = "",
        "One step of the reverse diffusion, from the network's output to the next state.");
}

#ifdef GLIDE_FAST_CUDA
namespace cuda {

inline void bind_guided_step(py::module_& module) {
    module.def("guided_step", &guided_step, py::call_guard<py::gil_scoped_release>(), py::arg("arguments"), py::arg("stream"),
               "Launches one step of the reverse diffusion on a stream of the current device.");
}

}  // namespace cuda
#endif

}  // namespace glide_fast
