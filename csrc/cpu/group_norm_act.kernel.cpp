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
// channel; what rounding the mean to fp32 loses is put back through the offset.
#include "group_norm_act.h"

#include <omp.h>

#include <type_traits>

#include "vec.h"

namespace glide_fast {
namespace GLIDE_FAST_ISA {
namespace {

using i64 = std::int64_t;

constexpr int unroll = 4;  // vectors side by side; with two rows in flight, enough chains to hide the latency of an addition
constexpr i64 strip = unroll * Vec::lanes;
constexpr i64 chunk = 256;    // channels of a task: rows are walked in pieces of at least 512 bytes
constexpr i64 fp32_rows = 128;  // of one fp32 sum
constexpr i64 apply_rows = 64;  // of a task of the second pass

i64 smaller(i64 a, i64 b) { return a < b ? a : b; }
i64 larger(i64 a, i64 b) { return a > b ? a : b; }
i64 divided(i64 a, i64 b) { return (a + b - 1) / b; }

// A run of channels that is worked on in registers: some full vectors, or a part of one.
struct Full {
    static constexpr int vectors = unroll;
    i64 channels() const { return strip; }
    template <typename T>
    Vec load(const T* p) const { return Vec::load(p); }
    template <typename T>
    void store(Vec x, T* p) const { x.store(p); }
};
struct Part {
    static constexpr int vectors = 1;
    int count;
    i64 channels() const { return count; }
    template <typename T>
    Vec load(const T* p) const { return Vec::load(p, count); }
    template <typename T>
    void store(Vec x, T* p) const { x.store(p, count); }
};

template <typename Work>
void for_each_run(i64 channels, Work work) {
    i64 c = 0;
    for (; c + strip <= channels; c += strip) work(Full{}, c);
    for (; c < channels; c += Vec::lanes) work(Part{int(smaller(Vec::lanes, channels - c))}, c);
}

// What is normalised: memory as it is, or a sum that is formed on the way.
template <typename T>
struct Plain {
    const T* x;
    i64 stride;
    template <typename Run>
    Vec load(Run run, i64 row, i64 channel) const { return run.load(x + row * stride + channel); }
};
template <typename T>
struct Sum {
    const T *x, *residual;
    i64 x_stride, residual_stride;
    const float* bias;
    template <typename Run>
    Vec load(Run run, i64 row, i64 channel) const {
        const Vec with_bias = run.load(x + row * x_stride + channel) + run.load(bias + channel);
        return rounded_to(with_bias + run.load(residual + row * residual_stride + channel), T{});
    }
};

template <typename T>
T* at(const RowsOf& rows, i64 sample, i64 row, i64 channel) {
    return static_cast<T*>(rows.data) + sample * rows.sample_stride + row * rows.row_stride + channel;
}

// A piece of the channels of x, or of x2.
struct Piece {
    bool of_x2;
    i64 first;          // within x or x2
    i64 channel, count;  // of all

