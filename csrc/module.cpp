// gradclip.ops._native: the sweeps for Python, on the limited API (one binary for every CPython from 3.10 on).
#include <algorithm>
#include <new>

#include "exchange.h"

namespace {

using gradclip::Dense;
using gradclip::DType;
using gradclip::torch::is_kind_of;
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

PyObject *grad_name = nullptr, *spec_name = nullptr, *local_name = nullptr, *mesh_name = nullptr,
         *placements_name = nullptr, *is_partial_name = nullptr;

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

// Gradients that the kernels take, and what is left for Python.
struct Walk {
  Owned gradients{PyList_New(0)}, specs{PyList_New(0)};
  std::vector<std::int64_t> places;  // of the owners of the gradients
  std::vector<std::int64_t> left;    // of owners whose gradient has to be found in Python
  Owned kept{PyList_New(0)};         // their gradients: one that is gone could have the address of the next
  bool any_sharded = false;

  explicit operator bool() const { return gradients.object && specs.object && kept.object; }
};

// A sequence of whole numbers, or null with a Python error set.
PyObject* as_list(const std::vector<std::int64_t>& numbers) {
  if (numbers.empty()) return PyTuple_New(0);  // there is but one
  Owned list{PyList_New(0)};
  if (!list.object) return nullptr;
  for (const std::int64_t number : numbers)
    if (!append(list.object, number)) return nullptr;
  return Py_NewRef(list.object);
}

// Whether an object has any of some attributes of its own; these are its `__dict__`, in which nearly all tensors have none.
bool is_marked(PyObject* object, PyObject* marks) {
  if (marks == Py_None) return false;
  const Owned own{PyObject_GenericGetDict(object, nullptr)};
  if (!own.object) {
    PyErr_Clear();
    return true;
  }
  if (PyDict_Size(own.object) == 0) return false;
  for (Py_ssize_t i = 0; i < PyTuple_Size(marks); ++i) {
    const int found = PyDict_Contains(own.object, PyTuple_GetItem(marks, i));
    if (found < 0) PyErr_Clear();  // then Python is to look
    if (found != 0) return true;
  }
  return false;
}

enum class Answer { kAll, kNoTensor, kError };

// The gradients of a private list of owners, each once and None left out: of plain tensors, and of those of the class
// `sharded` with their specs. Owners that have any of the attributes `marks` are left, and those of another class that
// have a gradient. Reading `.grad` may run Python code: a warning's, a finalizer's.
Answer gather(PyObject* owners, const Subclass& sharded, PyObject* marks, Walk* walk) {
  const Py_ssize_t count = PyList_Size(owners);
  Seen seen(static_cast<std::size_t>(count));
  walk->places.reserve(static_cast<std::size_t>(count));
  for (Py_ssize_t i = 0; i < count; ++i) {
    prefetch_ahead(owners, i, count, sharded);
    PyObject* owner = PyList_GetItem(owners, i);
    const bool is_sharded = Py_TYPE(owner) == sharded.type;
    const bool is_plain = !is_sharded && is_tensor(owner);
    if (!is_sharded && !is_plain && !is_subclass(owner)) return Answer::kNoTensor;
    walk->any_sharded |= is_sharded;
    bool says_more = false;
    if (sharded.type) {
      const Owned spec{is_sharded ? PyObject_GetAttr(owner, spec_name) : Py_NewRef(Py_None)};
      if ((says_more = !spec.object)) PyErr_Clear();  // this torch keeps it elsewhere
      if (PyList_Append(walk->specs.object, spec.object ? spec.object : Py_None) != 0) return Answer::kError;
    }
    const Owned gradient{PyObject_GetAttr(owner, grad_name)};
    if (!gradient.object) return Answer::kError;
    // What the class of a sharded one says of itself matters even where it has no gradient.
    says_more |= is_plain ? is_marked(owner, marks) : !is_sharded && is_kind_of(owner, sharded);
    if (gradient.object == Py_None && !says_more) continue;
    if (gradient.object != Py_None && !seen.insert(gradient.object)) continue;
    if (says_more || (!is_sharded && !is_plain)) {
      if (PyList_Append(walk->kept.object, gradient.object) != 0) return Answer::kError;
      walk->left.push_back(i);
      continue;
    }
    if (PyList_Append(walk->gradients.object, gradient.object) != 0) return Answer::kError;
    walk->places.push_back(i);
  }
  return Answer::kAll;
}

// Two objects that were found to be equal: most tensors have the same two, and to compare them runs Python code.
struct Equal {
  Owned a{nullptr}, b{nullptr};
};

// Whether two objects have an equal attribute. No Python error is left.
bool share(PyObject* a, PyObject* b, PyObject* name, Equal* known) {
  Owned own{PyObject_GetAttr(a, name)}, other{own.object ? PyObject_GetAttr(b, name) : nullptr};
  if (other.object && own.object == known->a.object && other.object == known->b.object) return true;
  const bool equal = other.object && PyObject_RichCompareBool(own.object, other.object, Py_EQ) == 1;
  PyErr_Clear();
  if (equal) {
    std::swap(known->a.object, own.object);
    std::swap(known->b.object, other.object);
  }
  return equal;
}

// Whether elements are yet to be summed over ranks, by the placements of a spec; true where that cannot be found out.
bool is_unsummed(PyObject* spec) {
  const Owned placements{PyObject_GetAttr(spec, placements_name)};
  const Py_ssize_t count = placements.object ? PyTuple_Size(placements.object) : -1;
  bool all_summed = count >= 0;
  for (Py_ssize_t i = 0; all_summed && i < count; ++i) {
    const Owned answer{PyObject_CallMethodObjArgs(PyTuple_GetItem(placements.object, i), is_partial_name, nullptr)};
    all_summed = answer.object == Py_False;
  }
  PyErr_Clear();
  return !all_summed;
}

// The local part of a sharded gradient, or a plain one itself; null where it is placed otherwise than its owner, or does
// not have what is looked for, perhaps with a Python error set. A new reference.
PyObject* local_part(PyObject* gradient, PyObject* spec_of_owner, const Subclass& sharded, Equal* meshes) {
  const bool is_sharded = sharded.type && Py_TYPE(gradient) == sharded.type;
  if ((spec_of_owner != Py_None) != is_sharded) return nullptr;
  if (!is_sharded) return Py_NewRef(gradient);
  const Owned spec{PyObject_GetAttr(gradient, spec_name)};
  if (!spec.object) return nullptr;
  Equal placements;
  const bool alike = spec.object == spec_of_owner || (share(spec.object, spec_of_owner, mesh_name, meshes) &&
                                                      share(spec.object, spec_of_owner, placements_name, &placements) &&
                                                      !is_unsummed(spec.object));
  return alike ? PyObject_GetAttr(gradient, local_name) : nullptr;
}

// Puts the local part of each sharded gradient in its place, and null for those that are left; false with a Python error.
bool unwrap(Walk* walk, const Subclass& sharded, std::vector<bool>* taken) {
  PyObject* gradients = walk->gradients.object;
  const Py_ssize_t count = PyList_Size(gradients);
  Equal meshes;
  for (Py_ssize_t i = 0; i < count; ++i) {
    prefetch_ahead(gradients, i, count, sharded);
    const auto at = static_cast<std::size_t>(i);
    PyObject* spec = PyList_GetItem(walk->specs.object, static_cast<Py_ssize_t>(walk->places[at]));
    PyObject* local = local_part(PyList_GetItem(gradients, i), spec, sharded, &meshes);
    if (!local) PyErr_Clear();
    (*taken)[at] = local != nullptr;
    if (local && PyList_SetItem(gradients, i, local) != 0) return false;
  }
  return true;
}

// Leaves what is not taken; false with a Python error set.
bool leave(Walk* walk, const std::vector<bool>& taken) {
  Owned kept{PyList_New(0)};
  if (!kept.object) return false;
  std::vector<std::int64_t> places;
  for (std::size_t i = 0; i < taken.size(); ++i) {
    if (!taken[i]) {
      walk->left.push_back(walk->places[i]);
      continue;
    }
    if (PyList_Append(kept.object, PyList_GetItem(walk->gradients.object, static_cast<Py_ssize_t>(i))) != 0) return false;
    places.push_back(walk->places[i]);
  }
  std::swap(walk->gradients.object, kept.object);
  walk->places = std::move(places);
  std::sort(walk->left.begin(), walk->left.end());
  return true;
}

// Collecting and measuring in one call: the first look at each tensor costs more than all that is done with it.
PyObject* walk(PyObject*, PyObject* const* args, Py_ssize_t n) {
  double norm_type = 0, partial = 0;
  if (!has_arguments("walk", n, 4, 4)) return nullptr;
  const bool measured = args[1] != Py_None;
  if (measured && !read_double(args[1], &norm_type)) return nullptr;
  if (!PyList_Check(args[0])) return PyErr_Format(PyExc_TypeError, "owners must be a list");
  if (args[3] != Py_None && !PyTuple_Check(args[3])) return PyErr_Format(PyExc_TypeError, "marks must be a tuple");
  Subclass sharded;
  if (!read_subclass(args[2], &sharded)) return nullptr;
  const Owned owners{PyList_GetSlice(args[0], 0, PyList_Size(args[0]))};
  Walk found;
  if (!owners.object || !found) return nullptr;
  const Answer answer = gather(owners.object, sharded, args[3], &found);
  if (answer == Answer::kNoTensor) Py_RETURN_NONE;
  std::vector<bool> taken(found.places.size(), true);
  if (answer == Answer::kError || (found.any_sharded && !unwrap(&found, sharded, &taken))) return nullptr;
  // Only now, with no Python code in between any more, where the elements are.
  PyObject* gradients = found.gradients.object;
  const auto count = static_cast<Py_ssize_t>(taken.size());
  std::vector<Dense> tensors(taken.size());
  std::size_t read = 0;
  long bits = 16;
  for (Py_ssize_t i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(i);
    if (found.any_sharded) prefetch_ahead(gradients, i, count);
    taken[at] = taken[at] && read_tensor(PyList_GetItem(gradients, i), &tensors[read]);
    if (taken[at]) bits = std::max(bits, real_bits(tensors[read++].dtype));
  }
  const bool all = read == taken.size();
  tensors.resize(read);
  int threads;
  if ((!all && !leave(&found, taken)) || !read_threads(tensors, &threads)) return nullptr;
  if (measured) without_gil([&] { partial = gradclip::measure(tensors, norm_type, 1, threads, nullptr); });
  const bool everywhere = static_cast<Py_ssize_t>(found.places.size()) == PyList_Size(owners.object);
  const Owned places{everywhere ? Py_NewRef(Py_None) : as_list(found.places)}, left{as_list(found.left)};
  if (!places.object || !left.object) return nullptr;
  PyObject* specs = found.any_sharded ? found.specs.object : Py_None;
  return Py_BuildValue("OOldOO", found.gradients.object, places.object, bits, partial, specs, left.object);
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
    {"walk", fast<walk>(), METH_FASTCALL,
     "walk(owners, norm_type, sharded, marks)\n\nThe gradients of a list of tensors that the kernels take, each once, those "
     "of the class `sharded` by their local parts; the places of their owners, None for all; the bits of their widest real "
     "dtype; the partial of their norm unless `norm_type` is None; the specs of all owners if any is sharded, else None; "
     "and the places of owners whose gradient is left: of another kind or class, placed otherwise than its owner, or of "
     "an owner with any of the attributes `marks`. None alone if something in the list is no tensor."},
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
      !(spec_name = PyUnicode_InternFromString("_spec")) ||
      !(local_name = PyUnicode_InternFromString("_local_tensor")) || !(mesh_name = PyUnicode_InternFromString("mesh")) ||
      !(placements_name = PyUnicode_InternFromString("placements")) ||
      !(is_partial_name = PyUnicode_InternFromString("is_partial")))
    return nullptr;
  PyObject* module = PyModule_Create(&definition);
  if (module && (PyModule_AddStringConstant(module, "ISA", gradclip::kernels().name) != 0 ||
                 PyModule_AddIntConstant(module, "HAS_EXCHANGE", gradclip::torch::has_exchange()) != 0)) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
