// The table of chunks that the kernels of a GPU go by.
//
// int64 words: of N chunks their addresses, their numbers of elements, and the segments that they belong to; of S segments
// their first chunk, and the one after their last; 0 and N, as if all were one segment. `ops/triton/table.py` says the same.
#pragma once

#include "sweep.h"

namespace gradclip {

// Elements of a chunk: `small`, or `large` from `threshold` elements on.
struct ChunkSizes {
  std::int64_t small, large, threshold;
};

// The chunks of one dtype, which lie together.
struct Run {
  DType dtype;
  std::int64_t begin, end;
  bool aligned;  // whether all of them begin at a multiple of 16 bytes
};

class Table {
 public:
  // A segment is a tensor, or with `by_unit` each unit of one; then units lie in order in each tensor.
  Table(const std::vector<Dense>& tensors, bool by_unit, const ChunkSizes& sizes);

  std::int64_t chunks = 0, segments = 0;
  std::vector<Run> runs;

  std::size_t words() const { return static_cast<std::size_t>(3 * chunks + 2 * segments + 2); }
  void write(std::int64_t* words);

 private:
  std::int64_t units_of(const Dense& tensor) const { return by_unit_ ? tensor.units : 1; }

  const std::vector<Dense>& tensors_;
  bool by_unit_;
  std::int64_t chunk_ = 0;
};

}  // namespace gradclip
