// Which instruction sets a CPU kernel is compiled for, and how one is chosen at run time.
//
// Every `csrc/cpu/*.kernel.cpp` is compiled once for each entry below (setup.py holds the flags), with GLIDE_FAST_ISA
// set to the entry's name; all it defines goes into the namespace glide_fast::GLIDE_FAST_ISA. Such a file, and the
// headers it includes, must not instantiate anything from the C++ library: the linker keeps one copy of an inline
// function, and a copy that came from the AVX-512 object would run on a machine without AVX-512.
#pragma once

#if defined(__x86_64__)
#define GLIDE_FAST_FOR_EACH_ISA(X) X(avx512_bf16) X(avx512) X(avx2) X(portable)
#else
#define GLIDE_FAST_FOR_EACH_ISA(X) X(portable)
#endif

namespace glide_fast {

// Best first, as in GLIDE_FAST_FOR_EACH_ISA.
enum class Isa {
#define X(name) name,
    GLIDE_FAST_FOR_EACH_ISA(X)
#undef X
};

inline bool supported(Isa isa) {
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    switch (isa) {
        case Isa::avx512_bf16: return avx512 && __builtin_cpu_supports("avx512bf16");
        case Isa::avx512: return avx512;
        case Isa::avx2: return avx2;
        case Isa::portable: return true;
    }
#endif
    return isa == Isa::portable;
}

}  // namespace glide_fast
