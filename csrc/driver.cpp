// The driver of a GPU, whose functions Python has found: addresses and handles are numbers here.
#include "python.h"

namespace gradclip::python {
namespace {

// `cuLaunchKernel` and `cuMemcpyHtoDAsync`, or what stands for them.
using Launcher = int (*)(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                         unsigned block_y, unsigned block_z, unsigned shared, void* stream, void** arguments,
                         void** extra);
using Copier = int (*)(std::uint64_t to, const void* from, std::size_t bytes, void* stream);

constexpr Py_ssize_t kMost = 24;

// A kernel, how many programs, threads of one and bytes of shared memory; and the words of its arguments.
struct Launch {
  std::uint64_t numbers[4], words[kMost];
};

bool failed(int error, const char* what) {
  if (error) PyErr_Format(PyExc_RuntimeError, "the driver could not %s: error %d", what, error);
  return error != 0;
}

bool read_launch(PyObject* entry, Launch* out) {
  PyObject* listed = PyTuple_Check(entry) && PyTuple_Size(entry) == 5 ? PyTuple_GetItem(entry, 4) : nullptr;
  if (!listed || !PyList_Check(listed) || PyList_Size(listed) > kMost) {
    PyErr_Format(PyExc_TypeError, "a launch must be a tuple of four numbers and a list of at most %zd", kMost);
    return false;
  }
  for (Py_ssize_t i = 0; i < 4; ++i)
    if (!read_number(PyTuple_GetItem(entry, i), &out->numbers[i])) return false;
  for (Py_ssize_t i = 0; i < PyList_Size(listed); ++i)
    if (!read_number(PyList_GetItem(listed, i), &out->words[i])) return false;
  return true;
}

// False with a Python error set for what is no list of launches.
bool read_launches(PyObject* list, std::vector<Launch>* out) {
  if (!PyList_Check(list)) {
    PyErr_SetString(PyExc_TypeError, "launches must be a list");
    return false;
  }
  out->resize(static_cast<std::size_t>(PyList_Size(list)));
  for (std::size_t i = 0; i < out->size(); ++i)
    if (!read_launch(PyList_GetItem(list, static_cast<Py_ssize_t>(i)), &(*out)[i])) return false;
  return true;
}

// Returns the error of the first that fails, or 0.
int launch_all(std::uint64_t driver, std::uint64_t stream, std::vector<Launch>& launches) {
  for (Launch& launch : launches) {
    void* arguments[kMost];
    for (Py_ssize_t i = 0; i < kMost; ++i) arguments[i] = &launch.words[i];  // of a narrower argument, the low bytes
    const auto [function, programs, threads, shared] = launch.numbers;
    const int error = reinterpret_cast<Launcher>(driver)(
        reinterpret_cast<void*>(function), static_cast<unsigned>(programs), 1, 1, static_cast<unsigned>(threads), 1, 1,
        static_cast<unsigned>(shared), reinterpret_cast<void*>(stream), arguments, nullptr);
    if (error) return error;
  }
  return 0;
}

}  // namespace

// The driver waits where much is queued, and what it waits for may take other threads: both functions let them run.

PyObject* launch(PyObject*, PyObject* const* args, Py_ssize_t n) {
  std::uint64_t driver, stream;
  std::vector<Launch> launches;
  int error = 0;
  if (!has_arguments("launch", n, 3, 3) || !read_number(args[0], &driver) || !read_number(args[1], &stream) ||
      !read_launches(args[2], &launches))
    return nullptr;
  without_gil([&] { error = launch_all(driver, stream, launches); });
  if (failed(error, "launch a kernel")) return nullptr;
  Py_RETURN_NONE;
}

PyObject* start(PyObject*, PyObject* const* args, Py_ssize_t n) {
  std::uint64_t driver, copier, stream, host, device;
  std::vector<Launch> launches;
  std::size_t bytes;
  int copying = 0, launching = 0;
  if (!has_arguments("start", n, 9, 9) || !read_number(args[0], &driver) || !read_number(args[1], &copier) ||
      !read_number(args[2], &stream) || !read_number(args[6], &host) || !read_number(args[7], &device) ||
      !read_launches(args[8], &launches) || !write_table(args[3], args[4], args[5], host, &bytes))
    return nullptr;
  without_gil([&] {
    copying = reinterpret_cast<Copier>(copier)(device, reinterpret_cast<void*>(host), bytes,
                                               reinterpret_cast<void*>(stream));
    if (!copying) launching = launch_all(driver, stream, launches);
  });
  if (failed(copying, "copy a table") || failed(launching, "launch a kernel")) return nullptr;
  Py_RETURN_NONE;
}

}  // namespace gradclip::python
