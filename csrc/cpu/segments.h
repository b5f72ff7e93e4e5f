// Groups an index array by row, so that each row of a gradient is summed in registers, in a fixed order, and written
// once by one thread: no atomics, no races, the same result for any number of threads.
// A stable radix sort of (row, position) pairs, 11 bits at a time: two passes for 71,000 rows, 16 bytes moved per pass.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace w2v {

class RowGroups {
 public:
  RowGroups(const uint32_t* index, int64_t n, uint32_t num_rows) : pairs_(n), order_(n) {
    for (int64_t i = 0; i < n; ++i) pairs_[i] = (static_cast<uint64_t>(index[i]) << 32) | static_cast<uint64_t>(i);
    sort_by_row(num_rows);
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t row = static_cast<uint32_t>(pairs_[i] >> 32);
      if (rows_.empty() || rows_.back() != row) {
        rows_.push_back(row);
        start_.push_back(i);
      }
      order_[i] = static_cast<uint32_t>(pairs_[i]);
    }
    start_.push_back(n);
    pairs_ = {};
  }

  Segments view() const { return {rows_.data(), start_.data(), order_.data(), static_cast<int64_t>(rows_.size())}; }
  const std::vector<uint32_t>& rows() const { return rows_; }

 private:
  void sort_by_row(uint32_t num_rows) {
    constexpr int kBits = 11;
    std::vector<uint64_t> other(pairs_.size());
    for (int shift = 0; shift < 32 && (num_rows - 1) >> shift != 0; shift += kBits) {
      std::vector<int64_t> slot(size_t{1} << kBits, 0);
      const auto digit = [shift](uint64_t pair) { return (pair >> (32 + shift)) & ((1u << kBits) - 1); };
      for (const uint64_t pair : pairs_) ++slot[digit(pair)];
      int64_t sum = 0;
      for (int64_t& s : slot) {
        const int64_t count = s;
        s = sum;
        sum += count;
      }
      for (const uint64_t pair : pairs_) other[slot[digit(pair)]++] = pair;
      pairs_.swap(other);
    }
  }

  std::vector<uint64_t> pairs_;
  std::vector<uint32_t> rows_, order_;
  std::vector<int64_t> start_;
};

}  // namespace w2v
