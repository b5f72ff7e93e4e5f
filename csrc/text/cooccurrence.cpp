// Counting co-occurrences: see cooccurrence.h.
#include "cooccurrence.h"

#include <sys/mman.h>

#include <atomic>
#include <cmath>
#include <numeric>
#include <optional>

#include "row_log.h"
#include "threads.h"

namespace w2v::text {

namespace {

// What a distance adds, as an integer.
struct DistanceWeights {
  uint64_t unit = 1;            // stands for 1
  std::vector<uint64_t> value;  // by distance

  explicit DistanceWeights(int window) : value(static_cast<size_t>(window) + 1) {
    for (int d = 1; d <= window && unit <= kLargest; ++d) unit = std::lcm(unit, static_cast<uint64_t>(d));
    if (unit > kLargest) unit = kLargest;
    for (int d = 1; d <= window; ++d) {
      const uint64_t n = static_cast<uint64_t>(d);
      value[n] = (unit + n / 2) / n;
    }
  }

  // 2^32 leaves room for sums of 2^32; a cell of more would need a corpus of at least as many words.
  static constexpr uint64_t kLargest = uint64_t{1} << 32;
};

std::vector<uint64_t> count_words(std::span<const int32_t> ids, int64_t vocab_size, unsigned threads) {
  std::vector<std::vector<uint64_t>> counts(threads);
  in_threads(threads, [&](unsigned t) {
    std::vector<uint64_t> mine(static_cast<size_t>(vocab_size) + 1);  // [0]: sentence ends
    const size_t begin = ids.size() * t / threads, end = ids.size() * (t + 1) / threads;
    for (size_t i = begin; i < end; ++i) {
      if (ids[i] < -1 || ids[i] >= vocab_size) throw BadId{ids[i], i};
      ++mine[static_cast<size_t>(ids[i] + 1)];
    }
    counts[t] = std::move(mine);
  });
  std::vector<uint64_t> total(counts[0].begin() + 1, counts[0].end());
  for (unsigned t = 1; t < threads; ++t)
    for (size_t i = 0; i < total.size(); ++i) total[i] += counts[t][i + 1];
  return total;
}

// The cells that have a place of their own: row r those of the columns below limit[r].
struct DenseCells {
  std::vector<uint32_t> limit;
  std::vector<uint64_t> start;
  uint64_t* cells = nullptr;
  size_t bytes = 0;

  // A cell of words with counts c and d expects 2 * window * c * d / N additions, of 8 bytes each in the log: from one
  // on, 8 bytes of a table are no more, and no log to sum up. With less memory the threshold is higher.
  DenseCells(const std::vector<uint64_t>& counts, int window, size_t most_bytes) : limit(counts.size()) {
    std::vector<double> at_most(counts.size());  // falls from column to column, where special tokens have no counts too
    double total = 0, largest = 0;
    for (size_t i = counts.size(); i-- > 0;) {
      total += static_cast<double>(counts[i]);
      at_most[i] = largest = std::max(largest, static_cast<double>(counts[i]));
    }
    for (double product = std::max(total / (2.0 * window), 1.0);; product *= 1.5) {
      uint64_t size = 0;
      for (size_t row = 0; row < counts.size(); ++row) {
        size_t low = 0, high = row + 1;
        while (low < high) {
          const size_t middle = (low + high) / 2;
          if (at_most[middle] * static_cast<double>(counts[row]) >= product)
            low = middle + 1;
          else
            high = middle;
        }
        limit[row] = static_cast<uint32_t>(low);
        size += low;
      }
      if (size * sizeof(uint64_t) <= most_bytes) break;
    }
    start.resize(counts.size() + 1);
    for (size_t row = 0; row < counts.size(); ++row) start[row + 1] = start[row] + limit[row];
    bytes = start.back() * sizeof(uint64_t);
    if (bytes == 0) return;
    void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    ::madvise(memory, bytes, MADV_HUGEPAGE);  // if the system has them
#endif
    cells = static_cast<uint64_t*>(memory);
  }
  DenseCells(const DenseCells&) = delete;
  DenseCells& operator=(const DenseCells&) = delete;
  ~DenseCells() {
    if (cells != nullptr) ::munmap(cells, bytes);
  }
};

// Cuts the rows into stretches of about equal work: occurrences of the word, times the share of its neighbours that it
// is counted with, those that are not rarer.
std::vector<size_t> share_rows(const std::vector<uint64_t>& counts, unsigned threads) {
  std::vector<double> until(counts.size() + 1);
  double words = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    words += static_cast<double>(counts[i]);
    until[i + 1] = until[i] + static_cast<double>(counts[i]) * words;
  }
  std::vector<size_t> borders(threads + 1, 0);
  for (unsigned t = 1; t < threads; ++t)
    borders[t] =
        static_cast<size_t>(std::lower_bound(until.begin(), until.end(), until.back() * t / threads) - until.begin());
  borders[threads] = counts.size();
  for (unsigned t = 1; t <= threads; ++t) borders[t] = std::clamp(borders[t], borders[t - 1], counts.size());
  return borders;
}

class PartWriter {
 public:
  explicit PartWriter(const std::string& path) : file_(path, O_WRONLY | O_CREAT | O_TRUNC) {}

