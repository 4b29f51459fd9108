#include "table.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

namespace gradclip {
namespace {

constexpr std::int64_t kMost = std::int64_t{1} << 40;  // of either, and no table fits in memory
constexpr std::int64_t kAlignment = 16;

std::int64_t bytes(std::int64_t elements, DType dtype) {
  return elements * static_cast<std::int64_t>(element_size(dtype));
}

std::int64_t address(const Dense& tensor) { return reinterpret_cast<std::int64_t>(tensor.data); }

}  // namespace

Table::Cut Table::cut(const Dense& tensor) const {
  const std::int64_t units = by_unit_ ? tensor.units : 1, size = units ? tensor.numel / units : 0;
  return {units, size, (size + chunk_ - 1) / chunk_};
}

std::size_t Table::run_of(DType dtype) const {
  const auto run = std::find_if(runs.begin(), runs.end(), [&](const Run& r) { return r.dtype == dtype; });
  return static_cast<std::size_t>(run - runs.begin());
}

Table::Table(std::vector<Dense> tensors, bool by_unit, const ChunkSizes& sizes)
    : tensors_(std::move(tensors)), by_unit_(by_unit) {
  std::int64_t elements = 0;
  for (const Dense& tensor : tensors_) elements += tensor.numel;
  chunk_ = elements < sizes.threshold ? sizes.small : sizes.large;
  for (const Dense& tensor : tensors_) {
    const auto [units, size, pieces] = cut(tensor);
    const std::int64_t added = units * pieces;
    if (units > kMost - segments || added > kMost - chunks) throw std::bad_alloc();
    segments += units;
    chunks += added;
    if (!added) continue;
    const std::size_t at = run_of(tensor.dtype);
    if (at == runs.size()) runs.push_back({tensor.dtype, 0, 0, true});
    runs[at].end += added;
    // The first chunk of the first unit, of any other unit, and any other chunk of a unit.
    runs[at].aligned &= address(tensor) % kAlignment == 0 &&
                        (units == 1 || bytes(size, tensor.dtype) % kAlignment == 0) &&
                        (pieces == 1 || bytes(chunk_, tensor.dtype) % kAlignment == 0);
  }
  for (std::size_t i = 1; i < runs.size(); ++i) {
    runs[i].begin = runs[i - 1].end;
    runs[i].end += runs[i].begin;
  }
}

std::size_t Table::write(std::int64_t* words, double max_norm, double eps) const {
  std::int64_t *const addresses = words, *const counts = words + chunks, *const owners = words + 2 * chunks;
  std::int64_t *const first = words + 3 * chunks, *const after = first + segments, *const whole = after + segments;
  std::vector<std::int64_t> next;  // chunk of each run
  for (const Run& run : runs) next.push_back(run.begin);
  std::int64_t segment = 0, none = 0;
  for (const Dense& tensor : tensors_) {
    const auto [units, size, pieces] = cut(tensor);
    std::int64_t& c = pieces ? next[run_of(tensor.dtype)] : none;
    std::int64_t at = address(tensor);
    for (std::int64_t unit = 0; unit < units; ++unit, ++segment) {
      first[segment] = c;
      for (std::int64_t begin = 0; begin < size; begin += chunk_, ++c) {
        addresses[c] = at;
        counts[c] = std::min(chunk_, size - begin);
        owners[c] = segment;
        at += bytes(counts[c], tensor.dtype);
      }
      after[segment] = c;
    }
  }
  whole[0] = 0;
  whole[1] = chunks;
  std::memcpy(whole + 2, &max_norm, sizeof max_norm);
  std::memcpy(whole + 3, &eps, sizeof eps);
  return static_cast<std::size_t>(whole + 4 - words);
}

}  // namespace gradclip
