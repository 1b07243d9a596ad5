// The CPU kernel of upsampled_convolution for the step after the convolution: interleaving its four results.
#pragma once

#include "upsampled_convolution/arguments.h"

namespace glide_fast {

// Throws std::invalid_argument for arguments that are wrong, before it touches memory.
void interleave(const Interleave& arguments, int threads);

}  // namespace glide_fast
