// Random requests of csrc/arena/arena from several threads, each block filled and read back; built with sanitizers by
// tests/ops/test_arena_sanitized.py. Prints "ok", or what is wrong.
#include "arena/arena.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

using glide_fast::Arena;

namespace {

struct Held {
    unsigned char* memory;
    std::size_t bytes;
    unsigned char mark;
};

void fail(const char* what) {
    std::fprintf(stderr, "%s\n", what);
    std::exit(1);
}

void give(Arena& arena, const Held& held) {
    for (std::size_t i = 0; i < held.bytes; ++i)
        if (held.memory[i] != held.mark) fail("a block was written to by another's owner");
    arena.give(held.memory);
}

void work(Arena& arena, unsigned seed, int requests) {
    std::mt19937 draw(seed);
    std::vector<Held> held;
    for (int i = 0; i < requests; ++i) {
        if (!held.empty() && draw() % 5 < 2) {
            std::swap(held[draw() % held.size()], held.back());
            give(arena, held.back());
            held.pop_back();
            continue;
        }
        const std::size_t bytes = 1 + draw() % (draw() % 8 ? 3000 : 200000);
        auto* memory = static_cast<unsigned char*>(arena.take(bytes));
        if (!memory) continue;  // full, which a small arena is sometimes
        if (reinterpret_cast<std::uintptr_t>(memory) % Arena::ALIGNMENT) fail("a block is not aligned");
        if (!arena.owns(memory) || !arena.owns(memory + bytes - 1)) fail("a block lies outside of the range");
        const auto mark = static_cast<unsigned char>(draw());
        std::memset(memory, mark, bytes);
        held.push_back({memory, bytes, mark});
        if (draw() % 100 == 0) arena.trim();
    }
    for (const Held& one : held) give(arena, one);
}

}  // namespace

int main() {
    for (const std::size_t length : {std::size_t(4) << 20, std::size_t(1) << 30}) {
        Arena arena(length);
        if (arena.length() < length) fail("the system refused addresses");
        std::vector<std::thread> threads;
        for (unsigned seed = 0; seed < 3; ++seed) threads.emplace_back([&arena, seed] { work(arena, seed, 3000); });
        for (std::thread& thread : threads) thread.join();
        if (arena.state().live) fail("blocks are left");

        arena.trim();
        if (arena.state().held) fail("a trimmed, empty arena holds memory");
        work(arena, 7, 2000);
        const auto grown = arena.state().grown;
        // No trim() among its requests would change the places: all was given back before.
        Arena second(length);
        std::vector<void*> places;
        for (int time = 0; time < 3; ++time) {
            std::mt19937 draw(11);
            std::vector<void*> blocks;
            for (std::size_t i = 0; i < 300; ++i) {
                if (void* block = second.take(1 + draw() % 9000)) {
                    blocks.push_back(block);
                    if (time == 0) places.push_back(block);
                    else if (places[i] != block) fail("the same request found another place");
                }
                if (draw() % 2 && !blocks.empty()) {
                    std::swap(blocks[draw() % blocks.size()], blocks.back());
                    second.give(blocks.back());
                    blocks.pop_back();
                }
            }
            for (void* block : blocks) second.give(block);
            static std::uint64_t first;
            if (time == 0) first = second.state().grown;
            if (second.state().grown != first) fail("the same requests needed more memory the second time");
        }
        if (arena.take(arena.length() + 1)) fail("more was handed out than there is");
        if (arena.state().grown < grown) fail("the count of growths went back");
        if (arena.owns(nullptr) || arena.owns(&arena)) fail("the arena claims memory that is not its own");
    }
    std::puts("ok");
}
