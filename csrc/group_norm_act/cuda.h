// The CUDA kernels of group_norm_act. Addresses are on the current device; a stream is the address of a cudaStream_t. Each
// function checks its arguments, throws std::invalid_argument before it launches anything and std::runtime_error when a launch
// fails, and returns before the kernel has run. Needs no header of CUDA.
#pragma once

#include <cstdint>
#include <string>

#include "group_norm_act/arguments.h"
#include "group_norm_act/plan.h"

namespace glide_fast::cuda {

// The plan for these arguments; `variant` is empty, "one_pass" or "two_pass".
Plan plan_group_norm_act(const GroupNormAct& arguments, const Device& device, const std::string& variant);

// What a plan depends on, of the calling thread's current device.
Device current_device();

// `workspace` holds plan.workspace_bytes bytes, aligned to 4; it may be used again once the stream has passed the call.
void group_norm_act(const GroupNormAct& arguments, const Plan& plan, std::uintptr_t workspace, std::uintptr_t stream);

}  // namespace glide_fast::cuda
