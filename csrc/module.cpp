// gradclip.ops._native: the sweeps for Python, on the limited API (one binary for every CPython from 3.10 on).
//
// torch's headers are not needed: a tensor's pointer, shape, strides and dtype come through the DLPack C exchange API
// that torch.Tensor publishes, in one C call and without a Python object a field.
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "dlpack.h"
#include "sweep.h"

namespace {

using gradclip::Dense;
using gradclip::DType;

const dlpack::ExchangeApi* exchange = nullptr;
PyTypeObject* tensor_type = nullptr;
PyTypeObject* parameter_type = nullptr;
PyObject* grad_name = nullptr;
PyObject* get_num_threads = nullptr;

bool read_dtype(const dlpack::DataType& type, DType* out) {
  const struct {
    std::uint8_t code, bits;
    DType dtype;
  } known[] = {
      {dlpack::kFloat, 32, DType::kFloat32},     {dlpack::kBfloat, 16, DType::kBFloat16},
      {dlpack::kFloat, 16, DType::kFloat16},     {dlpack::kFloat, 64, DType::kFloat64},
      {dlpack::kComplex, 64, DType::kComplex64}, {dlpack::kComplex, 128, DType::kComplex128},
  };
  for (const auto& k : known) {
    if (k.code == type.code && k.bits == type.bits && type.lanes == 1) {
      *out = k.dtype;
      return true;
    }
  }
  return false;
}

// Whether the elements fill one run of memory, each once; any order of dimensions will do.
bool is_dense(const dlpack::Tensor& t, std::int64_t numel) {
  constexpr int kMaxDims = 64;
  if (!t.strides || numel == 0) return true;
  if (t.ndim > kMaxDims) return false;
  int order[kMaxDims];
  int dims = 0;
  for (int d = t.ndim - 1; d >= 0; --d)
    if (t.shape[d] != 1) order[dims++] = d;
  const auto by_stride = [&](int a, int b) { return t.strides[a] < t.strides[b]; };
  if (!std::is_sorted(order, order + dims, by_stride)) std::sort(order, order + dims, by_stride);
  std::int64_t expected = 1;
  for (int i = 0; i < dims; ++i) {
    if (t.strides[order[i]] != expected) return false;
    expected *= t.shape[order[i]];
  }
  return true;
}

// Exactly: a subclass may keep its elements elsewhere.
bool is_tensor(PyObject* object) { return Py_TYPE(object) == tensor_type || Py_TYPE(object) == parameter_type; }

// False, without a Python error, if the kernels do not take the object.
bool read_tensor(PyObject* object, Dense* out) {
  if (!is_tensor(object)) return false;
  dlpack::Tensor t;
  if (exchange->tensor_from_py_object(object, &t) != 0) {
    PyErr_Clear();  // sparse, meta, functorch: not memory that can be read
    return false;
  }
  if (t.device.type != dlpack::kCPU || !read_dtype(t.dtype, &out->dtype)) return false;
  out->numel = 1;
  for (int d = 0; d < t.ndim; ++d) out->numel *= t.shape[d];
  if ((!t.data && out->numel) || !is_dense(t, out->numel)) return false;
  const bool outermost = t.ndim && (!t.strides || t.shape[0] * t.strides[0] == out->numel || t.shape[0] == 1);
  out->rows = t.ndim == 0 ? 1 : outermost || out->numel == 0 ? t.shape[0] : 0;
  out->data = static_cast<char*>(t.data) + t.byte_offset;
  return true;
}

// The way from a Python tensor to its memory is a chain of cache misses. Starting on those of a later tensor lets the
// chains overlap: first the object, then, a few tensors on, whatever its first words point to. A prefetch of a word that
// is no address does nothing, so no layout is assumed.
void prefetch_ahead(PyObject* list, Py_ssize_t i, Py_ssize_t n) {
  constexpr Py_ssize_t kObject = 12, kPointees = 6;
  constexpr std::size_t kWords = 5;
  if (i + kObject < n) __builtin_prefetch(PyList_GetItem(list, i + kObject));
  if (i + kPointees >= n) return;
  PyObject* object = PyList_GetItem(list, i + kPointees);
  if (!is_tensor(object)) return;
  std::uintptr_t words[kWords];
  std::memcpy(words, object, sizeof words);
  for (std::size_t w = 2; w < kWords; ++w) {
    for (int line = 0; line < 4; ++line) __builtin_prefetch(reinterpret_cast<const char*>(words[w]) + 64 * line);
  }
}

// On failure: an empty list with a Python error set.
bool read_list(PyObject* list, std::vector<Dense>* out) {
  if (!PyList_Check(list)) {
    PyErr_SetString(PyExc_TypeError, "tensors must be a list");
    return false;
  }
  const Py_ssize_t n = PyList_Size(list);
  out->resize(static_cast<std::size_t>(n));
  for (Py_ssize_t i = 0; i < n; ++i) {
    prefetch_ahead(list, i, n);
    if (!read_tensor(PyList_GetItem(list, i), &(*out)[static_cast<std::size_t>(i)])) {
      PyErr_Format(PyExc_TypeError, "tensors[%zd] is not a dense floating-point CPU tensor", i);
      return false;
    }
  }
  return true;
}

// The memory of a float64 tensor of `numel` elements; null with a Python error set for anything else.
double* read_vector(PyObject* object, std::int64_t numel) {
  Dense t;
  if (read_tensor(object, &t) && t.dtype == DType::kFloat64 && t.numel == numel) return static_cast<double*>(t.data);
  PyErr_Format(PyExc_TypeError, "must be a dense float64 CPU tensor of %lld elements", static_cast<long long>(numel));
  return nullptr;
}

bool has_arguments(const char* name, Py_ssize_t given, Py_ssize_t least, Py_ssize_t most) {
  if (least <= given && given <= most) return true;
  PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments, got %zd", name, most, given);
  return false;
}

bool read_double(PyObject* object, double* out) {
  *out = PyFloat_AsDouble(object);
  return *out != -1 || !PyErr_Occurred();
}

// As many as torch would use now, in this thread: `torch.set_num_threads` rules.
bool read_threads(const std::vector<Dense>& tensors, int* out) {
  *out = 1;
  if (!gradclip::worth_threads(tensors)) return true;
  PyObject* answer = PyObject_CallNoArgs(get_num_threads);
  if (!answer) return false;
  const long threads = PyLong_AsLong(answer);
  Py_DECREF(answer);
  *out = static_cast<int>(std::clamp(threads, 1L, 1024L));
  return threads != -1 || !PyErr_Occurred();
}

template <class Work>
void without_gil(const Work& work) {
  struct Released {
    PyThreadState* state = PyEval_SaveThread();
    ~Released() { PyEval_RestoreThread(state); }
  } released;
  work();
}

// Bits of the real numbers that a tensor is made of.
long real_bits(DType dtype) {
  const bool complex = dtype == DType::kComplex64 || dtype == DType::kComplex128;
  return static_cast<long>(8 * gradclip::element_size(dtype) / (complex ? 2 : 1));
}

PyObject* widest(PyObject*, PyObject* list) {
  if (!PyList_Check(list)) return PyErr_Format(PyExc_TypeError, "tensors must be a list");
  long bits = 16;
  const Py_ssize_t n = PyList_Size(list);
  for (Py_ssize_t i = 0; i < n; ++i) {
    Dense t;
    if (!read_tensor(PyList_GetItem(list, i), &t)) return PyLong_FromLong(0);
    bits = std::max(bits, real_bits(t.dtype));
  }
  return PyLong_FromLong(bits);
}

// The pointers seen so far, in a table at most half full.
class Seen {
 public:
  explicit Seen(std::size_t count) {
    std::size_t size = 8;
    while (size < 2 * count) size *= 2;
    table_.resize(size);
  }

