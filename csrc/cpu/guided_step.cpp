// Python's entry to the CPU kernel of guided_step: checks and the choice of the instruction set.
#include "guided_step.h"

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "entries.h"
#include "isa.h"

namespace glide_fast {

#define X(name)                           \
    namespace name {                      \
    void guided_step(const GuidedStep& g); \
    }
GLIDE_FAST_FOR_EACH_ISA(X)
#undef X

namespace {

// Waking a thread costs about as much as the work on this many elements, of which noise from seeds makes three of one.
constexpr std::int64_t elements_a_thread = 32768;

template <typename T>
T* pointer(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

Layout layout(const Strides& strides) { return {std::get<0>(strides), std::get<1>(strides), std::get<2>(strides)}; }

}  // namespace

void guided_step(std::int64_t images, std::int64_t channels, std::int64_t positions, std::uintptr_t x,
                 std::uintptr_t model_out, int model_dtype, const Strides& model_strides, bool guided,
                 float guidance_scale, std::uintptr_t guidance, std::int64_t guidance_stride, std::uintptr_t table,
                 std::int64_t rows, std::uintptr_t step, std::int64_t step_stride, std::uintptr_t noise,
                 std::uintptr_t seeds, std::uint32_t stream, std::uintptr_t known, std::uintptr_t known_mask,
                 std::uintptr_t score, std::uintptr_t history, bool clip, bool remember_eps, std::uintptr_t next_x,
                 std::uintptr_t x0, std::uintptr_t next_history, std::uintptr_t inputs, int input_dtype,
                 const Strides& input_strides, std::int64_t copies, int threads, const std::string& isa) {
    if (images < 0 || channels < 1 || positions < 1 || rows < 1 || copies < 0)
        throw std::invalid_argument("guided_step: sizes must be positive");
    if (!x || !model_out || !table || !step || !next_x || !x0)
        throw std::invalid_argument("guided_step: x, model_out, table, step, next_x and x0 are needed");
    if (noise && seeds) throw std::invalid_argument("guided_step: noise or seeds, not both");
    if (!known != !known_mask) throw std::invalid_argument("guided_step: known and known_mask come together");
    if (!history != !next_history) throw std::invalid_argument("guided_step: history and next_history come together");
    if (!inputs != (copies == 0)) throw std::invalid_argument("guided_step: inputs and copies come together");
    for (int code : {model_dtype, input_dtype}) {
        if (code != int(Dtype::f32) && code != int(Dtype::bf16))
            throw std::invalid_argument("guided_step: a type code is 0 (fp32) or 1 (bf16)");
    }
    const std::int64_t* steps = pointer<const std::int64_t>(step);
    for (std::int64_t i = 0; i < (step_stride ? images : 1); ++i) {
        if (steps[i * step_stride] < 0 || steps[i * step_stride] >= rows)
            throw std::out_of_range("guided_step: step " + std::to_string(steps[i * step_stride]) + " of " +
                                    std::to_string(rows));
    }
    if (images == 0) return;

    GuidedStep g{};
    g.images = images;
    g.channels = channels;
    g.positions = positions;
    g.x = pointer<const float>(x);
    g.noise = pointer<const float>(noise);
    g.known = pointer<const float>(known);
    g.known_mask = pointer<const float>(known_mask);
    g.score = pointer<const float>(score);
    g.history = pointer<const float>(history);
    g.next_x = pointer<float>(next_x);
    g.x0 = pointer<float>(x0);
    g.next_history = pointer<float>(next_history);
    g.model_out = pointer<const void>(model_out);
    g.model_dtype = Dtype(model_dtype);
    g.model_layout = layout(model_strides);
    g.guided = guided;
    g.guidance = guidance ? pointer<const float>(guidance) : &guidance_scale;
    g.guidance_stride = guidance ? guidance_stride : 0;
    g.table = pointer<const float>(table);
    g.step = steps;
    g.step_stride = step_stride;
    g.seeds = pointer<const std::int64_t>(seeds);
    g.stream = stream;
    g.clip = clip;
    g.remember_eps = remember_eps;
    g.inputs = pointer<void>(inputs);
    g.input_dtype = Dtype(input_dtype);
    g.input_layout = layout(input_strides);
    g.copies = copies;
    const std::int64_t elements = images * channels * positions;
    const std::int64_t work = elements * (seeds ? 3 : 1);
    g.threads = int(std::clamp<std::int64_t>(work / elements_a_thread, 1, std::max(threads, 1)));

#define X(name)                                                              \
    if ((isa.empty() && supported(Isa::name)) || isa == #name) {             \
        if (!supported(Isa::name))                                           \
            throw std::invalid_argument("this CPU does not support " #name); \
        return name::guided_step(g);                                         \
    }
    GLIDE_FAST_FOR_EACH_ISA(X)
#undef X
    throw std::invalid_argument("unknown instruction set " + isa);
}

}  // namespace glide_fast
