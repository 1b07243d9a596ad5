// From a thread's channels to y: the norm with its affine parameters and FiLM as one product and sum, SiLU, resampling, windows.
#pragma once

#include "cuda/channel_vector.cuh"
#include "cuda/dtype.cuh"
#include "cuda/fast_math.cuh"
#include "group_norm_act/slab.cuh"
#include "moments/moments.cuh"

namespace glide_fast::cuda {

struct Statistics {
    float mean, inverse_std;
};

__device__ inline Statistics finish(const Moments& moments, float count, float eps) {
    return {moments.mean, rsqrtf(moments.m2 * reciprocal(count) + eps)};
}

// What becomes of a result: it is written once; to several rows (nearest x2, windows, or both); or four are averaged first.
enum class Form { once, spread, mean };

// Weight, bias, scale and shift of a thread's channels.
template <int N>
struct Affine {
    ChannelVector<N> weight, bias, scale, shift;

    __device__ void fetch_weights(const GroupNormAct& g, int channel) {
        weight.fetch(g.weight, 0, channel);
        bias.fetch(g.bias, 0, channel);
    }

    __device__ void fetch_film(const GroupNormAct& g, int sample, int channel) {
        if (!g.scale.data) return;
        scale.fetch(g.scale, sample, channel);
        shift.fetch(g.shift, sample, channel);
    }
};

template <typename T, int N, Form form>
struct Output {
    // The mean is subtracted first, not folded into the offset: their difference would cost digits.
    float mean[N], factor[N], offset[N];
    unsigned char* y;
    std::int64_t stride;  // bytes
    int tap;              // bytes from one place of a window to the next
    int line, lines;      // positions of an image line of y, and lines
    bool activates, wide;      // wide: y is fp32, whatever T is
    bool windows, nearest;

    __device__ Output(const GroupNormAct& g, const Plan& plan, const Slab& slab, int channel) : activates(g.silu) {
        wide = sizeof(T) < 4 && g.out_dtype == Dtype::f32;
        const int bytes = wide ? 4 : int(sizeof(T));
        y = rows_of<unsigned char>(g.y, std::int64_t(slab.sample) * bytes, std::int64_t(channel) * bytes);
        stride = g.y.row_stride * bytes;
        if (form == Form::once) {
            y += slab.begin * stride;
            return;
        }
        windows = g.windows;
        nearest = g.resample == Resampling::nearest_x2;
        tap = int(g.channels) * bytes;
        line = form == Form::mean ? int(g.width) / 2 : int(g.width) << nearest;
        lines = form == Form::mean ? plan.lines / 2 : plan.lines << nearest;
    }

    // Waits for the parameters, but not for statistics.
    __device__ void set(const GroupNormAct& g, const Affine<N>& affine) {
        affine.weight.unpack(g.weight.dtype, factor);
        affine.bias.unpack(g.bias.dtype, offset);
        if (!g.scale.data) return;
        float scale[N], shift[N];
        affine.scale.unpack(g.scale.dtype, scale);
        affine.shift.unpack(g.shift.dtype, shift);
#pragma unroll
        for (int k = 0; k < N; ++k) {
            factor[k] *= 1.0f + scale[k];
            offset[k] = offset[k] * (1.0f + scale[k]) + shift[k];
        }
    }

    __device__ void set(const Statistics* statistics, const Groups<N>& groups) {
        const Statistics first = statistics[groups.first], second = statistics[groups.second];
#pragma unroll
        for (int k = 0; k < N; ++k) {
            mean[k] = groups.in_first(k) ? first.mean : second.mean;
            factor[k] *= groups.in_first(k) ? first.inverse_std : second.inverse_std;
        }
    }

    __device__ void activate(const Pack<T, N>& x, float (&result)[N]) const {
        x.unpack(result);
#pragma unroll
        for (int k = 0; k < N; ++k) result[k] = (result[k] - mean[k]) * factor[k] + offset[k];
        if (!activates) return;
#pragma unroll
        for (int k = 0; k < N; ++k) result[k] = silu(result[k]);
    }

    __device__ void store(const float (&value)[N], unsigned char* to) const {
        if (!wide) {
            *reinterpret_cast<Pack<T, N>*>(to) = Pack<T, N>::of(value);
            return;
        }
        constexpr int quad = N % 4 == 0 ? 4 : 1;  // 16 bytes at a time
#pragma unroll
        for (int k = 0; k < N; k += quad) {
            Pack<float, quad> part;
#pragma unroll
            for (int i = 0; i < quad; ++i) part.v[i] = value[k + i];
            reinterpret_cast<Pack<float, quad>*>(to)[k / quad] = part;
        }
    }

    // A value at a position of y's image. A value has nine places in the windows around it; where one of those windows would lie
    // outside of the image, the place opposite in the value's own window lies outside, and holds zero.
    __device__ void place(const float (&value)[N], int at_line, int at) const {
        unsigned char* const own = y + (std::int64_t(at_line) * line + at) * stride;
        if (!windows) {
            store(value, own);
            return;
        }
        float zero[N] = {};
#pragma unroll 1
        for (int i = 0; i < 9; ++i) {
            const int down = 1 - i / 3, right = 1 - i % 3;
            if (unsigned(at_line + down) < unsigned(lines) && unsigned(at + right) < unsigned(line))
                store(value, own + (std::int64_t(down) * line + right) * stride + i * tap);
            else
                store(zero, own + (8 - i) * tap);
        }
    }

    // The result of one row of the block; not for means.
    __device__ void write(const Pack<T, N>& x, int row, const Slab& slab, const GroupNormAct& g, const Plan& plan) const {
        float value[N];
        activate(x, value);
        if (form == Form::once) {
            store(value, y + std::int64_t(row) * stride);
            return;
        }
        const int of_image = slab.begin + row, at_line = of_image / plan.by_line, at = of_image - at_line * int(g.width);
        if (!nearest) {
            place(value, at_line, at);
            return;
        }
#pragma unroll 1
        for (int i = 0; i < 4; ++i) place(value, 2 * at_line + i / 2, 2 * at + i % 2);
    }

    // The means of a block's 2x2 squares; read(row, packs) gives the values of row, row + 1 and of those below them.
    template <typename Read>
    __device__ void write_means(const Slab& slab, const GroupNormAct& g, const Plan& plan, Read read) const {
        const int first = slab.begin / 4, end = first + slab.rows / 4;
        for (int to = first + slab.lane; to < end; to += slab.lanes) {
            const int at_line = to / plan.by_line, at = to - at_line * line;
            Pack<T, N> packs[4];
            read(at_line * 2 * int(g.width) + 2 * at - slab.begin, packs);
            float total[N] = {}, one[N];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                activate(packs[i], one);
#pragma unroll
                for (int k = 0; k < N; ++k) total[k] += 0.25f * one[k];
            }
            place(total, at_line, at);
        }
    }
};

}  // namespace glide_fast::cuda
