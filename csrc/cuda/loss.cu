// The negative-sampling loss of a batch, its dense gradients and its SGD step, on CUDA (the twin of cpu/loss_kernel.h).
//
// One warp per example. Forward reads v and the P + K rows u once, 16 (8 of 16-bit types) bytes a lane, 16 targets at a
// time, all of them in flight together. Their 16 scores are summed across lanes in 16 exchanges, each of which halves
// what a lane holds, so that lane t ends with score t; losses and coefficients are computed for 16 targets at once. For
// the step it also writes the centre's gradient (B, D), from the rows it still holds (D <= 128) or finds in the L1
// cache. The gradient reads the rows once more and adds P + K + 1 rows by atomics of 16 bytes (sm_90); the step reads
// only v again.
//
// All of it is bound by the traffic of rows, which are scattered. In rows of D numbers per example, with T = P + K:
//   forward T + 1 read;  gradients T + 1 read, T + 1 read and written by atomics, and 2 V D numbers set to zero
//   step    T + 1 read, 1 written; 1 read, T read and written by atomics; 1 read, 1 read and written: 3 T + 6, against
//           the 2 T + 2 that any step must move whose gradients are all taken before it. Less what hits the L2 cache.
// Sums of one row come in any order, so the last bits differ from run to run; sorted.cu has an order, and is used for
// 16-bit steps, which have to be summed before they are rounded.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>

#include "../checks.h"
#include "batch.h"

