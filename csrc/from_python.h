// Conversions of Python's arguments to addresses and structs, for the bindings of all ops. An address is an integer, 0 for an
// absent tensor; a tensor with strides is a tuple of integers that begins with its address.
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

using SizesTuple = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t>;  // images, height, width, channels

template <typename T>
T* pointer(Address address) {
    return reinterpret_cast<T*>(address);
}

// Read a Python integer into a member of a struct. A failed conversion leaves Python's error set.
inline void read_member(PyObject* from, std::int64_t& to) { to = PyLong_AsLongLong(from); }
inline void read_member(PyObject* from, Dtype& to) { to = Dtype(PyLong_AsLong(from)); }
template <typename T>
void read_member(PyObject* from, T*& to) {
    to = pointer<T>(PyLong_AsUnsignedLongLong(from));
}

// Read a tuple of integers into the members of a struct, in order; false for an object that is not a tuple of that length.
// A step calls ops hundreds of times with about ten such tuples each, and pybind11's conversion takes three times as long.
template <typename... Members>
bool read_members(py::handle tuple, Members&... members) {
    if (!PyTuple_Check(tuple.ptr()) || PyTuple_GET_SIZE(tuple.ptr()) != sizeof...(Members)) return false;
    Py_ssize_t i = 0;
    if (((read_member(PyTuple_GET_ITEM(tuple.ptr(), i++), members), !PyErr_Occurred()) && ...)) return true;
    PyErr_Clear();
    return false;
}

}  // namespace glide_fast

namespace pybind11::detail {

template <>
struct type_caster<glide_fast::Rows> {
    PYBIND11_TYPE_CASTER(glide_fast::Rows, const_name("tuple[int, int, int]"));
    bool load(handle from, bool) { return glide_fast::read_members(from, value.data, value.sample_stride, value.row_stride); }
};

template <>
struct type_caster<glide_fast::PerChannel> {
    PYBIND11_TYPE_CASTER(glide_fast::PerChannel, const_name("tuple[int, int, int]"));
    bool load(handle from, bool) { return glide_fast::read_members(from, value.data, value.dtype, value.sample_stride); }
};

}  // namespace pybind11::detail
