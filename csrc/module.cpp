// gradclip.ops._native: the sweeps for Python, on the limited API (one binary for every CPython from 3.10 on).
#include <algorithm>
#include <new>

#include "exchange.h"

namespace {

using gradclip::Dense;
using gradclip::DType;
using gradclip::torch::is_subclass;
using gradclip::torch::is_tensor;
using gradclip::torch::prefetch_ahead;
using gradclip::torch::read_list;
using gradclip::torch::read_subclass;
using gradclip::torch::read_tensor;
using gradclip::torch::read_threads;
using gradclip::torch::read_vector;
using gradclip::torch::Subclass;
using gradclip::torch::Tensors;

PyObject *grad_name = nullptr, *spec_name = nullptr, *local_name = nullptr;

bool has_arguments(const char* name, Py_ssize_t given, Py_ssize_t least, Py_ssize_t most) {
  if (least <= given && given <= most) return true;
  PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments, got %zd", name, most, given);
  return false;
}

bool read_double(PyObject* object, double* out) {
  *out = PyFloat_AsDouble(object);
  return *out != -1 || !PyErr_Occurred();
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

// False with a Python error set if memory has run out.
bool append(PyObject* list, std::int64_t number) {
  const Owned object{PyLong_FromLongLong(number)};
  return object.object && PyList_Append(list, object.object) == 0;
}

// What `gather` finds: gradients, the places of their owners, and how each owner is sharded.
struct Gathered {
  Owned gradients{PyList_New(0)}, places{PyList_New(0)}, specs{PyList_New(0)};
  bool any_sharded = false;

  explicit operator bool() const { return gradients.object && places.object && specs.object; }
};

// Whether an object has any of some attributes of its own; these are its `__dict__`, in which nearly all tensors have none.
bool is_marked(PyObject* object, PyObject* marks) {
  if (marks == Py_None) return false;
  const Owned own{PyObject_GenericGetDict(object, nullptr)};
  if (!own.object) {
    PyErr_Clear();
    return true;
  }
  if (PyDict_Size(own.object) == 0) return false;
  for (Py_ssize_t i = 0; i < PyTuple_Size(marks); ++i)
    if (PyDict_Contains(own.object, PyTuple_GetItem(marks, i)) != 0) return true;
  return false;
}

// The gradients of a private list of tensors, each once and None left out; false if something with a gradient is in the
// list that is neither a plain tensor, where these are `welcome`, nor of the class `sharded`, or that has any of the
// attributes `marks`; or with a Python error set. Reading `.grad` may run Python code: a warning's, a finalizer's.
bool gather(PyObject* owners, const Subclass& sharded, bool welcome, PyObject* marks, Gathered* found) {
  const Py_ssize_t count = PyList_Size(owners);
  Seen seen(static_cast<std::size_t>(count));
  for (Py_ssize_t i = 0; i < count; ++i) {
    prefetch_ahead(owners, i, count, sharded);
    PyObject* owner = PyList_GetItem(owners, i);
    const bool is_sharded = Py_TYPE(owner) == sharded.type;
    const bool is_plain = !is_sharded && is_tensor(owner);
    if (!is_sharded && !(welcome && (is_plain || is_subclass(owner)))) return false;
    if (is_plain && is_marked(owner, marks)) return false;
    found->any_sharded |= is_sharded;
    if (sharded.type) {
      const Owned spec{is_sharded ? PyObject_GetAttr(owner, spec_name) : Py_NewRef(Py_None)};
      if (!spec.object || PyList_Append(found->specs.object, spec.object) != 0) return false;
    }
    const Owned gradient{PyObject_GetAttr(owner, grad_name)};
    if (!gradient.object) return false;
    if (gradient.object == Py_None) continue;
    if (!is_sharded && !is_plain) return false;  // a frozen one of another class costs itself alone
    if (!seen.insert(gradient.object)) continue;
    if (PyList_Append(found->gradients.object, gradient.object) != 0) return false;
    if (sharded.type && !append(found->places.object, i)) return false;
  }
  return true;
}

// Puts the local part of each sharded gradient in its place; false if one is placed otherwise than its owner, or with a
// Python error set.
bool unwrap(const Gathered& found, const Subclass& sharded) {
  PyObject* gradients = found.gradients.object;
  const Py_ssize_t count = PyList_Size(gradients);
  for (Py_ssize_t i = 0; i < count; ++i) {
    prefetch_ahead(gradients, i, count, sharded);
    PyObject* gradient = PyList_GetItem(gradients, i);
    PyObject* wanted = PyList_GetItem(found.specs.object, PyLong_AsSsize_t(PyList_GetItem(found.places.object, i)));
    if ((wanted != Py_None) != (Py_TYPE(gradient) == sharded.type)) return false;
    if (wanted == Py_None) continue;
    const Owned spec{PyObject_GetAttr(gradient, spec_name)};
    if (spec.object != wanted) return false;
    PyObject* local = PyObject_GetAttr(gradient, local_name);
    if (!local || PyList_SetItem(gradients, i, local) != 0) return false;
  }
  return true;
}

// Collecting and measuring in one call: the first look at each tensor costs more than all that is done with it.
PyObject* collect(PyObject*, PyObject* const* args, Py_ssize_t n) {
  double norm_type = 0, partial = 0;
  if (!has_arguments("collect", n, 5, 5)) return nullptr;
  const bool measured = args[1] != Py_None;
  if (measured && !read_double(args[1], &norm_type)) return nullptr;
  if (!PyList_Check(args[0])) return PyErr_Format(PyExc_TypeError, "owners must be a list");
  Subclass sharded;
  if (!read_subclass(args[2], &sharded)) return nullptr;
  const Owned owners{PyList_GetSlice(args[0], 0, PyList_Size(args[0]))};
  Gathered found;
  if (!owners.object || !found) return nullptr;
  if (args[4] != Py_None && !PyTuple_Check(args[4])) return PyErr_Format(PyExc_TypeError, "marks must be a tuple");
  if (!gather(owners.object, sharded, args[3] == Py_True, args[4], &found) ||
      (found.any_sharded && !unwrap(found, sharded))) {
    if (PyErr_Occurred()) return nullptr;
    Py_RETURN_NONE;
  }
  // Only now, with no Python code in between any more, where the elements are.
  PyObject* gradients = found.gradients.object;
  std::vector<Dense> tensors(static_cast<std::size_t>(PyList_Size(gradients)));
  const auto count = static_cast<Py_ssize_t>(tensors.size());
  long bits = count ? 16 : 0;
  for (Py_ssize_t i = 0; bits && i < count; ++i) {
    if (found.any_sharded) prefetch_ahead(gradients, i, count);
    Dense& tensor = tensors[static_cast<std::size_t>(i)];
    bits = read_tensor(PyList_GetItem(gradients, i), &tensor) ? std::max(bits, real_bits(tensor.dtype)) : 0;
  }
  int threads;
  if (!bits) Py_RETURN_NONE;
  if (!read_threads(tensors, &threads)) return nullptr;
  if (measured) without_gil([&] { partial = gradclip::measure(tensors, norm_type, 1, threads, nullptr); });
  PyObject* specs = found.any_sharded ? found.specs.object : Py_None;
  return Py_BuildValue("OldOO", gradients, bits, partial, specs, found.places.object);
}

PyObject* measure(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Tensors tensors;
  double norm_type, factor = 1, total = 0;
  int threads;
  if (!has_arguments("measure", n, 2, 3) || !read_list(args[0], &tensors) || !read_double(args[1], &norm_type) ||
      (n > 2 && !read_double(args[2], &factor)) || !read_threads(tensors, &threads))
    return nullptr;
  without_gil([&] { total = gradclip::measure(tensors, norm_type, factor, threads, nullptr); });
  return PyFloat_FromDouble(total);
}

PyObject* measure_each(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Tensors tensors;
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
  Tensors tensors;
  double coef = 1;
  int threads;
  if (!has_arguments("scale_", n, 2, 2) || !read_list(args[0], &tensors) || !read_threads(tensors, &threads))
    return nullptr;
  const double* coefs = &coef;
  std::size_t num_coefs = 1;
  if (is_tensor(args[1])) {
    num_coefs = tensors.size();
    if (!(coefs = read_vector(args[1], static_cast<std::int64_t>(num_coefs)))) return nullptr;
  } else if (!read_double(args[1], &coef)) {
    return nullptr;
  }
  without_gil([&] { gradclip::scale(tensors, coefs, num_coefs, threads); });
  Py_RETURN_NONE;
}

PyObject* clamp_(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Tensors tensors;
  double bound;
  int threads;
  if (!has_arguments("clamp_", n, 2, 2) || !read_list(args[0], &tensors) || !read_double(args[1], &bound) ||
      !read_threads(tensors, &threads))
    return nullptr;
  without_gil([&] { gradclip::clamp(tensors, bound, threads); });
  Py_RETURN_NONE;
}

PyObject* units(PyObject*, PyObject* list) {
  Tensors tensors;
  const Owned counts{PyList_New(0)};
  if (!counts.object || !read_list(list, &tensors)) return nullptr;
  for (const Dense& tensor : tensors)
    if (!append(counts.object, tensor.units)) return nullptr;
  return Py_NewRef(counts.object);
}

// `sweep(tensors, vector, threads)` with one number a unit. Tensors whose units are scattered count as empty, and a
// list of their positions is returned.
template <class Sweep>
PyObject* sweep_units(const char* name, PyObject* const* args, Py_ssize_t n, const Sweep& sweep) {
  Tensors tensors;
  int threads;
  const Owned scattered{PyList_New(0)};
  if (!scattered.object || !has_arguments(name, n, 2, 2) || !read_list(args[0], &tensors)) return nullptr;
  std::int64_t count = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    count += tensors[i].units;
    if (tensors[i].units_in_order) continue;
    tensors[i].numel = 0;
    if (!append(scattered.object, static_cast<std::int64_t>(i))) return nullptr;
  }
  double* vector = read_vector(args[1], count);
  if (!vector || !read_threads(tensors, &threads)) return nullptr;
  without_gil([&] { sweep(tensors, vector, threads); });
  return Py_NewRef(scattered.object);
}

PyObject* unit_square_sums(PyObject*, PyObject* const* args, Py_ssize_t n) {
  return sweep_units("unit_square_sums", args, n, gradclip::unit_square_sums);
}

PyObject* scale_units_(PyObject*, PyObject* const* args, Py_ssize_t n) {
  return sweep_units("scale_units_", args, n, gradclip::scale_units);
}

PyObject* read(PyObject*, PyObject* list) {
  Tensors tensors;
  int threads;
  if (!read_list(list, &tensors) || !read_threads(tensors, &threads)) return nullptr;
  std::uint64_t mixed = 0;
  without_gil([&] { mixed = gradclip::read(tensors, threads); });
  return PyLong_FromUnsignedLongLong(mixed);
}
PyObject* scalar(PyObject*, PyObject* const* args, Py_ssize_t n) {
  double number;
  if (!has_arguments("scalar", n, 2, 2) || !read_double(args[0], &number)) return nullptr;
  return gradclip::torch::make_scalar(number, PyObject_IsTrue(args[1]) == 1);
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
     "collect(owners, norm_type, sharded, welcome, marks)\n\nThe gradients of a list of tensors, each once and None left out, "
     "the bits of their widest real dtype, and the partial of their norm unless `norm_type` is None. Of owners of the "
     "class `sharded`, the local parts; where there is any, the specs of all owners and the places of those that have a "
     "gradient follow, else None and an empty list. None alone if there is no gradient, one that the kernels do not take, "
     "one that is placed otherwise than its owner, or a plain owner that is not `welcome`."},
    {"measure", fast<measure>(), METH_FASTCALL,
     "measure(tensors, norm_type, factor=1.0)\n\nThe partial of a norm over all elements times the factor, as a float."},
    {"measure_each", fast<measure_each>(), METH_FASTCALL,
     "measure_each(tensors, norm_type, out)\n\nThe partial of each tensor into a float64 tensor."},
    {"scale_", fast<scale_>(), METH_FASTCALL,
     "scale_(tensors, coef)\n\nMultiply in place by a float, or by one element of a float64 tensor each."},
    {"clamp_", fast<clamp_>(), METH_FASTCALL,
     "clamp_(tensors, bound)\n\nClamp every real or imaginary part to [-bound, bound] in place."},
    {"units", one<units>(), METH_O, "units(tensors)\n\nHow many units each tensor has."},
    {"unit_square_sums", fast<unit_square_sums>(), METH_FASTCALL,
     "unit_square_sums(tensors, out)\n\nSum of squares of every unit into a float64 tensor. Leaves tensors out whose "
     "units do not lie one after the other, and returns their positions."},
    {"scale_units_", fast<scale_units_>(), METH_FASTCALL,
     "scale_units_(tensors, coefs)\n\nMultiply every unit in place by its element of a float64 tensor. Leaves tensors "
     "out whose units do not lie one after the other, and returns their positions."},
    {"scalar", fast<scalar>(), METH_FASTCALL,
     "scalar(number, wide)\n\nA 0-dim CPU tensor: float64 if `wide`, else float32, infinite beyond its range."},
    {"read", one<read>(), METH_O, "read(tensors)\n\nRead every byte: a benchmark's floor."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "Kernels on dense CPU tensors; see gradclip.ops.native.", -1, methods,
    nullptr,               nullptr,   nullptr,                                                  nullptr,
};

}  // namespace

PyMODINIT_FUNC PyInit__native() {
  if (!gradclip::torch::connect() || !(grad_name = PyUnicode_InternFromString("grad")) ||
      !(spec_name = PyUnicode_InternFromString("_spec")) || !(local_name = PyUnicode_InternFromString("_local_tensor")))
    return nullptr;
  PyObject* module = PyModule_Create(&definition);
  if (module && PyModule_AddStringConstant(module, "ISA", gradclip::kernels().name) != 0) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
