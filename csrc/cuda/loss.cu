// The negative-sampling loss of a batch, its dense gradients and its SGD step, on CUDA (the twin of cpu/loss_kernel.h).
//
// One warp per example; lane l holds the dimensions l, l + 32, ..., so that a warp reads consecutive numbers of a row.
// Forward reads v and the P + K rows u once (v again, from L1, for each kTile of them), adds up kTile dot products at a
// time and writes P + K coefficients. The gradient reads the same rows once more and adds P + K + 1 rows with atomics;
// the step reads u again for the centre gradients and v again for the targets, and adds as many rows. All of it is
// bound by the traffic of rows, which are scattered: (P + K + 1) D numbers per example forward, as many read and,
// through L2, added for the gradients, which on top of that are set to zero and, for 16-bit weights, cast: V D numbers
// each. Atomics on hot rows collide; sums of one row come in any order, so the last bits differ from run to run.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <tuple>

#include "../checks.h"
#include "launch.h"

namespace w2v {
namespace {

constexpr int kTile = 3;   // dot products at a time: 1 + 5, 1 + 20 and (nearly) 1 + 10 targets fill their tiles
constexpr int kChunk = 4;  // dimensions of a lane held in registers: D <= 128 takes one pass over the targets

// (B,) or (B, n) indices as they were given: int32 or int64, any strides.
struct IndexView {
  const void* data;
  int64_t row_stride, column_stride;
  bool wide;

  __device__ int64_t at(int64_t b, int64_t j) const {
    const int64_t offset = b * row_stride + j * column_stride;
    return wide ? static_cast<const int64_t*>(data)[offset] : static_cast<const int32_t*>(data)[offset];
  }
};

template <typename T>
struct Batch {
  const T* in;   // (V, D)
  const T* out;  // (V', D)
  int64_t in_stride, out_stride, in_rows, out_rows, dim;
  IndexView center, pos, neg;
  int64_t batch, positives, targets;  // B, P, P + K

  // Called once per example, by its warp, before its rows are used. The step's own kernels need not: they run only
  // where the forward pass has gone through.
  __device__ void check_indices(int64_t b) const {
    const int64_t row = center_row(b);
    W2V_DEVICE_ASSERT(row >= 0 && row < in_rows && "center: index out of range for in_weight");
    for (int64_t j = lane_of_warp(); j < positives; j += kWarp) {
      const int64_t row = pos.at(b, j);
      W2V_DEVICE_ASSERT(row >= 0 && row < out_rows && "pos: index out of range for out_weight");
    }
    for (int64_t j = lane_of_warp(); j < targets - positives; j += kWarp) {
      const int64_t row = neg.at(b, j);
      W2V_DEVICE_ASSERT(row >= 0 && row < out_rows && "neg: index out of range for out_weight");
    }
    __syncwarp();  // no lane uses an index that another one refuses
  }

