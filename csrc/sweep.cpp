#include "sweep.h"

#include <omp.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

namespace gradclip {
namespace {

// Chunks are the same whatever the number of threads, and their results are combined in their order: the bits of a
// norm depend on the gradients alone.
constexpr std::int64_t kChunk = 1 << 16;

// An OpenMP pool does not survive fork(): its threads are gone, and the next parallel region would wait for them.
std::atomic<bool> forked{false};
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] { forked = true; });

struct Chunk {
  void* data;
  std::int64_t begin;  // elements of the tensor before it
  std::int64_t numel;
  std::size_t tensor;
  DType dtype;

  int type() const { return static_cast<int>(dtype); }
};

struct Chunks : std::vector<Chunk> {
  // Pieces of `kChunk` elements, none across two tensors.
  explicit Chunks(const std::vector<Dense>& tensors) {
    reserve(tensors.size());
    for (std::size_t t = 0; t < tensors.size(); ++t) {
      const Dense& tensor = tensors[t];
      for (std::int64_t begin = 0; begin < tensor.numel; begin += kChunk)
        push_back({static_cast<char*>(tensor.data) + begin * element_size(tensor.dtype), begin,
                   std::min(kChunk, tensor.numel - begin), t, tensor.dtype});
    }
  }

  // Calls `body(chunk, its index)` for all of them, on up to `threads` threads.
  //
  // Each thread has a range of its own, the same in every sweep: what its core has cached stays useful. Backwards, it
  // begins with what it read last. A thread that is done helps the others, so that a busy core delays nobody.
  template <class Body>
  void for_each(int threads, const Body& body, bool backwards = false) const {
    const auto visit = [&](std::int64_t begin, std::int64_t end, std::int64_t step) {
      const std::int64_t i = backwards ? end - 1 - step : begin + step;
      const std::int64_t later = backwards ? i - 1 : i + 1;
      if (begin <= later && later < end) prefetch((*this)[later]);
      body((*this)[i], i);
    };
    const auto count = static_cast<std::int64_t>(size());
    if (threads <= 1 || forked.load(std::memory_order_relaxed)) {
      for (std::int64_t step = 0; step < count; ++step) visit(0, count, step);
      return;
    }
    std::vector<Range> ranges(threads);
    split(ranges);
#pragma omp parallel num_threads(threads)
    {
      const int self = omp_get_thread_num();
      for (int other = 0; other < threads; ++other) {
        Range& range = ranges[(self + other) % threads];
        for (std::int64_t step; (step = range.next++) < range.end - range.begin;) visit(range.begin, range.end, step);
      }
    }
  }

 private:
  struct alignas(64) Range {
    std::atomic<std::int64_t> next{0};
    std::int64_t begin = 0, end = 0;
  };

  // Equal numbers of elements, as far as whole chunks allow.
  void split(std::vector<Range>& ranges) const {
    std::int64_t elements = 0, before = 0, chunk = 0;
    for (const Chunk& c : *this) elements += c.numel;
    const auto parts = static_cast<std::int64_t>(ranges.size());
    for (std::int64_t part = 0; part < parts; ++part) {
      ranges[part].begin = chunk;
      while (chunk < static_cast<std::int64_t>(size()) && before < elements / parts * (part + 1))
        before += (*this)[chunk++].numel;
      ranges[part].end = part + 1 == parts ? static_cast<std::int64_t>(size()) : chunk;
    }
  }

  // The first lines of a chunk that comes soon, and the page table entries on the way to them.
  static void prefetch(const Chunk& chunk) {
    const auto* first = static_cast<const char*>(chunk.data);
    for (int line = 0; line < 8; ++line) __builtin_prefetch(first + 64 * line);
  }
};

// The units of a list of tensors, counted through.
struct Units {
  std::int64_t count = 0;

  explicit Units(const std::vector<Dense>& tensors) {
    for (const Dense& tensor : tensors) {
      of_tensor_.push_back({count, tensor.numel / std::max<std::int64_t>(1, tensor.units)});
      count += tensor.units;
    }
  }

  std::int64_t first_of(const Chunk& chunk) const {
    const auto& [first, length] = of_tensor_[chunk.tensor];
    return first + chunk.begin / length;
  }

  // Calls `body(unit, data, elements)` for every unit in a chunk: for the part of it that lies there.
  template <class Body>
  void for_each(const Chunk& chunk, const Body& body) const {
    const std::int64_t length = of_tensor_[chunk.tensor].length;
    auto* data = static_cast<char*>(chunk.data);
    std::int64_t unit = first_of(chunk), left = chunk.numel, part = std::min(left, length - chunk.begin % length);
    for (; left > 0; part = std::min(left, length)) {
      body(unit++, data, static_cast<std::size_t>(part));
      data += part * element_size(chunk.dtype);
      left -= part;
    }
  }

