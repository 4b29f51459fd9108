// gradclip.ops._native: the sweeps for Python, on the limited API (one binary for every CPython from 3.10 on).
#include <algorithm>
#include <new>

#include "python.h"

namespace {

using namespace gradclip::python;
using gradclip::Dense;
using gradclip::torch::is_tensor;
using gradclip::torch::read_list;
using gradclip::torch::read_tensor;
using gradclip::torch::read_threads;
using gradclip::torch::read_vector;
using gradclip::torch::Tensors;

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
     "walk(owners, norm_type, sharded, marks, sizes, tabled, ahead)\n\nThe gradients of a list of tensors that the kernels take, "
     "each once, those of the class `sharded` by their local parts; the places of their owners, None for all; the bits of their widest real "
     "dtype; the partial of their norm unless `norm_type` is None; the specs of all owners if any is sharded, else None; "
     "and the places of owners whose gradient is left: of another kind or class, placed otherwise than its owner, or of "
     "an owner with any of the attributes `marks`, or on another device; and the table of those of a GPU, or if `tabled` of "
     "any device, which are not measured, else None; and whether these were started on: `ahead` has the arguments of "
     "`start`, with what the tables have to be in place of one, or is None. None alone if something in the list is no "
     "tensor."},
    {"table", fast<table>(), METH_FASTCALL,
     "table(tensors, by_unit, sizes)\n\nThe chunks of dense tensors of one device: the table, yet to be written; the "
     "runs of each dtype with their begin, end and whether they are aligned; how many chunks; how many segments; and "
     "whether any dtype has the precision of float64. None if they are something else. `sizes`: elements of a chunk, of "
     "one where there are many, and how many that is."},
    {"fill", fast<fill>(), METH_FASTCALL,
     "fill(table, max_norm, eps, host)\n\nWrite a table with its bounds to memory of the host, by its address."},
    {"launch", fast<launch>(), METH_FASTCALL,
     "launch(functions, where, launches)\n\nLaunch kernels: each a tuple of its handle, how many programs, threads of one, "
     "bytes of shared memory, and a list of arguments of 8 bytes each. `functions`: the addresses of the driver's that "
     "launch, copy, look at an event, record one, and get and set the current context. `where`: the context, 0 for the "
     "current one, and the stream."},
    {"start", fast<start>(), METH_FASTCALL,
     "start(functions, where, table, max_norm, eps, slot, device, launches)\n\nWrite a table with its bounds to pinned "
     "memory, copy it to the device, record the event after the copy, and launch kernels; False, with nothing done, where "
     "that of the last copy has not happened. `slot`: the address of the memory, the event, and whether there was no copy "
     "yet."},
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
  if (!gradclip::torch::connect() || !name_attributes()) return nullptr;
  PyObject* module = PyModule_Create(&definition);
  if (module && (PyModule_AddStringConstant(module, "ISA", gradclip::kernels().name) != 0 ||
                 PyModule_AddIntConstant(module, "HAS_EXCHANGE", gradclip::torch::has_exchange()) != 0)) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
