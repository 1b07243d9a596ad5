#include "arena/arena.h"

#include <sys/mman.h>

#include <algorithm>

namespace glide_fast {

namespace {

constexpr std::size_t LARGE_PAGE = std::size_t(2) << 20;

std::size_t rounded(std::size_t bytes, std::size_t to) { return (bytes + to - 1) / to * to; }

}  // namespace

Arena::Arena(std::size_t most) {
    // Pages without access rights count towards no limit on memory; a system may limit addresses, so try fewer and fewer.
    for (std::size_t length = rounded(most, LARGE_PAGE); length >= LARGE_PAGE; length = length / 2 / LARGE_PAGE * LARGE_PAGE) {
        void* memory = mmap(nullptr, length + LARGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) continue;
        base_ = rounded(reinterpret_cast<std::uintptr_t>(memory), LARGE_PAGE);
        length_ = length;
        blocks_.reserve(1024);  // many more than a step has at a time
        return;
    }
}

bool Arena::extend(std::size_t end) {
    if (end <= open_) return true;
    const std::size_t target = rounded(end, LARGE_PAGE);
    if (target > length_) return false;
    void* const from = reinterpret_cast<void*>(base_ + open_);
    if (mprotect(from, target - open_, PROT_READ | PROT_WRITE)) return false;
    // Where the system refuses large pages the small ones work too, only slower.
    (void)madvise(from, target - open_, MADV_HUGEPAGE);
    open_ = target;
    return true;
}

void* Arena::take(std::size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (bytes > length_) return nullptr;
    const std::size_t size = rounded(bytes, ALIGNMENT);
    // A free block at the end comes last, whether it has memory behind it or not: addresses then depend on the requests alone.
    const bool open_end = blocks_.empty() || !blocks_.back().free;
    const auto end = open_end ? blocks_.end() : blocks_.end() - 1;
    auto best = end;
    for (auto block = blocks_.begin(); block != end; ++block)
        if (block->free && block->size >= size && (best == end || block->size < best->size)) best = block;
    if (best == end && (open_end || end->size < size)) {
        const std::size_t begin = !open_end ? end->begin : blocks_.empty() ? 0 : blocks_.back().begin + blocks_.back().size;
        if (!extend(begin + size)) return nullptr;
        if (open_end) blocks_.push_back({begin, size, true});
        best = blocks_.end() - 1;
        best->size = size;
        state_.held = begin + size;
        ++state_.grown;
    }
    if (best->size > size) {
        const Block rest{best->begin + size, best->size - size, true};
        best->size = size;
        best = blocks_.insert(best + 1, rest) - 1;
    }
    best->free = false;
    state_.live += size;
    return reinterpret_cast<void*>(base_ + best->begin);
}

void Arena::give(void* memory) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const std::size_t begin = reinterpret_cast<std::uintptr_t>(memory) - base_;
    auto block = std::lower_bound(blocks_.begin(), blocks_.end(), begin,
                                  [](const Block& b, std::size_t at) { return b.begin < at; });
    state_.live -= block->size;
    block->free = true;
    if (const auto next = block + 1; next != blocks_.end() && next->free) {
        block->size += next->size;
        blocks_.erase(next);
    }
    if (block != blocks_.begin() && (block - 1)->free) {
        (block - 1)->size += block->size;
        blocks_.erase(block);
    }
}

void Arena::trim() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!blocks_.empty() && blocks_.back().free) blocks_.pop_back();
    state_.held = blocks_.empty() ? 0 : blocks_.back().begin + blocks_.back().size;
    const auto drop = [this](std::size_t from, std::size_t to) {
        const std::size_t first = rounded(from, LARGE_PAGE), last = to / LARGE_PAGE * LARGE_PAGE;
        if (first < last) (void)madvise(reinterpret_cast<void*>(base_ + first), last - first, MADV_DONTNEED);
    };
    for (const Block& block : blocks_)
        if (block.free) drop(block.begin, block.begin + block.size);
    drop(state_.held, open_);
}

ArenaState Arena::state() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return state_;
}

}  // namespace glide_fast
