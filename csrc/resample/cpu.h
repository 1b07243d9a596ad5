// The CPU kernel of resample.
#pragma once

#include "resample/arguments.h"

namespace glide_fast {

// What a kernel is given: the arguments, and how the work is divided.
struct ResampleWork : Resample {
    const float* wide_bias = nullptr;  // bias in fp32, or null
    bool stream = false;  // a y that is a mere copy past the caches, where the kernel can: it is larger than what they would keep
    int threads = 0;
};

// `isa` is empty, or the name of one of the instruction sets in cpu/isa.h. Throws std::invalid_argument for arguments that are
// wrong, before it touches memory.
void resample(const Resample& arguments, int threads, const char* isa);

}  // namespace glide_fast
