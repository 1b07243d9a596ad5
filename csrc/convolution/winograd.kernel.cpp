// 3x3 convolutions, stride 1, of channels-last bf16 pictures with Winograd's algorithm along the rows (F(2, 3): Lavin and Gray
// 2016, section 4; Winograd 1980): of two neighbouring pixels of the result, 4 products for each row of the window instead of
// 6.
//
//     t1 = d1 + d2, t2 = d2 - d1, t0 = d0 - (t1 + t2) / 2, t3 = (t1 - t2) / 2 - d3         of four neighbouring pixels of x
//     u1 = (g0 + g1 + g2) / 2, u2 = (g0 - g1 + g2) / 2, u0 = (g0 - g2 + u1 + u2) / 2, u3 = (g2 - g0 + u1 + u2) / 2
//                                                                                            of a row of the window
//     y0 = m0 + m1 + m2, y1 = m1 - m2 - m3,  m the sum over rows and channels of t * u
//
// t and u are rounded to bf16, sums are fp32. Without rounding t0 = d0 - d2, t3 = d1 - d3, u0 = g0 and u3 = g2, the usual
// formulas. The ones above use t1, t2, u1 and u2 after their rounding, and so cancel a part of its error: with random operands
// the error is 1.9 instead of 2.0 times that of a plain convolution. Winograd's algorithm along both dimensions would need 16
// products instead of 36, at 2.5 times the error.
//
// The pictures t of a strip are written first, with a row of zeros above and below. The three rows that a pair reads are then
// at the same distances for all pairs of a picture, and the products are one matrix product of pairs and outputs. A thread
// computes the weights u of a block of outputs when it comes to that block; only the nine of the window stay in memory.
#include <omp.h>

#include "convolution/winograd.h"
#include "cpu/vec.h"

namespace glide_fast {
namespace GLIDE_FAST_ISA {
namespace {

using i64 = std::int64_t;
using Plan = WinogradPlan;
constexpr int rows_at_once = int(Plan::rows_at_once);

// Writes m[pair][output] of rows_at_once pairs: the sum over three rows of the window and all channels. Pairs are `channels`
// elements apart in t.
#if defined(__AVX512BF16__)

template <int Vectors>
void products(i64 channels, const bf16* t, i64 row_stride, const bf16* u, float* m) {
    __m512 sums[rows_at_once][Vectors];
    for (auto& row : sums)
        for (auto& sum : row) sum = _mm512_setzero_ps();
    for (int row = 0; row < 3; ++row, t += row_stride) {
        for (i64 c = 0; c < channels; c += 2, u += 32 * Vectors) {
            __m512bh weights[Vectors];
            for (int v = 0; v < Vectors; ++v) weights[v] = (__m512bh)_mm512_loadu_si512(u + 32 * v);
#pragma GCC unroll 8
            for (int i = 0; i < rows_at_once; ++i) {
                std::int32_t two;
                std::memcpy(&two, t + i * channels + c, sizeof two);
                const __m512bh pixels = (__m512bh)_mm512_set1_epi32(two);
#pragma GCC unroll 3
                for (int v = 0; v < Vectors; ++v) sums[i][v] = _mm512_dpbf16_ps(sums[i][v], pixels, weights[v]);
            }
        }
    }
    for (int i = 0; i < rows_at_once; ++i)
        for (int v = 0; v < Vectors; ++v) _mm512_storeu_ps(m + (i * Vectors + v) * 16, sums[i][v]);
}

#else

template <int Vectors>
void products(i64 channels, const bf16* t, i64 row_stride, const bf16* u, float* m) {
    constexpr int outputs = 16 * Vectors;
    for (int i = 0; i < rows_at_once * outputs; ++i) m[i] = 0;
    for (int row = 0; row < 3; ++row, t += row_stride) {
        for (i64 c = 0; c < channels; c += 2, u += 2 * outputs) {
            for (int i = 0; i < rows_at_once; ++i) {
                const float first = widen(t[i * channels + c]), second = widen(t[i * channels + c + 1]);
                for (int o = 0; o < outputs; ++o)
                    m[i * outputs + o] += first * widen(u[2 * o]) + second * widen(u[2 * o + 1]);
            }
        }
    }
}

#endif

struct Strip {
    const WinogradWork& w;
    const Plan& plan;
    i64 image, images, row, rows;  // the first image and how many; the first row of each and how many

