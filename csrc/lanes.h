// Elements of every dtype as lanes of float64, and back with a single rounding.
//
// Included by `kernels.cpp` alone, once per instruction set, inside that file's anonymous namespace.
// GCC and Clang vector extensions do the work: the compiler lowers one source to SSE2, AVX2, AVX-512 or NEON.

#if defined(__AVX512F__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

using F64 [[gnu::vector_size(8 * kLanes)]] = double;
using I64 [[gnu::vector_size(8 * kLanes)]] = std::int64_t;
using F32 [[gnu::vector_size(4 * kLanes)]] = float;
using I32 [[gnu::vector_size(4 * kLanes)]] = std::int32_t;
using U32 [[gnu::vector_size(4 * kLanes)]] = std::uint32_t;
using U16 [[gnu::vector_size(2 * kLanes)]] = std::uint16_t;

template <class To, class From>
[[gnu::always_inline]] inline To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <class V>
[[gnu::always_inline]] inline V load_raw(const void* address) {
  V v;
  std::memcpy(&v, address, sizeof v);
  return v;
}

// GCC 12 would make these conversions of halves.
#if defined(__AVX512F__)
[[gnu::always_inline]] inline F64 widen(F32 x) { return bit_cast<F64>(_mm512_maskz_cvtps_pd(0xff, bit_cast<__m256>(x))); }
[[gnu::always_inline]] inline F32 narrow(F64 x) { return bit_cast<F32>(_mm512_maskz_cvtpd_ps(0xff, bit_cast<__m512d>(x))); }
[[gnu::always_inline]] inline U32 widen(U16 x) { return bit_cast<U32>(_mm256_cvtepu16_epi32(bit_cast<__m128i>(x))); }
[[gnu::always_inline]] inline U16 narrow(U32 x) { return bit_cast<U16>(_mm256_cvtepi32_epi16(bit_cast<__m256i>(x))); }
#elif defined(__AVX2__)
[[gnu::always_inline]] inline F64 widen(F32 x) { return bit_cast<F64>(_mm256_cvtps_pd(bit_cast<__m128>(x))); }
[[gnu::always_inline]] inline F32 narrow(F64 x) { return bit_cast<F32>(_mm256_cvtpd_ps(bit_cast<__m256d>(x))); }
[[gnu::always_inline]] inline U32 widen(U16 x) {
  return bit_cast<U32>(_mm_cvtepu16_epi32(_mm_cvtsi64_si128(bit_cast<std::int64_t>(x))));
}
[[gnu::always_inline]] inline U16 narrow(U32 x) {
  return bit_cast<U16>(_mm_cvtsi128_si64(_mm_packus_epi32(bit_cast<__m128i>(x & 0xffff), _mm_setzero_si128())));
}
#else
[[gnu::always_inline]] inline F64 widen(F32 x) { return __builtin_convertvector(x, F64); }
[[gnu::always_inline]] inline F32 narrow(F64 x) { return __builtin_convertvector(x, F32); }
[[gnu::always_inline]] inline U32 widen(U16 x) { return __builtin_convertvector(x, U32); }
[[gnu::always_inline]] inline U16 narrow(U32 x) { return __builtin_convertvector(x, U16); }
#endif

// The nearest number of `digits` significant bits, ties to even, with exponents no smaller than `least`: adding and
// subtracting 1.5 * 2^52 units in the last place of the result makes the adder round there, once.
[[gnu::always_inline]] inline F64 round_to(F64 x, int digits, double least) {
  const F64 power = bit_cast<F64>(bit_cast<I64>(x) & 0x7ff0000000000000);  // 2^exponent
  const F64 bounded = power < least ? F64{} + least : power > 0x1p200 ? F64{} + 0x1p200 : power;
  const F64 magic = bounded * (1.5 * static_cast<double>(std::uint64_t{1} << (53 - digits)));
  const F64 rounded = (x + magic) - magic;
  return bit_cast<F64>(bit_cast<I64>(rounded) | (bit_cast<I64>(x) & INT64_MIN));  // -0 stays -0
}

[[gnu::always_inline]] inline F32 from_half(U16 h) {
#if defined(__AVX512F__)
  return bit_cast<F32>(_mm256_cvtph_ps(bit_cast<__m128i>(h)));
#elif defined(__F16C__)
  return bit_cast<F32>(_mm_cvtph_ps(_mm_cvtsi64_si128(bit_cast<std::int64_t>(h))));
#else
  const U32 wide = widen(h);
  const U32 magnitude = wide & 0x7fff;
  // A normal float16 shifted into place is a float32 too small by 2^112; infinity and NaN need the full exponent.
  const U32 normal = bit_cast<U32>(bit_cast<F32>(magnitude << 13) * 0x1p112f);
  const U32 subnormal = bit_cast<U32>(__builtin_convertvector(magnitude, F32) * 0x1p-24f);
  const U32 special = (magnitude << 13) | 0x7f800000;
  const U32 finite = magnitude < 0x400 ? subnormal : normal;
  return bit_cast<F32>((magnitude < 0x7c00 ? finite : special) | ((wide & 0x8000) << 16));
#endif
}

