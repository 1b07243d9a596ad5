// Prints how group_norm_act is laid over a CUDA device: a line "samples rows channels groups element_bytes multiprocessors
// shared_bytes clusters" in, a line of the plan out. The plan is a pure function, so no device and no CUDA are needed.
#include <iostream>

#include "../csrc/group_norm_act/plan.h"

using namespace glide_fast::cuda;

int main() {
    Shape shape{};
    Device device{};
    shape.vectors = true;
    shape.row_quantum = 1;
    while (std::cin >> shape.samples >> shape.rows >> shape.channels >> shape.groups >> shape.element_bytes >>
           device.multiprocessors >> device.shared_bytes >> device.clusters) {
        const Plan p = plan_for(shape, device);
        std::cout << (p.one_pass ? "one_pass" : "two_pass") << ' ' << p.vector << ' ' << p.threads << ' ' << p.slab << ' '
                  << p.slabs << ' ' << p.chunks << ' ' << p.shared_bytes << '\n';
    }
}
