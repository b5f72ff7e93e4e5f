// The optimisers' steps on the GPU: a warp per touched row, its lanes on every 32nd column, so that each read and write
// of the warp is of neighbours.
//
// A lane loads gradient, weight and state of a few columns before it computes, to have several reads in flight. Where a
// row's gradient is shortened, or its mean square is asked for, it is read twice, the second time from the L1 cache; a
// row that max_norm shortens is written twice (and, in 16 bits, rounded twice, where the CPU rounds once). Bound by
// reading each value once, and reading and writing each touched row of weight and state once.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <type_traits>

#include "../optim_operators.h"
#include "launch.h"

namespace w2v {
namespace {

template <typename T>
struct StepRows {
  T* weight;  // (V, D)
  int64_t weight_stride, vocab_size, dim;
  const T* values;  // (N, D)
  int64_t values_stride;
  const int64_t* rows;  // (N,), each once; null: row i of values is for row i
  int64_t row_step, count;
  const double* grad_scale;  // null: 1
};

template <typename T>
__device__ inline T rounded(Accumulator<T> x, const StepOptions& options, int64_t number) {
  if constexpr (std::is_same_v<T, torch::headeronly::BFloat16>) {
    if (options.stochastic) {
      const uint32_t bits = static_cast<uint32_t>(draw(options.seed, static_cast<uint64_t>(number))) & 0xFFFFu;
      return static_cast<T>(stochastic_round(x, bits));
    }
  }
  return static_cast<T>(x);
}

constexpr int kStepBlocks = 5;  // at once on an SM, at least: leaves 96 registers, as pow in float64 takes many

template <typename T, typename Rule>
__global__ void __launch_bounds__(kThreads, kStepBlocks)
    step_rows(const StepRows<T> batch, const StepOptions options, const Rule all_rows) {
  using A = Accumulator<T>;
  constexpr int kColumns = sizeof(A) == 8 ? 2 : 4;  // of a lane at a time
  const A decay = options.decoupled ? A(0) : static_cast<A>(options.weight_decay);
  const A shrink = options.decoupled ? static_cast<A>(1 - options.lr * options.weight_decay) : A(1);
  const int lane = lane_of_warp();
  for (int64_t i = first_item<kWarp>(); i < batch.count; i += item_stride<kWarp>()) {
    const int64_t row = batch.rows == nullptr ? i : batch.rows[i * batch.row_step];
    W2V_DEVICE_ASSERT(row >= 0 && row < batch.vocab_size && "rows: index out of range for weight");
    const T* g = batch.values + i * batch.values_stride;
    T* w = batch.weight + row * batch.weight_stride;

    A factor = batch.grad_scale == nullptr ? A(1) : static_cast<A>(*batch.grad_scale);
    if (options.clip_row_norm > 0) {
      A sum = 0;
      for (int64_t d = lane; d < batch.dim; d += kWarp) sum += static_cast<A>(g[d]) * static_cast<A>(g[d]);
      const A norm = std::sqrt(warp_sum(sum)), longest = static_cast<A>(options.clip_row_norm);
      if (norm > longest) factor *= longest / norm;
    }
    Rule rule = all_rows.at(row, batch.dim);
    A mean_square = 0;
    if constexpr (Rule::kNeedsMeanSquare) {
      for (int64_t d = lane; d < batch.dim; d += kWarp) {
        const A x = factor * static_cast<A>(g[d]) + (decay != 0 ? decay * static_cast<A>(w[d]) : A(0));
        mean_square += x * x;
      }
      mean_square = warp_sum(mean_square) / static_cast<A>(batch.dim);
    }
    rule.begin(mean_square);

    A square = 0;  // of the row after the step
    for (int64_t first = lane; first < batch.dim; first += kColumns * kWarp) {
      A gradient[kColumns], weight[kColumns];
      typename Rule::Numbers numbers[kColumns];
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int64_t d = first + c * kWarp;
        if (d >= batch.dim) continue;
        gradient[c] = static_cast<A>(g[d]);
        weight[c] = static_cast<A>(w[d]);
        numbers[c] = rule.load(d);
      }
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int64_t d = first + c * kWarp;
        if (d >= batch.dim) continue;
        const A slope = factor * gradient[c] + (decay != 0 ? decay * weight[c] : A(0));
        const A next = shrink * weight[c] - rule.step(&numbers[c], slope);
        rule.store(d, numbers[c]);
        w[d] = rounded<T>(next, options, row * batch.dim + d);
        square += next * next;
      }
    }
    __syncwarp();  // all lanes have read what the rule keeps per row
    if (lane == 0) rule.finish();
    if (options.max_norm > 0) {
      const A norm = std::sqrt(warp_sum(square)), longest = static_cast<A>(options.max_norm);
      if (norm > longest)
        for (int64_t d = lane; d < batch.dim; d += kWarp)
          w[d] = rounded<T>(static_cast<A>(w[d]) * (longest / norm), options, row * batch.dim + d);
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    square_norms(const T* values, int64_t stride, int64_t count, int64_t dim, Accumulator<T> longest,
                 Accumulator<T>* squares) {
  using A = Accumulator<T>;
  for (int64_t i = first_item<kWarp>(); i < count; i += item_stride<kWarp>()) {
    A sum = 0;
    for (int64_t d = lane_of_warp(); d < dim; d += kWarp) {
      const A x = static_cast<A>(values[i * stride + d]);
      sum += x * x;
    }
    sum = warp_sum(sum);
    if (lane_of_warp() == 0) squares[i] = longest > 0 && sum > longest * longest ? longest * longest : sum;
  }
}

// ---- the operators -------------------------------------------------------------------------------------------------

// Not written out where it is used: nvcc 13.0 garbles braced sizes inside a template.
Tensor new_squares(const Tensor& like, int64_t count) {
  return torch::stable::new_empty(like, {count}, accumulator_type(like));
}

template <typename T>
StepRows<T> step_rows_of(const StepArguments& a, const Tensor& values) {
  return {static_cast<T*>(a.weight.mutable_data_ptr()),
          a.weight.stride(0),
          a.weight.size(0),
          a.dim(),
          static_cast<const T*>(values.const_data_ptr()),
          values.stride(0),
          a.rows.has_value() ? static_cast<const int64_t*>(a.rows->const_data_ptr()) : nullptr,
          a.rows.has_value() ? a.rows->stride(0) : 0,
          a.count(),
          a.grad_scale.has_value() ? static_cast<const double*>(a.grad_scale->const_data_ptr()) : nullptr};
}

struct Cuda {
  template <typename Make>
  static void step_each_row(const StepArguments& a, const Make& make) {
    if (a.dim() == 0) return;
    const Tensor values = with_contiguous_rows(a.values);
    const StepOptions options = a.options();
    with_weight_type(a.weight, [&](auto zero) {
      using T = decltype(zero);
      const StepRows<T> batch = step_rows_of<T>(a, values);
      make(Accumulator<T>{}, [&](const auto& rule) {
        using Rule = std::decay_t<decltype(rule)>;
        launch<kWarp>("step_rows", a.weight, batch.count, step_rows<T, Rule>, batch, options, rule);
      });
    });
  }
};

Tensor norms(const std::optional<Tensor>& rows, const Tensor& values, int64_t num_rows, double clip_row_norm) {
  check_norm_arguments(rows, values, num_rows, clip_row_norm);
  const Tensor contiguous = with_contiguous_rows(values);
  Tensor squares = new_squares(values, values.size(0));
  with_weight_type(values, [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    launch<kWarp>("square_norms", values, values.size(0), square_norms<T>,
                  static_cast<const T*>(contiguous.const_data_ptr()), contiguous.stride(0), values.size(0),
                  values.size(1), static_cast<A>(clip_row_norm), static_cast<A*>(squares.mutable_data_ptr()));
  });
  return squares;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CUDA, m) {
  m.impl("sparse_sgd_", TORCH_BOX(&OptimOperators<Cuda>::sgd));
  m.impl("sparse_adagrad_", TORCH_BOX(&OptimOperators<Cuda>::adagrad));
  m.impl("sparse_adam_", TORCH_BOX(&OptimOperators<Cuda>::adam));
  m.impl("row_square_norms", TORCH_BOX(&norms));
}

}  // namespace w2v