 private:
  struct OfTensor {
    std::int64_t first, length;  // elements of one unit
  };
  std::vector<OfTensor> of_tensor_;
};

struct Norm {
  double type;

  double identity() const { return type == -std::numeric_limits<double>::infinity() ? -type : 0; }

  double combine(double a, double b) const {
    if (!std::isinf(type)) return a + b;
    if (std::isnan(a) || std::isnan(b)) return std::numeric_limits<double>::quiet_NaN();
    return type > 0 ? std::max(a, b) : std::min(a, b);
  }

  double of(const Chunk& chunk, double factor) const {
    const Kernels& kernel = kernels();
    const auto n = static_cast<std::size_t>(chunk.numel);
    if (type == 0) return static_cast<double>(kernel.count_nonzero[chunk.type()](chunk.data, n));
    if (std::isinf(type)) return (type > 0 ? kernel.largest : kernel.smallest)[chunk.type()](chunk.data, n);
    return kernel.power_sum[chunk.type()](chunk.data, n, type, factor);
  }
};

}  // namespace

bool worth_threads(const std::vector<Dense>& tensors) {
  constexpr std::int64_t kEnough = 1 << 19;
  std::int64_t elements = 0;
  for (const Dense& tensor : tensors) elements += tensor.numel;
  return elements >= kEnough;
}

double measure(const std::vector<Dense>& tensors, double norm_type, double factor, int threads, double* each) {
  const Norm norm{norm_type};
  const Chunks chunks(tensors);
  std::vector<double> partials(chunks.size());
  chunks.for_each(threads, [&](const Chunk& chunk, std::int64_t i) { partials[i] = norm.of(chunk, factor); });

  if (each) std::fill_n(each, tensors.size(), norm.identity());
  double total = norm.identity();
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    total = norm.combine(total, partials[i]);
    if (each) each[chunks[i].tensor] = norm.combine(each[chunks[i].tensor], partials[i]);
  }
  return total;
}

void scale(const std::vector<Dense>& tensors, const double* coefs, std::size_t num_coefs, int threads) {
  const auto body = [=](const Chunk& chunk, std::int64_t) {
    const double coef = coefs[num_coefs == 1 ? 0 : chunk.tensor];
    if (coef != 1) kernels().scale[chunk.type()](chunk.data, static_cast<std::size_t>(chunk.numel), coef);
  };
  Chunks(tensors).for_each(threads, body, /*backwards=*/true);
}

void clamp(const std::vector<Dense>& tensors, double bound, int threads) {
  Chunks(tensors).for_each(threads, [=](const Chunk& chunk, std::int64_t) {
    kernels().clamp[chunk.type()](chunk.data, static_cast<std::size_t>(chunk.numel), bound);
  });
}

void unit_square_sums(const std::vector<Dense>& tensors, double* out, int threads) {
  const Units units(tensors);
  std::fill_n(out, units.count, 0.0);
  const Chunks chunks(tensors);
  std::vector<double> heads(chunks.size());  // of the first unit of each chunk, which may have begun before it
  chunks.for_each(threads, [&](const Chunk& chunk, std::int64_t i) {
    const auto power_sum = kernels().power_sum[chunk.type()];
    units.for_each(chunk, [&](std::int64_t unit, void* data, std::size_t n) {
      (data == chunk.data ? heads[i] : out[unit]) = power_sum(data, n, 2, 1);
    });
  });
  for (std::size_t i = 0; i < chunks.size(); ++i) out[units.first_of(chunks[i])] += heads[i];
}

void scale_units(const std::vector<Dense>& tensors, const double* coefs, int threads) {
  const Units units(tensors);
  const auto body = [&](const Chunk& chunk, std::int64_t) {
    const auto scale = kernels().scale[chunk.type()];
    units.for_each(chunk, [&](std::int64_t unit, void* data, std::size_t n) {
      if (coefs[unit] != 1) scale(data, n, coefs[unit]);
    });
  };
  Chunks(tensors).for_each(threads, body, /*backwards=*/true);
}

std::uint64_t read(const std::vector<Dense>& tensors, int threads) {
  std::atomic<std::uint64_t> mixed{0};
  Chunks(tensors).for_each(threads, [&](const Chunk& chunk, std::int64_t) {
    mixed ^= kernels().read(chunk.data, element_size(chunk.dtype) * static_cast<std::size_t>(chunk.numel));
  });
  return mixed;
}

}  // namespace gradclip
