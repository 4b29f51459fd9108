// The table of chunks that the kernels of a GPU go by.
//
// int64 words: of N chunks their addresses, their numbers of elements, and the segments that they belong to; of S
// segments their first chunk, and the one after their last; 0 and N, as if all were one segment; `max_norm` and `eps`,
// as float64. `ops/triton/table.py` says the same.
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
  Table(std::vector<Dense> tensors, bool by_unit, const ChunkSizes& sizes);

  std::int64_t chunks = 0, segments = 0;
  std::vector<Run> runs;

  // Writes all words, and returns how many these are; no element is read, wherever it is.
  std::size_t write(std::int64_t* words, double max_norm, double eps) const;

 private:
  // The units of a tensor, the elements of each, and the chunks that these are cut into.
  struct Cut {
    std::int64_t units, size, pieces;
  };
  Cut cut(const Dense& tensor) const;
  std::size_t run_of(DType dtype) const;

  std::vector<Dense> tensors_;
  bool by_unit_;
  std::int64_t chunk_ = 0;
};

}  // namespace gradclip
