// The epoch path on the CPU: alias table, noise draws, and train_sgns_.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <string>

#include "../checks.h"
#include "epoch_arguments.h"
#include "hogwild.h"
#include "kernels.h"

namespace w2v {
namespace {

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

Tensor train_sgns(const Tensor& in_weight, const Tensor& out_weight, const Tensor& ids, const Tensor& alias,
                  const Tensor& keep, int64_t window, int64_t negative, int64_t seed, int64_t epoch, int64_t epochs,
                  double lr, int64_t begin, int64_t end, int64_t threads) {
  SgnsParams params = check_epoch(in_weight, out_weight, ids, keep, window, seed, epoch, epochs, lr, begin, end);
  params.alias = check_noise(alias, in_weight.size(0), negative);
  params.negative = static_cast<int>(negative);
  return train_in_threads(params, in_weight, begin, end, threads, kernels().train_sgns);
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
