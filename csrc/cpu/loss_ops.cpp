// negative_sampling_loss, its gradients and sgns_step_ on the CPU: checks, index preparation, and the sharing of work
// among PyTorch's threads. The kernels are in loss_kernel.h.
#include <torch/csrc/stable/library.h>

#include <atomic>
#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "../checks.h"
#include "kernels.h"
#include "segments.h"

namespace w2v {
namespace {

constexpr int64_t kExamples = 64, kSlots = 512;  // that are worth a thread

// Copies rows [begin, end) of an index tensor, row order[i] (i, if null) to dst + i * pitch. False where one is out of
// range: uncommon enough for a second look at them all, to say which.
template <typename I>
bool copy_rows(const Tensor& t, int64_t rows, int64_t width, const uint32_t* order, uint32_t* dst, int64_t pitch,
               int64_t begin, int64_t end) {
  const I* data = t.const_data_ptr<I>();
  const int64_t s0 = t.stride(0), s1 = t.dim() == 2 ? t.stride(1) : 0;
  bool good = true;
  for (int64_t i = begin; i < end; ++i) {
    const I* from = data + (order == nullptr ? i : int64_t{order[i]}) * s0;
    for (int64_t j = 0; j < width; ++j) {
      const int64_t index = from[j * s1];
      good &= static_cast<uint64_t>(index) < static_cast<uint64_t>(rows);
      dst[i * pitch + j] = static_cast<uint32_t>(index);
    }
  }
  return good;
}

template <typename I>
[[noreturn]] void refuse_index(const Tensor& t, int64_t rows, const char* name, const char* weight_name) {
  const I* data = t.const_data_ptr<I>();
  for (int64_t b = 0; b < t.size(0); ++b)
    for (int64_t j = 0; j < (t.dim() == 2 ? t.size(1) : 1); ++j) {
      const int64_t index = data[b * t.stride(0) + (t.dim() == 2 ? j * t.stride(1) : 0)];
      if (index < 0 || index >= rows)
        throw std::out_of_range(text(name, ": index ", index, " at position ", b,
                                     t.dim() == 2 ? text(", ", j) : std::string(), " is out of range for ", weight_name,
                                     " with ", rows, " rows"));
    }
  throw std::out_of_range(text(name, ": indices changed while they were read"));
}

void copy_indices(const Tensor& t, int64_t rows, const char* name, const char* weight_name, const uint32_t* order,
                  uint32_t* dst, int64_t pitch) {
  const bool is_int = t.scalar_type() == ScalarType::Int;
  const int64_t width = t.dim() == 2 ? t.size(1) : 1;
  if (width == 0) return;
  std::atomic<bool> good{true};
  share(t.size(0), kSlots, [&](int64_t begin, int64_t end) {
    if (!(is_int ? copy_rows<int32_t> : copy_rows<int64_t>)(t, rows, width, order, dst, pitch, begin, end))
      good = false;
  });
  if (!good) (is_int ? refuse_index<int32_t> : refuse_index<int64_t>)(t, rows, name, weight_name);
}

template <typename T>
LossBatch<T> batch_of(const LossShape& s, const Tensor& in_weight, const Tensor& out_weight, const uint32_t* center,
                      const uint32_t* index) {
  return {static_cast<const T*>(in_weight.const_data_ptr()),
          static_cast<const T*>(out_weight.const_data_ptr()),
          in_weight.stride(0),
          out_weight.stride(0),
          s.dim,
          center,
          index,
          s.batch,
          s.positives,
          s.positives + s.negatives};
}

// The indices of a batch, checked once and laid side by side.
struct Indices {
  std::unique_ptr<uint32_t[]> center, targets;

  Indices(const LossShape& s, const Tensor& center_index)
      : center(scratch<uint32_t>(s.batch)), targets(scratch<uint32_t>(s.batch * (s.positives + s.negatives))) {
    copy_indices(center_index, s.in_rows, "center", "in_weight", nullptr, center.get(), 1);
  }
  void copy_targets(const LossShape& s, const Tensor& pos, const Tensor& neg, const uint32_t* order) {
    const int64_t pitch = s.positives + s.negatives;
    copy_indices(pos, s.out_rows, "pos", "out_weight", order, targets.get(), pitch);
    copy_indices(neg, s.out_rows, "neg", "out_weight", order, targets.get() + s.positives, pitch);
  }
};

// The examples grouped by centre, and the targets, laid out in the centres' order, grouped by row.
struct Groups {
  Indices indices;
  RowGroups centers, targets;

