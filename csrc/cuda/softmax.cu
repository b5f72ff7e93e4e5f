// Cross-entropy over a large vocabulary and its slopes, written where the scores were: what PyTorch's operators take a
// dozen passes over the (N, V) scores for. w2v_ext/seq2seq/loss.py gives it the scores block by block.
//
// A row is cut into parts, a warp for each. The first kernel finds the highest score of each part, and its sums
// relative to that; the second puts the parts of a row together, a lane for each, and writes the slopes. The cut
// depends on V alone, so that the sums have one order: the same bits in every run. Bound by reading the scores twice,
// the second time from L2 where it holds a block, and writing them once.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <optional>

#include "../epoch_plan.h"
#include "launch.h"

namespace w2v {
namespace {

constexpr int64_t kPartColumns = 2048;  // at least: 64 of a lane

template <typename A>
constexpr int kColumns = sizeof(A) == 8 ? 4 : 8;  // that a lane reads at a time

template <typename T>
struct Rows {
  using A = Accumulator<T>;
  T* scores;  // (N, V)
  int64_t stride, count, vocab_size;
  const A* bias;          // (V,), null: none
  const int64_t* target;  // (N,)
  A smoothing;
  A* losses;        // (N,)
  int64_t parts;    // of a row, at most kWarp
  int64_t columns;  // of a part
  A* sums;          // (N, parts, 3): highest score, sum of exp(score - highest), sum of scores
};

// What a warp works on: part of a row.
template <typename T>
struct Part {
  using A = Accumulator<T>;
  int64_t row, begin;
  int size;
  T* scores;
  const A* bias;

  __device__ Part(const Rows<T>& rows, int64_t i) : row(i / rows.parts), begin(i % rows.parts * rows.columns) {
    size = static_cast<int>(smaller(rows.columns, rows.vocab_size - begin));
    scores = rows.scores + row * rows.stride + begin;
    bias = rows.bias == nullptr ? nullptr : rows.bias + begin;
  }

