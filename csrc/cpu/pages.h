// How fresh memory for large results comes from the system.
#pragma once

#include <cstdint>

namespace glide_fast {

// Ask for large pages (Linux) where some fit into the memory that is about to be written: fresh memory then costs one page fault
// for 2 MiB instead of 512, which take several times as long as the writing. It changes nothing for memory that was used before.
void prefer_large_pages(void* memory, std::int64_t bytes);

}  // namespace glide_fast
