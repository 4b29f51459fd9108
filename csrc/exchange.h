// What the module knows of torch: its tensors, read without its headers.
//
// A tensor's pointer, shape, strides and dtype come through the DLPack C exchange API that torch.Tensor publishes, in one
// C call and without a Python object a field. Where it does not, as before torch 2.10, they come from its methods.
#pragma once

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include <cstdint>
#include <vector>

#include "sweep.h"

namespace gradclip::torch {

// Looks torch up; to be called first. False with a Python error set where this torch cannot be read.
bool connect();

// Whether tensors are read through the exchange API; not so where `GRADCLIP_EXCHANGE=0` asks for the other way.
bool has_exchange();

// Whether an object is a Tensor or a Parameter exactly: a subclass may keep its elements elsewhere.
bool is_tensor(PyObject* object);

// Whether it is a tensor of any class.
bool is_subclass(PyObject* object);

// False, without a Python error, if the kernels for the CPU do not take the object.
bool read_tensor(PyObject* object, Dense* out);

// The same for kernels of any device; without the exchange API, for those of the CPU, CUDA and ROCm.
bool read_any(PyObject* object, Dense* out);

// Whether memory is that of the CPU.
bool is_host(const Device& device);

// Tensors of a list, which live on while others change the list: Python code on the way, or threads without the GIL.
class Tensors : public std::vector<Dense> {
 public:
  Tensors() = default;
  Tensors(const Tensors&) = delete;
  Tensors& operator=(const Tensors&) = delete;
  ~Tensors() { Py_XDECREF(list_); }

  // Steals a reference, and returns it borrowed; null stays null.
  PyObject* keep(PyObject* list) { return list_ = list; }

 private:
  PyObject* list_ = nullptr;
};

// All of a list; on failure false, with a Python error set.
bool read_list(PyObject* given, Tensors* out);

// The memory of a float64 tensor of `numel` elements; null with a Python error set for anything else.
double* read_vector(PyObject* object, std::int64_t numel);

// As many threads as torch would use now, in this thread: `torch.set_num_threads` rules.
bool read_threads(const std::vector<Dense>& tensors, int* out);

// A subclass of Tensor, and how many words its objects have; none at all for None.
struct Subclass {
  PyTypeObject* type = nullptr;
  std::size_t words = 0;
};

// Whether an object is of the class or of one that is made from it; nothing is of none.
bool is_kind_of(PyObject* object, const Subclass& subclass);

// False with a Python error set for what is no class.
bool read_subclass(PyObject* type, Subclass* out);

// Starts on the cache misses of a later tensor in a list of n, of which the i-th is next.
void prefetch_ahead(PyObject* list, Py_ssize_t i, Py_ssize_t n, const Subclass& sharded = {});

// A new reference to a 0-dim CPU tensor: float64 if `wide`, else float32, infinite beyond its range. Needs the exchange
// API; without it, a RuntimeError.
PyObject* make_scalar(double number, bool wide);

}  // namespace gradclip::torch