  bool insert(const void* pointer) {
    for (std::size_t i = hash(pointer);; ++i) {
      const void*& place = table_[i & (table_.size() - 1)];
      if (place == pointer) return false;
      if (place) continue;
      place = pointer;
      return true;
    }
  }

 private:
  static std::size_t hash(const void* pointer) {
    return static_cast<std::size_t>((reinterpret_cast<std::uintptr_t>(pointer) * 0x9e3779b97f4a7c15u) >> 32);
  }

  std::vector<const void*> table_;
};

// Owns a Python object for the length of a block.
struct Owned {
  PyObject* object;
  ~Owned() { Py_XDECREF(object); }
};

// The gradients of a private list of tensors, each once and None left out; false if something else is in the list, or
// with a Python error set. Reading `.grad` may run Python code: a warning's, a finalizer's.
bool gather(PyObject* owners, PyObject* found) {
  const Py_ssize_t count = PyList_Size(owners);
  Seen seen(static_cast<std::size_t>(count));
  for (Py_ssize_t i = 0; i < count; ++i) {
    prefetch_ahead(owners, i, count);
    PyObject* owner = PyList_GetItem(owners, i);
    if (!is_tensor(owner)) return false;
    const Owned gradient{PyObject_GetAttr(owner, grad_name)};
    if (!gradient.object) return false;
    if (gradient.object != Py_None && seen.insert(gradient.object) && PyList_Append(found, gradient.object) != 0)
      return false;
  }
  return true;
}

// Collecting and measuring in one call: the first look at each tensor costs more than all that is done with it.
PyObject* collect(PyObject*, PyObject* const* args, Py_ssize_t n) {
  double norm_type = 0, partial = 0;
  if (!has_arguments("collect", n, 2, 2)) return nullptr;
  const bool measured = args[1] != Py_None;
  if (measured && !read_double(args[1], &norm_type)) return nullptr;
  if (!PyList_Check(args[0])) return PyErr_Format(PyExc_TypeError, "owners must be a list");
  const Owned owners{PyList_GetSlice(args[0], 0, PyList_Size(args[0]))};
  const Owned found{PyList_New(0)};
  if (!owners.object || !found.object) return nullptr;
  if (!gather(owners.object, found.object)) {
    if (PyErr_Occurred()) return nullptr;
    Py_RETURN_NONE;
  }
  // Only now, with no Python code in between any more, where the elements are.
  std::vector<Dense> tensors(static_cast<std::size_t>(PyList_Size(found.object)));
  long bits = tensors.empty() ? 0 : 16;
  for (std::size_t i = 0; bits && i < tensors.size(); ++i) {
    PyObject* gradient = PyList_GetItem(found.object, static_cast<Py_ssize_t>(i));
    bits = read_tensor(gradient, &tensors[i]) ? std::max(bits, real_bits(tensors[i].dtype)) : 0;
  }
  int threads;
  if (!bits) Py_RETURN_NONE;
  if (!read_threads(tensors, &threads)) return nullptr;
  if (measured) without_gil([&] { partial = gradclip::measure(tensors, norm_type, 1, threads, nullptr); });
  return Py_BuildValue("Old", found.object, bits, partial);
}

PyObject* measure(PyObject*, PyObject* const* args, Py_ssize_t n) {
  std::vector<Dense> tensors;
  double norm_type, factor = 1, total = 0;
  int threads;
  if (!has_arguments("measure", n, 2, 3) || !read_list(args[0], &tensors) || !read_double(args[1], &norm_type) ||
      (n > 2 && !read_double(args[2], &factor)) || !read_threads(tensors, &threads))
    return nullptr;
  without_gil([&] { total = gradclip::measure(tensors, norm_type, factor, threads, nullptr); });
  return PyFloat_FromDouble(total);
}

PyObject* measure_each(PyObject*, PyObject* const* args, Py_ssize_t n) {
  std::vector<Dense> tensors;
  double norm_type, total = 0;
  int threads;
  if (!has_arguments("measure_each", n, 3, 3) || !read_list(args[0], &tensors) || !read_double(args[1], &norm_type) ||
      !read_threads(tensors, &threads))
    return nullptr;
  double* each = read_vector(args[2], static_cast<std::int64_t>(tensors.size()));
  if (!each) return nullptr;
  without_gil([&] { total = gradclip::measure(tensors, norm_type, 1, threads, each); });
  return PyFloat_FromDouble(total);
}

PyObject* scale_(PyObject*, PyObject* const* args, Py_ssize_t n) {
  std::vector<Dense> tensors;
  double coef = 1;
  int threads;
  if (!has_arguments("scale_", n, 2, 2) || !read_list(args[0], &tensors) || !read_threads(tensors, &threads))
    return nullptr;
  const double* coefs = &coef;
  std::size_t num_coefs = 1;
  if (Py_TYPE(args[1]) == tensor_type) {
    num_coefs = tensors.size();
    if (!(coefs = read_vector(args[1], static_cast<std::int64_t>(num_coefs)))) return nullptr;
  } else if (!read_double(args[1], &coef)) {
    return nullptr;
  }
  without_gil([&] { gradclip::scale(tensors, coefs, num_coefs, threads); });
  Py_RETURN_NONE;
}

PyObject* clamp_(PyObject*, PyObject* const* args, Py_ssize_t n) {
  std::vector<Dense> tensors;
  double bound;
  int threads;
  if (!has_arguments("clamp_", n, 2, 2) || !read_list(args[0], &tensors) || !read_double(args[1], &bound) ||
      !read_threads(tensors, &threads))
    return nullptr;
  without_gil([&] { gradclip::clamp(tensors, bound, threads); });
  Py_RETURN_NONE;
}

PyObject* row_square_sums(PyObject*, PyObject* const* args, Py_ssize_t n) {
  std::vector<Dense> tensors;
  int threads;
  if (!has_arguments("row_square_sums", n, 2, 2) || !read_list(args[0], &tensors) || !read_threads(tensors, &threads))
    return nullptr;
  std::int64_t rows = 0;
  for (const Dense& tensor : tensors) {
    if (tensor.numel && !tensor.rows)
      return PyErr_Format(PyExc_TypeError, "the rows of every tensor must lie one after the other in memory");
    rows += tensor.rows;
  }
  double* out = read_vector(args[1], rows);
  if (!out) return nullptr;
  without_gil([&] { gradclip::row_square_sums(tensors, out, threads); });
  Py_RETURN_NONE;
}

PyObject* read(PyObject*, PyObject* list) {
  std::vector<Dense> tensors;
  int threads;
  if (!read_list(list, &tensors) || !read_threads(tensors, &threads)) return nullptr;
  std::uint64_t mixed = 0;
  without_gil([&] { mixed = gradclip::read(tensors, threads); });
  return PyLong_FromUnsignedLongLong(mixed);
}

// A 0-dim tensor that owns its number: half the cost of torch.scalar_tensor, which parses arguments and dispatches.
struct Scalar : dlpack::ManagedTensor {
  double value;  // the first four bytes hold a float where the dtype says so

