// The CPU kernel of 3x3 convolutions by Winograd's algorithm.
#pragma once

#include <cstdint>

#include "convolution/arguments.h"

namespace glide_fast {

// How the work is divided. A pair is two neighbouring pixels of a row of the result. A strip is the part of the pictures that
// is transformed at a time: whole pictures, or rows of one. `outputs` are channels of the result.
struct WinogradPlan {
    static constexpr std::int64_t rows_at_once = 8;     // pairs whose sums a matrix product keeps in registers
    static constexpr std::int64_t block = 48;           // outputs whose sums a matrix product keeps in registers
    static constexpr std::int64_t pairs_at_once = 128;  // pairs whose four products are stored before they are combined
    static constexpr std::int64_t line = 64;            // bytes of a cache line

    std::int64_t pairs;                     // in a row
    std::int64_t strip_images, strip_rows;  // pictures in a strip, and rows of each
    std::int64_t plane;                     // elements of one of the four transformed pictures of a strip
    std::int64_t weights, products;         // elements that a thread stores of transformed weights and of products
    std::int64_t thread_bytes, bytes;       // scratch memory of a thread, and in all

    WinogradPlan(std::int64_t images, std::int64_t height, std::int64_t width, std::int64_t channels, int threads) {
        pairs = width / 2;
        // Many enough rows that a thread uses the weights it transformed for some hundred pairs; few enough that the strip
        // stays in the caches.
        const std::int64_t most = 1024 * std::int64_t(threads) / pairs;
        strip_rows = most < 1 ? 1 : most < height ? most : height;
        strip_images = most < 2 * height ? 1 : most / height < images ? most / height : images;
        // A matrix product reads rows_at_once pairs even where fewer are left: the plane is longer by what it then ignores.
        plane = (strip_images * (strip_rows + 2) * pairs + rows_at_once) * channels;
        weights = 4 * 3 * channels * block;
        products = 4 * pairs_at_once * block;
        thread_bytes = rounded(2 * weights) + rounded(4 * products);
        bytes = rounded(4 * 2 * plane) + threads * thread_bytes;
    }

    static std::int64_t rounded(std::int64_t size) { return (size + line - 1) / line * line; }
    // Outputs of the next block, of the `left` that remain: 48, or less at the end, so that 64 become 32 + 32 and not 48 + 16.
    static std::int64_t block_of(std::int64_t left) { return left >= block && left != 64 ? block : left < 32 ? left : 32; }
};

// Input of the compiled kernels: the arguments, and the number of threads.
struct WinogradWork : Winograd {
    int threads = 0;
};

// Bytes of scratch memory that winograd() needs. Reads only the sizes of x from `arguments`; throws as winograd() does.
std::int64_t winograd_scratch(const Winograd& arguments, int threads);

// `isa` is empty, or the name of one of the instruction sets in cpu/isa.h. Throws std::invalid_argument for arguments that are
// wrong, before it touches memory.
void winograd(const Winograd& arguments, int threads, const char* isa);

}  // namespace glide_fast