    bf16* planes() const { return reinterpret_cast<bf16*>(w.scratch); }

    // Writes row `padded` of image `index` of the strip to the four transformed pictures; row 0 is the one above the strip's
    // first.
    void transform(i64 index, i64 padded) const {
        const i64 channels = w.channels, offset = (index * (rows + 2) + padded) * plan.pairs * channels;
        const i64 from = row + padded - 1;
        bf16* t[4];
        for (int p = 0; p < 4; ++p) t[p] = planes() + p * plan.plane + offset;
        if (from < 0 || from >= w.height) {
            for (bf16* zeros : t) std::memset(zeros, 0, plan.pairs * channels * sizeof(bf16));
            return;
        }
        const bf16* x = w.x + ((image + index) * w.height + from) * w.width * channels;
        for (i64 pair = 0; pair < plan.pairs; ++pair) {
            const bf16* middle = x + 2 * pair * channels;  // d1
            const bool left = pair > 0, right = pair + 1 < plan.pairs;
            for (i64 c = 0; c < channels; c += 2 * Vec::lanes) {
                Vec even[4], odd[4];
                even[0] = odd[0] = even[3] = odd[3] = Vec::all(0);
                if (left) load_split(middle - channels + c, even[0], odd[0]);
                load_split(middle + c, even[1], odd[1]);
                load_split(middle + channels + c, even[2], odd[2]);
                if (right) load_split(middle + 2 * channels + c, even[3], odd[3]);
                const i64 at = pair * channels + c;
                const Vec half = Vec::all(0.5f);
                const Vec sum_even = rounded_to(even[1] + even[2], bf16{}), sum_odd = rounded_to(odd[1] + odd[2], bf16{});
                const Vec less_even = rounded_to(even[2] - even[1], bf16{}), less_odd = rounded_to(odd[2] - odd[1], bf16{});
                store_split(t[0] + at, even[0] - half * (sum_even + less_even), odd[0] - half * (sum_odd + less_odd));
                store_split(t[1] + at, sum_even, sum_odd);
                store_split(t[2] + at, less_even, less_odd);
                store_split(t[3] + at, half * (sum_even - less_even) - even[3], half * (sum_odd - less_odd) - odd[3]);
            }
        }
    }

    // Computes outputs [first, first + 16 * Vectors) of pairs [from, to) of a picture; u are the four transformed weights.
    template <int Vectors>
    void outputs(i64 index, i64 from, i64 to, i64 first, const bf16* const (&u)[4], float* m) const {
        constexpr int width = 16 * Vectors;
        const i64 channels = w.channels, row_stride = plan.pairs * channels;
        const i64 product = Plan::pairs_at_once * width;
        for (int p = 0; p < 4; ++p) {
            const bf16* t = planes() + p * plan.plane + (index * (rows + 2) * plan.pairs + from) * channels;
            for (i64 pair = 0; pair < to - from; pair += rows_at_once)
                products<Vectors>(channels, t + pair * channels, row_stride, u[p], m + p * product + pair * width);
        }
        for (i64 pair = from; pair < to; ++pair) {
            const float* sums = m + (pair - from) * width;
            // Pairs of consecutive rows follow each other in y as well.
            const i64 pixel = ((image + index) * w.height + row) * w.width + 2 * pair;
            const i64 at = pixel * w.outputs + first;
            for (int o = 0; o < width; o += Vec::lanes) {
                Vec m0 = Vec::load(sums + o), m1 = Vec::load(sums + product + o);
                Vec m2 = Vec::load(sums + 2 * product + o), m3 = Vec::load(sums + 3 * product + o);
                Vec y0 = m0 + (m1 + m2), y1 = (m1 - m2) - m3;
                if (w.bias) {
                    const Vec bias = w.bias_dtype == Dtype::f32 ? Vec::load(static_cast<const float*>(w.bias) + first + o)
                                                                : Vec::load(static_cast<const bf16*>(w.bias) + first + o);
                    y0 = y0 + bias;
                    y1 = y1 + bias;
                }
                if (w.residual) {
                    y0 = y0 + Vec::load(w.residual + at + o);
                    y1 = y1 + Vec::load(w.residual + at + w.outputs + o);
                }
                y0.store(w.y + at + o);
                y1.store(w.y + at + w.outputs + o);
            }
        }
    }

