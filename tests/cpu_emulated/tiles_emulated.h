// The tiles of AMX as Intel's Software Developer's Manual describes LDTILECFG, TILELOADD, TILESTORED, TILEZERO, TILERELEASE and
// TDPBF16PS, with the exceptions that the processor would raise: they end the process with a message.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace emulated {

[[noreturn]] inline void fault(const char* what) {
    std::fprintf(stderr, "emulated processor: %s\n", what);
    std::_Exit(70);
}

typedef float Floats __attribute__((vector_size(64)));
typedef std::uint32_t Words __attribute__((vector_size(64)));

// a * b + c, rounded once.
inline Floats fused(Floats a, Floats b, Floats c) {
#if defined(__FMA__)
    typedef float Half __attribute__((vector_size(32)));
    struct Halves {
        Half of[2];
    };
    Halves x, y, z;
    std::memcpy(&x, &a, sizeof x);
    std::memcpy(&y, &b, sizeof y);
    std::memcpy(&z, &c, sizeof z);
    for (int i = 0; i < 2; ++i) z.of[i] = __builtin_ia32_vfmaddps256(x.of[i], y.of[i], z.of[i]);
    std::memcpy(&c, &z, sizeof c);
#else
    for (int i = 0; i < 16; ++i) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
#endif
    return c;
}

// Threads that have tiles in use.
inline std::atomic<int> configured_threads{0};

class Tiles {
public:
    void configure(const void* from) {
        unsigned char c[64];
        std::memcpy(c, from, sizeof c);
        const auto all_zero = [&](int first, int last) {
            for (int i = first; i < last; ++i) {
                if (c[i]) return false;
            }
            return true;
        };
        if (c[0] == 0) return release();
        if (c[0] != 1) fault("#GP: LDTILECFG of a palette that there is not");
        if (!all_zero(1, 16)) fault("#GP: LDTILECFG with a row to begin at, or reserved bytes");
        if (!all_zero(16 + 2 * count, 48) || !all_zero(48 + count, 64)) fault("#GP: LDTILECFG of more tiles than 8");
        for (int t = 0; t < count; ++t) {
            std::uint16_t bytes;
            std::memcpy(&bytes, c + 16 + 2 * t, sizeof bytes);
            const int rows = c[48 + t];
            if (bytes > most_bytes) fault("#GP: LDTILECFG of rows longer than 64 bytes");
            if (rows > most_rows) fault("#GP: LDTILECFG of more than 16 rows");
            if (!bytes != !rows) fault("#GP: LDTILECFG of a tile without rows, or of rows without bytes");
            shapes_[t] = {rows, bytes};
        }
        // The processor clears them; a kernel that relies on that would not work a second time.
        std::memset(data_, 0xff, sizeof data_);
        if (!configured_) ++configured_threads;
        configured_ = true;
    }
    void release() {
        if (configured_) --configured_threads;
        configured_ = false;
    }
    void zero(int t) { std::memset(data_[shape(t).index], 0, sizeof data_[0]); }
    void load(int t, const void* from, long stride) {
        const Shape s = shape(t);
        std::memset(data_[t], 0, sizeof data_[t]);
        for (int r = 0; r < s.rows; ++r) std::memcpy(data_[t][r], static_cast<const char*>(from) + r * stride, s.bytes);
    }
    void store(int t, void* to, long stride) const {
        const Shape s = shape(t);
        for (int r = 0; r < s.rows; ++r) std::memcpy(static_cast<char*>(to) + r * stride, data_[t][r], s.bytes);
    }
    // Even and odd elements are summed apart, with one rounding of a product and a sum; then the two, then what was there.
    // Denormal numbers count, and come out, as zero.
    void multiply(int sum, int rows, int columns) {
        const Shape c = shape(sum), a = shape(rows), b = shape(columns);
        if (sum == rows || sum == columns || rows == columns) fault("#UD: TDPBF16PS of one tile twice");
        if (a.bytes % 4 || b.bytes % 4 || c.bytes % 4) fault("#UD: TDPBF16PS of rows that are not whole pairs");
        if (c.rows != a.rows || c.bytes != b.bytes || a.bytes / 4 != b.rows) fault("#UD: TDPBF16PS of shapes that do not fit");
        Floats even_columns[most_rows], odd_columns[most_rows];
        for (int k = 0; k < b.rows; ++k) {
            Words pairs;
            std::memcpy(&pairs, data_[columns][k], sizeof pairs);
            even_columns[k] = flushed((Floats)(pairs << 16));
            odd_columns[k] = flushed((Floats)(pairs & 0xffff0000u));
        }
        for (int m = 0; m < c.rows; ++m) {
            std::uint32_t pairs[most_rows];
            std::memcpy(pairs, data_[rows][m], sizeof pairs);
            Floats even{}, odd{}, total;
            for (int k = 0; k < b.rows; ++k) {
                even = flushed(fused(widened(pairs[k] << 16), even_columns[k], even));
                odd = flushed(fused(widened(pairs[k] & 0xffff0000u), odd_columns[k], odd));
            }
            std::memcpy(&total, data_[sum][m], sizeof total);
            total = flushed(flushed(total) + flushed(even + odd));
            std::memset(data_[sum][m], 0, most_bytes);
            std::memcpy(data_[sum][m], &total, c.bytes);
        }
    }

private:
    static constexpr int count = 8, most_rows = 16, most_bytes = 64;
    struct Shape {
        int rows, bytes, index = 0;
    };

    Shape shape(int t) const {
        if (!configured_) fault("#UD: tiles that are not configured");
        if (t < 0 || t >= count || !shapes_[t].rows) fault("#UD: a tile that is not configured");
        return {shapes_[t].rows, shapes_[t].bytes, t};
    }
    static Floats flushed(Floats x) {
        const Words bits = (Words)x;
        const Words normal = (Words)((bits & 0x7fffffffu) >= 0x00800000u);  // all ones where it is
        return (Floats)(bits & (normal | 0x80000000u));
    }
    static Floats widened(std::uint32_t bits) {
        const Words all = Words{} + bits;
        return flushed((Floats)all);
    }

    bool configured_ = false;
    Shape shapes_[count] = {};
    alignas(64) unsigned char data_[count][most_rows][most_bytes];
};

inline Tiles& tiles() {
    static thread_local Tiles mine;
    return mine;
}

}  // namespace emulated
