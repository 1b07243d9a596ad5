// Thread-block clusters: barriers, and pointers into another block's shared memory.
#pragma once

#include "shim.h"

namespace cooperative_groups {

struct cluster_group {
    struct arrival_token {
        unsigned generation;
    };

    static shim::Barrier& barrier() { return shim::self().block->cluster->barrier; }

    arrival_token barrier_arrive() const { return {barrier().arrive()}; }
    void barrier_wait(arrival_token&& token) const { shim::wait(barrier(), token.generation, "a cluster's barrier"); }
    void sync() const { barrier_wait(barrier_arrive()); }

    template <typename T>
    T* map_shared_rank(T* address, unsigned rank) const {
        const shim::Block& mine = *shim::self().block;
        const auto offset = reinterpret_cast<unsigned char*>(address) - mine.shared;
        if (offset < 0 || std::size_t(offset) + sizeof(T) > mine.shared_bytes) shim::fail("map_shared_rank: not in shared memory");
        if (rank >= mine.cluster->blocks.size()) shim::fail("map_shared_rank: no such block in the cluster");
        const shim::Block& other = *mine.cluster->blocks[rank];
        if (!other.shared) shim::fail("map_shared_rank: that block has left");
        return reinterpret_cast<T*>(other.shared + offset);
    }
};

inline cluster_group this_cluster() { return {}; }

}  // namespace cooperative_groups
