// Attention with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022) over one or two segments of keys.
//
// Queries lie across the lanes, so that keys can be broadcast from rows as they are in memory, and the softmax of a vector of
// queries is as many independent lanes: no sum or maximum across a vector, and no transposed keys. The weights then lie as
// [keys][queries] and are broadcast in turn, against rows of values, so that the result is token-major. Only a tile of queries
// is transposed, and both products are one micro-kernel.
//
// With AVX-512 BF16 a word is a pair of bf16 that a product sums over: two channels of a query or key in the first product, two
// keys in the second. The weights are rounded to bf16 for that; their sums are of the fp32 values. Elsewhere a word is one
// fp32 number, to which bf16 is widened.
//
// A query's result depends on nothing but its own row and the keys: neither tasks nor threads change a bit of it.
#include "attention/cpu.h"

#include <omp.h>

#include "attention/rows.h"
#include "cpu/transpose.h"
#include "cpu/vec.h"

namespace glide_fast {
namespace GLIDE_FAST_ISA {
namespace {

constexpr std::int64_t tile = AttentionWork::tile;
constexpr int rows = AttentionWork::rows;
#if defined(__AVX512F__)
constexpr int columns = 4;  // with 6 rows: 24 sums, 4 vectors and a broadcast in 32 registers
#else
constexpr int columns = 2;  // with 6 rows: 12 sums, 2 vectors and a broadcast in 16 registers
#endif

constexpr std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// A function that fills the registers: inlined, it would have to leave some to its caller, and spill its sums.
#define OWN_REGISTERS __attribute__((noinline))

// Words of one number.
template <typename T>
struct Singles {
    typedef T Element;
    typedef float Word;
    typedef Vec Lanes;
    static constexpr int depth = 1;                                  // elements in a word
    static constexpr std::int64_t block = AttentionWork::block / 2;  // keys at once: logits and values fit the first cache

    static Lanes all(Word x) { return Vec::all(x); }
    static Lanes load(const Word* p) { return Vec::load(p); }
    static Vec dot(Lanes a, Lanes b, Vec sum) { return multiply_add(a, b, sum); }
    static void join(const Vec* weights, Word* p) { weights[0].store(p); }

    // A row of `head` elements as words.
    template <int head>
    static void copy(const T* row, Word* to) {
        for (int c = 0; c < head; c += Vec::lanes) Vec::load(row + c).store(to + c);
    }
    // `depth` rows side by side.
    template <int head>
    static void interleave(const T* row, const T*, Word* to) {
        copy<head>(row, to);
    }
};

#if defined(__AVX512BF16__)
// Words of two bf16, the first in the lower half.
struct Pairs {
    typedef bf16 Element;
    typedef std::uint32_t Word;
    typedef __m512bh Lanes;
    static constexpr int depth = 2;
    static constexpr std::int64_t block = AttentionWork::block;

