// The driver of a GPU, whose functions Python has found: addresses and handles are numbers here.
#include "python.h"

namespace gradclip::python {
namespace {

// `cuLaunchKernel`, `cuMemcpyHtoDAsync`, `cuEventQuery`, `cuEventRecord`, `cuCtxGetCurrent` and `cuCtxSetCurrent`, or
// what stands for them.
using Launcher = int (*)(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                         unsigned block_y, unsigned block_z, unsigned shared, void* stream, void** arguments,
                         void** extra);
using Copier = int (*)(std::uint64_t to, const void* from, std::size_t bytes, void* stream);
using Asker = int (*)(void* event);
using Recorder = int (*)(void* event, void* stream);
using Getter = int (*)(void** context);
using Setter = int (*)(void* context);

struct Driver {
  Launcher launch;
  Copier copy;
  Asker ask;
  Recorder record;
  Getter get;
  Setter set;
};

constexpr int kNotReady = 600;  // what an event says before it has happened
constexpr Py_ssize_t kMost = 40;
constexpr Py_ssize_t kStart = 8;  // arguments of `start`

// A kernel, how many programs, threads of one and bytes of shared memory; and the words of its arguments.
struct Launch {
  std::uint64_t numbers[4], words[kMost];
};

bool failed(int error, const char* what) {
  if (error) PyErr_Format(PyExc_RuntimeError, "the driver could not %s: error %d", what, error);
  return error != 0;
}

// False with a Python error set for what is no tuple of so many numbers.
bool read_numbers(const char* name, PyObject* tuple, std::uint64_t* out, Py_ssize_t count) {
  if (!PyTuple_Check(tuple) || PyTuple_Size(tuple) != count) {
    PyErr_Format(PyExc_TypeError, "%s must be a tuple of %zd numbers", name, count);
    return false;
  }
  for (Py_ssize_t i = 0; i < count; ++i)
    if (!read_number(PyTuple_GetItem(tuple, i), &out[i])) return false;
  return true;
}

template <class Function>
Function function_at(std::uint64_t address) {
  return reinterpret_cast<Function>(address);
}

bool read_driver(PyObject* tuple, Driver* out) {
  std::uint64_t at[6];
  if (!read_numbers("functions", tuple, at, 6)) return false;
  *out = {function_at<Launcher>(at[0]), function_at<Copier>(at[1]), function_at<Asker>(at[2]),
          function_at<Recorder>(at[3]), function_at<Getter>(at[4]), function_at<Setter>(at[5])};
  return true;
}

// Makes a context the current one of this thread for the length of a block; none, where that is to stay.
class Inside {
 public:
  Inside(const Driver& driver, void* context) : driver_(driver) {
    if (!context) return;
    error = driver_.get(&before_);
    left_ = !error && before_ != context;
    if (left_) error = driver_.set(context);
  }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;
  ~Inside() {
    if (left_) driver_.set(before_);
  }

  int error = 0;

 private:
  const Driver& driver_;
  void* before_ = nullptr;
  bool left_ = false;
};

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
int launch_all(const Driver& driver, void* stream, std::vector<Launch>& launches) {
  for (Launch& launch : launches) {
    void* arguments[kMost];
    for (Py_ssize_t i = 0; i < kMost; ++i) arguments[i] = &launch.words[i];  // of a narrower argument, the low bytes
    const auto [function, programs, threads, shared] = launch.numbers;
    const int error = driver.launch(reinterpret_cast<void*>(function), static_cast<unsigned>(programs), 1, 1,
                                    static_cast<unsigned>(threads), 1, 1, static_cast<unsigned>(shared), stream, arguments,
                                    nullptr);
    if (error) return error;
  }
  return 0;
}

// Does what `start` says with its arguments, but for the table: 1 if it was done, 0 if not, -1 with a Python error set.
int start_with(PyObject* const* args, PyObject* table) {
  Driver driver;
  std::uint64_t where[2], slot[3], device;
  std::vector<Launch> launches;
  std::size_t bytes;
  int copying = 0, recording = 0, launching = 0;
  if (!read_driver(args[0], &driver) || !read_numbers("where", args[1], where, 2) ||
      !read_numbers("slot", args[5], slot, 3) || !read_number(args[6], &device) || !read_launches(args[7], &launches))
    return -1;
  void *const context = reinterpret_cast<void*>(where[0]), *const stream = reinterpret_cast<void*>(where[1]);
  void *const host = reinterpret_cast<void*>(slot[0]), *const event = reinterpret_cast<void*>(slot[1]);
  const bool is_new = slot[2] != 0;
  const Inside inside(driver, context);
  if (failed(inside.error, "change contexts")) return -1;
  const int asking = is_new ? 0 : driver.ask(event);
  if (asking == kNotReady) return 0;
  if (failed(asking, "look at an event") || !write_table(table, args[3], args[4], slot[0], &bytes)) return -1;
  without_gil([&] {
    copying = driver.copy(device, host, bytes, stream);
    recording = driver.record(event, stream);
    if (!copying && !recording) launching = launch_all(driver, stream, launches);
  });
  const bool any = failed(copying, "copy a table") || failed(recording, "record an event") ||
                   failed(launching, "launch a kernel");
  return any ? -1 : 1;
}

}  // namespace

// The driver waits where much is queued, and what it waits for may take other threads: all that launches lets them run.

PyObject* launch(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Driver driver;
  std::uint64_t where[2];
  std::vector<Launch> launches;
  int error = 0;
  if (!has_arguments("launch", n, 3, 3) || !read_driver(args[0], &driver) || !read_numbers("where", args[1], where, 2) ||
      !read_launches(args[2], &launches))
    return nullptr;
  void *const context = reinterpret_cast<void*>(where[0]), *const stream = reinterpret_cast<void*>(where[1]);
  const Inside inside(driver, context);
  if (failed(inside.error, "change contexts")) return nullptr;
  without_gil([&] { error = launch_all(driver, stream, launches); });
  if (failed(error, "launch a kernel")) return nullptr;
  Py_RETURN_NONE;
}

PyObject* start(PyObject*, PyObject* const* args, Py_ssize_t n) {
  if (!has_arguments("start", n, kStart, kStart)) return nullptr;
  const int started = start_with(args, args[2]);
  return started < 0 ? nullptr : PyBool_FromLong(started);
}

int start_ahead(PyObject* ahead, PyObject* table, std::int32_t device) {
  if (!PyTuple_Check(ahead) || PyTuple_Size(ahead) != kStart) {
    PyErr_Format(PyExc_TypeError, "ahead must be a tuple of %zd things", kStart);
    return -1;
  }
  PyObject* args[kStart];
  for (Py_ssize_t i = 0; i < kStart; ++i) args[i] = PyTuple_GetItem(ahead, i);
  PyObject* of[5];
  for (Py_ssize_t i = 0; i < 5; ++i) of[i] = PyTuple_GetItem(table, i);
  const Owned form{Py_BuildValue("OOOOi", of[1], of[2], of[3], of[4], static_cast<int>(device))};
  const int same = form.object ? PyObject_RichCompareBool(form.object, args[2], Py_EQ) : -1;
  return same == 1 ? start_with(args, of[0]) : same;
}

}  // namespace gradclip::python
