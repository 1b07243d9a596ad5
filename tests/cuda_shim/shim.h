// Runs CUDA kernels on a host, a thread of a block as a fibre: what the kernels of csrc need, and no more.
//
// One cluster (or block) runs at a time, one fibre at a time, each until it waits. Mistakes that a GPU may forgive are errors:
// a barrier that some threads never reach is a deadlock; a block's shared memory is a heap block of its exact size, poisoned,
// and freed once the block has ended, so AddressSanitizer sees what is out of bounds or read from a block that has left. What
// depends on the order of threads shows by running them forwards and backwards.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace shim {

struct Barrier {
    unsigned expected, arrived = 0, generation = 0;

    explicit Barrier(unsigned expected) : expected(expected) {}

    unsigned arrive() {
        const unsigned token = generation;
        if (++arrived == expected) {
            arrived = 0;
            ++generation;
        }
        return token;
    }
};

struct Warp {
    Barrier barrier{32};
    std::uint32_t lanes[2][32];  // of this shuffle and of the one before, which some lanes may still be reading
};

struct Cluster;

struct Block {
    dim3 index;
    unsigned rank;  // in the cluster
    Cluster* cluster;
    Barrier barrier;
    std::vector<Warp> warps;
    unsigned running;
    std::size_t shared_bytes;
    unsigned char* shared;

    Block(dim3 index, unsigned rank, Cluster* cluster, unsigned threads, std::size_t bytes)
        : index(index), rank(rank), cluster(cluster), barrier(threads), warps(threads / 32), running(threads), shared_bytes(bytes) {
        void* memory = nullptr;
        if (posix_memalign(&memory, 128, bytes ? bytes : 1)) throw std::bad_alloc();
        shared = static_cast<unsigned char*>(memory);
        std::memset(shared, 0xff, bytes);  // NaN in every floating type
    }
    Block(const Block&) = delete;
    ~Block() { leave(); }

    void leave() {
        std::free(shared);
        shared = nullptr;
    }
};

struct Cluster {
    Barrier barrier;
    std::vector<std::unique_ptr<Block>> blocks;
};

struct Fibre {
    static constexpr std::size_t stack_bytes = 128 * 1024;

    std::unique_ptr<char[]> stack{new char[stack_bytes]};  // from the heap: AddressSanitizer guards its ends
    ucontext_t context;
    void* fake_stack = nullptr;
    dim3 thread;
    Block* block = nullptr;
    const Barrier* waits_for = nullptr;
    unsigned token = 0;
    const char* where = "";
    bool done = false, waited = false;

    void reset();
};

struct Machine {
    std::vector<std::unique_ptr<Fibre>> fibres;  // kept from launch to launch
    ucontext_t home;
    void* fake_stack = nullptr;
    const void* home_stack = nullptr;
    std::size_t home_bytes = 0;
    Fibre* current = nullptr;
    dim3 block_dim, grid_dim;
    std::function<void()> body;
    bool backwards = false;
    int multiprocessors = 4, shared_limit = 227 * 1024, capability = 9, max_cluster = 16;
    std::map<const void*, int> shared_allowed, large_clusters;
    bool waits = false;  // whether the kernel was launched before earlier ones have ended, and so has to wait for them
    std::string error;

    void run(dim3 grid, dim3 threads, std::size_t shared, unsigned cluster);
    void run_cluster(dim3 first, unsigned blocks, std::size_t shared);
    void enter(Fibre& fibre);
    void leave(bool for_good);
};

inline Machine machine;

inline Fibre& self() { return *machine.current; }

inline void wait(const Barrier& barrier, unsigned token, const char* where) {
    Fibre& me = self();
    if (barrier.generation != token) return;
    me.waits_for = &barrier;
    me.token = token;
    me.where = where;
    machine.leave(false);
    me.waits_for = nullptr;
}

inline void trampoline() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &machine.home_stack, &machine.home_bytes);
#endif
    machine.body();
    if (machine.waits && !machine.current->waited) machine.error = "a thread did not wait for earlier kernels";
    machine.current->done = true;
    machine.leave(true);
}

inline void Fibre::reset() {
    waits_for = nullptr;
    done = waited = false;
    getcontext(&context);
    context.uc_stack.ss_sp = stack.get();
    context.uc_stack.ss_size = stack_bytes;
    context.uc_link = nullptr;
    makecontext(&context, trampoline, 0);
}

inline void Machine::enter(Fibre& fibre) {
    current = &fibre;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&fake_stack, fibre.stack.get(), Fibre::stack_bytes);
