// The epoch path on the CPU: alias table, noise draws, and train_sgns_, which hands stretches of the corpus to threads.
// Threads share the weights without locks (Hogwild, Recht et al. 2011): rows are rarely written by two at once, except
// those of the most frequent words, see HotRows.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "../checks.h"
#include "kernels.h"

namespace w2v {
namespace {

constexpr int64_t kStretch = 8192;  // ids a thread takes at a time: about 2 ms of work, so threads end together
constexpr int64_t kHotRows = 192;

Tensor alias_table(const Tensor& weights) {
  W2V_CHECK(weights.dim() == 1 && weights.scalar_type() == ScalarType::Double && weights.is_contiguous(),
            "weights: expected a contiguous float64 tensor of shape (V,), got shape ", shape_of(weights));
  const int64_t n = weights.size(0);
  W2V_CHECK(n >= 1 && n <= 0x7FFFFFFF, "weights: expected 1 to 2^31 - 1 numbers, got ", n);
  const double* data = weights.const_data_ptr<double>();
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    W2V_CHECK(std::isfinite(data[i]) && data[i] >= 0, "weights: expected finite numbers >= 0, got ", data[i],
              " at position ", i);
    sum += data[i];
  }
  W2V_CHECK(sum > 0 && std::isfinite(sum), "weights: expected a positive, finite sum, got ", sum);
  Tensor table = torch::stable::new_empty(weights, {n, 2}, ScalarType::Int);
  build_alias_table(data, n, static_cast<AliasColumn*>(table.mutable_data_ptr()));
  return table;
}

const AliasColumn* check_alias(const Tensor& alias) {
  W2V_CHECK(alias.dim() == 2 && alias.size(1) == 2 && alias.scalar_type() == ScalarType::Int && alias.is_contiguous(),
            "alias: expected the contiguous int32 tensor (V, 2) that alias_table gives, got shape ", shape_of(alias));
  return static_cast<const AliasColumn*>(alias.const_data_ptr());
}

Tensor sample_negatives(const Tensor& alias, const Tensor& positive, int64_t count, int64_t seed) {
  const AliasColumn* table = check_alias(alias);
  W2V_CHECK(positive.dim() == 1 && positive.scalar_type() == ScalarType::Long && positive.is_contiguous(),
            "positive: expected a contiguous int64 tensor of shape (B,), got shape ", shape_of(positive));
  W2V_CHECK(count >= 0, "count: expected an integer >= 0, got ", count);
  const int64_t batch = positive.size(0), vocab_size = alias.size(0);
  const int64_t* excluded = positive.const_data_ptr<int64_t>();
  for (int64_t b = 0; b < batch; ++b) {
    if (excluded[b] < -1 || excluded[b] >= vocab_size)
      throw std::out_of_range(
          text("positive: index ", excluded[b], " at position ", b, " is out of range for ", vocab_size, " words"));
    W2V_CHECK(vocab_size >= 2 || excluded[b] < 0, "alias: expected at least two words to exclude one of them, got 1");
  }
  Tensor result = torch::stable::new_empty(positive, {batch, count});
  int64_t* data = result.mutable_data_ptr<int64_t>();
  torch::stable::parallel_for(0, batch, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const uint64_t key = sentence_key(static_cast<uint64_t>(seed), 0, static_cast<uint64_t>(b));
      for (int64_t k = 0; k < count; ++k)
        data[b * count + k] =
            sample_negative(table, static_cast<uint32_t>(vocab_size), draw(key, k), static_cast<uint32_t>(excluded[b]));
    }
  });
  return result;
}

void check_weight(const Tensor& weight, const char* name, const Tensor& like) {
  W2V_CHECK(weight.dim() == 2 && weight.scalar_type() == ScalarType::Float, name,
            ": expected float32 of shape (V, D), got shape ", shape_of(weight));
  W2V_CHECK(weight.size(0) == like.size(0) && weight.size(1) == like.size(1) && weight.stride(0) == like.stride(0),
            name, ": expected the shape and strides of in_weight, ", shape_of(like), ", got ", shape_of(weight));
  const int64_t padded = (weight.size(1) + 15) / 16 * 16;
  int64_t storage_bytes = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(weight.get(), &storage_bytes));
  W2V_CHECK(weight.stride(1) == 1 && weight.stride(0) == padded &&
                reinterpret_cast<uintptr_t>(weight.data_ptr()) % 64 == 0 &&
                4 * (weight.storage_offset() + weight.size(0) * padded) <= storage_bytes,
            name, ": expected 64-byte aligned rows, all padded with zeros to ", padded,
            " floats, got stride(0) = ", weight.stride(0));
}

