// The CPU kernel of group_norm_act.
#pragma once

#include <cstdint>

#include "group_norm_act/arguments.h"

namespace glide_fast {

// Input of the compiled kernels: the arguments, how the work is divided, and scratch memory.
struct GroupNormActWork : GroupNormAct {
    bool stream = false;  // y is too large for the caches: write it past them where the kernel can
    int threads = 0;

    // Rows in a block, and blocks in a sample; partial means are taken over a block. block_rows depends on the shape alone, so
    // that a result does not depend on the number of threads; and it is so large that the partial means stay small beside the
    // data.
    std::int64_t block_rows = 0, blocks = 0;

    // Scratch memory. m2: the sum of squared deviations from the mean.
    double *block_mean = nullptr, *block_m2 = nullptr;              // [samples, blocks, channels]
    double *channel_mean = nullptr, *channel_m2 = nullptr;          // [samples, channels]
    float *center = nullptr, *factor = nullptr, *offset = nullptr;  // [samples, channels]: act((x - center) * factor + offset)
    float* added_bias = nullptr;  // [x_channels]: x_bias in fp32, or zeros without one; only where adds()
    void* zeros = nullptr;        // [x_channels] of dtype, in place of a residual; only where adds()

    bool adds() const { return x_bias.data || residual.data; }
};

// `isa` is empty, or the name of one of the instruction sets in cpu/isa.h. Throws std::invalid_argument for arguments that are
// wrong, before it touches memory.
void group_norm_act(const GroupNormAct& arguments, int threads, const char* isa);

}  // namespace glide_fast
