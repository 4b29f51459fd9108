// One operation swept over a list of tensors: cut into chunks, spread over threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace gradclip {

// A tensor whose elements fill one run of memory, in whatever order of dimensions.
struct Dense {
  void* data;
  std::int64_t numel;
  std::int64_t rows;  // size of dimension 0, or 0 where its rows do not follow each other in memory
  DType dtype;
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

// Sum of squares of every row (index of dimension 0) of every tensor, one after the other.
void row_square_sums(const std::vector<Dense>& tensors, double* out, int threads);

// Reads every byte once, and nothing more.
std::uint64_t read(const std::vector<Dense>& tensors, int threads);

}  // namespace gradclip
