// Checks of the emulated processor itself, and of csrc/cpu/amx.cpp on processors and systems that are made up. The argument says
// which; what the emulated processor refuses ends the program with 70.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>

#include <immintrin.h>

#include "cpu/amx.h"
#include "cpu/tiles.h"

using glide_fast::AmxMachine;
using glide_fast::GLIDE_FAST_ISA::TileShapes;

namespace {

struct {
    unsigned leaf_1_ecx, leaf_7_edx, palette_ebx, palette_ecx;
    std::uint64_t saved;
    bool permitted;
    int asked;
} machine;

const AmxMachine questions{
    [](unsigned leaf, unsigned, unsigned (&r)[4]) {
        r[0] = r[1] = r[2] = r[3] = 0;
        if (leaf == 1) r[2] = machine.leaf_1_ecx;
        if (leaf == 7) r[3] = machine.leaf_7_edx;
        if (leaf == 0x1d) r[1] = machine.palette_ebx, r[2] = machine.palette_ecx;
    },
    [] { return machine.saved; },
    [] {
        ++machine.asked;
        return machine.permitted;
    },
};

constexpr unsigned bf16 = 1u << 22, tiles = 1u << 24;

void like_sapphire_rapids() { machine = {1u << 27, bf16 | tiles, 8u << 16 | 64, 16, 0x602e7, true, 0}; }

// Usable; and whether it was asked for tiles, which a process should not do in vain.
bool answers(bool usable, int asked) {
    return glide_fast::amx_usable(questions) == usable && machine.asked == asked;
}

int usable() {
    like_sapphire_rapids();
    if (!answers(true, 1)) return 1;
    like_sapphire_rapids();
    machine.permitted = false;  // the system has been asked, and refused
    if (!answers(false, 1)) return 2;
    like_sapphire_rapids();
    machine.saved = 0xe7;  // a system that knows nothing of tiles
    if (!answers(false, 0)) return 3;
    for (unsigned missing : {bf16, tiles}) {
        like_sapphire_rapids();
        machine.leaf_7_edx &= ~missing;
        if (!answers(false, 0)) return 4;
    }
    like_sapphire_rapids();
    machine.leaf_1_ecx = 0;
    if (!answers(false, 0)) return 5;
    like_sapphire_rapids();
    machine.palette_ecx = 8;  // tiles of fewer rows
    if (!answers(false, 0)) return 6;
    machine = {};  // leaves that a processor does not have are zero
    return answers(false, 0) ? 0 : 7;
}

void configure(void (*change)(TileShapes&)) {
    TileShapes shapes = glide_fast::GLIDE_FAST_ISA::eight_full_tiles;
    change(shapes);
    _tile_loadconfig(&shapes);
}

// What it multiplies, where rows, columns and pairs all differ in number.
int product() {
    configure([](TileShapes& s) {
        s = {};
        s.palette = 1;
        s.rows[0] = s.rows[1] = 3, s.row_bytes[0] = s.row_bytes[2] = 8;  // c: 3 x 2
        s.row_bytes[1] = 4 * 5, s.rows[2] = 5;                           // a: 3 x 10, b: 10 x 2
    });
    const auto narrow = [](float x) {
        std::uint32_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        return std::uint16_t(bits >> 16);
    };
    std::uint16_t a[3][10], b[5][2][2];
    float c[3][2] = {{1, 2}, {3, 4}, {5, 6}}, want[3][2];
    for (int i = 0; i < 3; ++i) {
        for (int k = 0; k < 10; ++k) a[i][k] = narrow(float(i * 10 + k - 7));
    }
    for (int k = 0; k < 10; ++k) {
        for (int j = 0; j < 2; ++j) b[k / 2][j][k % 2] = narrow(float(3 * k - 5 * j));
    }
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 2; ++j) {
            want[i][j] = c[i][j];
            for (int k = 0; k < 10; ++k) want[i][j] += float(i * 10 + k - 7) * float(3 * k - 5 * j);
        }
    }
    _tile_loadd(0, c, sizeof c[0]);
    _tile_loadd(1, a, sizeof a[0]);
    _tile_loadd(2, b, sizeof b[0]);
    _tile_dpbf16ps(0, 1, 2);
    _tile_stored(0, c, sizeof c[0]);
    if (std::memcmp(c, want, sizeof c)) return 1;
    // Denormal numbers are zero: factors, and what was there.
    for (auto& row : a) {
        for (auto& x : row) x = 1;
    }
    for (auto& row : c) row[0] = row[1] = 1e-40f;
    _tile_loadd(0, c, sizeof c[0]);
    _tile_loadd(1, a, sizeof a[0]);
    _tile_dpbf16ps(0, 1, 2);
    _tile_stored(0, c, sizeof c[0]);
    _tile_release();
    for (auto& row : c) {
        if (row[0] != 0 || row[1] != 0) return 2;
    }
    return emulated::configured_threads;
}

}  // namespace

int main(int, char** arguments) {
    unsigned char memory[1024] = {};
    const std::map<std::string, int (*)()> checks{{"usable", usable}, {"product", product}};
    const auto unchanged = [](TileShapes&) {};
    const std::string name = arguments[1];
    if (checks.count(name)) return checks.at(name)();
    if (name == "unconfigured") _tile_zero(0);
    if (name == "palette") configure([](TileShapes& s) { s.palette = 2; });
    if (name == "reserved") configure([](TileShapes& s) { s.reserved[3] = 1; });
    if (name == "rows") configure([](TileShapes& s) { s.rows[4] = 17; });
    if (name == "bytes") configure([](TileShapes& s) { s.row_bytes[4] = 68; });
    if (name == "no rows") configure([](TileShapes& s) { s.rows[7] = 0; });
    if (name == "a ninth") configure([](TileShapes& s) { s.rows[8] = 16, s.row_bytes[8] = 64; });
    if (name == "fit") {
        configure([](TileShapes& s) { s.rows[6] = 8; });
        _tile_dpbf16ps(0, 4, 6);
    }
    configure(unchanged);
    if (name == "twice") _tile_dpbf16ps(0, 4, 4);
    if (name == "eighth") _tile_loadd(8, memory, 64);
    _tile_release();
    if (name == "released") _tile_loadd(0, memory, 64);
    std::fprintf(stderr, "nothing was refused\n");
}
