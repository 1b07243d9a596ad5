// The Python module glide_fast._arena: while a thread is in a scope, the memory of its torch tensors and oneDNN's scratch
// memory come from one Arena. Unlike the kernels it is compiled against torch, and works with exactly that version.
#include <c10/core/Allocator.h>
#include <pthread.h>
#include <pybind11/pybind11.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "arena/arena.h"

namespace py = pybind11;

namespace {

using glide_fast::Arena;

thread_local int depth = 0;              // scopes that this thread is in
thread_local std::uint64_t outside = 0;  // requests of this thread in a scope that the arena could not serve

// Bytes of addresses to reserve: the size of the machine's memory. Where the process may have only so many addresses (ulimit
// -v), a quarter of those, so that everything else in the process keeps enough.
std::size_t most() {
    const std::size_t memory = std::size_t(sysconf(_SC_PHYS_PAGES)) * std::size_t(sysconf(_SC_PAGE_SIZE));
    rlimit limit{};
    if (getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur == RLIM_INFINITY) return memory;
    return std::min<std::size_t>(memory, limit.rlim_cur / 4);
}

Arena& arena() {
    // Never destroyed: tensors may be freed after static objects are.
    static Arena* const only = new Arena(most());
    return *only;
}

c10::Allocator* before = nullptr;  // the allocator before ours: torch's, or another library's

void give_back(void* memory) {
    if (arena().owns(memory))
        arena().give(memory);
    else
        before->raw_deallocate(memory);
}

class ScopedAllocator final : public c10::Allocator {
public:
    c10::DataPtr allocate(std::size_t bytes) override {
        void* memory = nullptr;
        if (depth > 0 && bytes > 0) {
            memory = arena().take(bytes);
            outside += memory == nullptr;
        }
        if (!memory) memory = before->raw_allocate(bytes);
        return {memory, memory, &give_back, c10::Device(c10::DeviceType::CPU)};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
    void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
};

// Installs the allocator, at the first call; returns whether scopes have an effect. They have none where the system reserves no
// addresses, where the allocator of another library returns no plain memory, or where that one has a higher priority.
bool install() {
    static const bool installed = [] {
        before = c10::GetAllocator(c10::DeviceType::CPU);
        if (!before->raw_deleter() || !arena().length()) return false;
        static ScopedAllocator* const ours = new ScopedAllocator;
        c10::SetAllocator(c10::DeviceType::CPU, ours, 1);  // torch's allocator has priority 0
        pthread_atfork([] { arena().lock(); }, [] { arena().unlock(); },
                       [] {
                           arena().unlock();
                           depth = 0;
                       });
        return c10::GetAllocator(c10::DeviceType::CPU) == ours;
    }();
    return installed;
}

// Context managers in C++: Ctrl-C could interrupt a Python one halfway, and `depth` would stay wrong.
class Scope {
public:
    void enter() { depth += install(); }
    void leave(const py::args&) { depth -= depth > 0; }
};

class Outside {
public:
    void enter() { scopes_ = std::exchange(depth, 0); }
    void leave(const py::args&) { depth = scopes_; }

private:
    int scopes_ = 0;
};

py::dict state() {
    const glide_fast::ArenaState now = install() ? arena().state() : glide_fast::ArenaState{};
    py::dict figures;
    figures["held"] = now.held;
    figures["live"] = now.live;
    figures["grown"] = now.grown;
    figures["outside"] = outside;
    return figures;
}

}  // namespace

PYBIND11_MODULE(_arena, module) {
    module.doc() = "Memory for a step's tensors that is used again at the next step; reached through glide_fast.ops.arena.";
    module.attr("torch") = GLIDE_FAST_TORCH;  // the version of torch that this module was compiled against
    module.def("install", &install, "Whether scopes have an effect in this process.");
    py::class_<Scope>(module, "Scope", "Context manager: within it, this thread's tensors come from the arena.")
        .def(py::init<>())
        .def("__enter__", &Scope::enter)
        .def("__exit__", &Scope::leave);
    py::class_<Outside>(module, "Outside", "Context manager: within it, the Scopes around it have no effect on this thread.")
        .def(py::init<>())
        .def("__enter__", &Outside::enter)
        .def("__exit__", &Outside::leave);
    module.def("state", &state,
               "held: bytes asked of the system; live: bytes in use; grown: times that more was asked for; outside: this "
               "thread's requests in a scope that torch's allocator served, since the arena could not.");
    module.def("trim", [] { if (install()) arena().trim(); }, "Return all memory that is not in use to the system.");
}
