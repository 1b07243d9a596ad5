// Runs the CPU kernels of csrc on drawn arguments, for tests/ops/test_cpu_sanitized.py, which compiles all of it with
// AddressSanitizer and UBSan: every operand is a heap block that ends with its last element, and gaps between rows are not
// to be written. Usage: driver ISA CASES SEED. What the results should be is tested elsewhere; here, that all of y is written.
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "convolution/winograd.h"
#include "group_norm_act/cpu.h"
#include "guided_step/cpu.h"
#include "resample/cpu.h"

using i64 = std::int64_t;

namespace {

std::mt19937_64 draw;

i64 among(std::initializer_list<i64> choices) { return choices.begin()[draw() % choices.size()]; }
i64 between(i64 low, i64 high) { return low + i64(draw() % std::uint64_t(high - low + 1)); }
bool coin() { return draw() & 1; }

void check(bool holds, const char* what) {
    if (!holds) throw std::runtime_error(what);
}

// Elements of fp32 (type code 0) or bf16 (1), in a block of exactly their size.
class Block {
public:
    Block(i64 count, int dtype) : dtype_(dtype), count_(count), bytes_(new unsigned char[std::size_t(count) * size()]) {}
    // As a struct of arguments has it.
    template <typename T = void>
    T* data() const {
        return reinterpret_cast<T*>(bytes_.get());
    }
    i64 count() const { return count_; }
    void set(i64 i, float value) {
        std::uint32_t bits;
        std::memcpy(&bits, &value, 4);
        const std::uint16_t high = std::uint16_t(bits >> 16);
        if (dtype_ == 1) std::memcpy(bytes_.get() + 2 * i, &high, 2);
        else std::memcpy(bytes_.get() + 4 * i, &bits, 4);
    }
    float get(i64 i) const {
        std::uint32_t bits = 0;
        if (dtype_ == 1) {
            std::uint16_t high;
            std::memcpy(&high, bytes_.get() + 2 * i, 2);
            bits = std::uint32_t(high) << 16;
        } else {
            std::memcpy(&bits, bytes_.get() + 4 * i, 4);
        }
        float value;
        std::memcpy(&value, &bits, 4);
        return value;
    }
    void fill(float value) {
        for (i64 i = 0; i < count_; ++i) set(i, value);
    }
    void randomise() {
        std::normal_distribution<float> normal;
        for (i64 i = 0; i < count_; ++i) set(i, normal(draw));
    }

private:
    std::size_t size() const { return dtype_ == 1 ? 2 : 4; }
    int dtype_;
    i64 count_;
    std::unique_ptr<unsigned char[]> bytes_;
};

// [samples, rows, channels] whose rows and samples may lie apart; the gaps hold NaN.
struct Rows {
    i64 samples, rows, channels, row_stride, sample_stride;
    Block block;

