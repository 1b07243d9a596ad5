// How group_norm_act is laid over a GPU: a pure function from a shape and a device to a launch configuration.
//
// A block owns a slab, some neighbouring channels over a range of rows. Slabs are whole groups in whole 32-byte sectors, so
// that no sector is fetched twice: three groups of 6 fp16 channels would start and end inside one, eight of them do not.
// What a slab of all rows weighs decides the variant: one pass where it fits the shared memory of a cluster of blocks, two
// kernels (statistics, then the result) otherwise.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

namespace glide_fast::cuda {

struct Device {
    int multiprocessors;
    int shared_bytes;  // that one block may have
    bool clusters;     // of blocks, with access to each other's shared memory (compute capability 9 and later)
};

struct Shape {
    std::int64_t samples;
    int rows, channels, groups;
    int element_bytes;
    bool vectors;      // addresses, strides and channel counts allow 16 bytes at a time
    int row_quantum;   // rows that may not be split among blocks: two image lines for a 2x2 mean, 1 otherwise
};

struct Plan {
    bool one_pass;
    int vector;      // elements a thread moves at a time
    int threads;     // of a block
    int slab;        // channels of a block, a multiple of `vector`
    int pieces;      // slabs that share one group; 1 where a slab holds whole groups
    int slabs;       // over all channels
    int chunks;      // blocks that share the rows of a slab; one pass: the cluster's size
    int chunk_rows;  // rows of a block, the last one may have fewer or none
    std::int64_t shared_bytes;
    std::int64_t workspace_bytes;
};

constexpr int max_cluster = 8;         // what every device with clusters can place
constexpr int max_slab_vectors = 128;  // threads side by side in a row
constexpr int max_one_pass_threads = 512;
constexpr int two_pass_threads = 256;
constexpr int rows_a_thread = 4;     // loads that a thread keeps in flight
constexpr int max_chunks = 128;      // partial statistics that every block of the second kernel has to merge
constexpr int part_bytes = 12;       // one partial statistic: count, mean, sum of squared deviations

namespace plan_detail {

constexpr std::int64_t up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

inline int groups_in(const Shape& shape, int slab) { return std::max(1, slab / (shape.channels / shape.groups)); }

// Per thread and channel of its vector a mean and a sum of squares, per group the block's and the final statistics.
inline std::int64_t reduction_bytes(const Shape& shape, int vector, int threads, int slab) {
    return std::int64_t(threads) * vector * 8 + std::int64_t(groups_in(shape, slab)) * (part_bytes + 8);
}

inline void choose_slab(const Shape& shape, Plan& plan) {
    const int width = shape.channels / shape.groups;
    const int full = 16 / shape.element_bytes;
    plan.pieces = 1;
    if (shape.vectors) {
        plan.vector = full;
        plan.slab = std::lcm(width, 2 * full);
        if (shape.channels % plan.slab != 0) plan.slab = std::lcm(width, full);
        while (plan.slab < 4 * full && shape.channels % (2 * plan.slab) == 0) plan.slab *= 2;
        if (plan.slab <= max_slab_vectors * full) {
            plan.slabs = shape.channels / plan.slab;
            return;
        }
    }
    plan.vector = shape.vectors && width % full == 0 ? full : 1;
    if (width <= max_slab_vectors * plan.vector) {
        int groups = std::clamp(64 / width, 1, shape.groups);
        while (shape.groups % groups != 0) --groups;
        plan.slab = groups * width;
        plan.slabs = shape.channels / plan.slab;
    } else {
        plan.slab = max_slab_vectors * plan.vector;
        plan.pieces = int(up(width, plan.slab));
        plan.slabs = shape.groups * plan.pieces;
    }
}

inline int chunk_rows(const Shape& shape, int chunks) {
    return int(up(up(shape.rows, chunks), shape.row_quantum) * shape.row_quantum);
}

inline bool choose_one_pass(const Shape& shape, const Device& device, Plan& plan) {
    if (!device.clusters || plan.vector == 1 || plan.pieces > 1) return false;
    const int vectors = plan.slab / plan.vector;
    for (int cluster = 1; cluster <= max_cluster; cluster *= 2) {
        const int rows = chunk_rows(shape, cluster);
        int threads = max_one_pass_threads;
        while (threads > 128 && threads / 2 >= vectors && rows * std::int64_t(vectors) < std::int64_t(threads) * 2)
            threads /= 2;
        const std::int64_t shared =
            std::int64_t(rows) * vectors * 16 + reduction_bytes(shape, plan.vector, threads, plan.slab);
        // A larger cluster also puts more multiprocessors to work, as long as its threads have something to do.
        const bool idle = shape.samples * plan.slabs * cluster < device.multiprocessors;
        const bool busy = rows * std::int64_t(vectors) >= 2 * rows_a_thread * std::int64_t(threads);
        if (shared > device.shared_bytes || (cluster < max_cluster && idle && busy)) continue;
        plan.one_pass = true;
        plan.threads = threads;
        plan.chunks = cluster;
        plan.chunk_rows = rows;
        plan.shared_bytes = shared;
        plan.workspace_bytes = 0;
        return true;
    }
    return false;
}

inline void choose_two_pass(const Shape& shape, const Device& device, Plan& plan) {
    plan.one_pass = false;
    plan.threads = two_pass_threads;
    const int vectors = plan.slab / plan.vector;
    const int lanes = plan.threads / vectors;
    const std::int64_t wanted = up(3 * std::int64_t(device.multiprocessors), shape.samples * plan.slabs);
    const std::int64_t useful = up(shape.rows, std::int64_t(lanes) * rows_a_thread);
    plan.chunks = int(std::clamp<std::int64_t>(std::min(wanted, useful), 1, max_chunks));
    plan.chunk_rows = chunk_rows(shape, plan.chunks);
    plan.chunks = int(up(shape.rows, plan.chunk_rows));
    plan.shared_bytes = reduction_bytes(shape, plan.vector, plan.threads, plan.slab);
    plan.workspace_bytes = shape.samples * shape.groups * plan.pieces * plan.chunks * part_bytes;
}

}  // namespace plan_detail

inline Plan plan_for(const Shape& shape, const Device& device) {
    Plan plan{};
    plan_detail::choose_slab(shape, plan);
    if (!plan_detail::choose_one_pass(shape, device, plan)) plan_detail::choose_two_pass(shape, device, plan);
    return plan;
}

}  // namespace glide_fast::cuda
