// Large pages for new memory.
#pragma once

#include <cstdint>

namespace glide_fast {

// Asks Linux for large pages where some fit into `memory`, which is about to be written for the first time: it then takes one
// page fault for 2 MiB instead of 512, which cost several times as much as the writing. No effect on memory that was written
// before.
void prefer_large_pages(void* memory, std::int64_t bytes);

}  // namespace glide_fast
