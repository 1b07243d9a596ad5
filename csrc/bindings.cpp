// The Python module glide_fast._C: raw addresses, sizes and strides in, nothing of torch. The only file that pays for pybind11.
#include <pybind11/pybind11.h>

#include "cpu/entries.h"
#include "cpu/isa.h"
#ifdef GLIDE_FAST_CUDA
#include "cuda/bindings.h"
#endif

namespace py = pybind11;

namespace {

py::list isas() {
    py::list names;
#define X(name) \
    if (glide_fast::supported(glide_fast::Isa::name)) names.append(#name);
    GLIDE_FAST_FOR_EACH_ISA(X)
#undef X
    return names;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
    module.doc() =
        "C++ kernels of glide_fast; reached through glide_fast.ops. Addresses are integers (0: none), strides are in "
        "elements, type codes are 0 (fp32) and 1 (bf16), `isa` forces one of isas().";
    module.def("isas", &isas, "Instruction sets that the CPU kernels can use on this machine, best first.");
    module.def("group_norm_act", &glide_fast::group_norm_act, py::call_guard<py::gil_scoped_release>(),
               py::arg("dtype"), py::arg("out_dtype"), py::arg("samples"), py::arg("rows"), py::arg("x_channels"),
               py::arg("x2_channels"), py::arg("groups"), py::arg("width"), py::arg("x"), py::arg("x2"),
               py::arg("residual"), py::arg("sum"), py::arg("y"), py::arg("x_bias"), py::arg("weight"), py::arg("bias"),
               py::arg("scale"), py::arg("shift"), py::arg("eps"), py::arg("silu"), py::arg("resample"),
               py::arg("threads"), py::arg("isa") = "",
               "y = resample(act(film(group_norm(cat(x + x_bias + residual, x2))))) over channels-last rows. Activations are "
               "(address, sample stride, row stride), vectors of channels (address, type code, sample stride).");
    module.def("guided_step", &glide_fast::guided_step, py::call_guard<py::gil_scoped_release>(), py::arg("images"),
               py::arg("channels"), py::arg("positions"), py::arg("x"), py::arg("model_out"), py::arg("model_dtype"),
               py::arg("model_strides"), py::arg("guided"), py::arg("guidance_scale"), py::arg("guidance"),
               py::arg("guidance_stride"), py::arg("table"), py::arg("rows"), py::arg("step"), py::arg("step_stride"),
               py::arg("noise"), py::arg("seeds"), py::arg("stream"), py::arg("known"), py::arg("known_mask"),
               py::arg("score"), py::arg("history"), py::arg("clip"), py::arg("remember_eps"), py::arg("next_x"),
               py::arg("x0"), py::arg("next_history"), py::arg("inputs"), py::arg("input_dtype"),
               py::arg("input_strides"), py::arg("copies"), py::arg("threads"), py::arg("isa") = "",
               "One step of the reverse diffusion, from the network's output to the next state.");
    module.def("resample", &glide_fast::resample, py::call_guard<py::gil_scoped_release>(), py::arg("x"), py::arg("y"),
               py::arg("residual"), py::arg("dtype"), py::arg("bias"), py::arg("bias_dtype"), py::arg("up"),
               py::arg("sizes"), py::arg("x_strides"), py::arg("y_strides"), py::arg("residual_strides"),
               py::arg("threads"), py::arg("isa") = "",
               "y = x + bias + residual, repeated 2x2 times (up) or its means over 2x2 pixels, channels-last.");
    module.def("interleave", &glide_fast::interleave, py::call_guard<py::gil_scoped_release>(), py::arg("x"), py::arg("y"),
               py::arg("sizes"), py::arg("pixel"), py::arg("threads"),
               "Four pictures side by side in x's pixels, one for each place, become one of twice the size.");
    module.def("winograd_scratch", &glide_fast::winograd_scratch, py::arg("sizes"), py::arg("threads"),
               "Bytes of scratch that winograd wants for x's sizes (images, height, width, channels).");
    module.def("winograd", &glide_fast::winograd, py::call_guard<py::gil_scoped_release>(), py::arg("x"), py::arg("weight"),
               py::arg("bias"), py::arg("bias_dtype"), py::arg("residual"), py::arg("y"), py::arg("sizes"), py::arg("outputs"),
               py::arg("scratch"), py::arg("threads"), py::arg("isa") = "",
               "y = conv3x3(x) + bias + residual, channels-last and dense; the weight as winograd.h has it.");
    module.def("masked_attention", &glide_fast::masked_attention, py::call_guard<py::gil_scoped_release>(), py::arg("q"),
               py::arg("k"), py::arg("v"), py::arg("y"), py::arg("lengths"), py::arg("causal"), py::arg("dtype"),
               py::arg("samples"), py::arg("heads"), py::arg("head_size"), py::arg("queries"), py::arg("keys"),
               py::arg("threads"), py::arg("isa") = "",
               "Attention of heads side by side under a mask. q, k, v and y are (address, sample stride, row stride).");
    module.def("text_attention", &glide_fast::text_attention, py::call_guard<py::gil_scoped_release>(), py::arg("qkv"),
               py::arg("text"), py::arg("y"), py::arg("dtype"), py::arg("samples"), py::arg("heads"),
               py::arg("head_size"), py::arg("tokens"), py::arg("text_tokens"), py::arg("qkv_sample_stride"),
               py::arg("qkv_token_stride"), py::arg("text_sample_stride"), py::arg("text_token_stride"),
               py::arg("y_sample_stride"), py::arg("y_token_stride"), py::arg("threads"), py::arg("isa") = "",
               "Attention of packed heads over the text's keys and their own; channels side by side.");
#ifdef GLIDE_FAST_CUDA
    glide_fast::cuda::bind(module);
#endif
}