    static Lanes all(Word x) { return (__m512bh)_mm512_set1_epi32(int(x)); }
    static Lanes load(const Word* p) { return (__m512bh)_mm512_loadu_si512(p); }
    static Vec dot(Lanes a, Lanes b, Vec sum) { return {_mm512_dpbf16_ps(sum.v, a, b)}; }
    static void join(const Vec* weights, Word* p) {
        const __m512i first = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(weights[0].v));
        const __m512i second = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(weights[1].v));
        _mm512_storeu_si512(p, _mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
    }
    template <int head>
    static void copy(const bf16* row, Word* to) {
        std::memcpy(to, row, head * sizeof *row);
    }
    template <int head>
    static void interleave(const bf16* row, const bf16* next, Word* to) {
        for (int c = 0; c < head; ++c) to[c] = Word(row[c].bits) | (next ? Word(next[c].bits) << 16 : 0);
    }
};
#endif

// sum[r][c] += the products over `steps` words of row r of `a` (words a_step apart, rows a_row apart) and column vectors of `b`.
template <typename M, int a_row, int a_step, int b_step, int height, int width>
void product(const typename M::Word* a, const typename M::Word* b, std::int64_t steps, Vec (&sum)[height][width]) {
    for (std::int64_t s = 0; s < steps; ++s) {
        typename M::Lanes vectors[width];
#pragma GCC unroll 8
        for (int c = 0; c < width; ++c) vectors[c] = M::load(b + s * b_step + c * Vec::lanes);
#pragma GCC unroll 8
        for (int r = 0; r < height; ++r) {
            const typename M::Lanes value = M::all(a[r * a_row + s * a_step]);
#pragma GCC unroll 8
            for (int c = 0; c < width; ++c) sum[r][c] = M::dot(value, vectors[c], sum[r][c]);
        }
    }
}

// As many zeros as there are hidden lanes, then ones: loaded from so far before the middle.
constexpr struct Seen {
    float ones[2 * Vec::lanes];
    constexpr Seen() : ones() {
        for (int i = Vec::lanes; i < 2 * Vec::lanes; ++i) ones[i] = 1.0f;
    }
    // 0 in the first `hidden` lanes (one at least), else 1.
    Vec from(std::int64_t hidden) const { return Vec::load(ones + Vec::lanes - smaller(hidden, Vec::lanes)); }
} seen_lanes;

// Word w of each of a tile's queries side by side, [head / depth][tile]; queries past `count` are zero.
template <typename M, int head>
void transpose_queries(const Rows<typename M::Element>& at, std::int64_t first, std::int64_t count,
                       typename M::Word* to) {
    constexpr int words = head / M::depth;
    constexpr int group = 16;
    for (std::int64_t i = 0; i < tile; i += group) {
        alignas(64) typename M::Word whole[group][words] = {};
        for (std::int64_t j = i; j < smaller(i + group, count); ++j)
            M::template copy<head>(at.query(first + j), whole[j - i]);
        for (int w = 0; w < words; w += group) {
#if defined(__AVX512F__)
            __m512i r[group];
            for (int j = 0; j < group; ++j) r[j] = _mm512_load_si512(&whole[j][w]);
            transpose(r);
            for (int j = 0; j < group; ++j) _mm512_storeu_si512(to + (w + j) * tile + i, r[j]);
#else
            for (int k = w; k < w + group; ++k) {
                for (int j = 0; j < group; ++j) to[k * tile + i + j] = whole[j][k];
            }
#endif
        }
    }
}

// What a thread holds while it works on one head of one sample.
template <typename M, int head>
struct Task {
    typedef typename M::Element Element;
    typedef typename M::Word Word;
    static constexpr int words = head / M::depth;
    static constexpr int channels = int(smaller(columns, head / Vec::lanes));  // vectors of them in the second product

    const Rows<Element> at;
    const bool causal;
    const std::int64_t keys_count;  // that any query of the task sees
    const Vec scale = Vec::all(1.44269504f / __builtin_sqrtf(float(head)));  // log2(e) is in it
    Word *keys, *values;                      // [keys][words], [keys / depth][head]
    Word* queries;                            // [words][tile]
    float* logits;                            // [keys of a block][tile]
    Word* weights;                            // [keys of a block / depth][tile], where the logits were
    float* sums;                              // [tile][head], not yet divided by `total`
    float *largest, *total, *shrink;          // [tile]: logit so far, sum of weights, weight of what was summed before

    Task(const AttentionWork& g, const Rows<Element>& rows_of_head, std::int64_t seen, float* scratch)
        : at(rows_of_head), causal(g.causal), keys_count(seen) {
        keys = take<Word>(scratch, (keys_count + rows) * words);
        values = take<Word>(scratch, (keys_count + M::depth - 1) / M::depth * head);
        queries = take<Word>(scratch, words * tile);
        logits = take<float>(scratch, M::block * tile);
        weights = reinterpret_cast<Word*>(logits);
        sums = take<float>(scratch, tile * head);
        largest = take<float>(scratch, tile);
        total = take<float>(scratch, tile);
        shrink = take<float>(scratch, tile);

        for (std::int64_t i = 0; i < keys_count; ++i) M::template copy<head>(at.key(i), keys + i * words);
        // The micro-kernel reads whole groups of rows; what it makes of these is dropped.
        for (std::int64_t i = 0; i < rows * words; ++i) keys[keys_count * words + i] = 0;
        for (std::int64_t i = 0; i < keys_count; i += M::depth) {
            M::template interleave<head>(at.value(i), i + 1 < keys_count ? at.value(i + 1) : nullptr,
                                         values + i / M::depth * head);
        }
    }

