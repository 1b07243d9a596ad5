// What Python may call of the CUDA kernels; csrc/bindings.cpp names the arguments. Addresses are integers (0: none), on the
// current device; strides are in elements; a stream is the address of a cudaStream_t. Each entry checks its arguments, throws
// std::invalid_argument before it launches anything and std::runtime_error when a launch fails, and returns before the kernel
// has run. Needs no header of CUDA.
#pragma once

#include <cstdint>
#include <string>

#include "group_norm_act.h"
#include "group_norm_act_plan.h"
#include "guided_step.h"

namespace glide_fast::cuda {

// The plan for these arguments; `variant` is empty, "one_pass" or "two_pass".
Plan plan_group_norm_act(const GroupNormAct& g, const Device& device, const std::string& variant);

Device current_device();

// `workspace` holds plan.workspace_bytes bytes, aligned to 4; it may be used again once the stream has passed the call.
void group_norm_act(const GroupNormAct& g, const Plan& plan, std::uintptr_t workspace, std::uintptr_t stream);

void guided_step(const GuidedStep& g, std::uintptr_t stream);

}  // namespace glide_fast::cuda
