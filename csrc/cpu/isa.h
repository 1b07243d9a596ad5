// Which instruction sets a CPU kernel is compiled for, and how one is chosen at run time.
//
// Every `*.kernel.cpp` in csrc is compiled once for each entry below (setup.py holds the flags), with GLIDE_FAST_ISA
// set to the entry's name; the file defines everything in the namespace glide_fast::GLIDE_FAST_ISA. Such a file, and the
// headers it includes, must not instantiate anything from the C++ library: the linker keeps one copy of an inline
// function, and a copy that came from the AVX-512 object would run on a machine without AVX-512.
//
// Where the compiler knows AMX (GLIDE_FAST_AMX is defined then) there is one name more, `amx`: AVX-512 BF16 with tiles. Kernels
// that multiply in tiles are in `*.amx.cpp`; the others run what was compiled for avx512_bf16.
#pragma once

// Expands to X(name, ...) for each instruction set that all kernels are compiled for, best first.
#if defined(__x86_64__)
#define GLIDE_FAST_FOR_EACH_ISA(X, ...) \
    X(avx512_bf16, __VA_ARGS__) X(avx512, __VA_ARGS__) X(avx2, __VA_ARGS__) X(portable, __VA_ARGS__)
#else
#define GLIDE_FAST_FOR_EACH_ISA(X, ...) X(portable, __VA_ARGS__)
#endif

// X(name, ...) for each that `isa` may name, best first.
#if defined(GLIDE_FAST_AMX)
#define GLIDE_FAST_FOR_EACH_NAMED_ISA(X, ...) X(amx, __VA_ARGS__) GLIDE_FAST_FOR_EACH_ISA(X, __VA_ARGS__)
#define GLIDE_FAST_CALL_WITHOUT_TILES(kernel) \
    case Isa::amx: return avx512_bf16::kernel(arguments);
#else
#define GLIDE_FAST_FOR_EACH_NAMED_ISA(X, ...) GLIDE_FAST_FOR_EACH_ISA(X, __VA_ARGS__)
#define GLIDE_FAST_CALL_WITHOUT_TILES(kernel)
#endif

namespace glide_fast {

#define GLIDE_FAST_NAME(name, ...) name,
enum class Isa { GLIDE_FAST_FOR_EACH_NAMED_ISA(GLIDE_FAST_NAME, ) };
#undef GLIDE_FAST_NAME

// Whether this machine has the instruction set.
bool supported(Isa isa);

// The instruction set called `name`; for an empty name the best one of this machine. Throws std::invalid_argument for an
// unknown name, and for an instruction set that this machine does not have.
Isa chosen(const char* name);

}  // namespace glide_fast

// For use in the namespace glide_fast: declares `void kernel(const Arguments&)` for every instruction set, and defines
// `run_kernel(isa, arguments)`, which calls the kernel for `chosen(isa)`.
#define GLIDE_FAST_DECLARE_KERNEL(name, kernel, Arguments) \
    namespace name {                                       \
    void kernel(const Arguments&);                         \
    }
#define GLIDE_FAST_CALL_KERNEL(name, kernel, ...) \
    case Isa::name: return name::kernel(arguments);
#define GLIDE_FAST_KERNEL(kernel, Arguments)                                \
    GLIDE_FAST_FOR_EACH_ISA(GLIDE_FAST_DECLARE_KERNEL, kernel, Arguments)   \
    static void run_##kernel(const char* isa, const Arguments& arguments) { \
        switch (chosen(isa)) {                                              \
            GLIDE_FAST_CALL_WITHOUT_TILES(kernel)                           \
            GLIDE_FAST_FOR_EACH_ISA(GLIDE_FAST_CALL_KERNEL, kernel, )       \
        }                                                                   \
    }