  __device__ int64_t center_row(int64_t b) const { return center.at(b, 0); }
  __device__ int64_t target_row(int64_t b, int64_t j) const {
    return j < positives ? pos.at(b, j) : neg.at(b, j - positives);
  }
  __device__ const T* v(int64_t b) const { return in + center_row(b) * in_stride; }
  __device__ const T* u(int64_t b, int64_t j) const { return out + target_row(b, j) * out_stride; }
};

// loss (B,), coef (B, P + K) = d loss / d score.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    loss_forward(const Batch<T> batch, Accumulator<T>* loss, Accumulator<T>* coef) {
  using A = Accumulator<T>;
  const int lane = lane_of_warp();
  for (int64_t b = first_item<kWarp>(); b < batch.batch; b += item_stride<kWarp>()) {
    batch.check_indices(b);
    const T* v = batch.v(b);
    A total = 0;
    for (int64_t first = 0; first < batch.targets; first += kTile) {
      const T* u[kTile];
      A score[kTile];
#pragma unroll
      for (int t = 0; t < kTile; ++t) {  // a tile that is not full takes its first row again, and drops the result
        u[t] = batch.u(b, first + t < batch.targets ? first + t : first);
        score[t] = 0;
      }
      for (int64_t d = lane; d < batch.dim; d += kWarp) {
        const A x = static_cast<A>(v[d]);
#pragma unroll
        for (int t = 0; t < kTile; ++t) score[t] += x * static_cast<A>(u[t][d]);
      }
#pragma unroll
      for (int t = 0; t < kTile; ++t) {
        const A sum = warp_sum(score[t]);
        if (first + t >= batch.targets) continue;
        const A sign = first + t < batch.positives ? A(-1) : A(1);
        const A s = sign * sum;  // loss = log(1 + e^s) = max(s, 0) + log(1 + e^-|s|), slope sigmoid(s)
        const A e = exp(-fabs(s));
        total += (s < 0 ? A(0) : s) + log1p(e);
        if (lane == 0) coef[b * batch.targets + first + t] = sign * (s < 0 ? e : A(1)) / (1 + e);
      }
    }
    if (lane == 0) loss[b] = total;
  }
}

// Adds the gradients of (loss * grad_loss).sum() to grad_in (V, D) and grad_out (V', D); grad_loss null means ones.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    loss_gradients(const Batch<T> batch, const Accumulator<T>* grad_loss, const Accumulator<T>* coef,
                   Accumulator<T>* grad_in, Accumulator<T>* grad_out) {
  using A = Accumulator<T>;
  const int64_t dim = batch.dim;
  for (int64_t b = first_item<kWarp>(); b < batch.batch; b += item_stride<kWarp>()) {
    batch.check_indices(b);
    const int64_t center = batch.center_row(b);
    const T* v = batch.in + center * batch.in_stride;
    const A scale = grad_loss == nullptr ? A(1) : grad_loss[b];
    for (int64_t first = lane_of_warp(); first < dim; first += kChunk * kWarp) {
      A x[kChunk], sum[kChunk];
#pragma unroll
      for (int c = 0; c < kChunk; ++c) {
        x[c] = first + c * kWarp < dim ? static_cast<A>(v[first + c * kWarp]) : A(0);
        sum[c] = 0;
      }
      for (int64_t j = 0; j < batch.targets; ++j) {
        const int64_t target = batch.target_row(b, j);
        const T* u = batch.out + target * batch.out_stride;
        const A slope = scale * coef[b * batch.targets + j];
#pragma unroll
        for (int c = 0; c < kChunk; ++c) {
          const int64_t d = first + c * kWarp;
          if (d >= dim) break;
          sum[c] += slope * static_cast<A>(u[d]);
          atomicAdd(grad_out + target * dim + d, slope * x[c]);
        }
      }
#pragma unroll
      for (int c = 0; c < kChunk; ++c)
        if (first + c * kWarp < dim) atomicAdd(grad_in + center * dim + first + c * kWarp, sum[c]);
    }
  }
}

// The step of the centres, delta (B, D) = factor * sum_j coef_j u_j, while out is still as it was.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    step_center_deltas(const Batch<T> batch, const Accumulator<T>* coef, Accumulator<T> factor, Accumulator<T>* delta) {
  using A = Accumulator<T>;
  for (int64_t b = first_item<kWarp>(); b < batch.batch; b += item_stride<kWarp>()) {
    for (int64_t first = lane_of_warp(); first < batch.dim; first += kChunk * kWarp) {
      A sum[kChunk] = {};
      for (int64_t j = 0; j < batch.targets; ++j) {
        const T* u = batch.u(b, j);
        const A slope = coef[b * batch.targets + j];
#pragma unroll
        for (int c = 0; c < kChunk; ++c)
          if (first + c * kWarp < batch.dim) sum[c] += slope * static_cast<A>(u[first + c * kWarp]);
      }
#pragma unroll
      for (int c = 0; c < kChunk; ++c)
        if (first + c * kWarp < batch.dim) delta[b * batch.dim + first + c * kWarp] = factor * sum[c];
    }
  }
}

