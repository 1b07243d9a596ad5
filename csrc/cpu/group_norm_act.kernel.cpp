// Group normalisation, FiLM and SiLU over channels-last rows, in two passes over memory.
//
// Statistics: every block of 128 rows and up to 64 channels is read twice while it is in the first-level cache, for a first
// mean and then for the sums of the deviations from it (what rounding left in the mean) and of their squares: the corrected
// two-pass algorithm. Blocks, then the channels of a group, are merged by M2 = sum(M2_i) + sum(n_i (mean_i - mean)^2) in
// fp64 (both: Chan, Golub and LeVeque 1983). No E[x^2] - E[x]^2 anywhere, so a mean far from zero costs no digits.
//
// Apply: y = act((x - center) * factor + offset). The fp64 statistics are folded into three fp32 numbers a channel; what
// rounding the mean to fp32 loses is put back through the offset.
#include "group_norm_act.h"
#include "vec.h"

namespace glide_fast {
namespace GLIDE_FAST_ISA {
namespace {

constexpr int unroll = 4;  // vectors side by side; with two rows in flight, enough chains to hide the latency of an addition
constexpr std::int64_t strip = unroll * Vec::lanes;

std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// One channel's statistics over a block, from the mean that was tried and the sums of deviations and squares around it.
void correct(const float* tried, const float* sum, float* m2, std::int64_t rows, std::int64_t count, double* mean) {
    for (std::int64_t c = 0; c < count; ++c) {
        const double rest = double(sum[c]) / double(rows);
        mean[c] = double(tried[c]) + rest;
        m2[c] = float(double(m2[c]) - rest * double(sum[c]));
    }
}

// Means and sums of squared deviations of `unroll` full vectors of channels.
template <typename T>
void strip_statistics(const T* x, std::int64_t stride, std::int64_t rows, double* mean_out, float* m2_out) {
    Vec sum[unroll][2], m2[unroll][2], mean[unroll];
    for (int v = 0; v < unroll; ++v) sum[v][0] = sum[v][1] = Vec::all(0.0f);
    std::int64_t r = 0;
    for (; r + 1 < rows; r += 2) {
        for (int v = 0; v < unroll; ++v) {
            sum[v][0] = sum[v][0] + Vec::load(x + r * stride + v * Vec::lanes);
            sum[v][1] = sum[v][1] + Vec::load(x + (r + 1) * stride + v * Vec::lanes);
        }
    }
    if (r < rows) {
        for (int v = 0; v < unroll; ++v) sum[v][0] = sum[v][0] + Vec::load(x + r * stride + v * Vec::lanes);
    }
    const Vec per_row = Vec::all(1.0f / float(rows));
    for (int v = 0; v < unroll; ++v) {
        mean[v] = (sum[v][0] + sum[v][1]) * per_row;
        sum[v][0] = sum[v][1] = m2[v][0] = m2[v][1] = Vec::all(0.0f);
    }
    for (r = 0; r + 1 < rows; r += 2) {
        for (int v = 0; v < unroll; ++v) {
            const Vec a = Vec::load(x + r * stride + v * Vec::lanes) - mean[v];
            const Vec b = Vec::load(x + (r + 1) * stride + v * Vec::lanes) - mean[v];
            sum[v][0] = sum[v][0] + a;
            sum[v][1] = sum[v][1] + b;
            m2[v][0] = multiply_add(a, a, m2[v][0]);
            m2[v][1] = multiply_add(b, b, m2[v][1]);
        }
    }
    if (r < rows) {
        for (int v = 0; v < unroll; ++v) {
            const Vec a = Vec::load(x + r * stride + v * Vec::lanes) - mean[v];
            sum[v][0] = sum[v][0] + a;
            m2[v][0] = multiply_add(a, a, m2[v][0]);
        }
    }
    float tried[strip], sums[strip];
    for (int v = 0; v < unroll; ++v) {
        mean[v].store(tried + v * Vec::lanes);
        (sum[v][0] + sum[v][1]).store(sums + v * Vec::lanes);
        (m2[v][0] + m2[v][1]).store(m2_out + v * Vec::lanes);
    }
    correct(tried, sums, m2_out, rows, strip, mean_out);
}

// The same for at most one vector of channels, at the end of a row.
template <typename T>
void tail_statistics(const T* x, std::int64_t stride, std::int64_t rows, int count, double* mean_out, float* m2_out) {
    Vec sum = Vec::all(0.0f), m2 = Vec::all(0.0f);
    for (std::int64_t r = 0; r < rows; ++r) sum = sum + Vec::load(x + r * stride, count);
    const Vec mean = sum * Vec::all(1.0f / float(rows));
    sum = Vec::all(0.0f);
    for (std::int64_t r = 0; r < rows; ++r) {
        const Vec d = Vec::load(x + r * stride, count) - mean;
        sum = sum + d;
        m2 = multiply_add(d, d, m2);
    }
    float tried[Vec::lanes], sums[Vec::lanes];
    mean.store(tried);
    sum.store(sums);
    m2.store(m2_out, count);
    correct(tried, sums, m2_out, rows, count, mean_out);
}

template <typename T, bool silu_too>
Vec finish(Vec x, Vec center, Vec factor, Vec offset) {
    const Vec y = multiply_add(x - center, factor, offset);
    return silu_too ? silu(y, T{}) : y;
}

template <typename T, bool silu_too>
void strip_apply(const T* x, std::int64_t x_stride, T* y, std::int64_t y_stride, std::int64_t rows, const float* center,
                 const float* factor, const float* offset) {
    Vec c[unroll], f[unroll], o[unroll];
    for (int v = 0; v < unroll; ++v) {
        c[v] = Vec::load(center + v * Vec::lanes);
        f[v] = Vec::load(factor + v * Vec::lanes);
        o[v] = Vec::load(offset + v * Vec::lanes);
    }
    for (std::int64_t r = 0; r < rows; ++r) {
        for (int v = 0; v < unroll; ++v) {
            finish<T, silu_too>(Vec::load(x + r * x_stride + v * Vec::lanes), c[v], f[v], o[v])
                .store(y + r * y_stride + v * Vec::lanes);
        }
    }
}

template <typename T, bool silu_too>
void tail_apply(const T* x, std::int64_t x_stride, T* y, std::int64_t y_stride, std::int64_t rows, int count,
                const float* center, const float* factor, const float* offset) {
    const Vec c = Vec::load(center, count), f = Vec::load(factor, count), o = Vec::load(offset, count);
    for (std::int64_t r = 0; r < rows; ++r)
        finish<T, silu_too>(Vec::load(x + r * x_stride, count), c, f, o).store(y + r * y_stride, count);
}

// One task of the two passes: a block of rows and a strip of channels of one sample.
struct Tile {
    std::int64_t sample, block, row, rows, channel, channels;

