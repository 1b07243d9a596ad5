// The CPU kernel of resample.
#pragma once

#include "resample/arguments.h"

namespace glide_fast {

// Input of the compiled kernels: the arguments, and how the work is divided.
struct ResampleWork : Resample {
    const float* wide_bias = nullptr;  // bias in fp32, or null
    bool stream = false;  // y is too large for the caches: write it past them, where it is a plain copy and the kernel can
    int threads = 0;
};

// `isa` is empty, or the name of one of the instruction sets in cpu/isa.h. Throws std::invalid_argument for arguments that are
// wrong, before it touches memory.
void resample(const Resample& arguments, int threads, const char* isa);

}  // namespace glide_fast
