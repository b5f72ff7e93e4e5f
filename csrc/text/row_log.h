// The sparse side of count_cooccurrences: a log of additions by row, runs of sums on disk, and the sums of one row.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "builder.h"

namespace w2v::text {

// Sums of one row by column, given back in ascending order of columns without sorting: two levels of bits say where
// there is something. 8.1 bytes a column.
class RowSums {
 public:
  explicit RowSums(size_t columns) : sums_(columns), used_(columns / 64 + 1), groups_(columns / 4096 + 1) {}

  void add(uint32_t column, uint64_t value) {
    sums_[column] += value;
    used_[column >> 6] |= uint64_t{1} << (column & 63);
    groups_[column >> 12] |= uint64_t{1} << (column >> 6 & 63);
  }

  // Calls take(column, sum) for each column and forgets them.
  template <typename Take>
  void drain(const Take& take) {
    for (size_t g = 0; g < groups_.size(); ++g)
      for (; groups_[g] != 0; groups_[g] &= groups_[g] - 1) {
        const size_t word = 64 * g + static_cast<size_t>(std::countr_zero(groups_[g]));
        for (; used_[word] != 0; used_[word] &= used_[word] - 1) {
          const size_t column = 64 * word + static_cast<size_t>(std::countr_zero(used_[word]));
          take(static_cast<uint32_t>(column), sums_[column]);
          sums_[column] = 0;
        }
      }
  }

 private:
  std::vector<uint64_t> sums_, used_, groups_;
};

// (column, distance) by row, in chunks of two cache lines, the chunks of a row chained backwards.
class RowLog {
 public:
  RowLog(size_t rows, size_t bytes)
      : tail_(rows),
        capacity_(std::clamp<size_t>(bytes / sizeof(Chunk), 2, UINT32_MAX)),
        chunks_(new Chunk[capacity_]) {}

  // False if there is no room left.
  bool add(size_t row, uint32_t column, uint32_t distance) {
    uint32_t at = tail_[row];
    if (at == 0 || chunks_[at].used == kRecords) {
      if (next_ == capacity_) return false;
      chunks_[next_].previous = at;
      chunks_[next_].used = 0;
      at = tail_[row] = static_cast<uint32_t>(next_++);
    }
    Chunk& chunk = chunks_[at];
    chunk.records[chunk.used++] = {column, distance};
    return true;
  }

  // Adds up a row, value[distance] for each of its records.
  void sum(size_t row, const uint64_t* value, RowSums* sums) const {
    for (uint32_t at = tail_[row]; at != 0; at = chunks_[at].previous)
      for (uint32_t i = 0; i < chunks_[at].used; ++i)
        sums->add(chunks_[at].records[i].column, value[chunks_[at].records[i].distance]);
  }

  size_t rows() const { return tail_.size(); }
  bool empty() const { return next_ == 1; }
  void clear() {
    std::fill(tail_.begin(), tail_.end(), 0);
    next_ = 1;
  }
  size_t release() {  // gives its memory back: how many bytes
    chunks_.reset();
    return capacity_ * sizeof(Chunk);
  }

 private:
  static constexpr uint32_t kRecords = 15;
  struct Record {
    uint32_t column, distance;
  };
  struct Chunk {
    uint32_t previous, used;
    Record records[kRecords];
  };

  std::vector<uint32_t> tail_;  // each row's last chunk; 0: none
  size_t capacity_, next_ = 1;
  std::unique_ptr<Chunk[]> chunks_;
};

// Sorted runs of sums in one temporary file, which is unlinked as soon as it is made.
class Runs {
 public:
  struct Sum {
    uint32_t row, column;
    uint64_t value;
  };

  explicit Runs(std::string path) : path_(std::move(path)) {}

  size_t count() const { return ends_.size(); }
  uint64_t bytes() const { return written_ * sizeof(Sum); }

  void put(uint32_t row, uint32_t column, uint64_t value) {
    if (!file_.is_open()) {
      file_.open(path_, O_RDWR | O_CREAT | O_TRUNC);
      ::unlink(path_.c_str());
    }
    buffer_.push_back({row, column, value});
    if (buffer_.size() == kBuffer) flush();
  }

  void end_run() {
    flush();
    buffer_.shrink_to_fit();
    ends_.push_back(written_);
  }

  // Makes ready to read all runs side by side, with `bytes` of buffers.
  void rewind(size_t bytes) {
    const size_t each = std::clamp<size_t>(bytes / sizeof(Sum) / std::max<size_t>(ends_.size(), 1), 256, kBuffer);
    for (size_t r = 0; r < ends_.size(); ++r) {
      readers_.push_back({r == 0 ? 0 : ends_[r - 1], ends_[r], {}, 0});
      readers_.back().buffer.reserve(each);
      refill(&readers_.back(), each);
    }
    each_ = each;
  }

  // Adds up the next row; rows are asked for in ascending order.
  void sum(uint32_t row, RowSums* sums) {
    for (Reader& r : readers_)
      while (r.at < r.buffer.size() && r.buffer[r.at].row == row) {
        sums->add(r.buffer[r.at].column, r.buffer[r.at].value);
        if (++r.at == r.buffer.size()) refill(&r, each_);
      }
  }

 private:
  static constexpr size_t kBuffer = size_t{1} << 16;
  struct Reader {
    uint64_t next, end;
    std::vector<Sum> buffer;
    size_t at;
  };

  void flush() {
    file_.write_at(buffer_.data(), buffer_.size() * sizeof(Sum), written_ * sizeof(Sum));
    written_ += buffer_.size();
    buffer_.clear();
  }

  void refill(Reader* r, size_t each) {
    const size_t n = static_cast<size_t>(std::min<uint64_t>(each, r->end - r->next));
    r->buffer.resize(n);
    r->at = 0;
    file_.read_at(r->buffer.data(), n * sizeof(Sum), r->next * sizeof(Sum));
    r->next += n;
  }

  std::string path_;
  File file_;
  std::vector<Sum> buffer_;
  std::vector<uint64_t> ends_;  // of each run, in sums
  uint64_t written_ = 0;
  std::vector<Reader> readers_;
  size_t each_ = 0;
};

}  // namespace w2v::text
