// The kernels, compiled once per instruction set (CMakeLists.txt names the set in GRADCLIP_ISA).
//
// Sums run in float64: the square of any float32 is exact enough and cannot overflow there, and once memory is the
// limit the conversion costs nothing. Whatever only compares magnitudes works on the bits as unsigned integers.
#include "kernels.h"

#include <cmath>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gradclip {
// No template or inline function of the standard library below: the linker would keep one copy for all instruction
// sets, and a CPU without AVX-512 might get the wrong one.
namespace {

#include "lanes.h"

template <class V>
[[gnu::always_inline]] inline V smaller(V a, V b) { return b < a ? b : a; }

template <class V>
[[gnu::always_inline]] inline V larger(V a, V b) { return a < b ? b : a; }

// Copies n < kLanes elements. All in registers: a call of memcpy, and a vector read back from its pieces in memory,
// would cost more than all else in a short run.
template <class To, class From>
[[gnu::always_inline]] inline void copy_few(To& to, const From& from, std::size_t n) {
#pragma GCC unroll 8
  for (std::size_t j = 0; j + 1 < kLanes; ++j)
    if (j < n) to[j] = from[j];
}

// A partial vector of the last n < kLanes elements, padded with zeros.
template <class T>
struct Tail {
  using Bits = typename T::Bits;
  using V [[gnu::vector_size(kLanes * sizeof(Bits))]] = Bits;
  V v = {};
  [[gnu::always_inline]] Tail(const Bits* x, std::size_t n) { copy_few(v, x, n); }
  [[gnu::always_inline]] F64 load() const { return T::load(reinterpret_cast<const Bits*>(&v)); }
  [[gnu::always_inline]] void store(F64 x) { T::store(reinterpret_cast<Bits*>(&v), x); }
};

template <class Bits>
constexpr Bits kMagnitude = static_cast<Bits>(~Bits{0}) >> 1;

template <class T>
double value(typename T::Bits bits) {
  return Tail<T>(&bits, 1).load()[0];
}

// Starts on the lines of `kBytes` that come half a page later, where the processor does not do so far enough ahead by itself.
template <std::size_t kBytes>
[[gnu::always_inline]] inline void prefetch_after(const void* x) {
  if (!kPrefetches) return;
  for (std::size_t line = 0; line < kBytes; line += 64) __builtin_prefetch(static_cast<const char*>(x) + 2048 + line);
}

// sum of power(x * factor) over n elements; four chains hide the latency of the addition.
template <class T, class Power>
[[gnu::always_inline]] inline double sum(const typename T::Bits* x, std::size_t n, double factor, Power power) {
  F64 chain[4] = {};
  std::size_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    F64 v[4];
    prefetch_after<4 * kLanes * sizeof(*x)>(x + i);
    load_four<T>(x + i, v);
    for (int j = 0; j < 4; ++j) chain[j] += power(v[j] * factor);
  }
  for (; i + kLanes <= n; i += kLanes) chain[0] += power(T::load(x + i) * factor);
  const F64 lanes = (chain[0] + chain[1]) + (chain[2] + chain[3]);
  double total = 0;
  for (int j = 0; j < kLanes; ++j) total += lanes[j];
  if (i < n) {
    const F64 last = power(Tail<T>(x + i, n - i).load() * factor);
    for (std::size_t j = 0; j < n - i; ++j) total += last[j];
  }
  return total;
}

