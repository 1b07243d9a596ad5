// Four pictures, one for each place within a pixel, become one of twice the height and width: the last step of a convolution of
// an upsampled picture (glide_fast/ops/upsampled_convolution/__init__.py). Bytes are moved, whatever their type.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "entries.h"
#include "pages.h"

namespace glide_fast {
namespace {

// Below this many bytes a thread, waking it costs more than it saves.
constexpr std::int64_t bytes_a_thread = 131072;
constexpr int places = 4;

}  // namespace

void interleave(std::uintptr_t x, std::uintptr_t y, const std::tuple<std::int64_t, std::int64_t, std::int64_t>& sizes,
                std::int64_t pixel, int threads) {
    const std::int64_t images = std::get<0>(sizes), height = std::get<1>(sizes), width = std::get<2>(sizes);
    if (images < 0 || height < 1 || width < 1 || pixel < 1)
        throw std::invalid_argument("interleave: sizes must be positive");
    if (!x || !y) throw std::invalid_argument("interleave: x and y are needed");
    const char* from = reinterpret_cast<const char*>(x);
    char* to = reinterpret_cast<char*>(y);
    const std::int64_t bytes = images * height * width * places * pixel;
    prefer_large_pages(to, bytes);
    const int team = int(std::clamp<std::int64_t>(bytes / bytes_a_thread, 1, std::max(threads, 1)));
    // A row of the result takes its even pixels from one place and its odd ones from another, a pixel further.
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