    template <typename T>
    static T* take(float*& free, std::int64_t count) {
        T* taken = reinterpret_cast<T*>(free);
        free += count;
        return taken;
    }

    void attend(std::int64_t first_query, std::int64_t count) const {
        transpose_queries<M, head>(at, first_query, count, queries);
        const std::int64_t end = causal ? smaller(keys_count, first_query + count) : keys_count;
        for (std::int64_t key = 0; key < end; key += M::block) {
            const std::int64_t some = smaller(M::block, end - key);
            // How many keys of the block, less one, the tile's first query sees: where it sees all of them, so do the others.
            const std::int64_t diagonal = causal ? first_query - key : some;
            for (std::int64_t q = 0; q < count; q += columns * Vec::lanes) multiply_keys(key, some, diagonal, q);
            for (std::int64_t q = 0; q < count; q += Vec::lanes) exponentiate(some, diagonal, q);
            std::int64_t q = 0;
            for (; q + rows <= count; q += rows) multiply_values<rows>(key, some, q);
            for (; q + 4 <= count; q += 4) multiply_values<4>(key, some, q);
            for (; q < count; ++q) multiply_values<1>(key, some, q);
        }
        for (std::int64_t q = 0; q < count; ++q) {
            const Vec share = Vec::all(1.0f / total[q]);
            for (int c = 0; c < head; c += Vec::lanes)
                (Vec::load(sums + q * head + c) * share).store(at.y + (first_query + q) * at.y_stride + c);
        }
    }

    // Logits of a block of keys for some vectors of queries; what this does to the largest of each. Query q sees the block's
    // keys up to diagonal + q.
    void multiply_keys(std::int64_t key, std::int64_t count, std::int64_t diagonal, std::int64_t q) const {
        Vec most[columns];
        for (int c = 0; c < columns; ++c)
            most[c] = key == 0 ? Vec::all(-__builtin_inff()) : Vec::load(largest + q + c * Vec::lanes);
        for (std::int64_t k = 0; k < count; k += rows) {
            multiply_rows(key + k, q, logits + k * tile + q);
            for (std::int64_t i = k; i < smaller(k + rows, count); ++i) {
                const std::int64_t hidden = smaller(i - diagonal, q + columns * Vec::lanes);
                for (std::int64_t unseen = q; unseen < hidden; ++unseen) logits[i * tile + unseen] = -__builtin_inff();
                for (int c = 0; c < columns; ++c)
                    most[c] = larger(Vec::load(logits + i * tile + q + c * Vec::lanes), most[c]);
            }
        }
        for (int c = 0; c < columns; ++c) {
            const std::int64_t lane = q + c * Vec::lanes;
            if (key == 0) {
                Vec::all(0.0f).store(total + lane);
            } else {
                weight(Vec::load(largest + lane), most[c]).store(shrink + lane);
                (Vec::load(total + lane) * Vec::load(shrink + lane)).store(total + lane);
            }
            most[c].store(largest + lane);
        }
    }

    OWN_REGISTERS void multiply_rows(std::int64_t key, std::int64_t q, float* to) const {
        Vec sum[rows][columns];
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
            for (int c = 0; c < columns; ++c) sum[r][c] = Vec::all(0.0f);
        }
        product<M, words, 1, tile>(keys + key * words, queries + q, words, sum);
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
            for (int c = 0; c < columns; ++c) sum[r][c].store(to + r * tile + c * Vec::lanes);
        }
    }

