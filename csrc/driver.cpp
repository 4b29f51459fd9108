// The driver of a GPU, whose functions Python has found: addresses and handles are numbers here.
#include "python.h"

namespace gradclip::python {
namespace {

// `cuLaunchKernel` and `cuMemcpyHtoDAsync`, or what stands for them.
using Launch = int (*)(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                       unsigned block_y, unsigned block_z, unsigned shared, void* stream, void** arguments, void** extra);
using Copy = int (*)(std::uint64_t to, const void* from, std::size_t bytes, void* stream);

constexpr Py_ssize_t kMost = 24;

bool failed(int error, const char* what) {
  if (error) PyErr_Format(PyExc_RuntimeError, "the driver could not %s: error %d", what, error);
  return error != 0;
}

bool launch_one(std::uint64_t driver, std::uint64_t stream, PyObject* entry) {
  std::uint64_t numbers[4], words[kMost];
  void* arguments[kMost];
  PyObject* listed = PyTuple_Check(entry) && PyTuple_Size(entry) == 5 ? PyTuple_GetItem(entry, 4) : nullptr;
  if (!listed || !PyList_Check(listed) || PyList_Size(listed) > kMost) {
    PyErr_Format(PyExc_TypeError, "a launch must be a tuple of four numbers and a list of at most %zd", kMost);
    return false;
  }
  for (Py_ssize_t i = 0; i < 4; ++i)
    if (!read_number(PyTuple_GetItem(entry, i), &numbers[i])) return false;
  for (Py_ssize_t i = 0; i < PyList_Size(listed); ++i) {
    if (!read_number(PyList_GetItem(listed, i), &words[i])) return false;
    arguments[i] = &words[i];  // of a narrower argument, the low bytes
  }
  const auto [function, programs, threads, shared] = numbers;
  return !failed(reinterpret_cast<Launch>(driver)(reinterpret_cast<void*>(function), static_cast<unsigned>(programs), 1,
                                                  1, static_cast<unsigned>(threads), 1, 1,
                                                  static_cast<unsigned>(shared), reinterpret_cast<void*>(stream),
                                                  arguments, nullptr),
                 "launch a kernel");
}

PyObject* launch_all(std::uint64_t driver, std::uint64_t stream, PyObject* launches) {
  if (!PyList_Check(launches)) return PyErr_Format(PyExc_TypeError, "launches must be a list");
  for (Py_ssize_t i = 0; i < PyList_Size(launches); ++i)
    if (!launch_one(driver, stream, PyList_GetItem(launches, i))) return nullptr;
  Py_RETURN_NONE;
}

}  // namespace

PyObject* launch(PyObject*, PyObject* const* args, Py_ssize_t n) {
  std::uint64_t driver, stream;
  if (!has_arguments("launch", n, 3, 3) || !read_number(args[0], &driver) || !read_number(args[1], &stream))
    return nullptr;
  return launch_all(driver, stream, args[2]);
}

PyObject* start(PyObject*, PyObject* const* args, Py_ssize_t n) {
  std::uint64_t driver, copier, stream, host, device;
  std::size_t bytes;
  if (!has_arguments("start", n, 9, 9) || !read_number(args[0], &driver) || !read_number(args[1], &copier) ||
      !read_number(args[2], &stream) || !read_number(args[6], &host) || !read_number(args[7], &device) ||
      !write_table(args[3], args[4], args[5], host, &bytes))
    return nullptr;
  if (failed(reinterpret_cast<Copy>(copier)(device, reinterpret_cast<void*>(host), bytes,
                                            reinterpret_cast<void*>(stream)),
             "copy a table"))
    return nullptr;
  return launch_all(driver, stream, args[8]);
}

}  // namespace gradclip::python
