// Stretches of the corpus, handed to threads that share the weights without locks (Hogwild, Recht et al. 2011): rows
// are rarely written by two at once, except the hot ones.
#pragma once
#include <algorithm>
#include <atomic>
#include <vector>

#include "../checks.h"
#include "hot_rows.h"
#include "kernels.h"
#include "threads.h"

namespace w2v {

constexpr int64_t kThreadStretch = 8192;  // ids a thread takes at a time: some 2 ms of work, so threads end together
// Measured with 2 threads, 49,000 words: own copies of 64 rows make training 1.16 times as fast, more rows add little,
// and the loss is the same to 0.1 %. In a small vocabulary, where 64 rows would be a good part of all, there are fewer.
constexpr int64_t kHotRows = 192;

struct Stretches {
  int64_t length = 0;         // ids; 0: as many as is fast
  bool bags = false;          // a window is one example, and not one for each of its words
  bool only_outputs = false;  // have hot rows
};

// Trains on the sentences that start in ids[begin, end); gives (loss, pairs, words) as a float64 tensor beside `like`.
// Each thread calls a copy of kernel(params, begin, end, stats) with stretches.
template <typename Kernel>
Tensor train_in_threads(const SgnsParams& params, const Tensor& like, int64_t begin, int64_t end, int64_t threads,
                        const Kernel& kernel, Stretches of = {}) {
  check_threads(threads);
  // With many threads hot rows meet more often: what matters is how much all of them have trained since the last time.
  const int64_t stretch =
      of.length > 0 ? of.length : std::max<int64_t>(1024, std::min(kThreadStretch, 2 * kThreadStretch / threads));
  // A single thread needs no copies, and so has bit-identical results however the corpus is cut.
  const int64_t num_hot = threads > 1 ? std::min(kHotRows, int64_t{params.vocab_size} / 256) : 0;
  const int64_t num_hot_in = of.only_outputs ? 0 : num_hot;
  std::atomic<int64_t> next{begin};
  std::vector<SgnsStats> stats(threads);
  const Overlaps overlaps(params, of.bags, begin, end, stretch, num_hot);
  HotRows::Locks in_locks(HotRows::num_locks(num_hot_in)), out_locks(HotRows::num_locks(num_hot));
  run_threads(threads, [&](int64_t thread) {
    HotRows in(params.in, num_hot_in, params.stride, &in_locks), out(params.out, num_hot, params.stride, &out_locks);
    SgnsParams own = params;
    own.hot_in = num_hot_in > 0 ? in.own() : params.in;
    own.hot_out = out.own();
    own.num_hot = static_cast<uint32_t>(num_hot);
    Kernel train = kernel;
    for (int64_t at = next.fetch_add(stretch); at < end; at = next.fetch_add(stretch)) {
      train(own, at, std::min(at + stretch, end), &stats[thread]);
      in.merge(thread, [&](int64_t row) { return overlaps.in[row]; });
      out.merge(thread, [&](int64_t row) { return overlaps.out[row]; });
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