namespace w2v {
namespace {

template <typename T>
constexpr int kTile = sizeof(T) <= 4 ? 16 : 4;  // targets at a time: their rows take 64 registers (float64: 32)
constexpr int kGradientTile = 4;                // rows of a gradient in flight
constexpr int kForwardBlocks = 4;               // on an SM: 128 registers
constexpr int kGradientBlocks = 5;              // 96

// Of 2 kStep sums, a lane keeps kStep and gives the others to lane ^ kStep, for its part of those it keeps.
template <int kStep, typename A>
__device__ inline void fold(A* sums) {
  const bool upper = (lane_of_warp() & kStep) != 0;
#pragma unroll
  for (int i = 0; i < kStep; ++i) {
    const A given = upper ? sums[i] : sums[i + kStep];
    sums[i] = (upper ? sums[i + kStep] : sums[i]) + __shfl_xor_sync(0xFFFFFFFFu, given, kStep);
  }
  if constexpr (kStep > 1) fold<kStep / 2>(sums);
}

// loss (B,), coef (B, P + K) = d loss / d score and, unless null, center_grad (B, D) = sum_j coef_j u_j.
// kHeld: D <= 128, and the rows of a tile stay in registers.
template <typename T, bool kWide, bool kHeld>
__global__ void __launch_bounds__(kThreads, kForwardBlocks)
    loss_forward(const Batch<T> batch, Accumulator<T>* loss, Accumulator<T>* coef, Accumulator<T>* center_grad) {
  using A = Accumulator<T>;
  constexpr int kOwn = kTile<T>;
  const int lane = lane_of_warp(), own = lane % kOwn;  // the target of a tile whose score comes to this lane
  for (int64_t b = first_item<kWarp>(); b < batch.batch; b += item_stride<kWarp>()) {
    batch.check_indices(b);
    const T* v = batch.v(b);
    A total = 0;
    for (int64_t first = 0; first < batch.targets; first += kOwn) {
      const int count = static_cast<int>(batch.targets - first < kOwn ? batch.targets - first : kOwn);
      Quad<T> held[kOwn];
      A score[kOwn] = {};
      for (int64_t piece = 0; piece < (kHeld ? 1 : batch.dim); piece += kPiece) {
#pragma unroll
        for (int t = 0; t < kOwn; ++t)
          if (t < count) held[t] = load_quad<kWide>(batch.u(b, first + t), piece, batch.dim);
        const Quad<T> x = load_quad<kWide>(v, piece, batch.dim);
#pragma unroll
        for (int t = 0; t < kOwn; ++t)
          if (t < count) {
#pragma unroll
            for (int i = 0; i < kQuad; ++i) score[t] += static_cast<A>(x.x[i]) * static_cast<A>(held[t].x[i]);
          }
      }
      fold<kOwn / 2>(score);
      A sum = score[0];
#pragma unroll
      for (int mask = kOwn; mask < kWarp; mask *= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, mask);
      const A sign = first + own < batch.positives ? A(-1) : A(1);
      const A s = sign * sum;  // loss = log(1 + e^s) = max(s, 0) + log(1 + e^-|s|), slope sigmoid(s)
      const A e = exp(-fabs(s));
      const A slope = sign * (s < 0 ? e : A(1)) / (1 + e);
      if (lane < count) {
        total += (s < 0 ? A(0) : s) + log1p(e);
        coef[b * batch.targets + first + lane] = slope;
      }
      if (center_grad == nullptr) continue;
      for (int64_t piece = 0; piece < (kHeld ? 1 : batch.dim); piece += kPiece) {
        A grad[kQuad] = {};
#pragma unroll
        for (int t = 0; t < kOwn; ++t) {
          const A g = __shfl_sync(0xFFFFFFFFu, slope, t);
          if (t >= count) continue;
          if constexpr (!kHeld) held[t] = load_quad<kWide>(batch.u(b, first + t), piece, batch.dim);
#pragma unroll
          for (int i = 0; i < kQuad; ++i) grad[i] += g * static_cast<A>(held[t].x[i]);
        }
#pragma unroll
        for (int i = 0; i < kQuad; ++i) {
          const int64_t d = column<kWide>(piece, i);
          if (d >= batch.dim) continue;
          A* number = center_grad + b * batch.dim + d;
          *number = first == 0 ? grad[i] : *number + grad[i];
        }
      }
    }
    total = warp_sum(total);
    if (lane == 0) loss[b] = total;
    if (center_grad != nullptr && batch.targets == 0)
      for (int64_t d = lane; d < batch.dim; d += kWarp) center_grad[b * batch.dim + d] = 0;
  }
}

// Adds the gradients of (loss * grad_loss).sum() to grad_in (V, D) and grad_out (V', D).
template <typename T, bool kWide>
__global__ void __launch_bounds__(kThreads, kGradientBlocks)
    loss_gradients(const Batch<T> batch, const Accumulator<T>* grad_loss, const Accumulator<T>* coef,
                   Accumulator<T>* grad_in, Accumulator<T>* grad_out) {
  using A = Accumulator<T>;
  const int64_t dim = batch.dim;
  for (int64_t b = first_item<kWarp>(); b < batch.batch; b += item_stride<kWarp>()) {
    batch.check_indices(b);
    const int64_t center = batch.center_row(b);
    const A scale = grad_loss[b];
    for (int64_t piece = 0; piece < dim; piece += kPiece) {
      const Quad<T> x = load_quad<kWide>(batch.in + center * batch.in_stride, piece, dim);
      A sum[kQuad] = {};
      for (int64_t first = 0; first < batch.targets; first += kGradientTile) {
        int64_t row[kGradientTile];
        Quad<T> u[kGradientTile];
#pragma unroll
        for (int t = 0; t < kGradientTile; ++t) {
          if (first + t >= batch.targets) break;
          row[t] = batch.target_row(b, first + t);
          u[t] = load_quad<kWide>(batch.out + row[t] * batch.out_stride, piece, dim);
        }
#pragma unroll
        for (int t = 0; t < kGradientTile; ++t) {
          if (first + t >= batch.targets) break;
          const A slope = scale * coef[b * batch.targets + first + t];
          A step[kQuad];
#pragma unroll
          for (int i = 0; i < kQuad; ++i) {
            sum[i] += slope * static_cast<A>(u[t].x[i]);
            step[i] = slope * static_cast<A>(x.x[i]);
          }
          add_quad<kWide>(grad_out + row[t] * dim, piece, dim, step);
        }
      }
      add_quad<kWide>(grad_in + center * dim, piece, dim, sum);
    }
  }
}

// The step of the targets, in place, while in is still as it was. float32 and float64 only: T is its own accumulator.
template <typename T, bool kWide>
__global__ void __launch_bounds__(kThreads, kGradientBlocks)
    step_targets(const Batch<T> batch, const T* coef, T factor, T* out) {
  for (int64_t b = first_item<kWarp>(); b < batch.batch; b += item_stride<kWarp>()) {
    const T* v = batch.v(b);
    for (int64_t piece = 0; piece < batch.dim; piece += kPiece) {
      const Quad<T> x = load_quad<kWide>(v, piece, batch.dim);
#pragma unroll 4
      for (int64_t j = 0; j < batch.targets; ++j) {
        const T slope = factor * coef[b * batch.targets + j];
        T step[kQuad];
#pragma unroll
        for (int i = 0; i < kQuad; ++i) step[i] = slope * x.x[i];
        add_quad<kWide>(out + batch.target_row(b, j) * batch.out_stride, piece, batch.dim, step);
      }
    }
  }
}

// in += factor * center_grad (B, D)
template <typename T, bool kWide>
__global__ void __launch_bounds__(kThreads, kBlocks)
    step_centers(const Batch<T> batch, const T* center_grad, T factor, T* in) {
  for (int64_t b = first_item<kWarp>(); b < batch.batch; b += item_stride<kWarp>()) {
    T* row = in + batch.center_row(b) * batch.in_stride;
    for (int64_t piece = 0; piece < batch.dim; piece += kPiece) {
      const Quad<T> grad = load_quad<kWide>(center_grad + b * batch.dim, piece, batch.dim);
      T step[kQuad];
#pragma unroll
      for (int i = 0; i < kQuad; ++i) step[i] = factor * grad.x[i];
      add_quad<kWide>(row, piece, batch.dim, step);
    }
  }
}

// ---- the operators -------------------------------------------------------------------------------------------------

template <typename T>
void start_forward(const Batch<T>& batch, const Tensor& loss, const Tensor& coef, Accumulator<T>* center_grad) {
  using A = Accumulator<T>;
  const bool wide = rows_are_wide(batch), held = batch.dim <= kPiece && sizeof(T) <= 4;
  const auto start = [&](auto kernel) {
    launch<kWarp>("loss_forward", loss, batch.batch, kernel, batch, mutable_data<A>(loss), mutable_data<A>(coef),
                  center_grad);
  };
  if constexpr (sizeof(T) <= 4) {
    if (wide && held) return start(loss_forward<T, true, true>);
    if (wide) return start(loss_forward<T, true, false>);
    if (held) return start(loss_forward<T, false, true>);
  }
  start(loss_forward<T, false, false>);
}

std::tuple<Tensor, Tensor> forward(const Tensor& in_weight, const Tensor& out_weight, const Tensor& center,
                                   const Tensor& pos, const Tensor& neg, bool /*sparse_grad*/) {
  const LossShape shape = check_loss_arguments(in_weight, out_weight, center, pos, neg);
  const Tensor in = with_contiguous_rows(in_weight), out = with_contiguous_rows(out_weight);
  Tensor loss = new_losses(in, shape.batch);
  Tensor coef = new_matrix(in, shape.batch, shape.positives + shape.negatives);
  with_weight_type(in, [&](auto zero) {
    using T = decltype(zero);
    start_forward<T>(make_batch<T>(shape, in, out, center, pos, neg), loss, coef, nullptr);
  });
  return {loss, coef};
}

// What both ways to the gradients need, checked: coef and grad_loss come from outside again.
struct Backward {
  LossShape shape;
  Tensor in, out, grad_loss, coef;