  Groups(const LossShape& s, const Tensor& center, const Tensor& pos, const Tensor& neg)
      : indices(s, center),
        centers(indices.center.get(), s.batch, static_cast<uint32_t>(s.in_rows), RowGroups::Keep::kOrder),
        targets((indices.copy_targets(s, pos, neg, centers.view().order), indices.targets.get()),
                s.batch * (s.positives + s.negatives), static_cast<uint32_t>(s.out_rows), RowGroups::Keep::kSlot) {}
};

template <typename T>
const LossKernels<T>& loss_kernels() {
  if constexpr (std::is_same_v<T, float>) return kernels().f32;
  if constexpr (std::is_same_v<T, double>) return kernels().f64;
  if constexpr (std::is_same_v<T, torch::headeronly::BFloat16>) return kernels().bf16;
  if constexpr (std::is_same_v<T, torch::headeronly::Half>) return kernels().f16;
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& in_weight, const Tensor& out_weight, const Tensor& center,
                                           const Tensor& pos, const Tensor& neg, bool /*sparse_grad*/,
                                           bool /*with_center_grad*/) {
  const LossShape shape = check_loss_arguments(in_weight, out_weight, center, pos, neg);
  Indices indices(shape, center);
  indices.copy_targets(shape, pos, neg, nullptr);
  const Tensor in = with_contiguous_rows(in_weight), out = with_contiguous_rows(out_weight);
  const ScalarType type = accumulator_type(in_weight);
  Tensor loss = torch::stable::new_empty(in, {shape.batch}, type);
  Tensor coef = torch::stable::new_empty(in, {shape.batch, shape.positives + shape.negatives}, type);
  with_weight_type(in, [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    const LossBatch<T> batch = batch_of<T>(shape, in, out, indices.center.get(), indices.targets.get());
    A* loss_data = static_cast<A*>(loss.mutable_data_ptr());
    A* coef_data = static_cast<A*>(coef.mutable_data_ptr());
    const LossKernels<T>& k = loss_kernels<T>();  // here: what it says of a machine that lacks them must be read
    share(shape.batch, kExamples,
          [&](int64_t begin, int64_t end) { k.forward(batch, loss_data, coef_data, begin, end); });
  });
  return {loss, coef, torch::stable::new_empty(in, {shape.batch, 0}, type)};
}

// What both gradients need, checked: coef and grad_loss come from outside again.
struct Backward {
  LossShape shape;
  Tensor in, out, grad_loss, coef;
  Groups groups;

  Backward(const Tensor& grad, const Tensor& coefficients, const Tensor& in_weight, const Tensor& out_weight,
           const Tensor& center, const Tensor& pos, const Tensor& neg)
      : shape(check_loss_arguments(in_weight, out_weight, center, pos, neg)),
        in(with_contiguous_rows(in_weight)),
        out(with_contiguous_rows(out_weight)),
        grad_loss(torch::stable::contiguous(grad)),
        coef(torch::stable::contiguous(coefficients)),
        groups((check_gradient_arguments(grad_loss, coef, in_weight, shape), shape), center, pos, neg) {}

