// Group normalisation over channels-last rows, with what comes before it (a skip connection's channels, a residual, a bias)
// and after it (FiLM, SiLU, resampling), in two passes over memory.
//
// Statistics, one read: a block of rows is shifted by the mean of eight of its rows, spread evenly; the sums of the deviations
// and of their squares are taken in fp32 over 128 rows and in fp64 beyond, and the rest of the mean is corrected for:
// M2 = sum(d^2) - sum(d)^2 / n. No digits are lost to a mean far from zero, since the eight rows are in the block:
// (mean - shift)^2 is at most n / 8 times the block's variance, for any data, and far below it for images. Blocks, then the
// channels of a group, are merged by M2 = sum(M2_i) + sum(n_i (mean_i - mean)^2) in fp64 (Chan, Golub and LeVeque 1983).
//
// Apply, the second read: y = act((x - center) * factor + offset). The fp64 statistics are folded into three fp32 numbers a
// channel; the offset makes up for the rounding of the mean to fp32.

#include <omp.h>

#include <type_traits>

#include "cpu/vec.h"
#include "group_norm_act/cpu.h"

namespace glide_fast {
namespace GLIDE_FAST_ISA {
namespace {

using i64 = std::int64_t;

// For the functions of inner loops: they have so many instances that the compiler would not inline them, and would pass vectors
// through memory.
#define GLIDE_FAST_INLINE inline __attribute__((always_inline))

constexpr int unroll = 4;  // vectors side by side; with two rows in flight, enough chains to hide the latency of an addition
constexpr i64 strip = unroll * Vec::lanes;
constexpr i64 chunk = 256;      // channels of a task: it reads at least 512 bytes of each row
constexpr i64 fp32_rows = 128;  // rows that are summed in fp32
constexpr i64 apply_rows = 64;  // rows of a task of the second pass
constexpr i64 span = 16;        // neighbouring tasks of the second pass that a thread takes in ascending order
// Rows of one run of channels that are processed before the next run: memory is then read and written almost in ascending
// order, which the hardware prefetches.
constexpr i64 tile = 8;
constexpr i64 cache_line = 64;  // bytes
constexpr i64 prefetched = 6144;  // bytes from a read to its prefetch: some tiles ahead, which hides the latency of memory

i64 smaller(i64 a, i64 b) { return a < b ? a : b; }
i64 larger(i64 a, i64 b) { return a > b ? a : b; }
i64 divided(i64 a, i64 b) { return (a + b - 1) / b; }

// A run of channels that fits in registers: Full is `unroll` full vectors, Part is one vector or less. T is the type of the
// values to normalise; where it is bf16 the vectors of a full run are split pairs (vec.h), also when they are loaded from fp32.
template <typename T>
struct Full {
    static constexpr int vectors = unroll;
    static constexpr bool split = std::is_same<T, bf16>::value;
    i64 channels() const { return strip; }
    template <typename P>
    GLIDE_FAST_INLINE void load(const P* p, Vec* x) const {
        for (int v = 0; v < vectors; v += 2, p += 2 * Vec::lanes) {
            if constexpr (split) {
                load_split(p, x[v], x[v + 1]);
            } else {
                x[v] = Vec::load(p);
                x[v + 1] = Vec::load(p + Vec::lanes);
            }
        }
    }
    template <bool Stream = false>
    GLIDE_FAST_INLINE void store(const Vec* x, bf16* p) const {
        for (int v = 0; v < vectors; v += 2, p += 2 * Vec::lanes)
            Stream ? stream_split(p, x[v], x[v + 1]) : store_split(p, x[v], x[v + 1]);
    }
    template <bool Stream = false>
    GLIDE_FAST_INLINE void store(const Vec* x, float* p) const {
        for (int v = 0; v < vectors; v += 2, p += 2 * Vec::lanes) {
            Vec first = x[v], second = x[v + 1];
            if constexpr (split) straighten(first, second);
            Stream ? stream(p, first) : first.store(p);
            Stream ? stream(p + Vec::lanes, second) : second.store(p + Vec::lanes);
        }
    }
};
template <typename T>
struct Part {
    static constexpr int vectors = 1;
    int count;
    i64 channels() const { return count; }
    template <typename P>
    GLIDE_FAST_INLINE void load(const P* p, Vec* x) const { *x = Vec::load(p, count); }
    template <bool Stream = false, typename P>
    GLIDE_FAST_INLINE void store(const Vec* x, P* p) const { x->store(p, count); }
};

template <typename T, typename Work>
void for_each_run(i64 channels, Work work) {
    i64 c = 0;
    for (; c + strip <= channels; c += strip) work(Full<T>{}, c);
    for (; c < channels; c += Vec::lanes) work(Part<T>{int(smaller(Vec::lanes, channels - c))}, c);
}

// One number for each channel of a piece, in the order in which the vectors of a run hold the channels.
struct Line {
    alignas(64) float of[chunk];
    template <int n>
    GLIDE_FAST_INLINE void load(i64 channel, Vec (&x)[n]) const {
        for (int v = 0; v < n; ++v) x[v] = Vec::load(of + channel + v * Vec::lanes);
    }
    template <int n>
    GLIDE_FAST_INLINE void store(i64 channel, const Vec (&x)[n]) {
        for (int v = 0; v < n; ++v) x[v].store(of + channel + v * Vec::lanes);
    }
};

template <typename Run, typename T>
GLIDE_FAST_INLINE void prefetch(Run run, const T* p) {
    // Computed as an integer: near the end of the tensor the address lies outside it, and a pointer must not.
    const std::uintptr_t ahead = reinterpret_cast<std::uintptr_t>(p) + prefetched;
    for (std::uintptr_t i = 0; i < run.channels() * sizeof(T); i += cache_line)
        __builtin_prefetch(reinterpret_cast<const void*>(ahead + i));
}

// A source yields the values to normalise. Plain reads them from memory; Sum adds x, bias and residual as it reads.
template <typename T>
struct Plain {
    using Type = T;
    const T* x;
    i64 stride;
    template <typename Run>
    GLIDE_FAST_INLINE void load(Run run, i64 row, i64 channel, Vec* to) const {
        run.load(x + row * stride + channel, to);
        prefetch(run, x + row * stride + channel);
    }
};
template <typename T>
struct Sum {
    using Type = T;
    const T *x, *residual;
    i64 x_stride, residual_stride;
    const float* bias;
    template <typename Run>
    GLIDE_FAST_INLINE void load(Run run, i64 row, i64 channel, Vec* to) const {
        Vec added[Run::vectors];
        run.load(x + row * x_stride + channel, to);
        run.load(bias + channel, added);
        for (int v = 0; v < Run::vectors; ++v) to[v] = to[v] + added[v];
        run.load(residual + row * residual_stride + channel, added);
        prefetch(run, x + row * x_stride + channel);
        prefetch(run, residual + row * residual_stride + channel);
        for (int v = 0; v < Run::vectors; ++v) to[v] = rounded_to(to[v] + added[v], T{});
    }
};

template <typename T>
T* at(const Rows& rows, i64 sample, i64 row, i64 channel) {
    return static_cast<T*>(rows.data) + sample * rows.sample_stride + row * rows.row_stride + channel;
}

// At most `chunk` neighbouring channels, all of x or all of x2.
struct Piece {
    bool of_x2;
    i64 first;           // the first channel, counted within x or x2
    i64 channel, count;  // the first channel, counted in x and x2 together; how many

