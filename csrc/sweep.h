// One operation swept over a list of tensors: cut into chunks, spread over threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace gradclip {

// As DLPack tells devices apart.
struct Device {
  std::int32_t type, index;

  bool operator==(const Device& other) const { return type == other.type && index == other.index; }
};

// A tensor whose elements fill one run of memory, in whatever order of dimensions.
struct Dense {
  void* data;
  std::int64_t numel;
  std::int64_t units;   // indices of dimension 0, or one for the whole of a tensor of fewer than two dimensions
  bool units_in_order;  // whether each unit is one run of memory, and they follow each other
  DType dtype;
  Device device;
};

constexpr std::size_t element_size(DType dtype) {
  constexpr std::size_t sizes[kDTypes] = {2, 2, 4, 8, 8, 16};
  return sizes[static_cast<int>(dtype)];
}

// Below half a million elements the calling thread works alone: on a busy machine, waking a second one costs a
// scheduler quantum.
bool worth_threads(const std::vector<Dense>& tensors);

// What a norm needs to know: a sum of powers, a count, or an extremum, as `norm_type` says.
// Returns the combination over all tensors; `each`, if not null, receives one value a tensor.
double measure(const std::vector<Dense>& tensors, double norm_type, double factor, int threads, double* each);

// tensors[i] <- tensors[i] * coefs[i], or * coefs[0] where there is only one; a coefficient of 1 touches nothing.
void scale(const std::vector<Dense>& tensors, const double* coefs, std::size_t num_coefs, int threads);

void clamp(const std::vector<Dense>& tensors, double bound, int threads);

// Sum of squares of every unit of every tensor, one after the other. All units must lie in order.
void unit_square_sums(const std::vector<Dense>& tensors, double* out, int threads);

// Multiplies every unit by a coefficient of its own; one of 1 touches nothing. All units must lie in order.
void scale_units(const std::vector<Dense>& tensors, const double* coefs, int threads);

// Reads every byte once, and nothing more.
std::uint64_t read(const std::vector<Dense>& tensors, int threads);

}  // namespace gradclip