    Rows(i64 n, i64 r, i64 c, int dtype)
        : samples(n), rows(r), channels(c), row_stride(c + among({0, 0, 1, 7})),
          sample_stride(r * row_stride + among({0, 3})),
          block((n - 1) * sample_stride + (r - 1) * row_stride + c, dtype) {
        block.fill(NAN);
    }
    template <typename Visit>
    void each(Visit visit) {
        for (i64 n = 0; n < samples; ++n)
            for (i64 r = 0; r < rows; ++r)
                for (i64 c = 0; c < channels; ++c) visit(n * sample_stride + r * row_stride + c);
    }
    Rows& randomise() {
        std::normal_distribution<float> normal(2.3f, 0.5f);
        each([&](i64 i) { block.set(i, normal(draw)); });
        return *this;
    }
    // All elements written, and no gap.
    void check_written() {
        i64 inside = 0, numbers = 0;
        each([&](i64 i) { inside += std::isfinite(block.get(i)); });
        for (i64 i = 0; i < block.count(); ++i) numbers += !std::isnan(block.get(i));
        check(inside == samples * rows * channels, "an element was not written, or is not finite");
        check(numbers == inside, "a gap between rows was written");
    }
    glide_fast::Rows at() const { return {block.data(), sample_stride, row_stride}; }
};

void group_norm_act_case(const std::string& isa) {
    const int dtype = int(between(0, 1)), out_dtype = coin() ? 0 : dtype, resample = int(between(0, 2));
    const i64 samples = between(1, 2), groups = among({1, 2, 4}), first = among({1, 15, 16, 64, 65, 72, 260, 321});
    const i64 second = groups - first % groups + groups * among({0, 1, 16, 70});  // at least one; all divide
    const bool joined = first % groups || coin();
    const i64 channels = first + (joined ? second : 0), step = resample == 2 ? 2 : 1;
    const i64 width = step * between(1, 8), height = step * between(1, 20), rows = width * height;
    const i64 y_rows = resample == 1 ? 4 * rows : resample == 2 ? rows / 4 : rows;

    Rows x(samples, rows, first, dtype), x2(samples, rows, second, dtype), residual(samples, rows, first, dtype);
    Rows sum(samples, rows, first, dtype), y(samples, y_rows, channels, out_dtype);
    x.randomise();
    x2.randomise();
    residual.randomise();
    const int small = int(between(0, 1));
    Block x_bias(first, small), weight(channels, small), bias(channels, small);
    Block scale((samples - 1) * 2 * channels + channels, small), shift(samples * channels, small);
    for (Block* block : {&x_bias, &weight, &bias, &scale, &shift}) block->randomise();
    const bool film = coin(), added = coin(), biased = coin(), kept = (added || biased) && coin();
    const auto vector = [&](const Block& block, i64 stride) {
        return glide_fast::PerChannel{block.data(), glide_fast::Dtype(small), stride};
    };
    glide_fast::GroupNormAct g{};
    g.dtype = glide_fast::Dtype(dtype);
    g.out_dtype = glide_fast::Dtype(out_dtype);
    g.samples = samples;
    g.rows = rows;
    g.groups = groups;
    g.x_channels = first;
    g.channels = channels;
    g.width = width;
    g.x = x.at();
    if (joined) g.x2 = x2.at();
    if (added) g.residual = residual.at();
    if (kept) g.sum = sum.at();
    g.y = y.at();
    if (biased) g.x_bias = vector(x_bias, 0);
    g.weight = vector(weight, 0);
    g.bias = vector(bias, 0);
    if (film) g.scale = vector(scale, 2 * channels);
    if (film) g.shift = vector(shift, channels);
    g.eps = 1e-5;
    g.silu = coin();
    g.resample = glide_fast::Resampling(resample);
    glide_fast::group_norm_act(g, int(between(1, 3)), isa.c_str());
    y.check_written();
    if (kept) sum.check_written();
}

void resample_case(const std::string& isa) {
    const int dtype = int(between(0, 1)), small = int(between(0, 1));
    const bool up = coin(), added = coin(), biased = coin();
    const i64 images = between(1, 3), channels = among({1, 3, 15, 16, 17, 64, 67, 192}), step = up ? 1 : 2;
    const i64 width = step * between(1, 6), height = step * between(1, 6);
    const i64 y_width = up ? 2 * width : width / 2, y_height = up ? 2 * height : height / 2;
    Rows x(images, width * height, channels, dtype), residual(images, width * height, channels, dtype);
    Rows y(images, y_width * y_height, channels, dtype);
    x.randomise();
    residual.randomise();
    Block bias(channels, small);
    bias.randomise();
    const auto strides = [](const Rows& of, i64 columns) {
        return glide_fast::PixelStrides{of.sample_stride, columns * of.row_stride, of.row_stride};
    };
    glide_fast::Resample r{};
    r.x = x.block.data();
    if (added) r.residual = residual.block.data();
    r.y = y.block.data();
    r.dtype = glide_fast::Dtype(dtype);
    if (biased) r.bias = bias.data();
    r.bias_dtype = glide_fast::Dtype(small);
    r.up = up;
    r.images = images;
    r.height = height;
    r.width = width;
    r.channels = channels;
    r.x_strides = strides(x, width);
    r.y_strides = strides(y, y_width);
    r.residual_strides = strides(residual, width);
    glide_fast::resample(r, int(between(1, 3)), isa.c_str());
    y.check_written();
}

void winograd_case(const std::string& isa) {
    const i64 images = between(1, 3), height = between(1, 40), width = 2 * between(1, 40), channels = 32 * between(1, 2);
    const i64 outputs = 16 * between(1, 5), pixels = images * height * width;
    const int small = int(between(0, 1)), threads = int(between(1, 3));
    const bool biased = coin(), added = coin();
    Block x(pixels * channels, 1), weight(9 * channels * outputs, 1), bias(outputs, small), residual(pixels * outputs, 1);
    for (Block* block : {&x, &weight, &bias, &residual}) block->randomise();
    glide_fast::Winograd w{};
    w.images = images;
    w.height = height;
    w.width = width;
    w.channels = channels;
    w.outputs = outputs;
    Block y(pixels * outputs, 1), scratch(glide_fast::winograd_scratch(w, threads) / 4, 0);
    y.fill(NAN);
    scratch.fill(NAN);
    w.x = x.data<const glide_fast::bf16>();
    w.weight = weight.data<const glide_fast::bf16>();
    if (biased) w.bias = bias.data();
    w.bias_dtype = glide_fast::Dtype(small);
    if (added) w.residual = residual.data<const glide_fast::bf16>();
    w.y = y.data<glide_fast::bf16>();
    w.scratch = scratch.data<unsigned char>();
    glide_fast::winograd(w, threads, isa.c_str());
    for (i64 i = 0; i < y.count(); ++i) check(!std::isnan(y.get(i)), "an element was not written");
}

void guided_step_case(const std::string& isa) {
    using glide_fast::GuidedStep;
    const i64 images = between(1, 3), channels = among({1, 3, 4}), positions = between(1, 400);
    const i64 state = images * channels * positions, table_rows = between(1, 5), copies = between(0, 2);
    const int model_dtype = int(between(0, 1)), input_dtype = int(between(0, 1));
    const bool guided = coin(), known = coin(), scored = coin(), remembers = coin(), apart = coin();
    const i64 outputs = images * (guided ? 2 : 1) * 2 * channels * positions;
    const auto strides = [&](i64 of) {
        return apart ? std::array<i64, 3>{of * positions, 1, of} : std::array<i64, 3>{of * positions, positions, 1};
    };
    const auto images_of = [&](const Block& block, int dtype, i64 of) {
        const auto [sample, channel, position] = strides(of);
        return glide_fast::Images{block.data(), glide_fast::Dtype(dtype), sample, channel, position};
    };
    Block x(state, 0), model_out(outputs, model_dtype), table(table_rows * glide_fast::Column::COUNT, 0);
    Block noise(state, 0), known_x(state, 0), mask(images * positions, 0), score(state, 0), guidance(images, 0);
    Block history(GuidedStep::remembered * state, 0);
    for (Block* block : {&x, &model_out, &table, &noise, &known_x, &mask, &score, &guidance, &history}) block->randomise();
    Block next(state, 0), x0(state, 0), next_history(GuidedStep::remembered * state, 0), inputs(copies * state, input_dtype);
    for (Block* block : {&next, &x0, &next_history, &inputs}) block->fill(NAN);
    std::unique_ptr<i64[]> step(new i64[std::size_t(images)]), seeds(new i64[std::size_t(images)]);
    for (i64 i = 0; i < images; ++i) {
        step[std::size_t(i)] = between(0, table_rows - 1);
        seeds[std::size_t(i)] = i64(draw() >> 1);
    }
    const i64 source = between(0, 2);  // of the noise: none, memory, seeds
    GuidedStep g{};
    g.samples = images;
    g.channels = channels;
    g.positions = positions;
    g.x = x.data<const float>();
    if (source == 1) g.noise = noise.data<const float>();
    if (known) g.known = known_x.data<const float>();
    if (known) g.known_mask = mask.data<const float>();
    if (scored) g.score = score.data<const float>();
    if (remembers) g.history = history.data<const float>();
    g.next_x = next.data<float>();
    g.x0 = x0.data<float>();
    if (remembers) g.next_history = next_history.data<float>();
    g.clip = coin();
    g.remember_eps = coin();
    g.model_out = images_of(model_out, model_dtype, 2 * channels);
    g.guided = guided;
    g.guidance_scale = 3.0f;
    if (coin()) g.guidance_scales = guidance.data<const float>();
    g.guidance_stride = 1;
    g.table = table.data<const float>();
    g.table_rows = table_rows;
    g.step = step.get();
    g.step_stride = 1;
    if (source == 2) g.seeds = seeds.get();
    g.stream = std::uint32_t(draw());
    if (copies) g.inputs = images_of(inputs, input_dtype, channels);
    g.copies = copies;
    glide_fast::guided_step(g, int(between(1, 3)), isa.c_str());
    for (Block* block : {&next, &x0, &next_history, &inputs}) {
        if (block == &next_history && !remembers) continue;
        for (i64 i = 0; i < block->count(); ++i) check(!std::isnan(block->get(i)), "an element was not written");
    }
}

}  // namespace

int main(int count, char** arguments) {
    check(count == 4, "usage: driver ISA CASES SEED");
    draw.seed(std::strtoull(arguments[3], nullptr, 10));
    const std::string isa = arguments[1];
    for (int i = 0; i < std::atoi(arguments[2]); ++i) {
        group_norm_act_case(isa);
        resample_case(isa);
        if (i % 8 == 0) winograd_case(isa);  // takes longer than the others
        guided_step_case(isa);
    }
    std::printf("ok\n");
}