    static i64 count_of(const GroupNormActWork& g) {
        return divided(g.x_channels, chunk) + divided(g.channels - g.x_channels, chunk);
    }
    Piece(const GroupNormActWork& g, i64 index) {
        const i64 of_x = divided(g.x_channels, chunk);
        of_x2 = index >= of_x;
        first = (of_x2 ? index - of_x : index) * chunk;
        channel = of_x2 ? g.x_channels + first : first;
        count = smaller(chunk, (of_x2 ? g.channels - g.x_channels : g.x_channels) - first);
    }
};

// Calls work(source) with the source of the values of a piece. `again`: this is the second pass, which can read `sum` if there
// is one.
template <typename T, typename Work>
void with_source(const GroupNormActWork& g, const Piece& piece, i64 sample, i64 row, bool again, Work work) {
    if (piece.of_x2) return work(Plain<T>{at<T>(g.x2, sample, row, piece.first), g.x2.row_stride});
    if (again && g.sum.data) return work(Plain<T>{at<T>(g.sum, sample, row, piece.first), g.sum.row_stride});
    if (!g.adds()) return work(Plain<T>{at<T>(g.x, sample, row, piece.first), g.x.row_stride});
    const T* residual = static_cast<const T*>(g.zeros) + piece.first;
    if (g.residual.data) residual = at<T>(g.residual, sample, row, piece.first);
    work(Sum<T>{at<T>(g.x, sample, row, piece.first), residual, g.x.row_stride,
                g.residual.data ? g.residual.row_stride : 0, g.added_bias + piece.first});
}

// Stores the mean of up to eight rows, spread evenly over `rows`, for a run of channels.
template <typename Source, typename Run>
void mean_of_some_rows(Source source, Run run, i64 rows, i64 channel, Line& mean) {
    const i64 some = smaller(8, rows);
    const Vec share = Vec::all(1.0f / float(some));  // applied to each row, so that no sum leaves the range of the values
    Vec sum[Run::vectors], x[Run::vectors];
    for (int v = 0; v < Run::vectors; ++v) sum[v] = Vec::all(0.0f);
    for (i64 i = 0; i < some; ++i) {
        source.load(run, i * rows / some, channel, x);
        for (int v = 0; v < Run::vectors; ++v) sum[v] = multiply_add(x[v], share, sum[v]);
    }
    mean.store(channel, sum);
}

// Adds the deviations from `shift` and their squares, over rows [first, last), to `sum` and `square`. With Keep it also writes
// the values to `out`.
template <bool Keep, typename T, typename Source, typename Run>
GLIDE_FAST_INLINE void accumulate(Source source, Run run, i64 first, i64 last, i64 channel, const Line& shift, Line& sum, Line& square, T* out,
                i64 out_stride) {
    constexpr int vectors = Run::vectors;
    Vec from[vectors], s[2][vectors], q[2][vectors], sums[vectors], squares[vectors];
    shift.load(channel, from);
    for (int v = 0; v < vectors; ++v) s[0][v] = s[1][v] = q[0][v] = q[1][v] = Vec::all(0.0f);
    const auto add = [&](i64 row, int chain) {
        Vec x[vectors];
        source.load(run, row, channel, x);
        if (Keep) run.store(x, out + row * out_stride + channel);
        for (int v = 0; v < vectors; ++v) {
            const Vec d = x[v] - from[v];
            s[chain][v] = s[chain][v] + d;
            q[chain][v] = multiply_add(d, d, q[chain][v]);
        }
    };
    i64 row = first;
    for (; row + 1 < last; row += 2) {
        add(row, 0);
        add(row + 1, 1);
    }
    if (row < last) add(row, 0);
    sum.load(channel, sums);
    square.load(channel, squares);
    for (int v = 0; v < vectors; ++v) {
        sums[v] = sums[v] + (s[0][v] + s[1][v]);
        squares[v] = squares[v] + (q[0][v] + q[1][v]);
    }
    sum.store(channel, sums);
    square.store(channel, squares);
}

// Adds the fp32 sums in `line` to the fp64 sums in `total`, and sets `line` to zero.
template <typename T>
void widen(i64 channels, Line& line, double* total) {
    for_each_run<T>(channels, [&](auto run, i64 c) {
        Vec x[decltype(run)::vectors];
        float straight[strip];
        line.load(c, x);
        run.store(x, straight);
        for (i64 i = 0; i < run.channels(); ++i) total[c + i] += double(straight[i]);
        for (auto& v : x) v = Vec::all(0.0f);
        line.store(c, x);
    });
}

// A task of the first pass: the statistics of a block of rows, for a piece of the channels of one sample.
template <bool Keep, typename T, typename Source>
void block_statistics(Source source, i64 rows, i64 channels, double* mean, double* m2, T* out, i64 out_stride) {
    Line shift, sum{}, square{};
    for_each_run<T>(channels, [&](auto run, i64 c) { mean_of_some_rows(source, run, rows, c, shift); });
    for (i64 c = 0; c < channels; ++c) mean[c] = m2[c] = 0.0;
    for (i64 row = 0; row < rows; row += tile) {
        const i64 last = smaller(row + tile, rows);
        for_each_run<T>(channels, [&](auto run, i64 c) {
            accumulate<Keep>(source, run, row, last, c, shift, sum, square, out, out_stride);
        });
        if (last % fp32_rows == 0 || last == rows) {
            widen<T>(channels, sum, mean);
            widen<T>(channels, square, m2);
        }
    }
    for_each_run<T>(channels, [&](auto run, i64 c) {
        Vec x[decltype(run)::vectors];
        float straight[strip];
        shift.load(c, x);
        run.store(x, straight);
        for (i64 i = 0; i < run.channels(); ++i) {
            const double rest = mean[c + i] / double(rows);
            m2[c + i] -= rest * mean[c + i];
            mean[c + i] = double(straight[i]) + rest;
        }
    });
}

template <typename T>
void statistics_task(const GroupNormActWork& g, i64 index) {
    const i64 pieces = Piece::count_of(g);
    const Piece piece(g, index % pieces);
    const i64 block = index / pieces % g.blocks, sample = index / pieces / g.blocks;
    const i64 row = block * g.block_rows, rows = smaller(g.block_rows, g.rows - row);
    const i64 to = (sample * g.blocks + block) * g.channels + piece.channel;
    double *mean = g.block_mean + to, *m2 = g.block_m2 + to;
    with_source<T>(g, piece, sample, row, false, [&](const auto& source) {
        if (!piece.of_x2 && g.sum.data)
            block_statistics<true>(source, rows, piece.count, mean, m2, at<T>(g.sum, sample, row, piece.first),
                                   g.sum.row_stride);
        else
            block_statistics<false, T>(source, rows, piece.count, mean, m2, nullptr, 0);
    });
}

// Merges the blocks of a sample, for `count` neighbouring channels.
void merge_blocks(const GroupNormActWork& g, i64 sample, i64 channel, i64 count) {
    const double* mean = g.block_mean + sample * g.blocks * g.channels + channel;
    const double* m2 = g.block_m2 + sample * g.blocks * g.channels + channel;
    double* mean_out = g.channel_mean + sample * g.channels + channel;
    double* m2_out = g.channel_m2 + sample * g.channels + channel;
    for (i64 c = 0; c < count; ++c) mean_out[c] = m2_out[c] = 0.0;
    for (i64 b = 0; b < g.blocks; ++b) {
        const double share = double(smaller(g.block_rows, g.rows - b * g.block_rows)) / double(g.rows);
        for (i64 c = 0; c < count; ++c) mean_out[c] += share * mean[b * g.channels + c];
    }
    for (i64 b = 0; b < g.blocks; ++b) {
        const double rows = double(smaller(g.block_rows, g.rows - b * g.block_rows));
        for (i64 c = 0; c < count; ++c) {
            const double d = mean[b * g.channels + c] - mean_out[c];
            m2_out[c] += m2[b * g.channels + c] + rows * d * d;
        }
    }
}

double value(const PerChannel& p, i64 sample, i64 channel) {
    return double(element(p.data, p.dtype, sample * p.sample_stride + channel));
}

// Merges the channels of a group and folds statistics, affine parameters and FiLM into the coefficients of the second pass.
void merge_group(const GroupNormActWork& g, i64 sample, i64 group) {
    const i64 width = g.channels / g.groups;
    const i64 first = group * width, to = sample * g.channels;
    double mean = 0.0, m2 = 0.0;
    for (i64 c = first; c < first + width; ++c) mean += g.channel_mean[to + c];
    mean /= double(width);
    for (i64 c = first; c < first + width; ++c) {
        const double d = g.channel_mean[to + c] - mean;
        m2 += g.channel_m2[to + c] + double(g.rows) * d * d;
    }
    const double rstd = 1.0 / __builtin_sqrt(m2 / (double(width) * double(g.rows)) + g.eps);
    const float center = float(mean);
    for (i64 c = first; c < first + width; ++c) {
        double factor = rstd * value(g.weight, 0, c);
        double offset = value(g.bias, 0, c) + (double(center) - mean) * factor;
        if (g.scale.data) {
            const double gain = 1.0 + value(g.scale, sample, c);
            factor *= gain;
            offset = offset * gain + value(g.shift, sample, c);
        }
        g.center[to + c] = center;
        g.factor[to + c] = float(factor);
        g.offset[to + c] = float(offset);
    }
}

// The coefficients of the second pass for the channels of a piece.
struct Coefficients {
    Line center, factor, offset;
};

// Computes act((x - center) * factor + offset) of a few rows at a time, for one run of channels. The coefficients are read from
// the first-level cache each time, so that the registers are free for the rows.
template <typename Out, bool Silu, typename Source, typename Run>
struct Finish {
    static constexpr int vectors = Run::vectors;
    const Coefficients& of;
    Source source;
    Run run;
    i64 channel;

