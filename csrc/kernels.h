// What one kernel does to one contiguous run of elements. One table of them a CPU instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gradclip {

enum class DType : std::uint8_t { kFloat16, kBFloat16, kFloat32, kFloat64, kComplex64, kComplex128 };
constexpr int kDTypes = 6;

struct Kernels {
  const char* name;

  // Sum of |x * factor|^p in float64, for any real p but 0 and infinity.
  double (*power_sum[kDTypes])(const void* x, std::size_t n, double p, double factor);
  // Largest and smallest |x|; NaN if any element is. The identities (0, inf) for n = 0.
  double (*largest[kDTypes])(const void* x, std::size_t n);
  double (*smallest[kDTypes])(const void* x, std::size_t n);
  // Elements other than 0, NaN among them.
  std::size_t (*count_nonzero[kDTypes])(const void* x, std::size_t n);
  // x <- x * coef in float64, rounded once.
  void (*scale[kDTypes])(void* x, std::size_t n, double coef);
  // x <- sign(x) min(|x|, bound), real and imaginary part by part; NaN stays. Writes only what changes.
  void (*clamp[kDTypes])(void* x, std::size_t n, double bound);
  // Reads the bytes and does nothing with them: the floor that a benchmark compares with.
  std::uint64_t (*read)(const void* x, std::size_t bytes);
};

// Each is the table of one translation unit of `kernels.cpp`; an entry the build lacks is null.
const Kernels* baseline_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();

// Whether kernels ask for memory ahead of time. Intel's processors do so up to the end of a page and no further: norms of
// what is in no cache read 1.3 to 1.5 times as fast there. AMD's do without, and ask twice: 3 to 5 % slower.
extern const bool kPrefetches;

// The best table that this CPU runs, or the one that GRADCLIP_ISA names.
const Kernels& kernels();

}  // namespace gradclip
