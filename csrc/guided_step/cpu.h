// The CPU kernel of guided_step.
#pragma once

#include <cstdint>

#include "guided_step/arguments.h"

namespace glide_fast {

// Input of the compiled kernels: the arguments, and how the work is divided.
struct GuidedStepWork : GuidedStep {
    static constexpr std::int64_t task = 1024;  // elements of one image that a thread takes at a time
    int threads = 0;
};

// `isa` is empty, or the name of one of the instruction sets in cpu/isa.h. Throws std::invalid_argument for arguments that are
// wrong and std::out_of_range for a step outside the table, before it writes anything.
void guided_step(const GuidedStep& arguments, int threads, const char* isa);

}  // namespace glide_fast
