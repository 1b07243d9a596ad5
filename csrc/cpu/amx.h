// Whether a process may use the tiles of AMX.
#pragma once

#include <cstdint>

namespace glide_fast {

// What the answer rests on. A test gives functions of its own.
struct AmxMachine {
    // The registers eax, ebx, ecx and edx that CPUID returns; zero for a leaf that the processor does not have.
    void (*cpuid)(unsigned leaf, unsigned subleaf, unsigned (&registers)[4]);
    // What the system saves and restores when it switches threads (XCR0). Asked only where CPUID says that it can be.
    std::uint64_t (*saved_state)();
    // Asks the system for tiles, for this process. Asked only where they would be of use.
    bool (*permission)();
};

// The processor has tiles as large as csrc/cpu/tiles.h wants, and bf16 products; the system saves them and permits them.
bool amx_usable(const AmxMachine& machine);

// The same of this machine. It is asked once in a process.
bool amx_usable();

}  // namespace glide_fast