  __device__ A score(int column) const {
    const A x = static_cast<A>(scores[column]);
    return bias == nullptr ? x : x + bias[column];
  }
};

// What scores are compared with before they are raised: not the highest where all of them are -infinity.
template <typename A>
__device__ inline A shift_of(A highest) {
  return highest == -INFINITY ? A(0) : highest;
}

template <typename A>
__device__ inline A warp_highest(A x) {
  for (int step = kWarp / 2; step > 0; step /= 2) x = std::fmax(x, __shfl_xor_sync(0xFFFFFFFFu, x, step));
  return x;
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks) sum_parts(const Rows<T> rows) {
  using A = Accumulator<T>;
  const int lane = lane_of_warp();
  for (int64_t i = first_item<kWarp>(); i < rows.count * rows.parts; i += item_stride<kWarp>()) {
    const Part<T> part(rows, i);
    A highest = -INFINITY, exponentials = 0, total = 0;
    for (int first = lane; first < part.size; first += kColumns<A> * kWarp) {
      A score[kColumns<A>];
#pragma unroll
      for (int c = 0; c < kColumns<A>; ++c) {
        const int column = first + c * kWarp;
        score[c] = column < part.size ? part.score(column) : A(-INFINITY);
        if (column < part.size) total += score[c];
      }
      A higher = highest;
#pragma unroll
      for (int c = 0; c < kColumns<A>; ++c) higher = std::fmax(higher, score[c]);
      const A shift = shift_of(higher);
      exponentials *= std::exp(highest - shift);
#pragma unroll
      for (int c = 0; c < kColumns<A>; ++c) exponentials += std::exp(score[c] - shift);
      highest = higher;
    }
    const A higher = warp_highest(highest);
    exponentials = warp_sum(exponentials * std::exp(highest - shift_of(higher)));
    total = warp_sum(total);
    if (lane == 0) {
      A* sums = rows.sums + 3 * i;
      sums[0] = higher;
      sums[1] = exponentials;
      sums[2] = total;
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks) write_slopes(const Rows<T> rows, bool with_slopes) {
  using A = Accumulator<T>;
  const int lane = lane_of_warp();
  for (int64_t i = first_item<kWarp>(); i < rows.count * rows.parts; i += item_stride<kWarp>()) {
    const Part<T> part(rows, i);
    const int64_t target = rows.target[part.row], hit = target - part.begin;
    W2V_DEVICE_ASSERT(target >= 0 && target < rows.vocab_size && "target: index out of range for weight");
    const A* sums = rows.sums + 3 * (part.row * rows.parts + lane);
    const bool is_part = lane < rows.parts;
    const A highest = is_part ? sums[0] : A(-INFINITY), shift = shift_of(warp_highest(highest));
    const A exponentials = warp_sum(is_part ? sums[1] * std::exp(highest - shift) : A(0));
    const A total = warp_sum(is_part ? sums[2] : A(0));
    const A log_sum = std::log(exponentials);  // of the scores less shift, which stays apart: it may be large
    const A low = rows.smoothing / static_cast<A>(rows.vocab_size), high = 1 - rows.smoothing;
    if (hit >= 0 && hit < part.size && lane == 0) {
      A loss = log_sum + high * (shift - part.score(static_cast<int>(hit)));
      if (low > 0) loss += low * (static_cast<A>(rows.vocab_size) * shift - total);
      rows.losses[part.row] = loss;
    }
    __syncwarp();  // the target's score has been read
    if (!with_slopes) continue;
    for (int first = lane; first < part.size; first += kColumns<A> * kWarp) {
      A score[kColumns<A>];
#pragma unroll
      for (int c = 0; c < kColumns<A>; ++c) {
        const int column = first + c * kWarp;
        if (column < part.size) score[c] = part.score(column);
      }
#pragma unroll
      for (int c = 0; c < kColumns<A>; ++c) {
        const int column = first + c * kWarp;
        if (column >= part.size) continue;
        const A slope = std::exp(score[c] - shift - log_sum) - low;
        part.scores[column] = static_cast<T>(column == hit ? slope - high : slope);
      }
    }
  }
}

// ---- the operator --------------------------------------------------------------------------------------------------

// Not written out where it is used: nvcc 13.0 garbles braced sizes inside a template.
Tensor new_sums(const Tensor& like, int64_t rows, int64_t parts) {
  return torch::stable::new_empty(like, {rows, parts, 3}, accumulator_type(like));
}

void check_of_row(const Tensor& t, const char* name, ScalarType type, int64_t size, const Tensor& scores) {
  W2V_CHECK(t.dim() == 1 && t.size(0) == size && t.scalar_type() == type && t.is_contiguous(), name,
            ": expected a contiguous ", torch::headeronly::toString(type), " tensor of shape (", size, ",), got ",
            shape_of(t));
  W2V_CHECK(t.device() == scores.device(), name, ": expected to be on the device of scores");
}

void softmax_slopes(const Tensor& scores, const std::optional<Tensor>& bias, const Tensor& target, double smoothing,
                    const Tensor& losses, bool with_slopes) {
  const ScalarType type = scores.scalar_type();
  W2V_CHECK(type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::BFloat16 ||
                type == ScalarType::Half,
            "scores: expected dtype float32, float64, bfloat16 or float16, got ", torch::headeronly::toString(type));
  W2V_CHECK(scores.dim() == 2 && scores.size(1) >= 1 && (scores.size(1) == 1 || scores.stride(1) == 1),
            "scores: expected shape (N, V), V >= 1, with contiguous rows, got ", shape_of(scores));
  W2V_CHECK(scores.size(1) <= INT32_MAX, "scores: expected at most 2^31 - 1 columns, got ", scores.size(1));
  W2V_CHECK(scores.size(0) <= 1 || scores.stride(0) >= scores.size(1),
            "scores: expected rows that do not overlap, got stride(0) = ", scores.stride(0));
  const int64_t count = scores.size(0), vocab_size = scores.size(1);
  if (bias.has_value()) check_of_row(*bias, "bias", accumulator_type(scores), vocab_size, scores);
  check_of_row(target, "target", ScalarType::Long, count, scores);
  check_of_row(losses, "losses", accumulator_type(scores), count, scores);
  W2V_CHECK(smoothing >= 0 && smoothing < 1, "smoothing: expected a number in [0, 1), got ", smoothing);
  if (count == 0) return;
  const int64_t wanted = std::min<int64_t>((vocab_size - 1) / kPartColumns + 1, kWarp);
  const int64_t columns = (vocab_size - 1) / wanted + 1, parts = (vocab_size - 1) / columns + 1;
  const Tensor sums = new_sums(scores, count, parts);
  with_weight_type(scores, [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    const Rows<T> rows{static_cast<T*>(scores.mutable_data_ptr()),
                       scores.stride(0),
                       count,
                       vocab_size,
                       bias.has_value() ? static_cast<const A*>(bias->const_data_ptr()) : nullptr,
                       static_cast<const int64_t*>(target.const_data_ptr()),
                       static_cast<A>(smoothing),
                       static_cast<A*>(losses.mutable_data_ptr()),
                       parts,
                       columns,
                       static_cast<A*>(sums.mutable_data_ptr())};
    launch<kWarp>("sum_parts", scores, count * parts, sum_parts<T>, rows);
    launch<kWarp>("write_slopes", scores, count * parts, write_slopes<T>, rows, with_slopes);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CUDA, m) { m.impl("softmax_slopes_cuda_", TORCH_BOX(&softmax_slopes)); }

}  // namespace w2v
