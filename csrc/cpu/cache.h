// Whether a result is worth a place in the caches.
#pragma once

#include <cstdint>

namespace glide_fast {

// A result larger than half of the last level of cache: the next reader starts at its beginning, which is gone by then. An
// ordinary store reads the cache line first, so written past the caches it costs half the traffic.
bool too_large_to_keep(std::int64_t bytes);

}  // namespace glide_fast
