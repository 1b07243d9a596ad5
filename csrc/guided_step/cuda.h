// The CUDA kernel of guided_step. Needs no header of CUDA.
#pragma once

#include <cstdint>

#include "guided_step/arguments.h"

namespace glide_fast::cuda {

// Launches the kernel on a stream (the address of a cudaStream_t) of the current device, which must hold the tensors. Throws
// std::invalid_argument before it launches anything and std::runtime_error when a launch fails; returns before the kernel has
// run. The step is read on the device: one outside the table makes its image NaN.
void guided_step(const GuidedStep& arguments, std::uintptr_t stream);

}  // namespace glide_fast::cuda
