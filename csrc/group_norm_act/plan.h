// How group_norm_act is laid over a GPU: pure functions from a shape, a device and a choice to a launch configuration. What may
// be chosen is a Choice; which one is fast, glide_fast/ops/group_norm_act/cost.py predicts and a measurement decides.
//
// A block owns a slab, some neighbouring channels over a range of rows. Slabs of whole groups in whole 32-byte sectors fetch no
// sector twice: three groups of 6 fp16 channels would start and end inside one, eight of them do not.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "cuda/divider.h"

namespace glide_fast::cuda {

struct Device {
    int multiprocessors;
    int shared_bytes;  // that one block may have
    int max_cluster;   // blocks with access to each other's shared memory; 0 before compute capability 9
};

struct Shape {
    std::int64_t samples;
    int rows, channels, groups;
    int element_bytes;
    bool vectors;  // addresses, strides and channel counts allow 16 bytes at a time, of vectors of channels too
    int width;     // rows of an image line
    bool halves;   // a 2x2 mean is taken: pairs of image lines may not be split among blocks
};

struct Choice {
    bool one_pass;
    int slab;     // channels of a block
    int chunks;   // blocks that share the rows of a slab; one pass: a cluster
    int threads;  // of a block
    bool held;    // one pass: registers hold the rows, held_rows a thread, and not shared memory
};

struct Plan : Choice {
    int vector;      // elements that a thread moves at a time
    int columns;     // vectors side by side in a slab
    int lanes;       // rows that a block's threads cover at a time
    int stride;      // from one column's moments to the next's in shared memory: odd, so that neither share a bank
    int pieces;      // slabs that share one group; 1 where a slab holds whole groups
    int slabs;       // over all channels
    int chunk_rows;  // rows of a block, the last one may have fewer or none
    int width;       // channels of a group
    int span_bits;   // 2^span_bits: the least power of two that is no less than `chunks`
    int lines;       // of an image
    std::int64_t shared_bytes;
    std::int64_t workspace_bytes;
    Divider by_columns, by_lanes, by_pieces, by_width, by_line;  // by_line: an image line of what a thread walks over
};

constexpr int max_threads = 512;
constexpr int max_columns = 256;
constexpr int max_cluster = 16;
constexpr int max_chunks = 512;  // partial moments of a slab that every block of the second kernel merges
constexpr int batch = 4;         // loads that a thread keeps in flight where rows are not held in registers
constexpr int held_rows = 4;     // that a thread keeps in registers, where registers hold them
constexpr int moments_bytes = 8;

namespace plan_detail {

constexpr std::int64_t up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Channels of at most two groups lie in any vector.
inline bool two_groups_at_most(int width, int vector) {
    for (int first = 0, at = 0; at < width; ++at, first = (first + vector) % width)
        if (first + vector > 2 * width) return false;
    return true;
}

inline int full_vector(const Shape& shape) {
    const int full = 16 / shape.element_bytes, width = shape.channels / shape.groups;
    return shape.vectors && two_groups_at_most(width, full) ? full : 1;
}

inline std::int64_t shared_bytes(const Shape& shape, const Plan& plan) {
    const int groups = std::max(1, plan.slab / plan.width);
    const std::int64_t held = plan.one_pass && !plan.held ? std::int64_t(plan.chunk_rows) * plan.columns : 0;
    const std::int64_t parts = plan.one_pass ? groups * plan.chunks : 0;
    return held * plan.vector * shape.element_bytes +
           (2 * std::int64_t(plan.columns) * plan.stride + parts + groups) * moments_bytes;
}

}  // namespace plan_detail

// Completes a choice; returns why it does not fit, or nullptr.
inline const char* complete(const Shape& shape, const Device& device, const Choice& choice, Plan& plan) {
    using plan_detail::up;
    plan = Plan{};
    static_cast<Choice&>(plan) = choice;
    plan.width = shape.channels / shape.groups;
    plan.vector = plan_detail::full_vector(shape);
    if (choice.threads < 32 || choice.threads > max_threads || choice.threads % 32) return "threads are 32 to 512, whole warps";
    if (choice.chunks < 1 || choice.chunks > max_chunks || choice.chunks > shape.rows) return "chunks are 1 to 512, and no more than rows";
    if (choice.slab < 1) return "a slab has channels";
    if (choice.slab >= plan.width) {
        if (choice.slab % plan.width || shape.channels % choice.slab) return "a slab is whole groups, and divides the channels";
        if (choice.slab % plan.vector) plan.vector = 1;
        plan.pieces = 1;
        plan.slabs = shape.channels / choice.slab;
    } else {
        if (choice.one_pass) return "one_pass needs whole groups in a slab";
        if (plan.width % plan.vector || choice.slab % plan.vector) plan.vector = 1;
        plan.pieces = int(up(plan.width, choice.slab));
        plan.slabs = shape.groups * plan.pieces;
    }
    plan.columns = choice.slab / plan.vector;
    if (plan.columns > std::min(max_columns, choice.threads)) return "a slab is too wide for its threads";
    if (plan.slabs > 65535 || shape.samples > 65535) return "too many slabs or samples for a grid";
    plan.lanes = choice.threads / plan.columns;
    plan.stride = plan.lanes | 1;
    const int quantum = shape.halves ? 2 * shape.width : 1;
    plan.chunk_rows = int(up(up(shape.rows, choice.chunks), quantum) * quantum);
    if (choice.one_pass) {
        if (choice.chunks > std::min(device.max_cluster, max_cluster)) return "one_pass needs clusters, and no larger ones than the device has";
        if (plan.vector == 1) return "one_pass needs 16-byte vectors";
        if (choice.held) {
            if (shape.element_bytes == 4) return "registers hold no rows of fp32";
            if (shape.halves) return "a 2x2 mean reads rows of other threads, which registers do not hold";
            if (std::int64_t(held_rows) * plan.lanes < plan.chunk_rows) return "the threads do not hold all rows";
        }
    } else {
        if (choice.held) return "two_pass holds no rows";
        plan.chunks = int(up(shape.rows, plan.chunk_rows));
        plan.workspace_bytes = shape.samples * shape.groups * plan.pieces * plan.chunks * moments_bytes;
    }
    plan.shared_bytes = plan_detail::shared_bytes(shape, plan);
    if (plan.shared_bytes > device.shared_bytes) return "a block has not so much shared memory";
    while ((1 << plan.span_bits) < plan.chunks) ++plan.span_bits;
    plan.lines = shape.rows / std::max(1, shape.width);
    plan.by_columns = Divider::by(plan.columns);
    plan.by_lanes = Divider::by(plan.lanes);
    plan.by_pieces = Divider::by(plan.pieces);
    plan.by_width = Divider::by(plan.width);
    plan.by_line = Divider::by(shape.halves ? shape.width / 2 : std::max(1, shape.width));
    return nullptr;
}

// The narrowest slab in whole sectors, or the narrowest there is.
inline int least_slab(const Shape& shape) {
    const int width = shape.channels / shape.groups, vector = plan_detail::full_vector(shape);
    for (const int unit : {2 * vector, vector}) {
        const int slab = std::lcm(width, unit);
        if (vector > 1 && shape.channels % slab == 0 && slab <= max_columns * vector) return slab;
    }
    if (width > max_columns) return width % vector ? max_columns : std::min(width, max_columns * vector);
    int groups = std::clamp(64 / width, 1, shape.groups);
    while (shape.groups % groups != 0) --groups;
    return groups * width;
}

// A choice that fits, whatever the shape: what runs where nobody has looked for a better one.
inline Choice simple_choice(const Shape& shape, const Device& device, bool one_pass) {
    Choice choice{one_pass, least_slab(shape), 1, 256, false};
    Plan plan;
    if (!one_pass) {
        const std::int64_t blocks = shape.samples * (shape.channels / std::min(choice.slab, shape.channels));
        const std::int64_t useful = std::max<std::int64_t>(1, std::int64_t(shape.rows) * choice.slab / (choice.threads * plan_detail::full_vector(shape)));
        choice.chunks = int(std::clamp<std::int64_t>(std::min(3 * device.multiprocessors / blocks, useful), 1, std::min(shape.rows, 128)));
        return choice;
    }
    const int most = std::min({device.max_cluster, max_cluster, shape.rows});
    for (; choice.chunks <= most; choice.chunks *= 2) {
        const bool idle = shape.samples * (shape.channels / choice.slab) * choice.chunks < device.multiprocessors;
        if (idle && 2 * choice.chunks <= most && shape.rows / choice.chunks >= 32) continue;
        if (!complete(shape, device, choice, plan)) break;
    }
    return choice;
}

}  // namespace glide_fast::cuda
