// The walk over owners: from parameters to gradients, measured or tabled on the way. The first look at each tensor costs
// more than all that is done with it.
#include <algorithm>

#include "python.h"

namespace gradclip::python {

using torch::is_host;
using torch::is_kind_of;
using torch::is_subclass;
using torch::is_tensor;
using torch::prefetch_ahead;
using torch::read_any;
using torch::read_subclass;
using torch::read_threads;
using torch::Subclass;

namespace {

PyObject *grad_name = nullptr, *spec_name = nullptr, *local_name = nullptr, *mesh_name = nullptr,
         *placements_name = nullptr, *is_partial_name = nullptr;

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

}  // namespace

bool name_attributes() {
  return (grad_name = PyUnicode_InternFromString("grad")) && (spec_name = PyUnicode_InternFromString("_spec")) &&
         (local_name = PyUnicode_InternFromString("_local_tensor")) && (mesh_name = PyUnicode_InternFromString("mesh")) &&
         (placements_name = PyUnicode_InternFromString("placements")) &&
         (is_partial_name = PyUnicode_InternFromString("is_partial"));
}

PyObject* walk(PyObject*, PyObject* const* args, Py_ssize_t n) {
  double norm_type = 0, partial = 0;
  if (!has_arguments("walk", n, 7, 7)) return nullptr;
  const bool known = args[1] != Py_None;
  if (known && !read_double(args[1], &norm_type)) return nullptr;
  if (!PyList_Check(args[0])) return PyErr_Format(PyExc_TypeError, "owners must be a list");
  if (args[3] != Py_None && !PyTuple_Check(args[3])) return PyErr_Format(PyExc_TypeError, "marks must be a tuple");
  Subclass sharded;
  ChunkSizes sizes;
  if (!read_subclass(args[2], &sharded) || !read_sizes(args[4], &sizes)) return nullptr;
  const Owned owners{PyList_GetSlice(args[0], 0, PyList_Size(args[0]))};
  Walk found;
  if (!owners.object || !found) return nullptr;
  const Answer answer = gather(owners.object, sharded, args[3], &found);
  if (answer == Answer::kNoTensor) Py_RETURN_NONE;
  std::vector<bool> taken(found.places.size(), true);
  if (answer == Answer::kError || (found.any_sharded && !unwrap(&found, sharded, &taken))) return nullptr;
  // Only now, with no Python code in between any more, where the elements are: on the device of the first that is read.
  PyObject* gradients = found.gradients.object;
  const auto count = static_cast<Py_ssize_t>(taken.size());
  std::vector<Dense> tensors(taken.size());
  std::size_t read = 0;
  long bits = 16;
  for (Py_ssize_t i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(i);
    if (found.any_sharded) prefetch_ahead(gradients, i, count);
    Dense& tensor = tensors[read];
    taken[at] = taken[at] && read_any(PyList_GetItem(gradients, i), &tensor) && tensor.device == tensors[0].device;
    if (taken[at]) bits = std::max(bits, real_bits(tensors[read++].dtype));
  }
  const bool all = read == taken.size(), is_tabled = read && (!is_host(tensors[0].device) || args[5] == Py_True);
  tensors.resize(read);
  if (!all && !leave(&found, taken)) return nullptr;
  if (known && !is_tabled) {
    int threads;
    if (!read_threads(tensors, &threads)) return nullptr;
    without_gil([&] { partial = measure(tensors, norm_type, 1, threads, nullptr); });
  }
  const bool everywhere = static_cast<Py_ssize_t>(found.places.size()) == PyList_Size(owners.object);
  const Owned places{everywhere ? Py_NewRef(Py_None) : as_list(found.places)}, left{as_list(found.left)};
  const std::int32_t device = is_tabled ? tensors[0].device.index : 0;
  const Owned table{is_tabled ? as_table(std::move(tensors), false, sizes) : Py_NewRef(Py_None)};
  if (!places.object || !left.object || !table.object) return nullptr;
  const int started = is_tabled && args[6] != Py_None ? start_ahead(args[6], table.object, device) : 0;
  if (started < 0) return nullptr;
  PyObject* specs = found.any_sharded ? found.specs.object : Py_None;
  return Py_BuildValue("OOldOOOO", found.gradients.object, places.object, bits, partial, specs, left.object, table.object,
                       started ? Py_True : Py_False);
}

}  // namespace gradclip::python