// Exact for what a float16 can hold, and rounding to nearest even for the rest.
[[gnu::always_inline]] inline U16 to_half(F32 x) {
#if defined(__AVX512F__)
  return bit_cast<U16>(_mm256_cvtps_ph(bit_cast<__m256>(x), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  return bit_cast<U16>(_mm_cvtsi128_si64(_mm_cvtps_ph(bit_cast<__m128>(x), _MM_FROUND_TO_NEAREST_INT)));
#else
  const U32 bits = bit_cast<U32>(x);
  const U32 magnitude = bits & 0x7fffffff;
  // Adding the element's own power of two times 2^13 (at least 2^-1, for subnormals) makes the adder round at
  // float16's last bit; what it added to the significand is the float16's.
  const U32 least = U32{} + (113u << 23);
  const U32 exponent = magnitude & 0x7f800000;
  const U32 clamped = exponent > least ? exponent : least;
  const U32 base = clamped + (13u << 23);
  const U32 sum = bit_cast<U32>(bit_cast<F32>(magnitude) + bit_cast<F32>(base));
  const U32 finite = sum - base + ((clamped - least) >> 13);
  const U32 special = magnitude > 0x7f800000 ? U32{} + 0x7e00 : U32{} + 0x7c00;
  const U32 half = magnitude < 0x47800000 ? finite : special;  // from 65536 on: infinity
  return narrow(half | ((bits >> 16) & 0x8000));
#endif
}

[[gnu::always_inline]] inline F32 from_brain(U16 b) {
  return bit_cast<F32>(widen(b) << 16);
}

[[gnu::always_inline]] inline U16 to_brain(F32 x) {
  const U32 bits = bit_cast<U32>(x);
  const U32 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const U32 nan = (bits >> 16) | 0x40;
  return narrow((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded);
}

// How the elements of one dtype become float64 lanes and come back, rounded once. `Bits` is the unsigned integer of
// the same width: without its sign bit it orders magnitudes, infinity next to last and NaN last.
struct Float64 {
  using Bits = std::uint64_t;
  static constexpr Bits kInfinity = 0x7ff0000000000000;
  [[gnu::always_inline]] static F64 load(const Bits* x) { return load_raw<F64>(x); }
  [[gnu::always_inline]] static void store(Bits* x, F64 v) { std::memcpy(x, &v, sizeof v); }
};

struct Float32 {
  using Bits = std::uint32_t;
  static constexpr Bits kInfinity = 0x7f800000;
  [[gnu::always_inline]] static F64 load(const Bits* x) { return widen(load_raw<F32>(x)); }
  [[gnu::always_inline]] static void store(Bits* x, F64 v) {
    const F32 single = narrow(v);
    std::memcpy(x, &single, sizeof single);
  }
};

// `scale_some` multiplies `kAtOnce` elements in float32, with a product that is off by less than two units in its last
// place, and sets a bit of `unsure` where not all numbers that near round to the same 16 bits.
template <F32 (*unpack)(U16)>
struct Narrow {
  using Bits = std::uint16_t;
  [[gnu::always_inline]] static F32 load_single(const Bits* x) { return unpack(load_raw<U16>(x)); }
  [[gnu::always_inline]] static F64 load(const Bits* x) { return widen(load_single(x)); }
};

struct BFloat16 : Narrow<from_brain> {
  static constexpr Bits kInfinity = 0x7f80;
  [[gnu::always_inline]] static void store(Bits* x, F64 v) {
    const U16 brain = to_brain(narrow(round_to(v, 8, 0x1p-126)));
    std::memcpy(x, &brain, sizeof brain);
  }

  // Two in a 32-bit lane, as `load_four` takes them. The bits below a NaN, and an infinity, are zeros: they round to it.
  using Words [[gnu::vector_size(8 * kLanes)]] = std::uint32_t;
  using Singles [[gnu::vector_size(8 * kLanes)]] = float;
  static constexpr int kAtOnce = 4 * kLanes;
  [[gnu::always_inline]] static void scale_some(const Bits* x, Bits* out, float coef, Words* unsure) {
    const Words pairs = load_raw<Words>(x);
    const Words first = bit_cast<Words>(bit_cast<Singles>(pairs & 0xffff0000) * coef) + 0x8002;
    const Words second = bit_cast<Words>(bit_cast<Singles>(pairs << 16) * coef) + 0x8002;
    *unsure |= ((first ^ (first - 4)) | (second ^ (second - 4))) >> 16;
    const Words rounded = (first & 0xffff0000) | (second >> 16);
    std::memcpy(out, &rounded, sizeof rounded);
  }
};

struct Float16 : Narrow<from_half> {
  static constexpr Bits kInfinity = 0x7c00;
  [[gnu::always_inline]] static void store(Bits* x, F64 v) {
    const U16 half = to_half(narrow(round_to(v, 11, 0x1p-14)));
    std::memcpy(x, &half, sizeof half);
  }

  using Words = U16;
  static constexpr int kAtOnce = kLanes;
  [[gnu::always_inline]] static void scale_some(const Bits* x, Bits* out, float coef, Words* unsure) {
    const U32 bits = bit_cast<U32>(load_single(x) * coef);
    const U32 magnitude = bits & 0x7fffffff;
    const U16 above = to_half(bit_cast<F32>(bits + 2));
    *unsure |= above ^ to_half(bit_cast<F32>(bits - (magnitude < 2 ? magnitude : U32{} + 2)));
    std::memcpy(out, &above, sizeof above);
  }
};

// Four vectors of elements as float64, in whatever order: enough for a sum.
template <class T>
[[gnu::always_inline]] inline void load_four(const typename T::Bits* x, F64 (&out)[4]) {
  for (int j = 0; j < 4; ++j) out[j] = T::load(x + j * kLanes);
}

// Two bfloat16 in a 32-bit lane are two float32 after a mask and a shift, without moving anything across lanes.
template <>
[[gnu::always_inline]] inline void load_four<BFloat16>(const BFloat16::Bits* x, F64 (&out)[4]) {
  for (int j = 0; j < 2; ++j) {
    const U32 pair = load_raw<U32>(x + 2 * j * kLanes);
    out[2 * j] = widen(bit_cast<F32>(pair & 0xffff0000));
    out[2 * j + 1] = widen(bit_cast<F32>(pair << 16));
  }
}
