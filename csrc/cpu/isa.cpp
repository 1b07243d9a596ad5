#include "cpu/isa.h"

#include <stdexcept>
#include <string>

#include "cpu/amx.h"

namespace glide_fast {

bool supported(Isa isa) {
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    const bool avx512_bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
    switch (isa) {
#if defined(GLIDE_FAST_AMX)
        case Isa::amx: return avx512_bf16 && amx_usable();
#endif
        case Isa::avx512_bf16: return avx512_bf16;
        case Isa::avx512: return avx512;
        case Isa::avx2: return avx2;
        case Isa::portable: return true;
    }
#endif
    return isa == Isa::portable;
}

Isa chosen(const char* name) {
    const std::string wanted(name);
#define GLIDE_FAST_CHOOSE(isa, ...)                                         \
    if ((wanted.empty() && supported(Isa::isa)) || wanted == #isa) {        \
        if (!supported(Isa::isa))                                           \
            throw std::invalid_argument("this CPU does not support " #isa); \
        return Isa::isa;                                                    \
    }
    GLIDE_FAST_FOR_EACH_NAMED_ISA(GLIDE_FAST_CHOOSE, )
#undef GLIDE_FAST_CHOOSE
    throw std::invalid_argument("unknown instruction set " + wanted);
}

}  // namespace glide_fast