namespace reals {

[[gnu::always_inline]] inline F64 absolute(F64 x) { return bit_cast<F64>(bit_cast<I64>(x) & INT64_MAX); }

[[gnu::always_inline]] inline F64 square_root(F64 x) {
  for (int j = 0; j < kLanes; ++j) x[j] = std::sqrt(x[j]);
  return x;
}

template <class T>
double power_sum(const void* data, std::size_t n, double p, double factor) {
  const auto* x = static_cast<const typename T::Bits*>(data);
  if (p == 2 && factor == 1) return sum<T>(x, n, 1, [](F64 v) { return v * v; });
  if (p == 1) return sum<T>(x, n, factor, absolute);
  const double halves = 2 * p;
  if (halves == std::floor(halves) && halves > 0 && halves <= 12) {
    const int whole = static_cast<int>(p);
    const bool root = whole != p;
    return sum<T>(x, n, factor, [=](F64 v) {
      v = absolute(v);
      F64 product = root ? square_root(v) : F64{} + 1;
      for (int k = 0; k < whole; ++k) product *= v;
      return product;
    });
  }
  return sum<T>(x, n, factor, [=](F64 v) {
    for (int j = 0; j < kLanes; ++j) v[j] = std::pow(std::fabs(v[j]), p);
    return v;
  });
}

template <class T>
double largest(const void* data, std::size_t n) {
  using Bits = typename T::Bits;
  const auto* x = static_cast<const Bits*>(data);
  Bits most = 0;
  for (std::size_t i = 0; i < n; ++i) most = larger<Bits>(most, x[i] & kMagnitude<Bits>);
  return value<T>(most);
}

template <class T>
double smallest(const void* data, std::size_t n) {
  using Bits = typename T::Bits;
  const auto* x = static_cast<const Bits*>(data);
  Bits least = T::kInfinity, most = 0;
  for (std::size_t i = 0; i < n; ++i) {
    least = smaller<Bits>(least, x[i] & kMagnitude<Bits>);
    most = larger<Bits>(most, x[i] & kMagnitude<Bits>);
  }
  return value<T>(most > T::kInfinity ? most : least);
}

template <class T>
std::size_t count_nonzero(const void* data, std::size_t n) {
  using Bits = typename T::Bits;
  const auto* x = static_cast<const Bits*>(data);
  std::size_t count = 0;
  for (std::size_t i = 0; i < n; ++i) count += (x[i] & kMagnitude<Bits>) != 0;
  return count;
}

template <class T>
void scale_exactly(typename T::Bits* x, std::size_t n, double coef) {
  F64 factor;  // lane by lane: `v * coef` would build it in memory where registers are narrower, slow for a short run
  for (int j = 0; j < kLanes; ++j) factor[j] = coef;
  if (n < kLanes) {
    Tail<T> tail(x, n);
    tail.store(tail.load() * factor);
    copy_few(x, tail.v, n);
    return;
  }
  // The last vector overlaps the one before it, and is read before that is written.
  const F64 last = T::load(x + n - kLanes) * factor;
  for (std::size_t i = 0; i + kLanes < n; i += kLanes) {
    prefetch_after<kLanes * sizeof(*x)>(x + i);
    T::store(x + i, T::load(x + i) * factor);
  }
  T::store(x + n - kLanes, last);
}

template <class T>
void scale(void* data, std::size_t n, double coef) {
  scale_exactly<T>(static_cast<typename T::Bits*>(data), n, coef);
}

// As many whole blocks as there are; returns the number of their elements.
//
// The float32 product of a 16-bit element with the rounded coefficient is off by less than 1.5 units in its last place:
// one from the coefficient, half a unit from the product. Where all numbers within two units round to the same 16 bits,
// so does the exact product; elsewhere (a few blocks in a hundred) the block is done again in float64.
template <class T, std::size_t kBlock>
[[gnu::always_inline]] inline std::size_t scale_blocks(std::uint16_t* x, std::size_t n, double coef) {
  const float single = static_cast<float>(coef);
  std::size_t begin = 0;
  for (; begin + kBlock <= n; begin += kBlock) {
    std::uint16_t rounded[kBlock];
    typename T::Words unsure = {};
    prefetch_after<kBlock * sizeof(*x)>(x + begin);
    for (std::size_t i = 0; i < kBlock; i += T::kAtOnce) T::scale_some(x + begin + i, rounded + i, single, &unsure);
    std::uint32_t any = 0;
    for (std::size_t j = 0; j < sizeof unsure / sizeof unsure[0]; ++j) any |= unsure[j];
    if (any) scale_exactly<T>(x + begin, kBlock, coef);
    else std::memcpy(x + begin, rounded, sizeof rounded);
  }
  return begin;
}

template <class T>
void scale_narrow(void* data, std::size_t n, double coef) {
  auto* x = static_cast<std::uint16_t*>(data);
  std::size_t done = 0;
  if (coef >= 0x1p-126 && coef <= 1) {  // so that rounding it costs half a unit and no more
    done = scale_blocks<T, 32 * kLanes>(x, n, coef);
    done += scale_blocks<T, 4 * kLanes>(x + done, n - done, coef);  // of a short run, or the rest of a long one
  }
  scale_exactly<T>(x + done, n - done, coef);
}

template <>
void scale<BFloat16>(void* x, std::size_t n, double coef) { scale_narrow<BFloat16>(x, n, coef); }

template <>
void scale<Float16>(void* x, std::size_t n, double coef) { scale_narrow<Float16>(x, n, coef); }

template <class T>
void clamp(void* data, std::size_t n, double bound) {
  using Bits = typename T::Bits;
  auto* x = static_cast<Bits*>(data);
  Bits lanes[kLanes];
  T::store(lanes, F64{} + bound);
  const Bits limit = lanes[0];
  constexpr std::size_t kBlock = 512;
  for (std::size_t begin = 0; begin < n; begin += kBlock) {
    const std::size_t end = smaller(begin + kBlock, n);
    Bits most = 0;
    for (std::size_t i = begin; i < end; ++i) most = larger<Bits>(most, x[i] & kMagnitude<Bits>);
    if (most <= limit) continue;  // nothing to write
    for (std::size_t i = begin; i < end; ++i) {
      const Bits magnitude = x[i] & kMagnitude<Bits>;
      const Bits clamped = static_cast<Bits>((x[i] & ~kMagnitude<Bits>) | limit);
      x[i] = magnitude > limit && magnitude <= T::kInfinity ? clamped : x[i];
    }
  }
}

}  // namespace reals

