// The Python module glide_fast._C. Its functions take raw addresses, sizes and strides, so that it is compiled without torch.
// pybind11 is slow to compile, so only this file includes it; csrc/OP/bind.h lists the functions and classes of an op.
#include <pybind11/pybind11.h>

#include "convolution/bind.h"
#include "cpu/amx.h"
#include "cpu/isa.h"
#include "group_norm_act/bind.h"
#include "guided_step/bind.h"
#include "masked_attention/bind.h"
#include "resample/bind.h"
#include "text_attention/bind.h"
#include "upsampled_convolution/bind.h"

namespace py = pybind11;

namespace {

py::list isas() {
    py::list names;
#define GLIDE_FAST_ADD_NAME(name, ...) \
    if (glide_fast::supported(glide_fast::Isa::name)) names.append(#name);
    GLIDE_FAST_FOR_EACH_NAMED_ISA(GLIDE_FAST_ADD_NAME, )
#undef GLIDE_FAST_ADD_NAME
    return names;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
    module.doc() =
        "C++ kernels of glide_fast; reached through glide_fast.ops. Addresses are integers (0: no tensor), strides are in "
        "elements, type codes are 0 (fp32), 1 (bf16) and 2 (fp16, for CUDA alone), `isa` forces one of isas().";
    module.def("isas", &isas, "Instruction sets that the CPU kernels can use on this machine, best first.");
    module.def("amx_usable", [] { return glide_fast::amx_usable(); },
               "Whether this process may use the processor's AMX tiles, however the kernels were compiled.");
    glide_fast::bind_convolution(module);
    glide_fast::bind_group_norm_act(module);
    glide_fast::bind_guided_step(module);
    glide_fast::bind_masked_attention(module);
    glide_fast::bind_resample(module);
    glide_fast::bind_text_attention(module);
    glide_fast::bind_upsampled_convolution(module);
#ifdef GLIDE_FAST_CUDA
    py::module_ cuda = module.def_submodule("cuda", "CUDA kernels, on the arguments of glide_fast._C.");
    glide_fast::cuda::bind_group_norm_act(cuda);
    glide_fast::cuda::bind_guided_step(cuda);
#endif
}
