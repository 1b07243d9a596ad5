// The CPU kernel of 3x3 convolutions by Winograd's algorithm.
#pragma once

#include <cstdint>

#include "convolution/arguments.h"

namespace glide_fast {

// How the work is divided. A pair is two neighbouring pixels of a row of the result.
struct WinogradPlan {
    static constexpr std::int64_t rows_at_once = 8;   // pairs that one product has in registers
    static constexpr std::int64_t block = 48;         // outputs that one product has in registers
    static constexpr std::int64_t pairs_at_once = 128;  // pairs whose products are kept until all four are there
    static constexpr std::int64_t line = 64;          // bytes

    std::int64_t pairs;                   // of a row
    std::int64_t strip_images, strip_rows;  // transformed at a time: whole pictures, or rows of one
    std::int64_t plane;                   // elements of one of the four transformed pictures of a strip
    std::int64_t weights, products;       // elements of a thread's transformed weights and of its products
    std::int64_t thread_bytes, bytes;

    WinogradPlan(std::int64_t images, std::int64_t height, std::int64_t width, std::int64_t channels, int threads) {
        pairs = width / 2;
        // So many that a thread transforms weights for some hundred pairs, so few that the strip stays in the caches.
        const std::int64_t most = 1024 * std::int64_t(threads) / pairs;
        strip_rows = most < 1 ? 1 : most < height ? most : height;
        strip_images = most < 2 * height ? 1 : most / height < images ? most / height : images;
        // Behind it what a product of fewer than rows_at_once pairs reads and drops.
        plane = (strip_images * (strip_rows + 2) * pairs + rows_at_once) * channels;
        weights = 4 * 3 * channels * block;
        products = 4 * pairs_at_once * block;
        thread_bytes = rounded(2 * weights) + rounded(4 * products);
        bytes = rounded(4 * 2 * plane) + threads * thread_bytes;
    }

    static std::int64_t rounded(std::int64_t size) { return (size + line - 1) / line * line; }
    // Of the outputs that are left: 48, or 32 where that leaves no block of 16 alone.
    static std::int64_t block_of(std::int64_t left) { return left >= block && left != 64 ? block : left < 32 ? left : 32; }
};

// What a kernel is given.
struct WinogradWork : Winograd {
    int threads = 0;
};

// Bytes that winograd() wants as scratch, of which the sizes of x are read. Throws as winograd() does.
std::int64_t winograd_scratch(const Winograd& arguments, int threads);

// `isa` is empty, or the name of one of the instruction sets in cpu/isa.h. Throws std::invalid_argument for arguments that are
// wrong, before it touches memory.
void winograd(const Winograd& arguments, int threads, const char* isa);

}  // namespace glide_fast
