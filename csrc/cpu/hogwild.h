// Stretches of the corpus, handed to threads that share the weights without locks (Hogwild, Recht et al. 2011): rows
// are rarely written by two at once, except the hot ones.
#pragma once
#include <algorithm>
#include <atomic>
#include <mutex>
#include <vector>

#include "../checks.h"
#include "kernels.h"
#include "threads.h"

namespace w2v {

constexpr int64_t kThreadStretch = 8192;  // ids a thread takes at a time: some 2 ms of work, so threads end together
constexpr int64_t kHotRows = 192;

// Which tables have hot rows: input and output vectors, or the output vectors alone.
enum class Hot { kBoth, kOutputs };

// A thread's own copies of a table's first rows: of the most frequent words (ids are sorted by frequency), or of the
// top of the tree. All threads write these all the time, and each write would take the cache line from another core; so
// every thread works on its own and adds what it has changed to everybody's after each stretch. Measured with 2
// threads, 49,000 words: 64 rows make training 1.16 times as fast, more rows add little, and the loss is the same to
// 0.1 %. In a small vocabulary, where 64 rows would be a good part of all, there are fewer.
class HotRows {
 public:
  HotRows(float* shared, int64_t count)
      : shared_(shared), count_(count), memory_(2 * count + 16), own_(aligned(memory_.data())) {}

  // Both under the lock of those who merge.
  void copy() {  // its own rows, and behind them the base that they started from
    std::copy(shared_, shared_ + count_, own_);
    std::copy(shared_, shared_ + count_, own_ + count_);
  }
  void merge() { kernels().merge_rows(shared_, own_, own_ + count_, count_); }

  float* own() { return own_; }

 private:
  static float* aligned(float* p) { return p + (-reinterpret_cast<uintptr_t>(p) / sizeof(float)) % 16; }

  float* shared_;
  int64_t count_;  // floats
  std::vector<float> memory_;
  float* own_;
};

// Trains on the sentences that start in ids[begin, end); gives (loss, pairs, words) as a float64 tensor beside `like`.
// Each thread calls a copy of kernel(params, begin, end, stats) with stretches; 0 ids long means: as long as is fast.
template <typename Kernel>
Tensor train_in_threads(const SgnsParams& params, const Tensor& like, int64_t begin, int64_t end, int64_t threads,
                        const Kernel& kernel, int64_t stretch = 0, Hot hot = Hot::kBoth) {
  check_threads(threads);
  // With many threads hot rows meet more often: what matters is how much all of them have trained since the last time.
  if (stretch == 0) stretch = std::max<int64_t>(1024, std::min(kThreadStretch, 2 * kThreadStretch / threads));
  // A single thread needs no copies, and so has bit-identical results however the corpus is cut.
  const int64_t num_hot = threads > 1 ? std::min(kHotRows, int64_t{params.vocab_size} / 256) : 0;
  const int64_t num_hot_in = hot == Hot::kBoth ? num_hot : 0;
  std::atomic<int64_t> next{begin};
  std::vector<SgnsStats> stats(threads);
  std::mutex merging;
  run_threads(threads, [&](int64_t thread) {
    HotRows in(params.in, num_hot_in * params.stride), out(params.out, num_hot * params.stride);
    {
      const std::lock_guard<std::mutex> lock(merging);
      in.copy();
      out.copy();
    }
    SgnsParams own = params;
    own.hot_in = num_hot_in > 0 ? in.own() : params.in;
    own.hot_out = out.own();
    own.num_hot = static_cast<uint32_t>(num_hot);
    Kernel train = kernel;
    for (int64_t at = next.fetch_add(stretch); at < end; at = next.fetch_add(stretch)) {
      train(own, at, std::min(at + stretch, end), &stats[thread]);
      const std::lock_guard<std::mutex> lock(merging);
      in.merge();
      out.merge();
    }
  });
  SgnsStats sum;
  for (const SgnsStats& s : stats) {
    sum.loss += s.loss;
    sum.pairs += s.pairs;
    sum.words += s.words;
  }
  return float64_tensor(like, {sum.loss, static_cast<double>(sum.pairs), static_cast<double>(sum.words)});
}

}  // namespace w2v