  Backward(const Tensor& grad, const Tensor& slopes, const Tensor& in_weight, const Tensor& out_weight,
           const Tensor& center, const Tensor& pos, const Tensor& neg)
      : shape(check_loss_arguments(in_weight, out_weight, center, pos, neg)),
        in(with_contiguous_rows(in_weight)),
        out(with_contiguous_rows(out_weight)),
        grad_loss(grad),
        coef(slopes) {
    check_gradient_arguments(grad, slopes, in_weight, shape);
    grad_loss = torch::stable::contiguous(grad);
    coef = torch::stable::contiguous(slopes);
  }
};

std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& slopes, const Tensor& in_weight,
                                    const Tensor& out_weight, const Tensor& center, const Tensor& pos,
                                    const Tensor& neg) {
  const Backward b(grad, slopes, in_weight, out_weight, center, pos, neg);
  const ScalarType type = accumulator_type(in_weight);
  Tensor grad_in = new_zero_matrix(b.in, b.shape.in_rows, b.shape.dim, type);
  Tensor grad_out = new_zero_matrix(b.out, b.shape.out_rows, b.shape.dim, type);
  with_weight_type(b.in, [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    const Batch<T> batch = make_batch<T>(b.shape, b.in, b.out, center, pos, neg);
    const auto start = [&](auto kernel) {
      launch<kWarp>("loss_gradients", b.in, batch.batch, kernel, batch, data<A>(b.grad_loss), data<A>(b.coef),
                    mutable_data<A>(grad_in), mutable_data<A>(grad_out));
    };
    if constexpr (sizeof(T) <= 4) {
      if (rows_are_wide(batch)) return start(loss_gradients<T, true>);
    }
    start(loss_gradients<T, false>);
  });
  if (in_weight.scalar_type() == type) return {grad_in, grad_out};
  return {torch::stable::to(grad_in, in_weight.scalar_type()), torch::stable::to(grad_out, in_weight.scalar_type())};
}

std::tuple<Tensor, Tensor> backward_sorted(const Tensor& grad, const Tensor& slopes, const Tensor& in_weight,
                                           const Tensor& out_weight, const Tensor& center, const Tensor& pos,
                                           const Tensor& neg) {
  const Backward b(grad, slopes, in_weight, out_weight, center, pos, neg);
  Tensor grad_in = new_zero_matrix(b.in, b.shape.in_rows, b.shape.dim, in_weight.scalar_type());
  Tensor grad_out = new_zero_matrix(b.out, b.shape.out_rows, b.shape.dim, in_weight.scalar_type());
  with_weight_type(b.in, [&](auto zero) {
    using T = decltype(zero);
    sorted_gradients<T>(make_batch<T>(b.shape, b.in, b.out, center, pos, neg), b.grad_loss, b.coef, grad_in, grad_out);
  });
  return {grad_in, grad_out};
}

template <typename T>
void step_by_atomics(const Batch<T>& batch, const Tensor& coef, const Tensor& center_grad, T factor, const Tensor& in,
                     const Tensor& out) {
  const auto start = [&](auto targets, auto centers) {
    launch<kWarp>("step_targets", in, batch.batch, targets, batch, data<T>(coef), factor, mutable_data<T>(out));
    launch<kWarp>("step_centers", in, batch.batch, centers, batch, data<T>(center_grad), factor, mutable_data<T>(in));
  };
  if constexpr (sizeof(T) <= 4) {
    if (rows_are_wide(batch)) return start(step_targets<T, true>, step_centers<T, true>);
  }
  start(step_targets<T, false>, step_centers<T, false>);
}

Tensor step_with(bool sorted, const Tensor& in_weight, const Tensor& out_weight, const Tensor& center,
                 const Tensor& pos, const Tensor& neg, double scale) {
  const LossShape shape = check_loss_arguments(in_weight, out_weight, center, pos, neg);
  check_in_place(in_weight, out_weight);
  Tensor loss = new_losses(in_weight, shape.batch);
  if (shape.batch == 0) return loss;
  const Tensor coef = new_matrix(in_weight, shape.batch, shape.positives + shape.negatives);
  const Tensor center_grad = new_matrix(in_weight, shape.batch, shape.dim);
  with_weight_type(in_weight, [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    const Batch<T> batch = make_batch<T>(shape, in_weight, out_weight, center, pos, neg);
    start_forward<T>(batch, loss, coef, mutable_data<A>(center_grad));
    const A factor = static_cast<A>(-scale);
    if constexpr (std::is_same_v<T, A>) {
      if (!sorted) return step_by_atomics<T>(batch, coef, center_grad, factor, in_weight, out_weight);
    }
    sorted_step<T>(batch, coef, center_grad, factor, in_weight, out_weight);
  });
  return loss;
}

Tensor step(const Tensor& in_weight, const Tensor& out_weight, const Tensor& center, const Tensor& pos,
            const Tensor& neg, double scale) {
  return step_with(false, in_weight, out_weight, center, pos, neg, scale);
}

Tensor step_sorted(const Tensor& in_weight, const Tensor& out_weight, const Tensor& center, const Tensor& pos,
                   const Tensor& neg, double scale) {
  return step_with(true, in_weight, out_weight, center, pos, neg, scale);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CUDA, m) {
  m.impl("negative_sampling_loss", TORCH_BOX(&forward));
  m.impl("negative_sampling_loss_backward", TORCH_BOX(&backward));
  m.impl("negative_sampling_loss_backward_sorted", TORCH_BOX(&backward_sorted));
  m.impl("sgns_step_", TORCH_BOX(&step));
  m.impl("sgns_step_sorted_", TORCH_BOX(&step_sorted));
}

}  // namespace w2v
