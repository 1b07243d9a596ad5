#include "cpu/amx.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace glide_fast {

bool amx_usable(const AmxMachine& machine) {
    enum { eax, ebx, ecx, edx };
    unsigned r[4];
    machine.cpuid(1, 0, r);
    if (!(r[ecx] >> 27 & 1)) return false;  // the system has not enabled XGETBV
    machine.cpuid(7, 0, r);
    const bool bf16 = r[edx] >> 22 & 1, tiles = r[edx] >> 24 & 1;
    if (!bf16 || !tiles) return false;
    machine.cpuid(0x1d, 1, r);  // palette 1
    const unsigned row_bytes = r[ebx] & 0xffff, names = r[ebx] >> 16, rows = r[ecx] & 0xffff;
    if (row_bytes < 64 || names < 8 || rows < 16) return false;
    constexpr std::uint64_t shapes_and_contents = 3u << 17;
    if ((machine.saved_state() & shapes_and_contents) != shapes_and_contents) return false;
    return machine.permission();
}

#if defined(__x86_64__) && defined(__linux__)

namespace {

void cpuid(unsigned leaf, unsigned subleaf, unsigned (&r)[4]) {
    if (!__get_cpuid_count(leaf, subleaf, &r[0], &r[1], &r[2], &r[3])) r[0] = r[1] = r[2] = r[3] = 0;
}

std::uint64_t saved_state() {
    unsigned low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return std::uint64_t(high) << 32 | low;
}

// Linux enlarges what it saves of a thread only for processes that ask.
bool permission() {
    constexpr long request = 0x1023, tile_contents = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request, tile_contents) == 0;
}

}  // namespace

bool amx_usable() {
    static const bool answer = amx_usable(AmxMachine{cpuid, saved_state, permission});
    return answer;
}

#else

// How another system permits tiles was never tried.
bool amx_usable() { return false; }

#endif

}  // namespace glide_fast