    // The results of rows `first`, first + 1, ..., one after another.
    template <int rows>
    struct Values {
        Vec of[rows * vectors];
        const Vec* row(int i) const { return of + i * vectors; }
    };
    template <int rows>
    GLIDE_FAST_INLINE Values<rows> at(i64 first) const {
        Values<rows> y;
        for (int i = 0; i < rows; ++i) source.load(run, first + i, channel, y.of + i * vectors);
        Vec center[vectors], factor[vectors], offset[vectors];
        of.center.load(channel, center);
        of.factor.load(channel, factor);
        of.offset.load(channel, offset);
        for (int i = 0; i < rows * vectors; ++i) {
            const int v = i % vectors;
            y.of[i] = multiply_add(y.of[i] - center[v], factor[v], offset[v]);
        }
        if (Silu) silu(y.of, Out{});
        return y;
    }
};

// Writes results to y. Without resampling: `count` rows from `first` on. With it the source begins at a line of the image,
// whose pixels are `width` rows: `count` columns from `first` on, of that line for nearest_x2, of that line and the next for
// mean_2x2 (`count` is even).
template <Resampling resample, bool Stream, typename Out, typename Finished>
GLIDE_FAST_INLINE void apply(const Finished& finish, i64 first, i64 count, i64 width, Out* y, i64 stride) {
    const auto store = [&](const Vec* x, i64 row) {
        finish.run.template store<Stream>(x, y + row * stride + finish.channel);
    };
    const i64 last = first + count;
    if constexpr (resample == Resampling::none) {
        i64 row = first;
        for (; row + 1 < last; row += 2) {
            const auto value = finish.template at<2>(row);
            store(value.row(0), row);
            store(value.row(1), row + 1);
        }
        if (row < last) store(finish.template at<1>(row).row(0), row);
    } else if constexpr (resample == Resampling::nearest_x2) {
        for (i64 column = first; column < last; ++column) {
            const auto value = finish.template at<1>(column);
            for (int beside = 0; beside < 2; ++beside) {
                store(value.row(0), 2 * column + beside);
                store(value.row(0), 2 * (width + column) + beside);
            }
        }
    } else {
        for (i64 column = first; column < last; column += 2) {
            const auto upper = finish.template at<2>(column), lower = finish.template at<2>(width + column);
            Vec mean[Finished::vectors];
            for (int v = 0; v < Finished::vectors; ++v) {
                const Vec sum = (upper.row(0)[v] + upper.row(1)[v]) + (lower.row(0)[v] + lower.row(1)[v]);
                mean[v] = sum * Vec::all(0.25f);
            }
            store(mean, column / 2);
        }
    }
}

// Rows of a task of the second pass: a fixed number, or those of one image line, or of two for the mean.
i64 rows_to_apply(const GroupNormActWork& g) {
    if (g.resample == Resampling::none) return apply_rows;
    return g.resample == Resampling::mean_2x2 ? 2 * g.width : g.width;
}

template <Resampling resample, bool Stream, typename T, typename Out, bool Silu>
void apply_block(const GroupNormActWork& g, const Piece& piece, i64 sample, i64 row, i64 rows, Out* y) {
    Coefficients of;
    const i64 first = sample * g.channels + piece.channel;
    for_each_run<T>(piece.count, [&](auto run, i64 c) {
        Vec x[decltype(run)::vectors];
        run.load(g.center + first + c, x);
        of.center.store(c, x);
        run.load(g.factor + first + c, x);
        of.factor.store(c, x);
        run.load(g.offset + first + c, x);
        of.offset.store(c, x);
    });
    const i64 positions = resample == Resampling::none ? rows : g.width;
    with_source<T>(g, piece, sample, row, true, [&](auto source) {
        for (i64 i = 0; i < positions; i += tile) {
            for_each_run<T>(piece.count, [&](auto run, i64 c) {
                const Finish<Out, Silu, decltype(source), decltype(run)> finish{of, source, run, c};
                apply<resample, Stream>(finish, i, smaller(tile, positions - i), g.width, y, g.y.row_stride);
            });
        }
    });
}

// Whether y can be streamed: every row begins at a cache line, so that whole lines are written.
template <typename Out>
bool streamable(const Out* y, i64 stride) {
    return i64(reinterpret_cast<std::uintptr_t>(y)) % cache_line == 0 && stride * i64(sizeof(Out)) % cache_line == 0;
}

template <Resampling resample, typename T, typename Out, bool Silu>
void apply_task(const GroupNormActWork& g, i64 index) {
    const i64 pieces = Piece::count_of(g), step = rows_to_apply(g), blocks = divided(g.rows, step);
    const Piece piece(g, index % pieces);
    const i64 block = index / pieces % blocks, sample = index / pieces / blocks;
    const i64 row = block * step, rows = smaller(step, g.rows - row);
    // The lines above this block give twice as many lines of twice the width in y, or half as many of half the width.
    const i64 y_row = resample == Resampling::nearest_x2 ? 4 * row : resample == Resampling::mean_2x2 ? row / 4 : row;
    Out* y = at<Out>(g.y, sample, y_row, piece.channel);
    if constexpr (streams && resample != Resampling::mean_2x2) {  // means are a quarter of x: small enough for the caches
        if (g.stream && streamable(y, g.y.row_stride))
            return apply_block<resample, true, T, Out, Silu>(g, piece, sample, row, rows, y);
    }
    apply_block<resample, false, T, Out, Silu>(g, piece, sample, row, rows, y);
}

template <Resampling resample, typename T, typename Out, bool Silu>
void run(const GroupNormActWork& g) {
    const i64 pieces = Piece::count_of(g);
    const i64 blocks = g.samples * g.blocks * pieces;
    const i64 tasks = g.samples * divided(g.rows, rows_to_apply(g)) * pieces;
    // As many groups are merged at a time as give long loops over neighbouring channels.
    const i64 width = g.channels / g.groups;
    const i64 batch = divided(strip, width), batches = divided(g.groups, batch);
#pragma omp parallel num_threads(g.threads)
    {
        const i64 thread = omp_get_thread_num(), threads = omp_get_num_threads();
        for (i64 i = blocks * thread / threads; i < blocks * (thread + 1) / threads; ++i) statistics_task<T>(g, i);
#pragma omp barrier
#pragma omp for schedule(static)
        for (i64 i = 0; i < g.samples * batches; ++i) {
            const i64 sample = i / batches, first = i % batches * batch;
            const i64 last = smaller(first + batch, g.groups);
            merge_blocks(g, sample, first * width, (last - first) * width);
            for (i64 group = first; group < last; ++group) merge_group(g, sample, group);
        }
        // A thread goes backwards over the part that it read in the first pass, since the rows it read last are still in its
        // cache; but forwards within a span of tasks, since the hardware prefetches forwards.
        const i64 start = tasks * thread / threads;
        for (i64 end = tasks * (thread + 1) / threads; end > start; end = larger(end - span, start)) {
            for (i64 i = larger(end - span, start); i < end; ++i) apply_task<resample, T, Out, Silu>(g, i);
        }
        if (g.stream) finish_streams();
    }
}

template <typename T, typename Out, bool Silu>
void choose_resampling(const GroupNormActWork& g) {
    switch (g.resample) {
        case Resampling::none: return run<Resampling::none, T, Out, Silu>(g);
        case Resampling::nearest_x2: return run<Resampling::nearest_x2, T, Out, Silu>(g);
        case Resampling::mean_2x2: return run<Resampling::mean_2x2, T, Out, Silu>(g);
    }
}

template <typename T, typename Out>
void choose_activation(const GroupNormActWork& g) {
    g.silu ? choose_resampling<T, Out, true>(g) : choose_resampling<T, Out, false>(g);
}

#undef GLIDE_FAST_INLINE

}  // namespace

void group_norm_act(const GroupNormActWork& g) {
    if (g.adds()) {
        for (i64 c = 0; c < g.x_channels; ++c) g.added_bias[c] = g.x_bias.data ? float(value(g.x_bias, 0, c)) : 0.0f;
    }
    if (g.dtype == Dtype::f32) return choose_activation<float, float>(g);
    g.out_dtype == Dtype::f32 ? choose_activation<bf16, float>(g) : choose_activation<bf16, bf16>(g);
}

}  // namespace GLIDE_FAST_ISA
}  // namespace glide_fast
