// What each file of csrc adds to the Python module; bindings.cpp calls all of these.
#pragma once

#include <pybind11/pybind11.h>

namespace glide_fast {

void register_group_norm_act(pybind11::module_& module);

}  // namespace glide_fast
