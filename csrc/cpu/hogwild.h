// Stretches of the corpus, handed to threads that share the weights without locks (Hogwild, Recht et al. 2011): rows
// are rarely written by two at once, except the hot ones.
#pragma once
#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "../checks.h"
#include "kernels.h"

namespace w2v {

constexpr int64_t kThreadStretch = 8192;  // ids a thread takes at a time: some 2 ms of work, so threads end together
constexpr int64_t kHotRows = 192;

// A thread's own copies of the first rows of both tables: of the most frequent words (ids are sorted by frequency), and
// of the top of the tree. All threads write these
// all the time, and each write would take the cache line from another core; so every thread works on its own and adds
// what it has changed to everybody's after each stretch. Measured with 2 threads, 49,000 words: 64 rows make training
// 1.16 times as fast, more rows add little, and the loss is the same to 0.1 %. In a small vocabulary, where 64 rows
// would be a good part of all, there are fewer.
class HotRows {
 public:
  HotRows(const SgnsParams& shared, int64_t num_rows, std::mutex* merging)
      : shared_(shared), count_(num_rows * shared.stride), memory_(4 * count_ + 16), merging_(merging) {
    float* aligned = memory_.data() + (-reinterpret_cast<uintptr_t>(memory_.data()) / sizeof(float)) % 16;
    in_ = aligned;
    out_ = aligned + 2 * count_;
    const std::lock_guard<std::mutex> lock(*merging_);
    for (int copy = 0; copy < 2; ++copy) {  // its own rows, and behind them the base that they started from
      std::copy(shared.in, shared.in + count_, in_ + copy * count_);
      std::copy(shared.out, shared.out + count_, out_ + copy * count_);
    }
  }

  SgnsParams params() const {
    SgnsParams own = shared_;
    own.hot_in = in_;
    own.hot_out = out_;
    own.num_hot = static_cast<uint32_t>(count_ / shared_.stride);
    return own;
  }

  void merge() {
    const std::lock_guard<std::mutex> lock(*merging_);
    kernels().merge_rows(shared_.in, in_, in_ + count_, count_);
    kernels().merge_rows(shared_.out, out_, out_ + count_, count_);
  }

 private:
  SgnsParams shared_;
  int64_t count_;  // floats of one table's hot rows
  std::vector<float> memory_;
  float *in_, *out_;
  std::mutex* merging_;
};

using EpochKernel = void (*)(const SgnsParams&, int64_t begin, int64_t end, SgnsStats*);

// Trains on the sentences that start in ids[begin, end); gives (loss, pairs, words) as a float64 tensor beside `like`.
inline Tensor train_in_threads(const SgnsParams& params, const Tensor& like, int64_t begin, int64_t end,
                               int64_t threads, EpochKernel kernel) {
  W2V_CHECK(threads >= 1 && threads <= 4096, "threads: expected an integer from 1 to 4096, got ", threads);
  std::atomic<int64_t> next{begin};
  std::vector<SgnsStats> stats(threads);
  std::vector<std::exception_ptr> failures(threads);
  // A single thread needs no copies, and so has bit-identical results however the corpus is cut. With many threads hot
  // rows meet more often: what matters is how much all of them have trained since the last time.
  const int64_t num_hot = threads > 1 ? std::min(kHotRows, int64_t{params.vocab_size} / 256) : 0;
  const int64_t stretch = std::max<int64_t>(1024, std::min(kThreadStretch, 2 * kThreadStretch / threads));
  std::mutex merging;
  const auto work = [&](int64_t thread) {
    try {
      HotRows hot(params, num_hot, &merging);
      const SgnsParams own = hot.params();
      for (int64_t at = next.fetch_add(stretch); at < end; at = next.fetch_add(stretch)) {
        kernel(own, at, std::min(at + stretch, end), &stats[thread]);
        hot.merge();
      }
    } catch (...) {
      failures[thread] = std::current_exception();
    }
  };
  std::vector<std::thread> pool;
  try {
    for (int64_t t = 1; t < threads; ++t) pool.emplace_back(work, t);
  } catch (const std::system_error&) {
    // The system gives no more threads: those that run share the work.
  }
  work(0);
  for (std::thread& thread : pool) thread.join();
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);

  Tensor result = torch::stable::new_empty(like, {3}, ScalarType::Double);
  double* sums = result.mutable_data_ptr<double>();
  sums[0] = sums[1] = sums[2] = 0;
  for (const SgnsStats& s : stats) {
    sums[0] += s.loss;
    sums[1] += static_cast<double>(s.pairs);
    sums[2] += static_cast<double>(s.words);
  }
  return result;
}

}  // namespace w2v