  Scalar(double number, bool wide) : ManagedTensor{{dlpack::kMajorVersion, 0}, nullptr, destroy, 0, {}}, value(number) {
    const auto single = static_cast<float>(number);
    if (!wide) std::memcpy(&value, &single, sizeof single);
    const auto bits = static_cast<std::uint8_t>(wide ? 64 : 32);
    tensor = {&value, {dlpack::kCPU, 0}, 0, {dlpack::kFloat, bits, 1}, no_dims, no_dims, 0};
  }

  static void destroy(dlpack::ManagedTensor* self) { delete static_cast<Scalar*>(self); }
  static inline std::int64_t no_dims[1] = {0};
};

PyObject* scalar(PyObject*, PyObject* const* args, Py_ssize_t n) {
  double number;
  if (!has_arguments("scalar", n, 2, 2) || !read_double(args[0], &number)) return nullptr;
  auto* owner = new Scalar(number, PyObject_IsTrue(args[1]) == 1);
  void* tensor = nullptr;
  if (exchange->managed_tensor_to_py_object(owner, &tensor) == 0) return static_cast<PyObject*>(tensor);
  delete owner;
  return nullptr;
}

// No C++ exception may reach the interpreter; the only one there is says that memory has run out.
template <auto function, class... Arguments>
PyObject* guarded(Arguments... arguments) {
  try {
    return function(arguments...);
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  }
}

template <auto function>
PyCFunction fast() {
  PyObject* (*call)(PyObject*, PyObject* const*, Py_ssize_t) = guarded<function>;
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call));
}