// A thread's own copies of the rows of the most frequent words (ids are sorted by frequency). All threads write these
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

Tensor train_sgns(const Tensor& in_weight, const Tensor& out_weight, const Tensor& ids, const Tensor& alias,
                  const Tensor& keep, int64_t window, int64_t negative, int64_t seed, int64_t epoch, int64_t epochs,
                  double lr, int64_t begin, int64_t end, int64_t threads) {
  check_weight(in_weight, "in_weight", in_weight);
  check_weight(out_weight, "out_weight", in_weight);
  check_in_place(in_weight, out_weight);
  const int64_t vocab_size = in_weight.size(0);
  W2V_CHECK(vocab_size >= 2, "in_weight: expected at least two rows, got ", vocab_size);
  W2V_CHECK(ids.dim() == 1 && ids.scalar_type() == ScalarType::Int && ids.is_contiguous(),
            "ids: expected a contiguous int32 tensor of shape (N,), got shape ", shape_of(ids));
  const AliasColumn* table = check_alias(alias);
  W2V_CHECK(alias.size(0) == vocab_size, "alias: expected ", vocab_size, " words as in_weight, got ", alias.size(0));
  W2V_CHECK(
      keep.dim() == 1 && keep.size(0) == vocab_size && keep.scalar_type() == ScalarType::Int && keep.is_contiguous(),
      "keep: expected a contiguous int32 tensor of shape (V,) = (", vocab_size, ",), got ", shape_of(keep));
  for (int64_t i = 0; i < vocab_size; ++i)
    W2V_CHECK(table[i].alias < vocab_size, "alias: expected words below ", vocab_size, ", got ", table[i].alias,
              " in column ", i);
  W2V_CHECK(window >= 1 && window <= 10000, "window: expected an integer from 1 to 10000, got ", window);
  W2V_CHECK(negative >= 1 && negative <= 1000, "negative: expected an integer from 1 to 1000, got ", negative);
  W2V_CHECK(epochs >= 1 && epoch >= 0 && epoch < epochs, "epoch: expected 0 <= epoch < epochs, got ", epoch, " of ",
            epochs);
  W2V_CHECK(lr > 0 && std::isfinite(lr), "lr: expected a positive number, got ", lr);
  W2V_CHECK(begin >= 0 && begin <= end && end <= ids.size(0), "begin, end: expected 0 <= begin <= end <= ", ids.size(0),
            ", got ", begin, " and ", end);
  W2V_CHECK(threads >= 1 && threads <= 4096, "threads: expected an integer from 1 to 4096, got ", threads);

  const SgnsParams params{static_cast<float*>(in_weight.mutable_data_ptr()),
                          static_cast<float*>(out_weight.mutable_data_ptr()),
                          nullptr,
                          nullptr,
                          0,
                          in_weight.stride(0),
                          in_weight.size(1),
                          static_cast<uint32_t>(vocab_size),
                          ids.const_data_ptr<int32_t>(),
                          ids.size(0),
                          table,
                          static_cast<const uint32_t*>(keep.const_data_ptr()),
                          static_cast<int>(window),
                          static_cast<int>(negative),
                          static_cast<uint64_t>(seed),
                          static_cast<uint32_t>(epoch),
                          static_cast<uint32_t>(epochs),
                          lr};
  const auto kernel = kernels().train_sgns;
  std::atomic<int64_t> next{begin};
  std::vector<SgnsStats> stats(threads);
  std::vector<std::exception_ptr> failures(threads);
  // A single thread needs no copies, and so has bit-identical results however the corpus is cut. With many threads hot
  // rows meet more often: what matters is how much all of them have trained since the last time.
  const int64_t num_hot = threads > 1 ? std::min(kHotRows, vocab_size / 256) : 0;
  const int64_t stretch = std::max<int64_t>(1024, std::min(kStretch, 2 * kStretch / threads));
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

  Tensor result = torch::stable::new_empty(in_weight, {3}, ScalarType::Double);
  double* sums = result.mutable_data_ptr<double>();
  sums[0] = sums[1] = sums[2] = 0;
  for (const SgnsStats& s : stats) {
    sums[0] += s.loss;
    sums[1] += static_cast<double>(s.pairs);
    sums[2] += static_cast<double>(s.words);
  }
  return result;
}

std::string cpu_kernels() { return kernels().name; }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CPU, m) {
  m.impl("alias_table", TORCH_BOX(&alias_table));
  m.impl("sample_negatives", TORCH_BOX(&sample_negatives));
  m.impl("train_sgns_", TORCH_BOX(&train_sgns));
}

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CompositeExplicitAutograd, m) { m.impl("cpu_kernels", TORCH_BOX(&cpu_kernels)); }

}  // namespace w2v
