// The negative-sampling loss of a batch, its dense gradients and its SGD step, on CUDA (the twin of cpu/loss_kernel.h).
//
// One warp per example. Lane t reads the row number of target t, so that a warp asks for all of them at once, and for
// those of its next example before the rows of this one. Forward reads v and the P + K rows u once, 16 (8 of 16-bit
// types) bytes a lane, 16 targets at a time, all of them in flight together. Their 16 scores are summed across lanes in
// 16 exchanges, each of which halves what a lane holds, so that lane t ends with score t; losses and coefficients are
// computed for 16 targets at once. For the step it also writes the centre's gradient (B, D), from the rows it still
// holds (D <= 128) or finds in the L1 cache.
//
// All of it is bound by the traffic of rows, which are scattered. In rows of D numbers per example, with T = P + K:
//   forward                T + 1 read
//   gradients, by atomics  T + 1 read, T + 1 read and written, and 2 V D numbers set to zero
//   step, by atomics       T + 1 read, 1 written; 1 read, T read and written; 1 read, 1 read and written: 3 T + 6
// against the 2 T + 2 that any step must move whose gradients are all taken before it. Less what hits the L2 cache.
// Where a batch meets many of the rows of out, those are written without atomics: owned.h says how and what that takes;
// the gradient of out is then not set to zero before. Sums of one row come in any order in either case, so the last
// bits differ from run to run; sorted.cu has an order, and is used for 16-bit steps, which have to be summed before
// they are rounded.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

#include "../checks.h"
#include "batch.h"
#include "loss_kernels.h"
#include "owned.h"

namespace w2v {
namespace {

// coef, center_grad: as of loss_forward. With a step (float32, wide), rows that occur once are stepped.
template <typename T>
void start_forward(const Batch<T>& batch, const Tensor& loss, const Tensor& coef, Accumulator<T>* center_grad,
                   const OwnedStep* step = nullptr) {
  using A = Accumulator<T>;
  const bool wide = rows_are_wide(batch), held = batch.dim <= kPiece && sizeof(T) <= 4;
  const auto start = [&](auto kernel) {
    launch_resident<kWarp>("loss_forward", loss, batch.batch, kForwardBlocks, kernel, batch,
                           step == nullptr ? OwnedStep{} : *step, mutable_data<A>(loss), mutable_data<A>(coef),
                           center_grad);
  };
  if constexpr (std::is_same_v<T, float>) {
    if (step != nullptr)
      return held ? start(loss_forward<T, true, true, true>) : start(loss_forward<T, true, false, true>);
  }
  if constexpr (sizeof(T) <= 4) {
    if (wide && held) return start(loss_forward<T, true, true, false>);
    if (wide) return start(loss_forward<T, true, false, false>);
    if (held) return start(loss_forward<T, false, true, false>);
  }
  start(loss_forward<T, false, false, false>);
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

// grad_in (V, D) and grad_out (V', D), in the accumulation dtype.
template <typename T>
std::tuple<Tensor, Tensor> gradients(const Backward& b, const Batch<T>& batch) {
  using A = Accumulator<T>;
  const ScalarType type = accumulator_type(b.in);
  const Tensor grad_in = new_zero_matrix(b.in, b.shape.in_rows, b.shape.dim, type);
  const auto start = [&](auto kernel, const Owned& owned, const Tensor& grad_out, A* left) {
    launch<kWarp>("loss_gradients", b.in, batch.batch, kernel, batch, owned, data<A>(b.grad_loss), data<A>(b.coef),
                  mutable_data<A>(grad_in), mutable_data<A>(grad_out), left);
  };
  if constexpr (sizeof(T) <= 4) {
    if (owns_rows(batch)) {
      const Tensor grad_out = new_matrix(b.out, b.shape.out_rows, b.shape.dim),
                   left = new_matrix(b.in, b.shape.batch, batch.targets);
      const OwnedTables tables(batch, b.in);
      A* out = mutable_data<A>(grad_out);
      start(loss_gradients<T, true, true>, tables.kernel_view(), grad_out, mutable_data<A>(left));
      start_owned_rows<T, false, 1>(batch, b.in, tables, A(1), out, batch.dim);
      launch<kWarp>("add_targets", b.in, batch.batch, add_targets<T, true>, batch, data<A>(left), A(1), out, batch.dim);
      return {grad_in, grad_out};
    }
  }
  const Tensor grad_out = new_zero_matrix(b.out, b.shape.out_rows, b.shape.dim, type);
  A* none = nullptr;
  if constexpr (sizeof(T) <= 4) {
    if (rows_are_wide(batch)) {
      start(loss_gradients<T, true, false>, Owned{}, grad_out, none);
      return {grad_in, grad_out};
    }
  }
  start(loss_gradients<T, false, false>, Owned{}, grad_out, none);
  return {grad_in, grad_out};
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& slopes, const Tensor& in_weight,
                                    const Tensor& out_weight, const Tensor& center, const Tensor& pos,
                                    const Tensor& neg) {
  const Backward b(grad, slopes, in_weight, out_weight, center, pos, neg);
  std::optional<std::tuple<Tensor, Tensor>> found;
  with_weight_type(b.in, [&](auto zero) {
    using T = decltype(zero);
    found = gradients<T>(b, make_batch<T>(b.shape, b.in, b.out, center, pos, neg));
  });
  const auto& [grad_in, grad_out] = *found;
  const ScalarType type = in_weight.scalar_type();
  if (type == accumulator_type(in_weight)) return {grad_in, grad_out};
  return {torch::stable::to(grad_in, type), torch::stable::to(grad_out, type)};
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

// The targets' step, what loss_forward has left of it, and then the centres'.
template <typename T>
void step_by_atomics(const Batch<T>& batch, const Tensor& coef, const Tensor& center_grad, T factor, const Tensor& in,
                     const Tensor& out) {
  const auto start = [&](auto targets, auto centers) {
    launch<kWarp>("add_targets", in, batch.batch, targets, batch, data<T>(coef), factor, mutable_data<T>(out),
                  batch.out_stride);
    launch<kWarp>("step_centers", in, batch.batch, centers, batch, data<T>(center_grad), factor, mutable_data<T>(in));
  };
  if constexpr (sizeof(T) <= 4) {
    if (rows_are_wide(batch)) return start(add_targets<T, true>, step_centers<T, true>);
  }
  start(add_targets<T, false>, step_centers<T, false>);
}

void step_owned(const Batch<float>& batch, const Tensor& loss, const Tensor& coef, const Tensor& center_grad,
                float factor, const Tensor& in, const Tensor& out) {
  const OwnedTables tables(batch, in);
  float* rows = mutable_data<float>(out);
  const OwnedStep step{tables.kernel_view(), factor, rows};
  start_forward<float>(batch, loss, coef, mutable_data<float>(center_grad), &step);
  if (batch.dim <= kPiece)  // held: those that occur once are done
    start_owned_rows<float, true, 2>(batch, in, tables, factor, rows, batch.out_stride);
  else
    start_owned_rows<float, true, 1>(batch, in, tables, factor, rows, batch.out_stride);
  step_by_atomics<float>(batch, coef, center_grad, factor, in, out);
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
    const A factor = static_cast<A>(-scale);
    if constexpr (std::is_same_v<T, float>) {
      if (!sorted && owns_rows(batch)) return step_owned(batch, loss, coef, center_grad, factor, in_weight, out_weight);
    }
    start_forward<T>(batch, loss, coef, mutable_data<A>(center_grad));
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