#endif
    swapcontext(&home, &fibre.context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
    current = nullptr;
}

inline void Machine::leave(bool for_good) {
    Fibre& fibre = *current;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fibre.fake_stack, home_stack, home_bytes);
#endif
    (void)for_good;
    swapcontext(&fibre.context, &home);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fibre.fake_stack, &home_stack, &home_bytes);
#endif
}

inline void Machine::run_cluster(dim3 first, unsigned blocks, std::size_t shared) {
    const unsigned threads = block_dim.x;
    Cluster cluster{Barrier(threads * blocks), {}};
    for (unsigned rank = 0; rank < blocks; ++rank)
        cluster.blocks.push_back(
            std::make_unique<Block>(dim3(first.x + rank, first.y, first.z), rank, &cluster, threads, shared));
    const std::size_t count = std::size_t(threads) * blocks;
    while (fibres.size() < count) fibres.push_back(std::make_unique<Fibre>());
    for (std::size_t i = 0; i < count; ++i) {
        fibres[i]->block = cluster.blocks[i / threads].get();
        fibres[i]->thread = dim3(unsigned(i % threads), 0, 0);
        fibres[i]->reset();
    }
    // A warp runs as far as it can before the next one starts, and a block before the next: whoever fails to wait is early.
    std::size_t left = count;
    const auto pass = [&](std::size_t first, std::size_t size) {
        bool moved = false;
        for (std::size_t i = 0; i < size; ++i) {
            Fibre& fibre = *fibres[backwards ? first + size - 1 - i : first + i];
            if (fibre.done || (fibre.waits_for && fibre.waits_for->generation == fibre.token)) continue;
            moved = true;
            enter(fibre);
            if (!error.empty()) throw std::runtime_error(error);
            if (!fibre.done) continue;
            --left;
            if (--fibre.block->running == 0) fibre.block->leave();
        }
        return moved;
    };
    const auto exhaust = [&](std::size_t first, std::size_t size, std::size_t part, const auto& inner) {
        bool ever = false;
        for (bool moved = true; moved;) {
            moved = false;
            for (std::size_t i = 0; i < size; i += part) moved = inner(backwards ? first + size - part - i : first + i) || moved;
            ever = ever || moved;
        }
        return ever;
    };
    const auto run_warp = [&](std::size_t first) {
        return exhaust(first, 32, 32, [&](std::size_t at) { return pass(at, 32); });
    };
    const auto run_block = [&](std::size_t first) { return exhaust(first, threads, 32, run_warp); };
    while (left) {
        bool moved = false;
        for (std::size_t i = 0; i < count; i += threads) moved = run_block(backwards ? count - threads - i : i) || moved;
        if (moved) continue;
        std::map<std::string, int> waiting;
        for (std::size_t i = 0; i < count; ++i)
            if (!fibres[i]->done) ++waiting[fibres[i]->where];
        std::string message = "deadlock: " + std::to_string(count - left) + " threads have ended";
        for (const auto& [where, number] : waiting) message += ", " + std::to_string(number) + " wait at " + where;
        throw std::runtime_error(message);
    }
}

inline void Machine::run(dim3 grid, dim3 threads, std::size_t shared, unsigned cluster) {
    if (threads.x % 32 || threads.x > 1024 || threads.y != 1 || threads.z != 1)
        throw std::runtime_error("a block here has whole warps along x, 32 at most");
    if (shared > std::size_t(shared_limit)) throw std::runtime_error("more shared memory than a block may have");
    if (grid.x % cluster || cluster > 16) throw std::runtime_error("clusters of at most 16 blocks must divide the grid");
    grid_dim = grid;
    block_dim = threads;
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; x += cluster) run_cluster(dim3(x, y, z), cluster, shared);
}

inline unsigned lane() { return self().thread.x % 32; }

// What lane `from` of this thread's warp passes.
template <typename T>
T shuffle(T value, unsigned from) {
    static_assert(sizeof(T) == 4);
    Warp& warp = self().block->warps[self().thread.x / 32];
    const unsigned slot = warp.barrier.generation % 2;
    std::memcpy(&warp.lanes[slot][lane()], &value, 4);
    wait(warp.barrier, warp.barrier.arrive(), "a warp shuffle");
    T other;
    std::memcpy(&other, &warp.lanes[slot][from], 4);
    return other;
}

inline void wait_for_earlier_kernels() { self().waited = true; }

// Ends the launch with an error, from within a kernel.
[[noreturn]] inline void fail(const std::string& message) {
    machine.error = message;
    machine.leave(true);
    std::abort();
}

}  // namespace shim
