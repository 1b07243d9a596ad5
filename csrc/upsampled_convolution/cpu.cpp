// Interleaves the four results of an upsampled convolution. Only bytes are moved, so the elements may have any type.
#include "upsampled_convolution/cpu.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "cpu/pages.h"

namespace glide_fast {
namespace {

// A thread with fewer bytes than this costs more to wake than it saves.
constexpr std::int64_t bytes_a_thread = 131072;
constexpr int places = 4;

}  // namespace

void interleave(const Interleave& arguments, int threads) {
    const char* const from = arguments.x;
    char* const to = arguments.y;
    const std::int64_t images = arguments.images, height = arguments.height, width = arguments.width, pixel = arguments.pixel;
    if (images < 0 || height < 1 || width < 1 || pixel < 1)
        throw std::invalid_argument("interleave: sizes must be positive");
    if (!from || !to) throw std::invalid_argument("interleave: x and y are needed");
    const std::int64_t bytes = images * height * width * places * pixel;
    prefer_large_pages(to, bytes);
    const int team = int(std::clamp<std::int64_t>(bytes / bytes_a_thread, 1, std::max(threads, 1)));
    // A row of the result takes its even pixels from one place, and its odd ones from the next place and column.
#pragma omp parallel for schedule(static) num_threads(team)
    for (std::int64_t row = 0; row < images * height * 2; ++row) {
        const std::int64_t image = row / (2 * height), line = row % (2 * height) / 2, lower = row % 2;
        const char* left = from + (((image * (height + 1) + line + lower) * (width + 1)) * places + 2 * lower) * pixel;
        const char* right = left + (places + 1) * pixel;
        char* out = to + row * 2 * width * pixel;
        for (std::int64_t column = 0; column < width; ++column) {
            std::memcpy(out, left, pixel);
            std::memcpy(out + pixel, right, pixel);
            out += 2 * pixel;
            left += places * pixel;
            right += places * pixel;
        }
    }
}

}  // namespace glide_fast
