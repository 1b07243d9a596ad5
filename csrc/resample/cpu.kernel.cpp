// Nearest x2 and the 2x2 mean of channels-last pictures, with a bias and a residual added on the way in. Every element is read
// once (twice for nearest, the second time from the cache) and every result written once. A vector holds channels of one pixel,
// so its lanes are never shuffled.
#include "cpu/vec.h"
#include "resample/cpu.h"

namespace glide_fast {
namespace GLIDE_FAST_ISA {
namespace {

template <typename T>
Vec load(const T* p, int count) {
    return count == Vec::lanes ? Vec::load(p) : Vec::load(p, count);
}
template <typename T>
void store(T* p, int count, Vec x) {
    count == Vec::lanes ? x.store(p) : x.store(p, count);
}

// A value after it was written to memory and read again: rounded to the type of the second argument.
Vec rounded(Vec x, float) { return x; }
Vec rounded(Vec x, bf16) {
    bf16 memory[Vec::lanes];
    x.store(memory);
    return Vec::load(memory);
}

// Calls take(first, count) for each vector of a pixel's channels.
template <typename Take>
void each_vector(std::int64_t channels, Take take) {
    std::int64_t c = 0;
    for (; c + Vec::lanes <= channels; c += Vec::lanes) take(c, Vec::lanes);
    if (c < channels) take(c, int(channels - c));
}

// Copies bytes to two addresses. They are never converted to numbers, since some processors then turn subnormal ones into 0.
// With Stream the stores go past the caches; both addresses must be aligned and `bytes` whole cache lines.
template <bool Stream>
void copy_to_two(const char* from, char* first, char* second, std::int64_t bytes) {
    constexpr std::int64_t step = Vec::lanes * sizeof(float);
    std::int64_t i = 0;
    for (; i + step <= bytes; i += step) {
        const Vec bits = Vec::load(reinterpret_cast<const float*>(from + i));
        if (Stream) {
            stream(reinterpret_cast<float*>(first + i), bits);
            stream(reinterpret_cast<float*>(second + i), bits);
        } else {
            bits.store(reinterpret_cast<float*>(first + i));
            bits.store(reinterpret_cast<float*>(second + i));
        }
    }
    if (i < bytes) {
        std::memcpy(first + i, from + i, bytes - i);
        std::memcpy(second + i, from + i, bytes - i);
    }
}

template <typename T>
struct Pictures {
    const ResampleWork& r;

    const T* x(std::int64_t image, std::int64_t row) const {
        return static_cast<const T*>(r.x) + image * r.x_strides.image + row * r.x_strides.row;
    }
    const T* residual(std::int64_t image, std::int64_t row) const {
        if (!r.residual) return nullptr;
        return static_cast<const T*>(r.residual) + image * r.residual_strides.image + row * r.residual_strides.row;
    }
    T* y(std::int64_t image, std::int64_t row) const {
        return static_cast<T*>(r.y) + image * r.y_strides.image + row * r.y_strides.row;
    }
    // x + bias + residual, in this order, of `count` channels from c on; x and residual point at the pixel.
    Vec sum(const T* x, const T* residual, std::int64_t c, int count) const {
        Vec total = load(x + c, count);
        if (r.wide_bias) total = total + load(r.wide_bias + c, count);
        if (residual) total = total + load(residual + c, count);
        return total;
    }
};

// Whether a copied row can be streamed: every pixel must fill whole cache lines.
template <typename T>
bool streamable(const ResampleWork& r, const T* y) {
    constexpr std::uint64_t line = 64;
    const auto whole = [](std::uint64_t bytes) { return bytes % line == 0; };
    return streams && r.stream && whole(reinterpret_cast<std::uintptr_t>(y)) && whole(r.y_strides.column * sizeof(T)) &&
           whole(r.channels * sizeof(T));
}

// Writes one row of the enlarged picture, from one row of x.
template <typename T>
void repeat_row(const ResampleWork& r, std::int64_t image, std::int64_t row) {
    const Pictures<T> p{r};
    const T *x = p.x(image, row / 2), *residual = p.residual(image, row / 2);
    T* y = p.y(image, row);
    const std::int64_t next = r.y_strides.column;
    const auto copy = streamable(r, y) ? copy_to_two<true> : copy_to_two<false>;
    for (std::int64_t column = 0; column < r.width; ++column) {
        if (r.wide_bias || residual) {
            each_vector(r.channels, [&](std::int64_t c, int count) {
                const Vec value = p.sum(x, residual, c, count);
                store(y + c, count, value);
                store(y + next + c, count, value);
            });
        } else {
            copy(reinterpret_cast<const char*>(x), reinterpret_cast<char*>(y), reinterpret_cast<char*>(y + next),
                 r.channels * sizeof(T));
        }
        x += r.x_strides.column;
        if (residual) residual += r.residual_strides.column;
        y += 2 * next;
    }
}

// Writes one row of the means, from two rows of x.
template <typename T, bool added>
void mean_row(const ResampleWork& r, std::int64_t image, std::int64_t row) {
    const Pictures<T> p{r};
    const T *above = p.x(image, 2 * row), *below = p.x(image, 2 * row + 1);
    const T *residual_above = p.residual(image, 2 * row), *residual_below = p.residual(image, 2 * row + 1);
    T* y = p.y(image, row);
    const std::int64_t next = r.x_strides.column, residual_next = r.residual ? r.residual_strides.column : 0;
    for (std::int64_t column = 0; column < r.width / 2; ++column) {
        each_vector(r.channels, [&](std::int64_t c, int count) {
            const auto value = [&](const T* x, const T* residual) {
                return added ? rounded(p.sum(x, residual, c, count), T{}) : load(x + c, count);
            };
            const Vec top = value(above, residual_above) + value(above + next, residual_above + residual_next);
            const Vec bottom = value(below, residual_below) + value(below + next, residual_below + residual_next);
            store(y + c, count, (top + bottom) * Vec::all(0.25f));
        });
        above += 2 * next;
        below += 2 * next;
        residual_above += 2 * residual_next;
        residual_below += 2 * residual_next;
        y += r.y_strides.column;
    }
}

template <typename T>
void run(const ResampleWork& r) {
    const std::int64_t rows = r.up ? 2 * r.height : r.height / 2;
    const bool added = r.wide_bias || r.residual;
#pragma omp parallel num_threads(r.threads)
    {
#pragma omp for schedule(static) nowait
        for (std::int64_t i = 0; i < r.images * rows; ++i) {
            const std::int64_t image = i / rows, row = i % rows;
            if (r.up)
                repeat_row<T>(r, image, row);
            else if (added)
                mean_row<T, true>(r, image, row);
            else
                mean_row<T, false>(r, image, row);
        }
        if (r.stream) finish_streams();
    }
}

}  // namespace

void resample(const ResampleWork& r) { r.dtype == Dtype::f32 ? run<float>(r) : run<bf16>(r); }

}  // namespace GLIDE_FAST_ISA
}  // namespace glide_fast
