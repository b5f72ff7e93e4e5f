// A thread's own copies of the rows that all threads write all the time.
#pragma once
#include <algorithm>
#include <cstdint>
#include <mutex>
#include <vector>

#include "kernels.h"

namespace w2v {

// The first rows of a table, those of the most frequent words (ids are sorted by frequency) or of the top of a tree.
// Each write would take the cache line from another core; so every thread works on a copy, and adds what it has changed
// to everybody's after each stretch.
//
// Added up as they are, the moves of threads that train at the same time go too far. A stretch brings a row x nearer to
// where it belongs, x*, by a share q of the way: from its base b by d = q (x* - b). Meanwhile the others have moved
// everybody's row by o, and from b + o this stretch would have gone by q (x* - b - o) = d - q o. So what is added is
// d - c o, with the row's overlap c for q. With c = 0 rows diverge where q is not small: with 4 threads in step, the
// defaults and 17 M words of film reviews, in the first epoch. From c = q / 2 on they don't, however many threads there
// are and however late they come: with x* = 0 it gives (1 - c) (b + o) + (c - q) b, and |1 - c| + |c - q| <= 1. In
// directions where q is smaller than c rows learn more slowly, so c is 0.8 of what q is thought to be.
//
// Measured in one thread that ran the stretches of 1, 4, 16 and 64 in turn, three epochs: losses 2.427, 2.424, 2.425
// and 2.426, WS353 .460, .463, .459, .451 (three seeds, at 64 one), analogies .257, .256, .257, .250.
class HotRows {
 public:
  using Locks = std::vector<std::mutex>;  // of a table, one for kLocked rows

  static int64_t num_locks(int64_t rows) { return (rows + kLocked - 1) / kLocked; }

  HotRows(float* shared, int64_t rows, int64_t stride, Locks* locks)
      : shared_(shared),
        rows_(rows),
        stride_(stride),
        locks_(locks),
        memory_(2 * rows * stride + 16),
        own_(memory_.data() + (-reinterpret_cast<uintptr_t>(memory_.data()) / sizeof(float)) % 16),
        base_(own_ + rows * stride) {
    each_part(0, [&](int64_t first, int64_t last) {
      std::copy(shared_ + first * stride_, shared_ + last * stride_, own_ + first * stride_);
      std::copy(shared_ + first * stride_, shared_ + last * stride_, base_ + first * stride_);
    });
  }

  // Adds what this thread has changed to everybody's, and goes on from there; overlap(row) is c. Threads begin at
  // different rows, so that they seldom wait for each other.
  template <typename Overlap>
  void merge(int64_t thread, const Overlap& overlap) {
    each_part(thread, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row)
        kernels().merge_row(shared_ + row * stride_, own_ + row * stride_, base_ + row * stride_, stride_,
                            overlap(row));
    });
  }

  float* own() { return own_; }

 private:
  static constexpr int64_t kLocked = 32;

  template <typename Work>
  void each_part(int64_t start, const Work& work) {
    const int64_t parts = num_locks(rows_);
    for (int64_t i = 0; i < parts; ++i) {
      const int64_t part = (start + i) % parts;
      const std::lock_guard<std::mutex> lock((*locks_)[part]);
      work(part * kLocked, std::min(rows_, (part + 1) * kLocked));
    }
  }

  float* shared_;
  int64_t rows_, stride_;
  Locks* locks_;
  std::vector<float> memory_;
  float *own_, *base_;  // its own rows, and what they started from
};

// The overlaps of the first rows of both tables of a model over a corpus, where a stretch is so many ids of [begin,
// end). Its curvature is taken for 1, more than it is on average: with 1, 3 and 10 skip-gram's losses were the same
// to 0.1 %, with 0.3 those of 16 threads were 1 % higher, with 0.1 they diverged (negatives counted once a centre). How
// often an id moves a row follows from a sample of the ids: as centre, as context (windows are half as wide
// on average, and have two sides), as a negative; a node, for each word below it. `bags`: a window is one example.
struct Overlaps {
  std::vector<float> in, out;

  Overlaps(const SgnsParams& p, bool bags, int64_t begin, int64_t end, int64_t stretch, int64_t rows)
      : in(rows), out(rows) {
    if (rows == 0) return;
    std::vector<double> word(rows), node(rows);
    double kept = 0;
    const int64_t step = std::max<int64_t>(1, (end - begin) / kSample);
    int64_t seen = 0;
    for (int64_t i = begin; i < end; i += step, ++seen) {
      const int32_t w = p.ids[i];
      if (static_cast<uint32_t>(w) >= p.vocab_size) continue;  // an end of a sentence
      const double keep = (p.keep[w] + 1.0) * 0x1p-32;
      kept += keep;
      if (w < rows) word[w] += keep;
      if (p.path == nullptr) continue;
      for (int64_t k = p.path_start[w]; k < p.path_start[w + 1]; ++k)
        if (p.path[k] >> 1 < rows) node[p.path[k] >> 1] += keep;
    }
    if (p.path == nullptr) {
      node = word;
      draw(p, kept * p.negative, &node);
    }
    const double moved = p.rate(begin) * static_cast<double>(stretch) / static_cast<double>(std::max<int64_t>(seen, 1));
    for (int64_t row = 0; row < rows; ++row) {
      in[row] = overlap_of(moved * (p.window + 1) * word[row]);
      out[row] = overlap_of(moved * (bags ? 1 : p.window + 1) * node[row]);
    }
  }

 private:
  static constexpr int64_t kSample = 1 << 16;

  // Adds to each row how many of so many draws are its word.
  static void draw(const SgnsParams& p, double draws, std::vector<double>* rows) {
    const double column = draws / p.vocab_size;
    for (uint32_t i = 0; i < p.vocab_size; ++i) {
      const double own = p.alias[i].threshold * 0x1p-32;
      if (i < rows->size()) (*rows)[i] += column * own;
      if (p.alias[i].alias < rows->size()) (*rows)[p.alias[i].alias] += column * (1 - own);
    }
  }
};

}  // namespace w2v