// The step of the targets, in place, while in is still as it was. float32 and float64 only: T is its own accumulator.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    step_targets(const Batch<T> batch, const T* coef, T factor, T* out) {
  for (int64_t b = first_item<kWarp>(); b < batch.batch; b += item_stride<kWarp>()) {
    const T* v = batch.v(b);
    for (int64_t j = 0; j < batch.targets; ++j) {
      T* row = out + batch.target_row(b, j) * batch.out_stride;
      const T slope = factor * coef[b * batch.targets + j];
      for (int64_t d = lane_of_warp(); d < batch.dim; d += kWarp) atomicAdd(row + d, slope * v[d]);
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks) step_centers(const Batch<T> batch, const T* delta, T* in) {
  for (int64_t b = first_item<kWarp>(); b < batch.batch; b += item_stride<kWarp>()) {
    T* row = in + batch.center_row(b) * batch.in_stride;
    for (int64_t d = lane_of_warp(); d < batch.dim; d += kWarp) atomicAdd(row + d, delta[b * batch.dim + d]);
  }
}

// weight += factor * grad, grad (V, D): one rounding per number, and none where nothing is added. One thread per
// number.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    step_from_gradient(T* weight, int64_t stride, const float* grad, float factor, int64_t count, int64_t dim) {
  for (int64_t i = first_item<1>(); i < count; i += item_stride<1>()) {
    const float g = grad[i];
    if (g == 0) continue;
    T* number = weight + i / dim * stride + i % dim;
    *number = static_cast<T>(static_cast<float>(*number) + factor * g);
  }
}

// ---- the operators -------------------------------------------------------------------------------------------------

// Not written out where they are used: nvcc 13.0 garbles braced sizes inside a template.
Tensor new_matrix(const Tensor& like, int64_t rows, int64_t columns) {
  return torch::stable::new_empty(like, {rows, columns}, accumulator_type(like));
}

Tensor new_zero_matrix(const Tensor& like, int64_t rows, int64_t columns) {
  return torch::stable::new_zeros(like, {rows, columns}, accumulator_type(like));
}

template <typename A>
const A* data(const Tensor& t) {
  return static_cast<const A*>(t.const_data_ptr());
}

template <typename A>
A* mutable_data(const Tensor& t) {
  return static_cast<A*>(t.mutable_data_ptr());
}

IndexView index_view(const Tensor& t) {
  return {t.const_data_ptr(), t.stride(0), t.dim() == 2 ? t.stride(1) : 0, t.scalar_type() == ScalarType::Long};
}

template <typename T>
Batch<T> make_batch(const LossShape& shape, const Tensor& in, const Tensor& out, const Tensor& center,
                    const Tensor& pos, const Tensor& neg) {
  return {data<T>(in),
          data<T>(out),
          in.stride(0),
          out.stride(0),
          shape.in_rows,
          shape.out_rows,
          shape.dim,
          index_view(center),
          index_view(pos),
          index_view(neg),
          shape.batch,
          shape.positives,
          shape.positives + shape.negatives};
}

std::tuple<Tensor, Tensor> forward(const Tensor& in_weight, const Tensor& out_weight, const Tensor& center,
                                   const Tensor& pos, const Tensor& neg, bool /*sparse_grad*/) {
  const LossShape shape = check_loss_arguments(in_weight, out_weight, center, pos, neg);
  const Tensor in = with_contiguous_rows(in_weight), out = with_contiguous_rows(out_weight);
  Tensor loss = torch::stable::new_empty(in, {shape.batch}, accumulator_type(in));
  Tensor coef = new_matrix(in, shape.batch, shape.positives + shape.negatives);
  with_weight_type(in, [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    launch<kWarp>("loss_forward", in, shape.batch, loss_forward<T>, make_batch<T>(shape, in, out, center, pos, neg),
                  mutable_data<A>(loss), mutable_data<A>(coef));
  });
  return {loss, coef};
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad_loss, const Tensor& coef, const Tensor& in_weight,
                                    const Tensor& out_weight, const Tensor& center, const Tensor& pos,
                                    const Tensor& neg) {
  const LossShape shape = check_loss_arguments(in_weight, out_weight, center, pos, neg);
  const ScalarType type = accumulator_type(in_weight);
  check_gradient_arguments(grad_loss, coef, in_weight, shape);
  const Tensor in = with_contiguous_rows(in_weight), out = with_contiguous_rows(out_weight);
  const Tensor upstream = torch::stable::contiguous(grad_loss), slopes = torch::stable::contiguous(coef);
  Tensor grad_in = new_zero_matrix(in, shape.in_rows, shape.dim);
  Tensor grad_out = new_zero_matrix(out, shape.out_rows, shape.dim);
  with_weight_type(in, [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    launch<kWarp>("loss_gradients", in, shape.batch, loss_gradients<T>, make_batch<T>(shape, in, out, center, pos, neg),
                  data<A>(upstream), data<A>(slopes), mutable_data<A>(grad_in), mutable_data<A>(grad_out));
  });
  if (in.scalar_type() == type) return {grad_in, grad_out};
  return {torch::stable::to(grad_in, in.scalar_type()), torch::stable::to(grad_out, in.scalar_type())};
}

