// negative_sampling_loss, its gradients and sgns_step_ on the CPU: checks, index preparation, and the sharing of work
// among PyTorch's threads. The kernels are in loss_kernel.h.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "../checks.h"
#include "kernels.h"
#include "segments.h"

namespace w2v {
namespace {

constexpr int64_t kGrain = 256;  // examples (or occurrences) that are worth a thread

template <typename I>
void copy_checked(const Tensor& t, int64_t rows, const char* name, const char* weight_name, int64_t width,
                  int64_t pitch, uint32_t* dst) {
  const I* data = t.const_data_ptr<I>();
  const int64_t s0 = t.stride(0), s1 = t.dim() == 2 ? t.stride(1) : 0;
  for (int64_t b = 0; b < t.size(0); ++b)
    for (int64_t j = 0; j < width; ++j) {
      const int64_t index = data[b * s0 + j * s1];
      if (index < 0 || index >= rows)
        throw std::out_of_range(text(name, ": index ", index, " at position ", b,
                                     t.dim() == 2 ? text(", ", j) : std::string(), " is out of range for ", weight_name,
                                     " with ", rows, " rows"));
      dst[b * pitch + j] = static_cast<uint32_t>(index);
    }
}

// The indices of a batch, checked once and laid side by side.
struct Indices {
  std::vector<uint32_t> center, targets;
  LossShape shape;

  Indices(const LossShape& s, const Tensor& center_index, const Tensor& pos, const Tensor& neg)
      : center(s.batch), targets(s.batch * (s.positives + s.negatives)), shape(s) {
    const int64_t pitch = s.positives + s.negatives;
    copy(center_index, s.in_rows, "center", "in_weight", 1, 1, center.data());
    copy(pos, s.out_rows, "pos", "out_weight", s.positives, pitch, targets.data());
    copy(neg, s.out_rows, "neg", "out_weight", s.negatives, pitch, targets.data() + s.positives);
  }

  static void copy(const Tensor& t, int64_t rows, const char* name, const char* weight_name, int64_t width,
                   int64_t pitch, uint32_t* dst) {
    if (t.scalar_type() == ScalarType::Int) {
      copy_checked<int32_t>(t, rows, name, weight_name, width, pitch, dst);
    } else {
      copy_checked<int64_t>(t, rows, name, weight_name, width, pitch, dst);
    }
  }

  template <typename T>
  Batch<T> batch(const Tensor& in_weight, const Tensor& out_weight) const {
    return {static_cast<const T*>(in_weight.const_data_ptr()),
            static_cast<const T*>(out_weight.const_data_ptr()),
            in_weight.stride(0),
            out_weight.stride(0),
            shape.dim,
            center.data(),
            targets.data(),
            shape.batch,
            shape.positives,
            shape.positives + shape.negatives};
  }

  RowGroups by_center() const { return RowGroups(center.data(), shape.batch, static_cast<uint32_t>(shape.in_rows)); }
  RowGroups by_target() const {
    return RowGroups(targets.data(), static_cast<int64_t>(targets.size()), static_cast<uint32_t>(shape.out_rows));
  }
};

template <typename T>
const LossKernels<T>& loss_kernels() {
  if constexpr (std::is_same_v<T, float>) return kernels().f32;
  if constexpr (std::is_same_v<T, double>) return kernels().f64;
  if constexpr (std::is_same_v<T, torch::headeronly::BFloat16>) return kernels().bf16;
  if constexpr (std::is_same_v<T, torch::headeronly::Half>) return kernels().f16;
}

std::tuple<Tensor, Tensor> forward(const Tensor& in_weight, const Tensor& out_weight, const Tensor& center,
                                   const Tensor& pos, const Tensor& neg, bool /*sparse_grad*/) {
  const LossShape shape = check_loss_arguments(in_weight, out_weight, center, pos, neg);
  const Indices indices(shape, center, pos, neg);
  const Tensor in = with_contiguous_rows(in_weight), out = with_contiguous_rows(out_weight);
  const ScalarType type = accumulator_type(in_weight);
  Tensor loss = torch::stable::new_empty(in, {shape.batch}, type);
  Tensor coef = torch::stable::new_empty(in, {shape.batch, shape.positives + shape.negatives}, type);
  with_weight_type(in, [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    const Batch<T> batch = indices.batch<T>(in, out);
    A* loss_data = static_cast<A*>(loss.mutable_data_ptr());
    A* coef_data = static_cast<A*>(coef.mutable_data_ptr());
    torch::stable::parallel_for(0, shape.batch, kGrain, [&](int64_t begin, int64_t end) {
      loss_kernels<T>().forward(batch, loss_data, coef_data, nullptr, begin, end);
    });
  });
  return {loss, coef};
}

// What both gradients need, checked: coef and grad_loss come from outside again.
struct Backward {
  Indices indices;
  Tensor in, out, grad_loss, coef;

  Backward(const Tensor& grad, const Tensor& coefficients, const Tensor& in_weight, const Tensor& out_weight,
           const Tensor& center, const Tensor& pos, const Tensor& neg)
      : indices(check_loss_arguments(in_weight, out_weight, center, pos, neg), center, pos, neg),
        in(with_contiguous_rows(in_weight)),
        out(with_contiguous_rows(out_weight)),
        grad_loss(torch::stable::contiguous(grad)),
        coef(torch::stable::contiguous(coefficients)) {
    check_gradient_arguments(grad_loss, coef, in_weight, indices.shape);
  }

