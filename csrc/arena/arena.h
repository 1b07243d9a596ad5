// An allocator that serves all requests from one range of addresses, reserved once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace glide_fast {

struct ArenaState {
    std::size_t held = 0;     // bytes of the range that memory was asked of the system for
    std::size_t live = 0;     // bytes in use
    std::uint64_t grown = 0;  // times that the used part of the range had to grow
};

// A request gets the smallest free block that fits it, else a new block at the end; free neighbours are joined. The same
// requests in the same order get the same addresses, so that work which ran once and gave everything back needs no new memory
// when it runs again. Thread-safe.
class Arena {
public:
    static constexpr std::size_t ALIGNMENT = 64;

    // Reserves `most` bytes of addresses, without memory behind them; fewer, down to none, where the system refuses.
    explicit Arena(std::size_t most);
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    // Bytes of reserved addresses.
    std::size_t length() const { return length_; }
    // Memory for `bytes` > 0, aligned to ALIGNMENT; null where no free block is large enough.
    void* take(std::size_t bytes);
    // Frees memory that take() returned.
    void give(void* memory);
    bool owns(const void* memory) const {
        const auto address = reinterpret_cast<std::uintptr_t>(memory);
        return address - base_ < length_;
    }
    // Returns all memory that is not in use to the system.
    void trim();
    ArenaState state() const;
    // Held across a fork: the child could never take a lock that another thread of the parent held.
    void lock() { mutex_.lock(); }
    void unlock() { mutex_.unlock(); }

private:
    struct Block {
        std::size_t begin, size;
        bool free;
    };

    bool extend(std::size_t end);

    std::uintptr_t base_ = 0;  // the first reserved address; never changes
    std::size_t length_ = 0;
    std::size_t open_ = 0;       // bytes from base_ on that may be read and written
    std::vector<Block> blocks_;  // in the order of their addresses, without gaps
    ArenaState state_;
    mutable std::mutex mutex_;
};

}  // namespace glide_fast
