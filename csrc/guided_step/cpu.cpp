// Entry to the CPU kernel of guided_step: checks the arguments, chooses the instruction set and the number of threads.
#include "guided_step/cpu.h"

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "cpu/isa.h"

namespace glide_fast {

GLIDE_FAST_KERNEL(guided_step, GuidedStepWork)

namespace {

// Waking a thread costs about as much as the work on this many elements; noise from seeds makes the work three times as large.
constexpr std::int64_t elements_a_thread = 32768;

void check(const GuidedStep& g) {
    const auto require = [](bool holds, const char* what) {
        if (!holds) throw std::invalid_argument(std::string("guided_step: ") + what);
    };
    require(g.samples >= 0 && g.channels >= 1 && g.positions >= 1 && g.table_rows >= 1 && g.copies >= 0,
            "sizes must be positive");
    require(g.x && g.model_out.data && g.table && g.step && g.next_x && g.x0,
            "x, model_out, table, step, next_x and x0 are needed");
    require(!(g.noise && g.seeds), "noise or seeds, not both");
    require(!g.known == !g.known_mask, "known and known_mask come together");
    require(!g.history == !g.next_history, "history and next_history come together");
    require(!g.inputs.data == (g.copies == 0), "inputs and copies come together");
    for (const Dtype type : {g.model_out.dtype, g.inputs.dtype})
        require(type == Dtype::f32 || type == Dtype::bf16, "a type code is 0 (fp32) or 1 (bf16)");
    for (std::int64_t i = 0; i < (g.step_stride ? g.samples : 1); ++i) {
        const std::int64_t step = g.step[i * g.step_stride];
        if (step < 0 || step >= g.table_rows)
            throw std::out_of_range("guided_step: step " + std::to_string(step) + " of " + std::to_string(g.table_rows));
    }
}

}  // namespace

void guided_step(const GuidedStep& arguments, int threads, const char* isa) {
    check(arguments);
    GuidedStepWork g{arguments};
    if (g.samples == 0) return;
    const std::int64_t elements = g.samples * g.channels * g.positions;
    const std::int64_t work = elements * (g.seeds ? 3 : 1);
    g.threads = int(std::clamp<std::int64_t>(work / elements_a_thread, 1, std::max(threads, 1)));
    run_guided_step(isa, g);
}

}  // namespace glide_fast