  void write(const RowGroups& centers, const RowGroups& targets, bool dense, Tensor& grad_in, Tensor& grad_out) const {
    with_weight_type(in, [&](auto zero) {
      using T = decltype(zero);
      using A = Accumulator<T>;
      const Batch<T> batch = indices.batch<T>(in, out);
      const A* grad_data = static_cast<const A*>(grad_loss.const_data_ptr());
      const A* coef_data = static_cast<const A*>(coef.const_data_ptr());
      T* in_data = static_cast<T*>(grad_in.mutable_data_ptr());
      T* out_data = static_cast<T*>(grad_out.mutable_data_ptr());
      torch::stable::parallel_for(0, batch.batch, kGrain, [&](int64_t begin, int64_t end) {
        loss_kernels<T>().center_rows(batch, grad_data, coef_data, centers.view(), dense, in_data, begin, end);
      });
      torch::stable::parallel_for(0, batch.batch * batch.targets, kGrain, [&](int64_t begin, int64_t end) {
        loss_kernels<T>().target_rows(batch, grad_data, coef_data, targets.view(), dense, out_data, begin, end);
      });
    });
  }
};

std::tuple<Tensor, Tensor> backward(const Tensor& grad_loss, const Tensor& coef, const Tensor& in_weight,
                                    const Tensor& out_weight, const Tensor& center, const Tensor& pos,
                                    const Tensor& neg) {
  const Backward b(grad_loss, coef, in_weight, out_weight, center, pos, neg);
  const LossShape& s = b.indices.shape;
  Tensor grad_in = torch::stable::new_zeros(b.in, {s.in_rows, s.dim});
  Tensor grad_out = torch::stable::new_zeros(b.out, {s.out_rows, s.dim});
  b.write(b.indices.by_center(), b.indices.by_target(), true, grad_in, grad_out);
  return {grad_in, grad_out};
}

Tensor row_numbers(const Tensor& like, const std::vector<uint32_t>& rows) {
  Tensor t = torch::stable::new_empty(like, {static_cast<int64_t>(rows.size())}, ScalarType::Long);
  std::copy(rows.begin(), rows.end(), static_cast<int64_t*>(t.mutable_data_ptr()));
  return t;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward_sparse(const Tensor& grad_loss, const Tensor& coef,
                                                           const Tensor& in_weight, const Tensor& out_weight,
                                                           const Tensor& center, const Tensor& pos, const Tensor& neg) {
  const Backward b(grad_loss, coef, in_weight, out_weight, center, pos, neg);
  const RowGroups centers = b.indices.by_center(), targets = b.indices.by_target();
  Tensor in_rows = row_numbers(b.in, centers.rows()), out_rows = row_numbers(b.in, targets.rows());
  Tensor in_values = torch::stable::new_empty(b.in, {in_rows.size(0), b.indices.shape.dim});
  Tensor out_values = torch::stable::new_empty(b.out, {out_rows.size(0), b.indices.shape.dim});
  b.write(centers, targets, false, in_values, out_values);
  return {in_rows, in_values, out_rows, out_values};
}

Tensor step(const Tensor& in_weight, const Tensor& out_weight, const Tensor& center, const Tensor& pos,
            const Tensor& neg, double scale) {
  const LossShape shape = check_loss_arguments(in_weight, out_weight, center, pos, neg);
  check_in_place(in_weight, out_weight);
  const Indices indices(shape, center, pos, neg);
  const int64_t targets = shape.positives + shape.negatives;
  Tensor loss = torch::stable::new_empty(in_weight, {shape.batch}, accumulator_type(in_weight));
  const RowGroups by_center = indices.by_center(), by_target = indices.by_target();
  with_weight_type(in_weight, [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    const Batch<T> batch = indices.batch<T>(in_weight, out_weight);
    std::vector<A> coef(shape.batch * targets), center_grad(shape.batch * shape.dim);
    A* loss_data = static_cast<A*>(loss.mutable_data_ptr());
    T* in = static_cast<T*>(in_weight.mutable_data_ptr());
    T* out = static_cast<T*>(out_weight.mutable_data_ptr());
    const LossKernels<T>& k = loss_kernels<T>();
    torch::stable::parallel_for(0, shape.batch, kGrain, [&](int64_t begin, int64_t end) {
      k.forward(batch, loss_data, coef.data(), center_grad.data(), begin, end);
    });
    torch::stable::parallel_for(0, shape.batch * targets, kGrain, [&](int64_t begin, int64_t end) {
      k.step_targets(batch, coef.data(), by_target.view(), scale, out, begin, end);  // reads in, still as it was
    });
    torch::stable::parallel_for(0, shape.batch, kGrain, [&](int64_t begin, int64_t end) {
      k.step_centers(batch, center_grad.data(), by_center.view(), scale, in, begin, end);
    });
  });
  return loss;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CPU, m) {
  m.impl("negative_sampling_loss", TORCH_BOX(&forward));
  m.impl("negative_sampling_loss_backward", TORCH_BOX(&backward));
  m.impl("negative_sampling_loss_backward_sparse", TORCH_BOX(&backward_sparse));
  m.impl("sgns_step_", TORCH_BOX(&step));
}

}  // namespace w2v