template <auto function>
PyCFunction one() {
  return guarded<function, PyObject*, PyObject*>;
}

PyMethodDef methods[] = {
    {"widest", one<widest>(), METH_O,
     "widest(tensors)\n\nBits of the widest real dtype (16, 32, 64), or 0 if the kernels do not take all tensors."},
    {"collect", fast<collect>(), METH_FASTCALL,
     "collect(owners, norm_type)\n\nThe gradients of a list of tensors, each once and None left out, the bits of their "
     "widest real dtype, and the partial of their norm unless `norm_type` is None. None if there is no gradient, or one "
     "that the kernels do not take."},
    {"measure", fast<measure>(), METH_FASTCALL,
     "measure(tensors, norm_type, factor=1.0)\n\nThe partial of a norm over all elements times the factor, as a float."},
    {"measure_each", fast<measure_each>(), METH_FASTCALL,
     "measure_each(tensors, norm_type, out)\n\nThe partial of each tensor into a float64 tensor."},
    {"scale_", fast<scale_>(), METH_FASTCALL,
     "scale_(tensors, coef)\n\nMultiply in place by a float, or by one element of a float64 tensor each."},
    {"clamp_", fast<clamp_>(), METH_FASTCALL,
     "clamp_(tensors, bound)\n\nClamp every real or imaginary part to [-bound, bound] in place."},
    {"row_square_sums", fast<row_square_sums>(), METH_FASTCALL,
     "row_square_sums(tensors, out)\n\nSum of squares of every row of every tensor into a float64 tensor."},
    {"scalar", fast<scalar>(), METH_FASTCALL,
     "scalar(number, wide)\n\nA 0-dim CPU tensor: float64 if `wide`, else float32, infinite beyond its range."},
    {"read", one<read>(), METH_O, "read(tensors)\n\nRead every byte: a benchmark's floor."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "Kernels on dense CPU tensors; see gradclip.ops.native.", -1, methods,
    nullptr,               nullptr,   nullptr,                                                  nullptr,
};

// Keeps one reference for ever: torch's types live as long as the process.
PyTypeObject* get_type(PyObject* module, const char* name) {
  return reinterpret_cast<PyTypeObject*>(PyObject_GetAttrString(module, name));
}

bool connect_to_torch() {
  PyObject* torch = PyImport_ImportModule("torch");
  if (!torch) return false;
  if (!(get_num_threads = PyObject_GetAttrString(torch, "get_num_threads"))) return false;
  if (!(grad_name = PyUnicode_InternFromString("grad"))) return false;
  PyObject* nn = PyImport_ImportModule("torch.nn");
  if (!nn || !(tensor_type = get_type(torch, "Tensor")) || !(parameter_type = get_type(nn, "Parameter"))) return false;
  PyObject* capsule =
      PyObject_GetAttrString(reinterpret_cast<PyObject*>(tensor_type), "__dlpack_c_exchange_api__");
  if (!capsule) {
    PyErr_SetString(PyExc_ImportError, "this torch does not publish torch.Tensor.__dlpack_c_exchange_api__");
    return false;
  }
  exchange = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  if (!exchange) return false;
  if (exchange->version.major != dlpack::kMajorVersion || !exchange->tensor_from_py_object ||
      !exchange->managed_tensor_to_py_object) {
    PyErr_Format(PyExc_ImportError, "this torch speaks DLPack %u, the kernels speak %u", exchange->version.major,
                 dlpack::kMajorVersion);
    return false;
  }
  return true;
}

}  // namespace

PyMODINIT_FUNC PyInit__native() {
  if (!connect_to_torch()) return nullptr;
  PyObject* module = PyModule_Create(&definition);
  if (module && PyModule_AddStringConstant(module, "ISA", gradclip::kernels().name) != 0) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
