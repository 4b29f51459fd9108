#include "exchange.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "dlpack.h"

namespace gradclip::torch {
namespace {

const dlpack::ExchangeApi* exchange = nullptr;
PyTypeObject* tensor_type = nullptr;
PyTypeObject* parameter_type = nullptr;
PyObject* get_num_threads = nullptr;

// Keeps one reference for ever: torch's types live as long as the process.
PyTypeObject* get_type(PyObject* module, const char* name) {
  return reinterpret_cast<PyTypeObject*>(PyObject_GetAttrString(module, name));
}

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

bool is_served(std::int32_t device) {
  return device == dlpack::kCPU || device == dlpack::kCUDA || device == dlpack::kROCM || device == dlpack::kOneAPI;
}

constexpr int kMaxDims = 64;

// Whether the elements fill one run of memory, each once; any order of dimensions will do.
bool is_dense(const dlpack::Tensor& t, std::int64_t numel) {
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

// Null where this torch does not publish the API, or another version of it.
void find_exchange() {
  PyObject* capsule = PyObject_GetAttrString(reinterpret_cast<PyObject*>(tensor_type), "__dlpack_c_exchange_api__");
  if (capsule) exchange = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  PyErr_Clear();
  if (exchange && (exchange->version.major != dlpack::kMajorVersion || !exchange->tensor_from_py_object ||
                   !exchange->managed_tensor_to_py_object))
    exchange = nullptr;
}

// Whether an attribute of an object is the very one that is wanted; where it has none, with a Python error set.
bool has(PyObject* object, PyObject* name, PyObject* wanted) {
  PyObject* found = PyObject_GetAttr(object, name);
  Py_XDECREF(found);  // compared, not used
  return found == wanted;
}

// The layout of tensors, which the API does not tell.
struct Layout {
  PyObject *name, *strided;

  bool find(PyObject* torch) {
    return (name = PyUnicode_InternFromString("layout")) && (strided = PyObject_GetAttrString(torch, "strided"));
  }

  bool is_strided(PyObject* object) const { return has(object, name, strided); }
} layout;

// What torch has no memory to show of, as a sparse tensor, it refuses by an exception that costs a millisecond: once it
// did, layouts are looked at first, for 30 nanoseconds each. Perhaps with a Python error set.
bool read_by_exchange(PyObject* object, dlpack::Tensor* t) {
  static std::atomic<bool> has_refused{false};
  if (has_refused.load(std::memory_order_relaxed) && !layout.is_strided(object)) return false;
  const bool is_read = exchange->tensor_from_py_object(object, t) == 0;
  if (!is_read) has_refused.store(true, std::memory_order_relaxed);
  return is_read;
}

// How tensors are read without the API: about half a microsecond each.
struct Methods {
  PyObject *data_ptr, *size, *stride, *is_contiguous, *get_device;  // of torch.Tensor, called with the tensor
  PyObject *is_cpu, *is_cuda, *dtype;                               // names of attributes
  PyObject* dtypes[kDTypes];  // in the order of DType

  bool find(PyObject* torch) {
    PyObject* type = reinterpret_cast<PyObject*>(tensor_type);
    const struct {
      PyObject** to;
      PyObject* from;
      const char* name;
    } known[] = {{&data_ptr, type, "data_ptr"},
                 {&size, type, "size"},
                 {&stride, type, "stride"},
                 {&is_contiguous, type, "is_contiguous"},
                 {&get_device, type, "get_device"},
                 {&dtypes[static_cast<int>(DType::kBFloat16)], torch, "bfloat16"},
                 {&dtypes[static_cast<int>(DType::kFloat16)], torch, "float16"},
                 {&dtypes[static_cast<int>(DType::kFloat32)], torch, "float32"},
                 {&dtypes[static_cast<int>(DType::kFloat64)], torch, "float64"},
                 {&dtypes[static_cast<int>(DType::kComplex64)], torch, "complex64"},
                 {&dtypes[static_cast<int>(DType::kComplex128)], torch, "complex128"}};
    for (const auto& k : known)
      if (!(*k.to = PyObject_GetAttrString(k.from, k.name))) return false;
    return (is_cpu = PyUnicode_InternFromString("is_cpu")) && (is_cuda = PyUnicode_InternFromString("is_cuda")) &&
           (dtype = PyUnicode_InternFromString("dtype"));
  }

  // False where the API would say no too, perhaps with a Python error set. What is conjugated or negated lazily differs by
  // signs alone, which no kernel looks at.
  bool read(PyObject* object, dlpack::Tensor* t, DType* type, std::int64_t* shape, std::int64_t* strides) const {
    if (!layout.is_strided(object) || !read_type(object, type)) return false;
    *t = {nullptr, {dlpack::kCPU, 0}, 0, {}, shape, nullptr, 0};
    if (!has(object, is_cpu, Py_True) && !read_device(object, &t->device)) return false;
    if (!read_numbers(size, object, shape, &t->ndim)) return false;
    PyObject* contiguous = PyObject_CallFunctionObjArgs(is_contiguous, object, nullptr);
    Py_XDECREF(contiguous);  // compared, not used
    if (contiguous != Py_True) {
      if (!contiguous || !read_numbers(stride, object, strides, &t->ndim)) return false;
      t->strides = strides;
    }
    PyObject* address = PyObject_CallFunctionObjArgs(data_ptr, object, nullptr);
    if (!address) return false;
    t->data = PyLong_AsVoidPtr(address);
    Py_DECREF(address);
    return t->data || !PyErr_Occurred();
  }

 private:
  // ROCm calls itself CUDA here too: all that matters is that a device is the same as another.
  bool read_device(PyObject* object, dlpack::Device* out) const {
    if (!has(object, is_cuda, Py_True)) return false;
    PyObject* index = PyObject_CallFunctionObjArgs(get_device, object, nullptr);
    if (!index) return false;
    *out = {dlpack::kCUDA, static_cast<std::int32_t>(PyLong_AsLong(index))};
    Py_DECREF(index);
    return !PyErr_Occurred();
  }

  bool read_type(PyObject* object, DType* out) const {
    PyObject* found = PyObject_GetAttr(object, dtype);
    Py_XDECREF(found);
    for (int i = 0; found && i < kDTypes; ++i)
      if (found == dtypes[i]) return *out = static_cast<DType>(i), true;
    return false;
  }

  static bool read_numbers(PyObject* method, PyObject* object, std::int64_t* out, std::int32_t* count) {
    PyObject* found = PyObject_CallFunctionObjArgs(method, object, nullptr);
    const Py_ssize_t n = found ? PyTuple_Size(found) : -1;
    for (Py_ssize_t i = 0; i < std::min<Py_ssize_t>(n, kMaxDims); ++i)
      out[i] = PyLong_AsLongLong(PyTuple_GetItem(found, i));
    Py_XDECREF(found);
    *count = static_cast<std::int32_t>(n);
    return 0 <= n && n <= kMaxDims && !PyErr_Occurred();
  }
} methods;

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

}  // namespace

bool connect() {
  PyObject* torch = PyImport_ImportModule("torch");
  if (!torch) return false;
  if (!(get_num_threads = PyObject_GetAttrString(torch, "get_num_threads"))) return false;
  PyObject* nn = PyImport_ImportModule("torch.nn");
  if (!nn || !(tensor_type = get_type(torch, "Tensor")) || !(parameter_type = get_type(nn, "Parameter"))) return false;
  const char* wanted = std::getenv("GRADCLIP_EXCHANGE");
  if (!wanted || std::strcmp(wanted, "0") != 0) find_exchange();
  return layout.find(torch) && (exchange || methods.find(torch));
}

bool has_exchange() { return exchange != nullptr; }

bool is_tensor(PyObject* object) { return Py_TYPE(object) == tensor_type || Py_TYPE(object) == parameter_type; }

bool is_subclass(PyObject* object) { return PyType_IsSubtype(Py_TYPE(object), tensor_type) != 0; }

bool is_host(const Device& device) { return device.type == dlpack::kCPU; }

bool read_tensor(PyObject* object, Dense* out) { return read_any(object, out) && is_host(out->device); }

bool read_any(PyObject* object, Dense* out) {
  if (!is_tensor(object)) return false;
  dlpack::Tensor t;
  std::int64_t shape[kMaxDims], strides[kMaxDims];  // where the API has none to show
  if (!(exchange ? read_by_exchange(object, &t) : methods.read(object, &t, &out->dtype, shape, strides))) {
    PyErr_Clear();  // sparse, meta, functorch: not memory that can be read
    return false;
  }
  if (!is_served(t.device.type) || (exchange && !read_dtype(t.dtype, &out->dtype))) return false;
  out->device = {t.device.type, t.device.id};
  out->numel = 1;
  for (int d = 0; d < t.ndim; ++d) out->numel *= t.shape[d];
  if ((!t.data && out->numel) || !is_dense(t, out->numel)) return false;
  out->units = t.ndim < 2 ? 1 : t.shape[0];
  out->units_in_order = out->units == 1 || out->numel == 0 || !t.strides || t.shape[0] * t.strides[0] == out->numel;
  out->data = static_cast<char*>(t.data) + t.byte_offset;
  return true;
}
bool read_list(PyObject* given, Tensors* out) {
  if (!PyList_Check(given)) {
    PyErr_SetString(PyExc_TypeError, "tensors must be a list");
    return false;
  }
  PyObject* list = out->keep(PyList_GetSlice(given, 0, PyList_Size(given)));
  if (!list) return false;
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

double* read_vector(PyObject* object, std::int64_t numel) {
  static double none;  // an empty tensor may have no memory
  Dense t;
  if (read_tensor(object, &t) && t.dtype == DType::kFloat64 && t.numel == numel)
    return numel ? static_cast<double*>(t.data) : &none;
  PyErr_Format(PyExc_TypeError, "must be a dense float64 CPU tensor of %lld elements", static_cast<long long>(numel));
  return nullptr;
}
bool read_threads(const std::vector<Dense>& tensors, int* out) {
  *out = 1;
  if (!worth_threads(tensors)) return true;
  PyObject* answer = PyObject_CallNoArgs(get_num_threads);
  if (!answer) return false;
  const long threads = PyLong_AsLong(answer);
  Py_DECREF(answer);
  *out = static_cast<int>(std::clamp(threads, 1L, 1024L));
  return threads != -1 || !PyErr_Occurred();
}
// The way from a Python tensor to its memory is a chain of cache misses. Starting on those of a later tensor lets the
// chains overlap: first the object, then, a few tensors on, whatever its words point to. A prefetch of a word that is no
// address does nothing, so no layout is assumed. The first words lead to what is large; those that a subclass adds, to
// objects.
void prefetch_ahead(PyObject* list, Py_ssize_t i, Py_ssize_t n, const Subclass& sharded) {
  constexpr Py_ssize_t kObject = 12, kPointees = 6;
  constexpr std::size_t kBegin = 2, kEnd = 5, kAdded = 6;
  if (i + kObject < n) __builtin_prefetch(PyList_GetItem(list, i + kObject));
  if (i + kPointees >= n) return;
  PyObject* object = PyList_GetItem(list, i + kPointees);
  const bool is_sharded = Py_TYPE(object) == sharded.type;
  if (!is_sharded && !is_tensor(object)) return;
  const auto* words = reinterpret_cast<char* const*>(object);
  for (std::size_t w = kBegin; w < kEnd; ++w)
    for (int line = 0; line < 4; ++line) __builtin_prefetch(words[w] + 64 * line);
  for (std::size_t w = kAdded; is_sharded && w < sharded.words; ++w) __builtin_prefetch(words[w]);
}
bool read_subclass(PyObject* type, Subclass* out) {
  *out = {};
  if (type == Py_None) return true;
  PyObject* size = PyObject_GetAttrString(type, "__basicsize__");
  if (!size) return false;
  *out = {reinterpret_cast<PyTypeObject*>(type), PyLong_AsSize_t(size) / sizeof(void*)};
  Py_DECREF(size);
  return !PyErr_Occurred();
}
bool is_kind_of(PyObject* object, const Subclass& subclass) {
  return subclass.type && PyType_IsSubtype(Py_TYPE(object), subclass.type) != 0;
}
PyObject* make_scalar(double number, bool wide) {
  if (!exchange) return PyErr_Format(PyExc_RuntimeError, "this torch does not publish the DLPack exchange API");
  auto* owner = new Scalar(number, wide);  // taken over even by a call that fails: torch may have deleted it by then
  void* tensor = nullptr;
  if (exchange->managed_tensor_to_py_object(owner, &tensor) != 0) return nullptr;
  return static_cast<PyObject*>(tensor);
}

}  // namespace gradclip::torch
