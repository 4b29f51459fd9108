// The table of chunks as Python gets it: words in a bytearray, to be copied to a device.
#include <algorithm>

#include "python.h"

namespace gradclip::python {

bool read_sizes(PyObject* tuple, ChunkSizes* out) {
  std::int64_t* const numbers[] = {&out->small, &out->large, &out->threshold};
  if (!PyTuple_Check(tuple) || PyTuple_Size(tuple) != 3) {
    PyErr_SetString(PyExc_TypeError, "sizes must be a tuple of three numbers");
    return false;
  }
  for (Py_ssize_t i = 0; i < 3; ++i) {
    *numbers[i] = PyLong_AsLongLong(PyTuple_GetItem(tuple, i));
    if (*numbers[i] < 1 && PyErr_Occurred()) return false;
  }
  constexpr std::int64_t kMost = std::int64_t{1} << 30;
  if (1 <= out->small && out->small <= kMost && 1 <= out->large && out->large <= kMost) return true;
  PyErr_SetString(PyExc_ValueError, "sizes must be between 1 and 2**30");
  return false;
}

PyObject* as_table(const std::vector<Dense>& tensors, bool by_unit, const ChunkSizes& sizes) {
  Table table(tensors, by_unit, sizes);
  const auto bytes = static_cast<Py_ssize_t>(table.words() * sizeof(std::int64_t));
  const Owned words{PyByteArray_FromStringAndSize(nullptr, bytes)}, runs{PyList_New(0)};
  if (!words.object || !runs.object) return nullptr;
  table.write(reinterpret_cast<std::int64_t*>(PyByteArray_AsString(words.object)));
  long bits = 16;
  for (const Dense& tensor : tensors) bits = std::max(bits, real_bits(tensor.dtype));
  for (const Run& run : table.runs) {
    const Owned entry{Py_BuildValue("iLLO", static_cast<int>(run.dtype), static_cast<long long>(run.begin),
                                    static_cast<long long>(run.end), run.aligned ? Py_True : Py_False)};
    if (!entry.object || PyList_Append(runs.object, entry.object) != 0) return nullptr;
  }
  return Py_BuildValue("OOLLl", words.object, runs.object, static_cast<long long>(table.chunks),
                       static_cast<long long>(table.segments), bits);
}

PyObject* table(PyObject*, PyObject* const* args, Py_ssize_t n) {
  ChunkSizes sizes;
  if (!has_arguments("table", n, 3, 3) || !read_sizes(args[2], &sizes)) return nullptr;
  if (!PyList_Check(args[0])) return PyErr_Format(PyExc_TypeError, "tensors must be a list");
  const bool by_unit = args[1] == Py_True;
  const Owned list{PyList_GetSlice(args[0], 0, PyList_Size(args[0]))};
  if (!list.object) return nullptr;
  std::vector<Dense> tensors(static_cast<std::size_t>(PyList_Size(list.object)));
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    PyObject* tensor = PyList_GetItem(list.object, static_cast<Py_ssize_t>(i));
    if (!torch::read_any(tensor, &tensors[i]) || !(tensors[i].device == tensors[0].device) ||
        (by_unit && !tensors[i].units_in_order))
      Py_RETURN_NONE;
  }
  return as_table(tensors, by_unit, sizes);
}

}  // namespace gradclip::python