    // e^((logit - most) / sqrt(head)). The difference comes first, so that logits of any size are exact relative to the
    // largest. NaN stays NaN.
    Vec weight(Vec logit, Vec most) const { return exponential((logit - most) * scale, Element{}); }

    static Vec exponential(Vec t, bf16) { return power_of_two(t, bf16{}); }
    static Vec exponential(Vec t, float) {
        const Vec bounded = larger(Vec::all(-126.0f), t);  // t is not positive
        const Vec whole = round(bounded);
        return power_of_two(whole, bounded - whole, 0.0f);
    }

    // Logits of a vector of queries become weights, in place: row i is written after rows `depth` * i and on were read. The
    // exponential of minus infinity is tiny where it is not 0, so weights of keys that are not seen are set to 0.
    void exponentiate(std::int64_t count, std::int64_t diagonal, std::int64_t q) const {
        const Vec most = Vec::load(largest + q);
        Vec sum = Vec::load(total + q);
        for (std::int64_t k = 0; k < count; k += M::depth) {
            Vec w[M::depth];
            for (int i = 0; i < M::depth; ++i) {
                w[i] = Vec::all(0.0f);
                if (k + i < count) w[i] = weight(Vec::load(logits + (k + i) * tile + q), most);
                if (k + i - diagonal > q) w[i] = w[i] * seen_lanes.from(k + i - diagonal - q);
                sum = sum + w[i];
            }
            M::join(w, weights + k / M::depth * tile + q);
        }
        sum.store(total + q);
    }

    // Adds a block's weighted values to the sums of `height` queries.
    template <int height>
    OWN_REGISTERS void multiply_values(std::int64_t key, std::int64_t count, std::int64_t q) const {
        for (int first = 0; first < head; first += channels * Vec::lanes) {
            Vec sum[height][channels];
#pragma GCC unroll 8
            for (int r = 0; r < height; ++r) {
                const Vec kept = key == 0 ? Vec::all(0.0f) : Vec::all(shrink[q + r]);
#pragma GCC unroll 8
                for (int c = 0; c < channels; ++c) {
                    sum[r][c] = key == 0 ? kept : Vec::load(sums + (q + r) * head + first + c * Vec::lanes) * kept;
                }
            }
            product<M, 1, tile, head>(weights + q, values + key / M::depth * head + first,
                                      (count + M::depth - 1) / M::depth, sum);
#pragma GCC unroll 8
            for (int r = 0; r < height; ++r) {
#pragma GCC unroll 8
                for (int c = 0; c < channels; ++c) sum[r][c].store(sums + (q + r) * head + first + c * Vec::lanes);
            }
        }
    }
};

template <typename M, int head>
void run(const AttentionWork& g) {
    const std::int64_t tiles = g.tiles(), scratch = g.scratch_floats();
#pragma omp parallel for schedule(dynamic) num_threads(g.threads)
    for (std::int64_t i = 0; i < g.samples * g.heads * g.parts; ++i) {
        const std::int64_t part = i % g.parts, index = i / g.parts % g.heads, sample = i / (g.parts * g.heads);
        const std::int64_t last = tiles * (part + 1) / g.parts;
        const Task<M, head> task(g, {g, sample, index}, g.seen(sample, smaller(last * tile, g.query_tokens)),
                                 g.scratch + omp_get_thread_num() * scratch);
        for (std::int64_t t = tiles * part / g.parts; t < last; ++t)
            task.attend(t * tile, smaller(tile, g.query_tokens - t * tile));
    }
}

template <typename M>
void choose_head(const AttentionWork& g) {
    switch (g.head_size) {
        case 32: return run<M, 32>(g);
        case 64: return run<M, 64>(g);
        case 128: return run<M, 128>(g);
    }
}

}  // namespace

void attention(const AttentionWork& g) {
    if (g.dtype == Dtype::f32) return choose_head<Singles<float>>(g);
#if defined(__AVX512BF16__)
    choose_head<Pairs>(g);
#else
    choose_head<Singles<bf16>>(g);
#endif
}

}  // namespace GLIDE_FAST_ISA
}  // namespace glide_fast
