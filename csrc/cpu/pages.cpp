#include "cpu/pages.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace glide_fast {

#if defined(MADV_HUGEPAGE)

void prefer_large_pages(void* memory, std::int64_t bytes) {
    constexpr std::uintptr_t page = std::uintptr_t(2) << 20, least = 2 * page;
    const auto address = reinterpret_cast<std::uintptr_t>(memory);
    const std::uintptr_t first = (address + page - 1) / page * page, last = (address + std::uintptr_t(bytes)) / page * page;
    // Where the system refuses, the memory keeps its small pages, which work too.
    if (last > first && last - first >= least) (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}

#else

void prefer_large_pages(void*, std::int64_t) {}

#endif

}  // namespace glide_fast
