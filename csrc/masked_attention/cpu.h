// masked_attention on CPUs, by the kernel in csrc/attention.
#pragma once

#include "masked_attention/arguments.h"

namespace glide_fast {

// `isa` is empty, or the name of one of the instruction sets in cpu/isa.h. Throws std::invalid_argument for arguments that are
// wrong, before it touches memory.
void masked_attention(const MaskedAttention& arguments, int threads, const char* isa);

}  // namespace glide_fast