// A complex element is a pair of reals, unless its modulus counts.
template <class T>
struct Complex {
  // No sum of squares of float32 numbers leaves the range of float64. Beside an infinity, a NaN does not count.
  static double modulus(double re, double im) {
    const double square = re * re + im * im;
    return sizeof(typename T::Bits) < sizeof(double) && square == square ? std::sqrt(square) : std::hypot(re, im);
  }

  // Calls `use(moduli, count)` on block after block of moduli, which are float64.
  template <class Use>
  static void moduli(const void* data, std::size_t n, double factor, Use use) {
    const auto* x = static_cast<const typename T::Bits*>(data);
    constexpr std::size_t kBlock = 256;
    Float64::Bits block[kBlock];
    for (std::size_t begin = 0; begin < n; begin += kBlock) {
      const std::size_t count = smaller<std::size_t>(kBlock, n - begin);
      for (std::size_t i = 0; i < count; ++i) {
        const auto* z = x + 2 * (begin + i);
        block[i] = bit_cast<Float64::Bits>(factor * modulus(value<T>(z[0]), value<T>(z[1])));
      }
      use(block, count);
    }
  }

  static double power_sum(const void* x, std::size_t n, double p, double factor) {
    if (p == 2) return reals::power_sum<T>(x, 2 * n, p, factor);
    double total = 0;
    moduli(x, n, factor, [&](const auto* block, std::size_t count) {
      total += reals::power_sum<Float64>(block, count, p, 1);
    });
    return total;
  }

  static double largest(const void* x, std::size_t n) {
    Float64::Bits most = 0;
    moduli(x, n, 1, [&](const auto* block, std::size_t count) {
      for (std::size_t i = 0; i < count; ++i) most = larger(most, block[i]);
    });
    return bit_cast<double>(most);
  }

  static double smallest(const void* x, std::size_t n) {
    Float64::Bits least = Float64::kInfinity, most = 0;
    moduli(x, n, 1, [&](const auto* block, std::size_t count) {
      for (std::size_t i = 0; i < count; ++i) least = smaller(least, block[i]), most = larger(most, block[i]);
    });
    return bit_cast<double>(most > Float64::kInfinity ? most : least);
  }

  static std::size_t count_nonzero(const void* x, std::size_t n) {
    std::size_t total = 0;
    moduli(x, n, 1, [&](const auto* block, std::size_t count) {
      total += reals::count_nonzero<Float64>(block, count);
    });
    return total;
  }

  static void scale(void* x, std::size_t n, double coef) { reals::scale<T>(x, 2 * n, coef); }
  static void clamp(void* x, std::size_t n, double bound) { reals::clamp<T>(x, 2 * n, bound); }
};

std::uint64_t read(const void* data, std::size_t bytes) {
  const auto* x = static_cast<const char*>(data);
  I64 chain[4] = {};
  for (std::size_t i = 0; i + sizeof chain <= bytes; i += sizeof chain)
    for (int j = 0; j < 4; ++j) chain[j] ^= load_raw<I64>(x + i + j * sizeof(I64));
  const I64 lanes = (chain[0] ^ chain[1]) ^ (chain[2] ^ chain[3]);
  return static_cast<std::uint64_t>(lanes[0] ^ lanes[1]);
}

#define GRADCLIP_EVERY_DTYPE(op) \
  {reals::op<Float16>, reals::op<BFloat16>, reals::op<Float32>, reals::op<Float64>, Complex<Float32>::op, Complex<Float64>::op}

constexpr Kernels kTable = {
    GRADCLIP_ISA_NAME,
    GRADCLIP_EVERY_DTYPE(power_sum),
    GRADCLIP_EVERY_DTYPE(largest),
    GRADCLIP_EVERY_DTYPE(smallest),
    GRADCLIP_EVERY_DTYPE(count_nonzero),
    GRADCLIP_EVERY_DTYPE(scale),
    GRADCLIP_EVERY_DTYPE(clamp),
    read,
};

}  // namespace

const Kernels* GRADCLIP_ISA() { return &kTable; }

}  // namespace gradclip
