// The optimisers' steps on the CPU: checks, the rows of the gradient, and the sharing of work among PyTorch's threads.
// The kernels are in optim_kernel.h.
#include <torch/csrc/stable/library.h>

#include <atomic>
#include <memory>
#include <optional>

#include "../optim_operators.h"
#include "kernels.h"
#include "segments.h"

namespace w2v {
namespace {

constexpr int64_t kRows = 64;  // that are worth a thread

// Where the values of a gradient go. Ascending rows, as a coalesced gradient has them, are taken as they are; others
// are grouped, so that each row is stepped once, by the sum of its values.
class Slots {
 public:
  Slots(const std::optional<Tensor>& rows, int64_t count, int64_t vocab_size) : count_(count) {
    if (!rows.has_value()) return;
    const int64_t* from = static_cast<const int64_t*>(rows->const_data_ptr());
    const int64_t stride = rows->stride(0);
    index_ = scratch<uint32_t>(count);
    std::atomic<bool> good{true}, ascending{true};
    share(count, 4096, [&](int64_t begin, int64_t end) {
      bool in_range = true, rises = true;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = from[i * stride];
        in_range &= static_cast<uint64_t>(row) < static_cast<uint64_t>(vocab_size);
        rises &= i == 0 || from[(i - 1) * stride] < row;
        index_[i] = static_cast<uint32_t>(row);
      }
      if (!in_range) good = false;
      if (!rises) ascending = false;
    });
    if (!good) refuse(from, stride, vocab_size);
    if (!ascending) groups_.emplace(index_.get(), count, static_cast<uint32_t>(vocab_size), RowGroups::Keep::kOrder);
  }

  Segments view() const { return groups_ ? groups_->view() : Segments{index_.get(), nullptr, nullptr, count_}; }

 private:
  [[noreturn]] void refuse(const int64_t* from, int64_t stride, int64_t vocab_size) const {
    int64_t i = 0;
    while (static_cast<uint64_t>(from[i * stride]) < static_cast<uint64_t>(vocab_size)) ++i;
    throw std::out_of_range(text("rows: index ", from[i * stride], " at position ", i,
                                 " is out of range for weight with ", vocab_size, " rows"));
  }

  int64_t count_;
  std::unique_ptr<uint32_t[]> index_;
  std::optional<RowGroups> groups_;
};

template <typename T>
const OptimKernels<T>& optim_kernels() {
  if constexpr (std::is_same_v<T, float>) return kernels().optim_f32;
  if constexpr (std::is_same_v<T, double>) return kernels().optim_f64;
  if constexpr (std::is_same_v<T, torch::headeronly::BFloat16>) return kernels().optim_bf16;
  if constexpr (std::is_same_v<T, torch::headeronly::Half>) return kernels().optim_f16;
}

template <typename T>
auto kernel_of(const OptimKernels<T>& k, const SgdRule<Accumulator<T>>&) {
  return k.sgd;
}
template <typename T>
auto kernel_of(const OptimKernels<T>& k, const MomentumRule<Accumulator<T>>&) {
  return k.momentum;
}
template <typename T>
auto kernel_of(const OptimKernels<T>& k, const AdagradRule<Accumulator<T>>&) {
  return k.adagrad;
}
template <typename T>
auto kernel_of(const OptimKernels<T>& k, const RowwiseAdagradRule<Accumulator<T>>&) {
  return k.rowwise_adagrad;
}
template <typename T>
auto kernel_of(const OptimKernels<T>& k, const AdamRule<Accumulator<T>>&) {
  return k.adam;
}

template <typename T>
RowGradient<T> gradient_of(const Tensor& values, const Segments& segments, double scale) {
  return {static_cast<const T*>(values.const_data_ptr()), values.stride(0), values.size(1), segments, scale};
}

struct Cpu {
  template <typename Make>
  static void step_each_row(const StepArguments& a, const Make& make) {
    if (a.dim() == 0) return;
    const Slots slots(a.rows, a.count(), a.weight.size(0));
    const Tensor values = with_contiguous_rows(a.values);
    const double scale = a.grad_scale.has_value() ? *static_cast<const double*>(a.grad_scale->const_data_ptr()) : 1;
    const StepOptions options = a.options();
    with_weight_type(a.weight, [&](auto zero) {
      using T = decltype(zero);
      const RowGradient<T> gradient = gradient_of<T>(values, slots.view(), scale);
      const WeightRows<T> weight{static_cast<T*>(a.weight.mutable_data_ptr()), a.weight.stride(0)};
      make(Accumulator<T>{}, [&](const auto& rule) {
        const auto kernel = kernel_of(optim_kernels<T>(), rule);
        share(a.count(), kRows,
              [&](int64_t begin, int64_t end) { kernel(gradient, weight, options, rule, begin, end); });
      });
    });
  }
};

Tensor square_norms(const std::optional<Tensor>& rows, const Tensor& values, int64_t num_rows, double clip_row_norm) {
  check_norm_arguments(rows, values, num_rows, clip_row_norm);
  const Slots slots(rows, values.size(0), num_rows);
  const Tensor contiguous = with_contiguous_rows(values);
  const Segments segments = slots.view();
  Tensor squares = torch::stable::new_empty(values, {segments.count}, accumulator_type(values));
  with_weight_type(values, [&](auto zero) {
    using T = decltype(zero);
    const RowGradient<T> gradient = gradient_of<T>(contiguous, segments, 1);
    auto* to = static_cast<Accumulator<T>*>(squares.mutable_data_ptr());
    share(values.size(0), kRows, [&](int64_t begin, int64_t end) {
      optim_kernels<T>().square_norms(gradient, clip_row_norm, to, begin, end);
    });
  });
  return squares;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CPU, m) {
  m.impl("sparse_sgd_", TORCH_BOX(&OptimOperators<Cpu>::sgd));
  m.impl("sparse_adagrad_", TORCH_BOX(&OptimOperators<Cpu>::adagrad));
  m.impl("sparse_adam_", TORCH_BOX(&OptimOperators<Cpu>::adam));
  m.impl("row_square_norms", TORCH_BOX(&square_norms));
}

}  // namespace w2v
