#include "cpu/cache.h"

#include <unistd.h>

#include <fstream>

namespace glide_fast {
namespace {

constexpr std::int64_t when_unknown = std::int64_t(32) << 20;

std::int64_t last_level_bytes() {
    // Linux names the one cache that core 0 uses. The C library may add up all caches of a socket, of which a virtual machine
    // has only a part.
    std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index3/size");
    std::int64_t kibibytes = 0;
    if (file >> kibibytes && kibibytes > 0) return kibibytes << 10;
#if defined(_SC_LEVEL3_CACHE_SIZE)
    if (const long bytes = sysconf(_SC_LEVEL3_CACHE_SIZE); bytes > 0) return bytes;
#endif
    return when_unknown;
}

}  // namespace

bool too_large_to_keep(std::int64_t bytes) {
    static const std::int64_t most = last_level_bytes() / 2;
    return bytes > most;
}

}  // namespace glide_fast
