// The CUDA kernels of group_norm_act. Addresses are on the current device; a stream is the address of a cudaStream_t. Each
// function checks its arguments, throws std::invalid_argument before it launches anything and std::runtime_error when a launch
// fails, and returns before the kernel has run. Needs no header of CUDA.
#pragma once

#include <cstdint>
#include <string>

#include "group_norm_act/arguments.h"
#include "group_norm_act/plan.h"

namespace glide_fast::cuda {

// Which kernels may start before those before them on the stream have ended (compute capability 9 and later).
enum class Overlap {
    none,
    second,   // the second of two passes, before the first has ended: nothing that it reads early is written by that one
    earlier,  // the first kernel, too. Only where those before did not write weight and bias, which are read at once; everything
              // else is read after they have ended.
};

// The plan for these arguments that this choice makes; throws std::invalid_argument where it does not fit them.
Plan plan_group_norm_act(const GroupNormAct& arguments, const Device& device, const Choice& choice);

// A plan that fits, where nobody has looked for a better one; `variant` is empty, "one_pass" or "two_pass".
Plan plan_group_norm_act(const GroupNormAct& arguments, const Device& device, const std::string& variant);

// Whether a choice fits these arguments, and the plan that it makes.
bool plan_fits(const GroupNormAct& arguments, const Device& device, const Choice& choice, Plan& plan);

// What a plan depends on, of the calling thread's current device.
Device current_device();

// `workspace` holds plan.workspace_bytes bytes, aligned to 8; it may be used again once the stream has passed the call.
void group_norm_act(const GroupNormAct& arguments, const Plan& plan, std::uintptr_t workspace, std::uintptr_t stream,
                    Overlap overlap = Overlap::none);

}  // namespace glide_fast::cuda
