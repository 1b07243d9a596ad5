// The Python module glide_fast._C: raw addresses, sizes and strides in, nothing of torch.
#include <pybind11/pybind11.h>


#include "cpu/isa.h"
#include "module.h"

PYBIND11_MODULE(_C, module) {
    namespace py = pybind11;
    module.doc() = "C++ kernels of glide_fast; reached through glide_fast.ops.";
    module.def(
        "isas",
        [] {
            py::list names;
#define X(name) \
    if (glide_fast::supported(glide_fast::Isa::name)) names.append(#name);
            GLIDE_FAST_FOR_EACH_ISA(X)
#undef X
            return names;
        },
        "Instruction sets that the CPU kernels can use on this machine, best first.");
    glide_fast::register_group_norm_act(module);
}
