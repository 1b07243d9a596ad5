// A range of addresses that memory is handed out of and given back to, and that the system is asked for once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace glide_fast {

struct ArenaState {
    std::size_t held = 0;     // bytes of the range that the system was asked for
    std::size_t live = 0;     // bytes that are handed out
    std::uint64_t grown = 0;  // times that the range had to be made longer
};

// Best fit over one range, then its end; neighbours joined as they come back. The same requests in the same order find the same
// places, so that work that was done once and has given everything back needs nothing new when it is done again. Thread-safe.
class Arena {
public:
    static constexpr std::size_t ALIGNMENT = 64;

    // Sets `most` bytes of addresses aside, without memory behind them; fewer, down to none, where the system refuses.
    explicit Arena(std::size_t most);
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    // Bytes of addresses set aside.
    std::size_t length() const { return length_; }
    // Memory for `bytes` > 0, aligned; null where none is left.
    void* take(std::size_t bytes);
    // Give back what take() gave.
    void give(void* memory);
    bool owns(const void* memory) const {
        const auto address = reinterpret_cast<std::uintptr_t>(memory);
        return address - base_ < length_;
    }
    // Let the system have all memory that is not handed out.
    void trim();
    ArenaState state() const;
    // For a fork: the child would never get a lock that another thread of its parent holds.
    void lock() { mutex_.lock(); }
    void unlock() { mutex_.unlock(); }

private:
    struct Block {
        std::size_t begin, size;
        bool free;
    };

    bool extend(std::size_t end);

    std::uintptr_t base_ = 0;  // of the addresses set aside; never changes
    std::size_t length_ = 0;
    std::size_t open_ = 0;       // of the range, from its beginning: what may be written to
    std::vector<Block> blocks_;  // by their beginnings, without gaps
    ArenaState state_;
    mutable std::mutex mutex_;
};

}  // namespace glide_fast
