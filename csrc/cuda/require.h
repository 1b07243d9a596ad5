// Bad arguments as exceptions that name the op.
#pragma once

#include <stdexcept>
#include <string>

namespace glide_fast::cuda {

struct Require {
    const char* op;

    void operator()(bool condition, const char* message) const {
        if (!condition) throw std::invalid_argument(std::string(op) + ": " + message);
    }
};

}  // namespace glide_fast::cuda
