// The table of chunks as Python gets it: what is known of it, and a capsule that writes its words where they are to be.
#include <algorithm>
#include <memory>

#include "python.h"

namespace gradclip::python {
namespace {

constexpr char kName[] = "gradclip table";

void destroy(PyObject* capsule) { delete static_cast<Table*>(PyCapsule_GetPointer(capsule, kName)); }

}  // namespace

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

PyObject* as_table(std::vector<Dense> tensors, bool by_unit, const ChunkSizes& sizes) {
  const bool wide =
      std::any_of(tensors.begin(), tensors.end(), [](const Dense& tensor) { return real_bits(tensor.dtype) == 64; });
  auto table = std::make_unique<Table>(std::move(tensors), by_unit, sizes);
  const Owned runs{PyTuple_New(static_cast<Py_ssize_t>(table->runs.size()))};
  for (std::size_t i = 0; runs.object && i < table->runs.size(); ++i) {
    const Run& run = table->runs[i];
    PyObject* entry = Py_BuildValue("iLLO", static_cast<int>(run.dtype), static_cast<long long>(run.begin),
                                    static_cast<long long>(run.end), run.aligned ? Py_True : Py_False);
    if (!entry || PyTuple_SetItem(runs.object, static_cast<Py_ssize_t>(i), entry) != 0) return nullptr;
  }
  const Owned capsule{runs.object ? PyCapsule_New(table.get(), kName, destroy) : nullptr};
  if (!capsule.object) return nullptr;
  const Table* known = table.release();  // the capsule's from now on
  return Py_BuildValue("OOLLO", capsule.object, runs.object, static_cast<long long>(known->chunks),
                       static_cast<long long>(known->segments), wide ? Py_True : Py_False);
}

bool write_table(PyObject* capsule, PyObject* max_norm, PyObject* eps, std::uint64_t address, std::size_t* bytes) {
  double bounds[2];
  const auto* table = static_cast<const Table*>(PyCapsule_GetPointer(capsule, kName));
  if (!table || !read_double(max_norm, &bounds[0]) || !read_double(eps, &bounds[1])) return false;
  *bytes = table->write(reinterpret_cast<std::int64_t*>(address), bounds[0], bounds[1]) * sizeof(std::int64_t);
  return true;
}

PyObject* fill(PyObject*, PyObject* const* args, Py_ssize_t n) {
  std::uint64_t address;
  std::size_t bytes;
  if (!has_arguments("fill", n, 4, 4) || !read_number(args[3], &address) ||
      !write_table(args[0], args[1], args[2], address, &bytes))
    return nullptr;
  Py_RETURN_NONE;
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
  return as_table(std::move(tensors), by_unit, sizes);
}

}  // namespace gradclip::python
