#include "table.h"

#include <algorithm>
#include <new>

namespace gradclip {

constexpr std::int64_t kMost = std::int64_t{1} << 40;  // of either, and no table fits in memory

Table::Table(const std::vector<Dense>& tensors, bool by_unit, const ChunkSizes& sizes)
    : tensors_(tensors), by_unit_(by_unit) {
  std::int64_t elements = 0;
  for (const Dense& tensor : tensors) elements += tensor.numel;
  chunk_ = elements < sizes.threshold ? sizes.small : sizes.large;
  for (const Dense& tensor : tensors) {
    const std::int64_t units = units_of(tensor);
    const std::int64_t pieces = units ? units * ((tensor.numel / units + chunk_ - 1) / chunk_) : 0;
    if (units > kMost - segments || pieces > kMost - chunks) throw std::bad_alloc();
    segments += units;
    chunks += pieces;
    if (!pieces) continue;
    const auto run = std::find_if(runs.begin(), runs.end(), [&](const Run& r) { return r.dtype == tensor.dtype; });
    if (run == runs.end())
      runs.push_back({tensor.dtype, 0, pieces, true});
    else
      run->end += pieces;
  }
  for (std::size_t i = 1; i < runs.size(); ++i) {
    runs[i].begin = runs[i - 1].end;
    runs[i].end += runs[i].begin;
  }
}

void Table::write(std::int64_t* words) {
  std::int64_t *const addresses = words, *const counts = words + chunks, *const owners = words + 2 * chunks;
  std::int64_t *const first = words + 3 * chunks, *const after = first + segments, *const whole = after + segments;
  for (Run& run : runs) run.end = run.begin;  // grows to where it was
  std::int64_t segment = 0;
  for (const Dense& tensor : tensors_) {
    const std::int64_t units = units_of(tensor), size = units ? tensor.numel / units : 0;
    const auto run = std::find_if(runs.begin(), runs.end(), [&](const Run& r) { return r.dtype == tensor.dtype; });
    auto* at = static_cast<char*>(tensor.data);
    for (std::int64_t unit = 0; unit < units; ++unit, ++segment) {
      if (!size) {
        first[segment] = after[segment] = 0;
        continue;
      }
      first[segment] = run->end;
      for (std::int64_t begin = 0; begin < size; begin += chunk_) {
        const std::int64_t c = run->end++, count = std::min(chunk_, size - begin);
        addresses[c] = reinterpret_cast<std::int64_t>(at);
        counts[c] = count;
        owners[c] = segment;
        run->aligned &= addresses[c] % 16 == 0;
        at += count * static_cast<std::int64_t>(element_size(tensor.dtype));
      }
      after[segment] = run->end;
    }
  }
  whole[0] = 0;
  whole[1] = chunks;
}

}  // namespace gradclip
