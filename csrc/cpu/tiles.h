// The tiles of AMX, for sources named *.amx.cpp: a thread's eight registers of 16 rows of 64 bytes, all of one shape.
//
// A tile is sixteen rows of 16 fp32 sums, or of 32 bf16. _tile_dpbf16ps(c, a, b) adds to c the product of a (16 rows of 16 pairs
// of bf16) and b, whose row i holds for each of the 16 columns the pair of values that pair i of a row of a is multiplied with.
#pragma once

#include <cstdint>

#include <immintrin.h>

namespace glide_fast {
namespace GLIDE_FAST_ISA {

constexpr int tile_side = 16;             // rows; fp32 numbers, or pairs of bf16, in a row
constexpr int tile_words = 16 * tile_side;  // of four bytes
constexpr int tile_row_bytes = 64;

// What LDTILECFG reads.
struct alignas(64) TileShapes {
    std::uint8_t palette, start_row, reserved[14];
    std::uint16_t row_bytes[16];
    std::uint8_t rows[16];
};
static_assert(sizeof(TileShapes) == 64, "as the instruction reads it");

constexpr TileShapes eight_full_tiles = {
    1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

// Neither GCC's nor Clang's intrinsics say that they read memory: a compiler might move a store behind the load of a tile.
static inline void stores_come_first() { asm volatile("" ::: "memory"); }

// The calling thread's tiles while this lives. What the thread had configured before is lost, which others expect: oneDNN compares
// the processor's configuration with its own before every use. Released at the end, since a thread that has tiles in use is
// slower to switch.
class Tiles {
public:
    Tiles() {
        stores_come_first();
        _tile_loadconfig(&eight_full_tiles);
    }
    ~Tiles() { _tile_release(); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
};

}  // namespace GLIDE_FAST_ISA
}  // namespace glide_fast