    Tile(const GroupNormAct& g, std::int64_t index) {
        const std::int64_t strips = (g.channels + strip - 1) / strip;
        channel = index % strips * strip;
        channels = smaller(strip, g.channels - channel);
        block = index / strips % g.blocks;
        row = block * g.block_rows;
        rows = smaller(g.block_rows, g.rows - row);
        sample = index / (strips * g.blocks);
    }
    static std::int64_t count(const GroupNormAct& g) {
        return g.samples * g.blocks * ((g.channels + strip - 1) / strip);
    }
};

template <typename T>
void tile_statistics(const GroupNormAct& g, const Tile& t) {
    const T* x = static_cast<const T*>(g.x) + t.sample * g.x_sample_stride + t.row * g.x_row_stride + t.channel;
    const std::int64_t out = (t.sample * g.blocks + t.block) * g.channels + t.channel;
    if (t.channels == strip) {
        strip_statistics(x, g.x_row_stride, t.rows, g.block_mean + out, g.block_m2 + out);
        return;
    }
    for (std::int64_t c = 0; c < t.channels; c += Vec::lanes) {
        tail_statistics(x + c, g.x_row_stride, t.rows, int(smaller(Vec::lanes, t.channels - c)),
                        g.block_mean + out + c, g.block_m2 + out + c);
    }
}

template <typename T, bool silu_too>
void tile_apply(const GroupNormAct& g, const Tile& t) {
    const T* x = static_cast<const T*>(g.x) + t.sample * g.x_sample_stride + t.row * g.x_row_stride + t.channel;
    T* y = static_cast<T*>(g.y) + t.sample * g.y_sample_stride + t.row * g.y_row_stride + t.channel;
    const std::int64_t at = t.sample * g.channels + t.channel;
    if (t.channels == strip) {
        strip_apply<T, silu_too>(x, g.x_row_stride, y, g.y_row_stride, t.rows, g.center + at, g.factor + at,
                                 g.offset + at);
        return;
    }
    for (std::int64_t c = 0; c < t.channels; c += Vec::lanes) {
        tail_apply<T, silu_too>(x + c, g.x_row_stride, y + c, g.y_row_stride, t.rows,
                                int(smaller(Vec::lanes, t.channels - c)), g.center + at + c, g.factor + at + c,
                                g.offset + at + c);
    }
}

// Merge a sample's blocks, for `count` neighbouring channels.
void merge_blocks(const GroupNormAct& g, std::int64_t sample, std::int64_t channel, std::int64_t count) {
    const double* mean = g.block_mean + sample * g.blocks * g.channels + channel;
    const float* m2 = g.block_m2 + sample * g.blocks * g.channels + channel;
    double* mean_out = g.channel_mean + sample * g.channels + channel;
    double* m2_out = g.channel_m2 + sample * g.channels + channel;
    for (std::int64_t c = 0; c < count; ++c) mean_out[c] = m2_out[c] = 0.0;
    for (std::int64_t b = 0; b < g.blocks; ++b) {
        const double share = double(smaller(g.block_rows, g.rows - b * g.block_rows)) / double(g.rows);
        for (std::int64_t c = 0; c < count; ++c) mean_out[c] += share * mean[b * g.channels + c];
    }
    for (std::int64_t b = 0; b < g.blocks; ++b) {
        const double rows = double(smaller(g.block_rows, g.rows - b * g.block_rows));
        for (std::int64_t c = 0; c < count; ++c) {
            const double d = mean[b * g.channels + c] - mean_out[c];
            m2_out[c] += double(m2[b * g.channels + c]) + rows * d * d;
        }
    }
}

// Merge the channels of a group and fold statistics, affine parameters and FiLM into the coefficients of the second pass.
void merge_group(const GroupNormAct& g, std::int64_t sample, std::int64_t group) {
    const std::int64_t width = g.channels / g.groups;
    const std::int64_t first = group * width, at = sample * g.channels;
    double mean = 0.0, m2 = 0.0;
    for (std::int64_t c = first; c < first + width; ++c) mean += g.channel_mean[at + c];
    mean /= double(width);
    for (std::int64_t c = first; c < first + width; ++c) {
        const double d = g.channel_mean[at + c] - mean;
        m2 += g.channel_m2[at + c] + double(g.rows) * d * d;
    }
    const double rstd = 1.0 / __builtin_sqrt(m2 / (double(width) * double(g.rows)) + g.eps);
    const float center = float(mean);
    for (std::int64_t c = first; c < first + width; ++c) {
        double factor = rstd * double(element(g.weight, g.affine_dtype, c));
        double offset = double(element(g.bias, g.affine_dtype, c)) + (double(center) - mean) * factor;
        if (g.scale) {
            const double gain = 1.0 + double(element(g.scale, g.film_dtype, sample * g.scale_stride + c));
            factor *= gain;
            offset = offset * gain + double(element(g.shift, g.film_dtype, sample * g.shift_stride + c));
        }
        g.center[at + c] = center;
        g.factor[at + c] = float(factor);
        g.offset[at + c] = float(offset);
    }
}

template <typename T, bool silu_too>
void run(const GroupNormAct& g) {
    const std::int64_t tiles = Tile::count(g);
    // Groups are merged as many at a time as give long loops over neighbouring channels.
    const std::int64_t width = g.channels / g.groups;
    const std::int64_t batch = (strip + width - 1) / width, batches = (g.groups + batch - 1) / batch;
#pragma omp parallel num_threads(g.threads)
    {
#pragma omp for schedule(static)
        for (std::int64_t i = 0; i < tiles; ++i) tile_statistics<T>(g, Tile(g, i));
#pragma omp for schedule(static)
        for (std::int64_t i = 0; i < g.samples * batches; ++i) {
            const std::int64_t sample = i / batches, first = i % batches * batch;
            const std::int64_t last = smaller(first + batch, g.groups);
            merge_blocks(g, sample, first * width, (last - first) * width);
            for (std::int64_t group = first; group < last; ++group) merge_group(g, sample, group);
        }
        // Backwards: a thread's last tiles of the first pass are the ones still in its cache.
#pragma omp for schedule(static)
        for (std::int64_t i = 0; i < tiles; ++i) tile_apply<T, silu_too>(g, Tile(g, tiles - 1 - i));
    }
}

template <typename T>
void choose_activation(const GroupNormAct& g) {
    g.silu ? run<T, true>(g) : run<T, false>(g);
}

}  // namespace

void group_norm_act(const GroupNormAct& g) {
    g.dtype == Dtype::f32 ? choose_activation<float>(g) : choose_activation<bf16>(g);
}

}  // namespace GLIDE_FAST_ISA
}  // namespace glide_fast
