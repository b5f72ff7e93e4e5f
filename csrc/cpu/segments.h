// Groups an index array by row, so that each row of a gradient is summed in registers, in a fixed order, and written
// once by one thread: no atomics, no races, the same result for any number of threads.
//
// Counting sort: parts of the array count their rows, the counts become slots, the parts fill them. One counter per row
// and part, so a few indices of a large vocabulary go through a radix sort instead, 11 bits of the row at a time.
#pragma once
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels.h"

namespace w2v {

// Memory that is written before it is read.
template <typename T>
std::unique_ptr<T[]> scratch(int64_t n) {
  return std::unique_ptr<T[]>(new T[static_cast<size_t>(n)]);
}

// Shares [0, n) among PyTorch's threads in pieces of at least `least`, handed out as threads get free: the rows of
// frequent words come first and are the quick ones, as they are in the cache.
template <typename Body>
void share(int64_t n, int64_t least, const Body& body) {
  const int64_t piece = std::max<int64_t>(least, n / (16 * int64_t{torch::stable::get_num_threads()}) + 1);
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, (n + piece - 1) / piece, 1, [&](int64_t, int64_t) {
    for (int64_t i; (i = next.fetch_add(piece)) < n;) body(i, std::min(i + piece, n));
  });
}

class RowGroups {
 public:
  enum class Keep { kOrder, kSlot };  // the position in each slot, or the slot of each position

  RowGroups(const uint32_t* index, int64_t n, uint32_t num_rows, Keep keep)
      : n_(n), keep_(keep), places_(scratch<uint32_t>(n)) {
    n < num_rows / 8 ? sort_few(index, num_rows) : sort_many(index, num_rows);
    start_.push_back(static_cast<uint32_t>(n));
  }

  Segments view() const {
    return {rows_.data(), start_.data(), keep_ == Keep::kOrder ? places_.get() : nullptr, count()};
  }
  const uint32_t* slots() const { return places_.get(); }
  const std::vector<uint32_t>& rows() const { return rows_; }
  int64_t count() const { return static_cast<int64_t>(rows_.size()); }

 private:
  void place(int64_t position, int64_t slot) {
    if (keep_ == Keep::kOrder)
      places_[slot] = static_cast<uint32_t>(position);
    else
      places_[position] = static_cast<uint32_t>(slot);
  }

  void open(uint32_t row, int64_t start) {
    rows_.push_back(row);
    start_.push_back(static_cast<uint32_t>(start));
  }

  void sort_many(const uint32_t* index, uint32_t num_rows) {
    const int64_t most = std::max<int64_t>(2 * n_ / std::max(num_rows, 1u), 1);
    const int64_t parts = std::min<int64_t>(torch::stable::get_num_threads(), most);
    std::vector<uint32_t> slots(static_cast<size_t>(parts) * num_rows, 0);
    const auto each = [&](const auto& one) {
      torch::stable::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
        for (int64_t part = first; part < last; ++part)
          for (int64_t i = n_ * part / parts; i < n_ * (part + 1) / parts; ++i)
            one(i, slots.data() + part * num_rows + index[i]);
      });
    };
    each([](int64_t, uint32_t* slot) { ++*slot; });
    rows_.reserve(std::min<size_t>(n_, num_rows));
    start_.reserve(std::min<size_t>(n_, num_rows) + 1);
    uint32_t sum = 0;
    for (uint32_t row = 0; row < num_rows; ++row) {
      const uint32_t start = sum;
      for (int64_t part = 0; part < parts; ++part) {
        uint32_t& slot = slots[part * num_rows + row];
        const uint32_t count = slot;
        slot = sum;
        sum += count;
      }
      if (sum != start) open(row, start);
    }
    each([this](int64_t i, uint32_t* slot) { place(i, (*slot)++); });
  }

  void sort_few(const uint32_t* index, uint32_t num_rows) {
    constexpr int kBits = 11;
    std::vector<uint64_t> pairs(n_), other(n_);
    for (int64_t i = 0; i < n_; ++i) pairs[i] = (static_cast<uint64_t>(index[i]) << 32) | static_cast<uint64_t>(i);
    for (int shift = 0; shift < 32 && (num_rows - 1) >> shift != 0; shift += kBits) {
      std::vector<int64_t> slot(size_t{1} << kBits, 0);
      const auto digit = [shift](uint64_t pair) { return (pair >> (32 + shift)) & ((1u << kBits) - 1); };
      for (const uint64_t pair : pairs) ++slot[digit(pair)];
      int64_t sum = 0;
      for (int64_t& s : slot) {
        const int64_t count = s;
        s = sum;
        sum += count;
      }
      for (const uint64_t pair : pairs) other[slot[digit(pair)]++] = pair;
      pairs.swap(other);
    }
    for (int64_t i = 0; i < n_; ++i) {
      const uint32_t row = static_cast<uint32_t>(pairs[i] >> 32);
      if (rows_.empty() || rows_.back() != row) open(row, i);
      place(static_cast<uint32_t>(pairs[i]), i);
    }
  }

  int64_t n_;
  Keep keep_;
  std::unique_ptr<uint32_t[]> places_;
  std::vector<uint32_t> rows_, start_;
};

}  // namespace w2v
