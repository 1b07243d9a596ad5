// Whether a result should be written past the caches.
#pragma once

#include <cstdint>

namespace glide_fast {

// Whether `bytes` are more than half of the last-level cache. The beginning of such a result, where the next reader starts, has
// left the cache by then; and a store past the caches costs half the traffic, since an ordinary one reads the cache line first.
bool too_large_to_keep(std::int64_t bytes);

}  // namespace glide_fast
