// What the bindings of all ops use to turn Python's arguments into addresses and structs. An address is an integer, 0 for an
// absent tensor; a tensor is a tuple that begins with its address.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <tuple>

#include "dtype.h"
#include "tensors.h"

namespace glide_fast {

namespace py = pybind11;

using Address = std::uintptr_t;
using Stride = std::int64_t;

using RowsTuple = std::tuple<Address, Stride, Stride>;     // address, strides of samples and rows
using PerChannelTuple = std::tuple<Address, int, Stride>;   // address, type code, stride of samples

using SizesTuple = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t>;  // images, height, width, channels

template <typename T>
T* pointer(Address address) {
    return reinterpret_cast<T*>(address);
}

inline Rows rows_from(const RowsTuple& tuple) {
    return {pointer<void>(std::get<0>(tuple)), std::get<1>(tuple), std::get<2>(tuple)};
}

inline PerChannel per_channel_from(const PerChannelTuple& tuple) {
    return {pointer<const void>(std::get<0>(tuple)), Dtype(std::get<1>(tuple)), std::get<2>(tuple)};
}

}  // namespace glide_fast
