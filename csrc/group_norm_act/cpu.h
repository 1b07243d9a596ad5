// The CPU kernel of group_norm_act.
#pragma once

#include <cstdint>

#include "group_norm_act/arguments.h"

namespace glide_fast {

// What a kernel is given: the arguments, how the work is divided, and scratch memory.
struct GroupNormActWork : GroupNormAct {
    bool stream = false;  // y past the caches, where the kernel can: it is larger than what they would keep for the next reader
    int threads = 0;

    // Rows that one partial mean is taken over. A function of the shape alone, so that a result does not depend on the number
    // of threads; and so large that the partial results stay small beside the data.
    std::int64_t block_rows = 0, blocks = 0;

    // Means and sums of squared deviations of [samples, blocks, channels], then of [samples, channels]; the three coefficients
    // of each [samples, channels]; x_bias, or zeros; a row of zeros of dtype.
    double *block_mean = nullptr, *block_m2 = nullptr, *channel_mean = nullptr, *channel_m2 = nullptr;
    float *center = nullptr, *factor = nullptr, *offset = nullptr, *added_bias = nullptr;
    void* zeros = nullptr;

    bool adds() const { return x_bias.data || residual.data; }
};

// `isa` is empty, or the name of one of the instruction sets in cpu/isa.h. Throws std::invalid_argument for arguments that are
// wrong, before it touches memory.
void group_norm_act(const GroupNormAct& arguments, int threads, const char* isa);

}  // namespace glide_fast