    static i64 count_of(const GroupNormAct& g) {
        return divided(g.x_channels, chunk) + divided(g.channels - g.x_channels, chunk);
    }
    Piece(const GroupNormAct& g, i64 index) {
        const i64 of_x = divided(g.x_channels, chunk);
        of_x2 = index >= of_x;
        first = (of_x2 ? index - of_x : index) * chunk;
        channel = of_x2 ? g.x_channels + first : first;
        count = smaller(chunk, (of_x2 ? g.channels - g.x_channels : g.x_channels) - first);
    }
};

// Calls work with the source of a piece's values. `again`: in the second pass, when a sum that is kept is in memory.
template <typename T, typename Work>
void with_source(const GroupNormAct& g, const Piece& piece, i64 sample, i64 row, bool again, Work work) {
    if (piece.of_x2) return work(Plain<T>{at<T>(g.x2, sample, row, piece.first), g.x2.row_stride});
    if (again && g.sum.data) return work(Plain<T>{at<T>(g.sum, sample, row, piece.first), g.sum.row_stride});
    if (!g.adds()) return work(Plain<T>{at<T>(g.x, sample, row, piece.first), g.x.row_stride});
    const T* residual = static_cast<const T*>(g.zeros) + piece.first;
    if (g.residual.data) residual = at<T>(g.residual, sample, row, piece.first);
    work(Sum<T>{at<T>(g.x, sample, row, piece.first), residual, g.x.row_stride,
                g.residual.data ? g.residual.row_stride : 0, g.added_bias + piece.first});
}

template <typename Source, typename Run>
void mean_of_some_rows(const Source& source, Run run, i64 rows, i64 channel, float* mean) {
    const i64 some = smaller(8, rows);
    const Vec share = Vec::all(1.0f / float(some));  // of each row, so that no sum leaves the range of what is averaged
    Vec sum[Run::vectors];
    for (int v = 0; v < Run::vectors; ++v) sum[v] = Vec::all(0.0f);
    for (i64 i = 0; i < some; ++i) {
        for (int v = 0; v < Run::vectors; ++v)
            sum[v] = multiply_add(source.load(run, i * rows / some, channel + v * Vec::lanes), share, sum[v]);
    }
    for (int v = 0; v < Run::vectors; ++v) run.store(sum[v], mean + channel + v * Vec::lanes);
}

// Adds the deviations from `shift` and their squares, over rows [first, last), to `sum` and `m2`; writes what it read to
// `out` where Keep.
template <bool Keep, typename T, typename Source, typename Run>
void accumulate(const Source& source, Run run, i64 first, i64 last, i64 channel, const float* shift, double* sum, double* m2,
                T* out, i64 out_stride) {
    constexpr int vectors = Run::vectors;
    Vec from[vectors], s[2][vectors], q[2][vectors];
    for (int v = 0; v < vectors; ++v) {
        from[v] = run.load(shift + channel + v * Vec::lanes);
        s[0][v] = s[1][v] = q[0][v] = q[1][v] = Vec::all(0.0f);
    }
    const auto add = [&](i64 row, int chain) {
        for (int v = 0; v < vectors; ++v) {
            const Vec x = source.load(run, row, channel + v * Vec::lanes);
            if (Keep) run.store(x, out + row * out_stride + channel + v * Vec::lanes);
            const Vec d = x - from[v];
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
    float sums[2][vectors * Vec::lanes];
    for (int v = 0; v < vectors; ++v) {
        (s[0][v] + s[1][v]).store(sums[0] + v * Vec::lanes);
        (q[0][v] + q[1][v]).store(sums[1] + v * Vec::lanes);
    }
    for (i64 c = 0; c < run.channels(); ++c) {
        sum[channel + c] += double(sums[0][c]);
        m2[channel + c] += double(sums[1][c]);
    }
}

// A task of the first pass: the statistics of a block of rows, for a piece of the channels of one sample.
template <bool Keep, typename T, typename Source>
void block_statistics(const Source& source, i64 rows, i64 channels, double* mean, double* m2, T* out, i64 out_stride) {
    float shift[chunk];
    for_each_run(channels, [&](auto run, i64 c) { mean_of_some_rows(source, run, rows, c, shift); });
    for (i64 c = 0; c < channels; ++c) mean[c] = m2[c] = 0.0;
    for (i64 row = 0; row < rows; row += fp32_rows) {
        const i64 last = smaller(row + fp32_rows, rows);
        for_each_run(channels, [&](auto run, i64 c) {
            accumulate<Keep>(source, run, row, last, c, shift, mean, m2, out, out_stride);
        });
    }
    for (i64 c = 0; c < channels; ++c) {
        const double rest = mean[c] / double(rows);
        m2[c] -= rest * mean[c];
        mean[c] = double(shift[c]) + rest;
    }
}

template <typename T>
void statistics_task(const GroupNormAct& g, i64 index) {
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

// Merge a sample's blocks, for `count` neighbouring channels.
void merge_blocks(const GroupNormAct& g, i64 sample, i64 channel, i64 count) {
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

// Merge the channels of a group and fold statistics, affine parameters and FiLM into the coefficients of the second pass.
void merge_group(const GroupNormAct& g, i64 sample, i64 group) {
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

// The coefficients of a run of channels, and what they make of a row of it.
template <typename Out, bool Silu, typename Source, typename Run>
struct Finish {
    const Source& source;
    Run run;
    i64 channel;
    Vec center[Run::vectors], factor[Run::vectors], offset[Run::vectors];

    Finish(const GroupNormAct& g, const Source& s, Run r, i64 first, i64 c) : source(s), run(r), channel(c) {
        for (int v = 0; v < Run::vectors; ++v) {
            center[v] = run.load(g.center + first + c + v * Vec::lanes);
            factor[v] = run.load(g.factor + first + c + v * Vec::lanes);
            offset[v] = run.load(g.offset + first + c + v * Vec::lanes);
        }
    }
    Vec operator()(i64 row, int v) const {
        const Vec x = source.load(run, row, channel + v * Vec::lanes);
        const Vec y = multiply_add(x - center[v], factor[v], offset[v]);
        return Silu ? silu(y, Out{}) : y;
    }
};

// The rows [0, rows) of a source, resampled, to y; for resampling they are whole image lines, for the mean pairs of lines.
template <Resampling resample, typename Out, typename Rows>
void apply(const Rows& finish, i64 rows, i64 width, Out* y, i64 stride) {
    constexpr int vectors = decltype(finish.run)::vectors;
    y += finish.channel;
    if constexpr (resample == Resampling::none) {
        for (i64 row = 0; row < rows; ++row) {
            for (int v = 0; v < vectors; ++v) finish.run.store(finish(row, v), y + row * stride + v * Vec::lanes);
        }
    } else if constexpr (resample == Resampling::nearest_x2) {
        for (i64 line = 0; line < rows / width; ++line) {
            for (i64 column = 0; column < width; ++column) {
                Out* to = y + (4 * line * width + 2 * column) * stride;
                for (int v = 0; v < vectors; ++v, to += Vec::lanes) {
                    const Vec value = finish(line * width + column, v);
                    finish.run.store(value, to);
                    finish.run.store(value, to + stride);
                    finish.run.store(value, to + 2 * width * stride);
                    finish.run.store(value, to + (2 * width + 1) * stride);
                }
            }
        }
    } else {
        for (i64 line = 0; line < rows / width; line += 2) {
            for (i64 column = 0; column < width; column += 2) {
                const i64 upper = line * width + column, lower = upper + width;
                Out* to = y + (line / 2 * (width / 2) + column / 2) * stride;
                for (int v = 0; v < vectors; ++v, to += Vec::lanes) {
                    const Vec sum = (finish(upper, v) + finish(upper + 1, v)) + (finish(lower, v) + finish(lower + 1, v));
                    finish.run.store(sum * Vec::all(0.25f), to);
                }
            }
        }
    }
}

// How the second pass is cut: blocks of rows that are whole (pairs of) image lines where that matters.
i64 rows_to_apply(const GroupNormAct& g) {
    if (g.resample == Resampling::none) return apply_rows;
    const i64 lines = g.resample == Resampling::mean_2x2 ? 2 : 1;
    return g.width * lines * larger(1, apply_rows / (g.width * lines));
}

template <typename T, typename Out, bool Silu>
void apply_task(const GroupNormAct& g, i64 index) {
    const i64 pieces = Piece::count_of(g), step = rows_to_apply(g), blocks = divided(g.rows, step);
    const Piece piece(g, index % pieces);
    const i64 block = index / pieces % blocks, sample = index / pieces / blocks;
    const i64 row = block * step, rows = smaller(step, g.rows - row);
    // Lines above this block have become twice as many rows of twice the width, or half as many of half the width.
    const i64 y_row = g.resample == Resampling::nearest_x2 ? 4 * row : g.resample == Resampling::mean_2x2 ? row / 4 : row;
    Out* y = at<Out>(g.y, sample, y_row, piece.channel);
    const i64 stride = g.y.row_stride;
    with_source<T>(g, piece, sample, row, true, [&](const auto& source) {
        using Source = std::remove_cv_t<std::remove_reference_t<decltype(source)>>;
        for_each_run(piece.count, [&](auto run, i64 c) {
            const Finish<Out, Silu, Source, decltype(run)> finish(g, source, run, sample * g.channels + piece.channel, c);
            switch (g.resample) {
                case Resampling::none: return apply<Resampling::none>(finish, rows, g.width, y, stride);
                case Resampling::nearest_x2: return apply<Resampling::nearest_x2>(finish, rows, g.width, y, stride);
                case Resampling::mean_2x2: return apply<Resampling::mean_2x2>(finish, rows, g.width, y, stride);
            }
        });
    });
}

template <typename T, typename Out, bool Silu>
void run(const GroupNormAct& g) {
    const i64 pieces = Piece::count_of(g);
    const i64 blocks = g.samples * g.blocks * pieces;
    const i64 tasks = g.samples * divided(g.rows, rows_to_apply(g)) * pieces;
    // Groups are merged as many at a time as give long loops over neighbouring channels.
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
        // Backwards over the same part: what a thread read last is still in its cache.
        for (i64 i = tasks * (thread + 1) / threads; i-- > tasks * thread / threads;) apply_task<T, Out, Silu>(g, i);
    }
}

template <typename T, typename Out>
void choose_activation(const GroupNormAct& g) {
    g.silu ? run<T, Out, true>(g) : run<T, Out, false>(g);
}

}  // namespace

void group_norm_act(const GroupNormAct& g) {
    if (g.adds()) {
        for (i64 c = 0; c < g.x_channels; ++c) g.added_bias[c] = g.x_bias.data ? float(value(g.x_bias, 0, c)) : 0.0f;
    }
    if (g.dtype == Dtype::f32) return choose_activation<float, float>(g);
    g.out_dtype == Dtype::f32 ? choose_activation<bf16, float>(g) : choose_activation<bf16, bf16>(g);
}

}  // namespace GLIDE_FAST_ISA
}  // namespace glide_fast