// float32 and float64 rows are stepped in place, by atomics. 16-bit atomics would round after every addition, and small
// steps of a row that occurs often would be lost; so 16-bit weights go through float32 gradients of all rows, as on the
// CPU with one rounding per number, at the price of 8 V D bytes and of a pass over them.
template <typename T>
void step_rows(const Batch<T>& batch, const Tensor& coef, Accumulator<T> factor, const Tensor& in, const Tensor& out) {
  using A = Accumulator<T>;
  if constexpr (std::is_same_v<T, A>) {
    const Tensor delta = new_matrix(in, batch.batch, batch.dim);
    launch<kWarp>("step_center_deltas", in, batch.batch, step_center_deltas<T>, batch, data<A>(coef), factor,
                  mutable_data<A>(delta));
    launch<kWarp>("step_targets", in, batch.batch, step_targets<T>, batch, data<A>(coef), factor, mutable_data<T>(out));
    launch<kWarp>("step_centers", in, batch.batch, step_centers<T>, batch, data<A>(delta), mutable_data<T>(in));
  } else {
    const Tensor grad_in = new_zero_matrix(in, batch.in_rows, batch.dim);
    const Tensor grad_out = new_zero_matrix(out, batch.out_rows, batch.dim);
    const A* ones = nullptr;
    launch<kWarp>("loss_gradients", in, batch.batch, loss_gradients<T>, batch, ones, data<A>(coef),
                  mutable_data<A>(grad_in), mutable_data<A>(grad_out));
    launch<1>("step_from_gradient", in, grad_in.numel(), step_from_gradient<T>, mutable_data<T>(in), batch.in_stride,
              data<A>(grad_in), factor, grad_in.numel(), batch.dim);
    launch<1>("step_from_gradient", in, grad_out.numel(), step_from_gradient<T>, mutable_data<T>(out), batch.out_stride,
              data<A>(grad_out), factor, grad_out.numel(), batch.dim);
  }
}

Tensor step(const Tensor& in_weight, const Tensor& out_weight, const Tensor& center, const Tensor& pos,
            const Tensor& neg, double scale) {
  const LossShape shape = check_loss_arguments(in_weight, out_weight, center, pos, neg);
  check_in_place(in_weight, out_weight);
  Tensor loss = torch::stable::new_empty(in_weight, {shape.batch}, accumulator_type(in_weight));
  if (shape.batch == 0) return loss;
  const Tensor coef = new_matrix(in_weight, shape.batch, shape.positives + shape.negatives);
  with_weight_type(in_weight, [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    const Batch<T> batch = make_batch<T>(shape, in_weight, out_weight, center, pos, neg);
    launch<kWarp>("loss_forward", in_weight, shape.batch, loss_forward<T>, batch, mutable_data<A>(loss),
                  mutable_data<A>(coef));
    step_rows<T>(batch, coef, static_cast<A>(-scale), in_weight, out_weight);
  });
  return loss;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CUDA, m) {
  m.impl("negative_sampling_loss", TORCH_BOX(&forward));
  m.impl("negative_sampling_loss_backward", TORCH_BOX(&backward));
  m.impl("sgns_step_", TORCH_BOX(&step));
}

}  // namespace w2v