  void put(const Cell& cell) {
    buffer_.push_back(cell);
    if (buffer_.size() == kBuffer) flush();
  }
  uint64_t cells() const { return written_ + buffer_.size(); }
  void finish() {
    flush();
    file_.close();
  }

 private:
  static constexpr size_t kBuffer = size_t{1} << 16;

  void flush() {
    file_.write_at(buffer_.data(), buffer_.size() * sizeof(Cell), written_ * sizeof(Cell));
    written_ += buffer_.size();
    buffer_.clear();
  }

  File file_;
  std::vector<Cell> buffer_;
  uint64_t written_ = 0;
};

// One thread's rows.
class RowCounter {
 public:
  RowCounter(std::span<const int32_t> ids, int window, const DistanceWeights& weights, const DenseCells& dense,
             size_t first, size_t end, size_t log_bytes, const std::string& spill_path)
      : ids_(ids),
        window_(static_cast<size_t>(window)),
        weights_(weights),
        dense_(dense),
        first_(first),
        rows_(end - first),
        log_(end - first, log_bytes),
        runs_(spill_path),
        near_(2 * static_cast<size_t>(window)) {}

  // keep_on(position) now and then; false ends it.
  template <typename KeepOn>
  void count(const KeepOn& keep_on) {
    size_t look = 0;
    for (size_t begin = 0; begin < ids_.size();) {
      size_t end = begin;
      while (end < ids_.size() && ids_[end] >= 0) ++end;
      for (size_t i = begin; i < end; ++i)
        if (static_cast<size_t>(ids_[i]) - first_ < rows_) add_neighbours(begin, end, i);
      begin = end + 1;
      if (begin >= look) {
        if (!keep_on(begin)) return;
        look = begin + (size_t{1} << 20);
      }
    }
  }

  CellPart write(const std::string& path, CellCounts* totals) {
    size_t free_bytes = 0;
    if (runs_.count() > 0) {
      spill();
      free_bytes = log_.release();
      runs_.rewind(free_bytes);
    }
    CellPart part{path, static_cast<int64_t>(first_), std::vector<uint64_t>(rows_ + 1)};
    PartWriter out(path);
    for (size_t r = 0; r < rows_; ++r) {
      const uint32_t row = static_cast<uint32_t>(first_ + r);
      const auto put = [&](uint32_t column, uint64_t sum) {
        const double count = static_cast<double>(sum) / static_cast<double>(weights_.unit);
        out.put({static_cast<int32_t>(row), static_cast<int32_t>(column), static_cast<float>(count)});
        totals->diagonal += row == column;
      };
      const uint64_t* const cells = dense_.cells + dense_.start[row];
      for (uint32_t column = 0; column < dense_.limit[row]; ++column)
        if (cells[column] != 0) put(column, cells[column]);
      if (runs_.count() > 0) {
        runs_.sum(row, sums());
      } else {
        log_.sum(r, weights_.value.data(), sums());
      }
      sums()->drain(put);
      part.row_starts[r + 1] = out.cells();
    }
    out.finish();
    totals->cells = out.cells();
    totals->runs = runs_.count();
    totals->spilled_bytes = runs_.bytes();
    return part;
  }

