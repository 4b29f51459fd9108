// What every function for Python needs.
#pragma once

#include "exchange.h"
#include "table.h"

namespace gradclip::python {

// Owns a Python object for the length of a block.
struct Owned {
  PyObject* object;
  ~Owned() { Py_XDECREF(object); }
};

inline bool has_arguments(const char* name, Py_ssize_t given, Py_ssize_t least, Py_ssize_t most) {
  if (least <= given && given <= most) return true;
  PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments, got %zd", name, most, given);
  return false;
}

inline bool read_double(PyObject* object, double* out) {
  *out = PyFloat_AsDouble(object);
  return *out != -1 || !PyErr_Occurred();
}

inline bool read_number(PyObject* object, std::uint64_t* out) {
  *out = PyLong_AsUnsignedLongLong(object);
  return *out != static_cast<std::uint64_t>(-1) || !PyErr_Occurred();
}

// False with a Python error set if memory has run out.
inline bool append(PyObject* list, std::int64_t number) {
  const Owned object{PyLong_FromLongLong(number)};
  return object.object && PyList_Append(list, object.object) == 0;
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
inline long real_bits(DType dtype) {
  const bool complex = dtype == DType::kComplex64 || dtype == DType::kComplex128;
  return static_cast<long>(8 * element_size(dtype) / (complex ? 2 : 1));
}

// Looks up the names of attributes; false with a Python error set.
bool name_attributes();

// Functions of the module, which says what they do.
PyObject* walk(PyObject*, PyObject* const* args, Py_ssize_t n);
PyObject* table(PyObject*, PyObject* const* args, Py_ssize_t n);
PyObject* fill(PyObject*, PyObject* const* args, Py_ssize_t n);
PyObject* launch(PyObject*, PyObject* const* args, Py_ssize_t n);
PyObject* start(PyObject*, PyObject* const* args, Py_ssize_t n);

// The chunk sizes of a table: a tuple of three numbers. False with a Python error set.
bool read_sizes(PyObject* tuple, ChunkSizes* out);

// The table of tensors of one device; a new reference, or null with a Python error set.
PyObject* as_table(std::vector<Dense> tensors, bool by_unit, const ChunkSizes& sizes);

// Starts what was prepared, where the table of tensors on a device of that index has the form that was expected: 1 if
// it did, 0 if not, -1 with a Python error set.
int start_ahead(PyObject* ahead, PyObject* table, std::int32_t device);

// Writes a table with its bounds to memory of the host, and says how many bytes. False with a Python error set.
bool write_table(PyObject* table, PyObject* max_norm, PyObject* eps, std::uint64_t address, std::size_t* bytes);

}  // namespace gradclip::python