  void write(bool dense, Tensor& grad_in, Tensor& grad_out) const {
    with_weight_type(in, [&](auto zero) {
      using T = decltype(zero);
      using A = Accumulator<T>;
      using How = typename RowSink<T>::How;
      const LossBatch<T> batch = batch_of<T>(shape, in, out, groups.indices.center.get(), groups.indices.targets.get());
      const int64_t slots = batch.batch * batch.targets;
      const auto occurrences = scratch<Occurrence<A>>(slots);
      const How how = dense ? How::kRow : How::kSegment;
      const RowSink<T> in_sink{static_cast<T*>(grad_in.mutable_data_ptr()), shape.dim, how};
      const RowSink<T> out_sink{static_cast<T*>(grad_out.mutable_data_ptr()), shape.dim, how};
      const CenterPass<T> pass{groups.centers.view(),
                               groups.targets.slots(),
                               occurrences.get(),
                               static_cast<const A*>(grad_loss.const_data_ptr()),
                               static_cast<const A*>(coef.const_data_ptr()),
                               nullptr,
                               nullptr,
                               in_sink};
      const LossKernels<T>& k = loss_kernels<T>();
      share(batch.batch, kExamples, [&](int64_t begin, int64_t end) { k.centers(batch, pass, begin, end); });
      share(slots, kSlots, [&](int64_t begin, int64_t end) {
        k.targets(batch, groups.targets.view(), occurrences.get(), out_sink, begin, end);
      });
    });
  }
};

std::tuple<Tensor, Tensor> backward(const Tensor& grad_loss, const Tensor& coef, const Tensor& in_weight,
                                    const Tensor& out_weight, const Tensor& center, const Tensor& pos,
                                    const Tensor& neg, const std::optional<Tensor>& /*center_grad*/) {
  const Backward b(grad_loss, coef, in_weight, out_weight, center, pos, neg);
  Tensor grad_in = torch::stable::new_zeros(b.in, {b.shape.in_rows, b.shape.dim});
  Tensor grad_out = torch::stable::new_zeros(b.out, {b.shape.out_rows, b.shape.dim});
  b.write(true, grad_in, grad_out);
  return {grad_in, grad_out};
}

Tensor row_numbers(const Tensor& like, const std::vector<uint32_t>& rows) {
  Tensor t = torch::stable::new_empty(like, {static_cast<int64_t>(rows.size())}, ScalarType::Long);
  std::copy(rows.begin(), rows.end(), static_cast<int64_t*>(t.mutable_data_ptr()));
  return t;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward_sparse(const Tensor& grad_loss, const Tensor& coef,
                                                           const Tensor& in_weight, const Tensor& out_weight,
                                                           const Tensor& center, const Tensor& pos, const Tensor& neg,
                                                           const std::optional<Tensor>& /*center_grad*/) {
  const Backward b(grad_loss, coef, in_weight, out_weight, center, pos, neg);
  Tensor in_rows = row_numbers(b.in, b.groups.centers.rows()), out_rows = row_numbers(b.in, b.groups.targets.rows());
  Tensor in_values = torch::stable::new_empty(b.in, {in_rows.size(0), b.shape.dim});
  Tensor out_values = torch::stable::new_empty(b.out, {out_rows.size(0), b.shape.dim});
  b.write(false, in_values, out_values);
  return {in_rows, in_values, out_rows, out_values};
}

// The targets' rows need in_weight as it was, and its own sums need out_weight as it was: those wait in a table.
Tensor step(const Tensor& in_weight, const Tensor& out_weight, const Tensor& center, const Tensor& pos,
            const Tensor& neg, double scale) {
  const LossShape shape = check_loss_arguments(in_weight, out_weight, center, pos, neg);
  check_in_place(in_weight, out_weight);
  const Groups groups(shape, center, pos, neg);
  Tensor loss = torch::stable::new_empty(in_weight, {shape.batch}, accumulator_type(in_weight));
  with_weight_type(in_weight, [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    using How = typename RowSink<T>::How;
    const LossBatch<T> batch =
        batch_of<T>(shape, in_weight, out_weight, groups.indices.center.get(), groups.indices.targets.get());
    const Segments centers = groups.centers.view(), targets = groups.targets.view();
    const int64_t slots = batch.batch * batch.targets;
    const auto occurrences = scratch<Occurrence<A>>(slots);
    const auto sums = scratch<A>(centers.count * shape.dim);
    const RowSink<T> in{static_cast<T*>(in_weight.mutable_data_ptr()), batch.in_stride, How::kStep, scale};
    const RowSink<T> out{static_cast<T*>(out_weight.mutable_data_ptr()), batch.out_stride, How::kStep, scale};
    A* loss_data = static_cast<A*>(loss.mutable_data_ptr());
    const CenterPass<T> pass{
        centers, groups.targets.slots(), occurrences.get(), nullptr, nullptr, loss_data, sums.get(), in};
    const LossKernels<T>& k = loss_kernels<T>();
    share(batch.batch, kExamples, [&](int64_t begin, int64_t end) { k.centers(batch, pass, begin, end); });
    share(slots, kSlots,
          [&](int64_t begin, int64_t end) { k.targets(batch, targets, occurrences.get(), out, begin, end); });
    share(centers.count, kSlots,
          [&](int64_t begin, int64_t end) { k.add(centers, sums.get(), shape.dim, in, begin, end); });
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