    // Computes the part of the strip's results that falls to a thread. Pairs vary faster than blocks of outputs, so that a
    // thread transforms the weights of only one or two blocks.
    void share(i64 thread, i64 threads, unsigned char* scratch) const {
        bf16* transformed = reinterpret_cast<bf16*>(scratch);
        float* m = reinterpret_cast<float*>(scratch + Plan::rounded(2 * plan.weights));
        const i64 pairs = rows * plan.pairs, parts = (pairs + Plan::pairs_at_once - 1) / Plan::pairs_at_once;
        i64 blocks = 0;
        for (i64 o = 0; o < w.outputs; o += Plan::block_of(w.outputs - o)) ++blocks;
        const i64 items = blocks * images * parts, begin = thread * items / threads, end = (thread + 1) * items / threads;
        i64 item = 0;
        for (i64 first = 0; first < w.outputs && item < end;) {
            const i64 width = Plan::block_of(w.outputs - first), size = 3 * w.channels * width;
            const i64 last = item + images * parts;
            if (last > begin) {
                const bf16* g = w.weight + first * 9 * w.channels;
                for (i64 i = 0; i < size; i += Vec::lanes) {
                    const Vec half = Vec::all(0.5f), g0 = Vec::load(g + i), g2 = Vec::load(g + 2 * size + i);
                    const Vec outer = half * (g0 + g2), inner = half * Vec::load(g + size + i);
                    const Vec u1 = rounded_to(outer + inner, bf16{}), u2 = rounded_to(outer - inner, bf16{});
                    (half * (g0 - g2 + (u1 + u2))).store(transformed + i);
                    u1.store(transformed + size + i);
                    u2.store(transformed + 2 * size + i);
                    (half * (g2 - g0 + (u1 + u2))).store(transformed + 3 * size + i);
                }
                const bf16* const u[4] = {transformed, transformed + size, transformed + 2 * size, transformed + 3 * size};
                for (i64 at = begin > item ? begin : item; at < end && at < last; ++at) {
                    const i64 index = (at - item) / parts, from = (at - item) % parts * Plan::pairs_at_once;
                    const i64 to = from + Plan::pairs_at_once < pairs ? from + Plan::pairs_at_once : pairs;
                    if (width == 48) outputs<3>(index, from, to, first, u, m);
                    else if (width == 32) outputs<2>(index, from, to, first, u, m);
                    else outputs<1>(index, from, to, first, u, m);
                }
            }
            item = last;
            first += width;
        }
    }
};

}  // namespace

void winograd(const WinogradWork& w) {
    const Plan plan(w.images, w.height, w.width, w.channels, w.threads);
#pragma omp parallel num_threads(w.threads)
    {
        // OpenMP may start fewer threads than requested; the scratch memory is sized for the requested number.
        const i64 thread = omp_get_thread_num(), threads = omp_get_num_threads();
        unsigned char* scratch = w.scratch + Plan::rounded(4 * 2 * plan.plane) + thread * plan.thread_bytes;
        for (i64 image = 0; image < w.images; image += plan.strip_images) {
            for (i64 row = 0; row < w.height; row += plan.strip_rows) {
                const i64 images = image + plan.strip_images < w.images ? plan.strip_images : w.images - image;
                const i64 rows = row + plan.strip_rows < w.height ? plan.strip_rows : w.height - row;
                const Strip strip{w, plan, image, images, row, rows};
#pragma omp for schedule(static)
                for (i64 line = 0; line < images * (rows + 2); ++line) strip.transform(line / (rows + 2), line % (rows + 2));
                strip.share(thread, threads, scratch);
#pragma omp barrier
            }
        }
    }
}

}  // namespace GLIDE_FAST_ISA
}  // namespace glide_fast