 private:
  void add_neighbours(size_t begin, size_t end, size_t i) {
    const uint32_t word = static_cast<uint32_t>(ids_[i]);
    const size_t left = std::min(window_, i - begin), right = std::min(window_, end - 1 - i);
    Neighbour* const near = near_.data();
    size_t n = 0;  // collected first, without a branch: half of them would be mispredicted
    for (size_t d = 1; d <= left; ++d) {
      near[n] = {static_cast<uint32_t>(ids_[i - d]), static_cast<uint32_t>(d)};
      n += near[n].word <= word;
    }
    for (size_t d = 1; d <= right; ++d) {
      near[n] = {static_cast<uint32_t>(ids_[i + d]), static_cast<uint32_t>(d)};
      n += near[n].word <= word;
    }
    const uint32_t limit = dense_.limit[word];
    uint64_t* const cells = dense_.cells + dense_.start[word];
    for (size_t k = 0; k < n; ++k) {
      if (near[k].word < limit) {
        cells[near[k].word] += weights_.value[near[k].distance];
      } else if (!log_.add(word - first_, near[k].word, near[k].distance)) {
        spill();
        log_.add(word - first_, near[k].word, near[k].distance);
      }
    }
  }

  void spill() {
    if (log_.empty()) return;
    for (size_t r = 0; r < rows_; ++r) {
      log_.sum(r, weights_.value.data(), sums());
      const uint32_t row = static_cast<uint32_t>(first_ + r);
      sums()->drain([&](uint32_t column, uint64_t sum) { runs_.put(row, column, sum); });
    }
    runs_.end_run();
    log_.clear();
  }

  RowSums* sums() {
    if (!sums_) sums_.emplace(first_ + rows_);
    return &*sums_;
  }

  struct Neighbour {
    uint32_t word, distance;
  };

  std::span<const int32_t> ids_;
  size_t window_;
  const DistanceWeights& weights_;
  const DenseCells& dense_;
  size_t first_, rows_;
  RowLog log_;
  Runs runs_;
  std::optional<RowSums> sums_;
  std::vector<Neighbour> near_;
};

}  // namespace

CellCounts count_cooccurrences(std::span<const int32_t> ids, int64_t vocab_size, const CountOptions& options,
                               const Tick& tick) {
  const unsigned threads = options.threads;
  const DistanceWeights weights(options.window);
  const std::vector<uint64_t> counts = count_words(ids, vocab_size, threads);
  const DenseCells dense(counts, options.window, options.memory / 2);
  const std::vector<size_t> borders = share_rows(counts, threads);
  std::vector<CellCounts> totals(threads);
  std::vector<CellPart> parts(threads);
  std::atomic<bool> stopping{false};
  in_threads(threads, [&](unsigned t) {
    try {
      const std::string name = options.directory + "/part-" + std::to_string(t);
      RowCounter counter(ids, options.window, weights, dense, borders[t], borders[t + 1],
                         (options.memory - dense.bytes) / threads, name + ".runs");
      counter.count([&](uint64_t position) {
        if (t == 0) tick(position);
        return !stopping;
      });
      if (!stopping) parts[t] = counter.write(name + ".cells", &totals[t]);
    } catch (...) {
      stopping = true;
      throw;
    }
  });
  CellCounts result;
  for (unsigned t = 0; t < threads; ++t) {
    result.cells += totals[t].cells;
    result.diagonal += totals[t].diagonal;
    result.runs += totals[t].runs;
    result.spilled_bytes += totals[t].spilled_bytes;
  }
  result.parts = std::move(parts);
  return result;
}

}  // namespace w2v::text
