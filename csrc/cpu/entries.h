// What Python may call of the CPU kernels; csrc/bindings.cpp names the arguments. Addresses are integers (0: none), strides are
// in elements, types are the codes of dtype.h, and `isa` is empty or one of the names in isa.h. Each checks its arguments and
// throws std::invalid_argument before it touches memory.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>

namespace glide_fast {

using Strides = std::tuple<std::int64_t, std::int64_t, std::int64_t>;  // of images, channels, positions

using RowsAt = std::tuple<std::uintptr_t, std::int64_t, std::int64_t>;  // strides of samples and rows
using ChannelsAt = std::tuple<std::uintptr_t, int, std::int64_t>;  // type, stride of samples

// csrc/cpu/group_norm_act.h describes the arguments. `width` is read where `resample` (0 none, 1 nearest_x2, 2 mean_2x2) is not 0.
void group_norm_act(int dtype, int out_dtype, std::int64_t samples, std::int64_t rows, std::int64_t x_channels,
                    std::int64_t x2_channels, std::int64_t groups, std::int64_t width, const RowsAt& x,
                    const RowsAt& x2, const RowsAt& residual, const RowsAt& sum, const RowsAt& y,
                    const ChannelsAt& x_bias, const ChannelsAt& weight, const ChannelsAt& bias, const ChannelsAt& scale,
                    const ChannelsAt& shift, double eps, bool silu, int resample, int threads, const std::string& isa);

void guided_step(std::int64_t images, std::int64_t channels, std::int64_t positions, std::uintptr_t x,
                 std::uintptr_t model_out, int model_dtype, const Strides& model_strides, bool guided,
                 float guidance_scale, std::uintptr_t guidance, std::int64_t guidance_stride, std::uintptr_t table,
                 std::int64_t rows, std::uintptr_t step, std::int64_t step_stride, std::uintptr_t noise,
                 std::uintptr_t seeds, std::uint32_t stream, std::uintptr_t known, std::uintptr_t known_mask,
                 std::uintptr_t score, std::uintptr_t history, bool clip, bool remember_eps, std::uintptr_t next_x,
                 std::uintptr_t x0, std::uintptr_t next_history, std::uintptr_t inputs, int input_dtype,
                 const Strides& input_strides, std::int64_t copies, int threads, const std::string& isa);

// Sizes are images, height, width and channels of x; strides those of images, rows and columns. `up`: nearest x2, else 2x2 mean.
void resample(std::uintptr_t x, std::uintptr_t y, std::uintptr_t residual, int dtype, std::uintptr_t bias,
              int bias_dtype, bool up,
              const std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t>& sizes,
              const Strides& x_strides, const Strides& y_strides, const Strides& residual_strides, int threads,
              const std::string& isa);

using PictureSizes = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t>;  // images, height, width, channels

// Bytes that winograd() wants as scratch.
std::int64_t winograd_scratch(const PictureSizes& sizes, int threads);

// csrc/cpu/winograd.h describes the arguments; all but bias are bf16 and dense.
void winograd(std::uintptr_t x, std::uintptr_t weight, std::uintptr_t bias, int bias_dtype, std::uintptr_t residual,
              std::uintptr_t y, const PictureSizes& sizes, std::int64_t outputs, std::uintptr_t scratch, int threads,
              const std::string& isa);

// x is [images, height + 1, width + 1, 4 pixels], y [images, 2 height, 2 width, pixel]; sizes are images, height and width, a
// pixel is its number of bytes. Pixel (i, j) of y's lower right places is (i + 1, j + 1) of the fourth pixels of x, and so on.
void interleave(std::uintptr_t x, std::uintptr_t y, const std::tuple<std::int64_t, std::int64_t, std::int64_t>& sizes,
                std::int64_t pixel, int threads);

// The rows of q, k, v and y are tokens. `lengths` has an int64 a sample: keys that it has.
void masked_attention(const RowsAt& q, const RowsAt& k, const RowsAt& v, const RowsAt& y, std::uintptr_t lengths,
                      bool causal, int dtype, std::int64_t samples, std::int64_t heads, std::int64_t head_size,
                      std::int64_t queries, std::int64_t keys, int threads, const std::string& isa);

void text_attention(std::uintptr_t qkv, std::uintptr_t text, std::uintptr_t y, int dtype, std::int64_t samples,
                    std::int64_t heads, std::int64_t head_size, std::int64_t tokens, std::int64_t text_tokens,
                    std::int64_t qkv_sample_stride, std::int64_t qkv_token_stride, std::int64_t text_sample_stride,
                    std::int64_t text_token_stride, std::int64_t y_sample_stride, std::int64_t y_token_stride,
                    int threads, const std::string& isa);

}  // namespace glide_fast
