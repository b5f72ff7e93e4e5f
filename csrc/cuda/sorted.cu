// Gradients and steps whose rows are summed in a fixed order: the same bits in every run, and one rounding per number.
//
// The occurrences of all rows are sorted by row, stably (PyTorch's radix sort). A warp takes 64 neighbours in that
// order, which fall into runs of one row each, and sums every run in float32 (float64): a run that lies in its 64 as a
// whole is finished there; the parts of the others go to memory, at most two per warp, and are summed by the warp at
// whose place the run begins, in a second kernel, one part after the other. No atomics; what a frequent row costs is
// 1/64 of its occurrences one after the other.
//
// Traffic, in rows of D numbers: an occurrence reads one (the centre's v, or its gradient), mostly from the L2 cache,
// as T = P + K targets share it; each different row is written once (a step: and read once). The sort moves 12 bytes
// per occurrence a few times.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <optional>

#include "../checks.h"
#include "batch.h"

namespace w2v {
namespace {

constexpr int kRun = 64;  // occurrences of a warp

// The rows of centres (targets false) or of targets, one for each occurrence.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks) gather_rows(const Batch<T> batch, bool targets, int64_t* rows) {
  const int64_t width = targets ? batch.targets : 1, count = batch.batch * width;
  for (int64_t i = first_item<1>(); i < count; i += item_stride<1>()) {
    const int64_t b = i / width, j = i % width;
    const int64_t row = targets ? batch.target_row(b, j) : batch.center_row(b);
    W2V_DEVICE_ASSERT(row >= 0 && row < (targets ? batch.out_rows : batch.in_rows) && "index out of range");
    rows[i] = row;
  }
}

// What occurrence i adds to its row: a target coef * grad_loss * v of its example, ...
template <typename T>
struct TargetTerms {
  Batch<T> batch;
  const Accumulator<T>* grad_loss;  // null means ones
  const Accumulator<T>* coef;

  __device__ void add(int64_t i, int64_t piece, Accumulator<T> (&sum)[kQuad]) const {
    using A = Accumulator<T>;
    const int64_t b = i / batch.targets;
    const A slope = grad_loss == nullptr ? coef[i] : grad_loss[b] * coef[i];
    const Quad<T> v = load_quad<false>(batch.v(b), piece, batch.dim);
#pragma unroll
    for (int c = 0; c < kQuad; ++c) sum[c] += slope * static_cast<A>(v.x[c]);
  }
};

// ... a centre grad_loss times the gradient of its example.
template <typename A>
struct CenterTerms {
  const A* grad_loss;  // null means ones
  const A* center_grad;
  int64_t dim;

  __device__ void add(int64_t i, int64_t piece, A (&sum)[kQuad]) const {
    const A scale = grad_loss == nullptr ? A(1) : grad_loss[i];
    const Quad<A> grad = load_quad<false>(center_grad + i * dim, piece, dim);
#pragma unroll
    for (int c = 0; c < kQuad; ++c) sum[c] += scale * grad.x[c];
  }
};

// Where a row's sum goes: number = keep * number + factor * sum.
template <typename T>
struct Rows {
  T* data;
  int64_t stride, dim;
  bool keep;
  Accumulator<T> factor;

  __device__ void put(int64_t row, int64_t piece, const Accumulator<T> (&sum)[kQuad]) const {
    using A = Accumulator<T>;
#pragma unroll
    for (int c = 0; c < kQuad; ++c) {
      const int64_t d = column<false>(piece, c);
      if (d >= dim) continue;
      T* number = data + row * stride + d;
      *number = static_cast<T>((keep ? static_cast<A>(*number) : A(0)) + factor * sum[c]);
    }
  }
};

// The occurrences in the order of their rows, cut into groups of kRun. A run may go on over several groups: its part at
// the end of the group where it begins is parts[2 g + 1], those at the beginning of the groups after it parts[2 g].
struct Sorted {
  const int64_t* rows;   // ascending
  const int64_t* order;  // which occurrence
  int64_t count;

  __device__ int64_t begin(int64_t group) const { return group * kRun; }
  __device__ int64_t end(int64_t group) const { return (group + 1) * kRun < count ? (group + 1) * kRun : count; }
  __device__ bool starts(int64_t i) const { return i == 0 || rows[i - 1] != rows[i]; }
  __device__ bool ends(int64_t i) const { return i + 1 == count || rows[i + 1] != rows[i]; }
};

template <typename A>
__device__ inline void store_part(A* parts, int64_t part, int64_t piece, int64_t dim, const A (&sum)[kQuad]) {
#pragma unroll
  for (int c = 0; c < kQuad; ++c)
    if (column<false>(piece, c) < dim) parts[part * dim + column<false>(piece, c)] = sum[c];
}

template <typename T, typename Terms>
__global__ void __launch_bounds__(kThreads, kBlocks)
    sum_groups(const Sorted sorted, const Terms terms, const Rows<T> rows, int64_t groups, Accumulator<T>* parts) {
  using A = Accumulator<T>;
  for (int64_t g = first_item<kWarp>(); g < groups; g += item_stride<kWarp>()) {
    const int64_t begin = sorted.begin(g), end = sorted.end(g);
    for (int64_t piece = 0; piece < rows.dim; piece += kPiece) {
      int64_t run = begin;  // where the run that is summed begins, in this group
      while (run < end) {
        A sum[kQuad] = {};
        int64_t i = run;
        for (; i < end && sorted.rows[i] == sorted.rows[run]; ++i) terms.add(sorted.order[i], piece, sum);
        if (!sorted.starts(run)) {
          store_part(parts, 2 * g, piece, rows.dim, sum);
        } else if (!sorted.ends(i - 1)) {
          store_part(parts, 2 * g + 1, piece, rows.dim, sum);
        } else {
          rows.put(sorted.rows[run], piece, sum);
        }
        run = i;
      }
    }
  }
}

// Sums the parts of the run that begins in a group and goes on behind it.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    sum_parts(const Sorted sorted, const Rows<T> rows, int64_t groups, const Accumulator<T>* parts) {
  using A = Accumulator<T>;
  for (int64_t g = first_item<kWarp>(); g < groups; g += item_stride<kWarp>()) {
    const int64_t last = sorted.end(g) - 1, row = sorted.rows[last];
    if (sorted.ends(last)) continue;
    const int64_t begin = sorted.begin(g);
    if (sorted.rows[begin] == row && !sorted.starts(begin)) continue;  // began before this group
    for (int64_t piece = 0; piece < rows.dim; piece += kPiece) {
      A sum[kQuad];
      const Quad<A> first = load_quad<false>(parts + (2 * g + 1) * rows.dim, piece, rows.dim);
#pragma unroll
      for (int c = 0; c < kQuad; ++c) sum[c] = first.x[c];
      for (int64_t next = g + 1; next < groups && sorted.rows[sorted.begin(next)] == row; ++next) {
        const Quad<A> part = load_quad<false>(parts + 2 * next * rows.dim, piece, rows.dim);
#pragma unroll
        for (int c = 0; c < kQuad; ++c) sum[c] += part.x[c];
      }
      rows.put(row, piece, sum);
    }
  }
}

// ---- on the host ---------------------------------------------------------------------------------------------------

Tensor new_rows(const Tensor& like, int64_t count) { return torch::stable::new_empty(like, {count}, ScalarType::Long); }

// rows, ascending, and where they were: aten::sort, stable, which needs no look at the data from the host.
std::array<Tensor, 2> sort_rows(const Tensor& rows) {
  std::array<StableIValue, 4> stack{torch::stable::detail::from(rows),
                                    torch::stable::detail::from(std::optional<bool>(true)),
                                    torch::stable::detail::from(int64_t{0}), torch::stable::detail::from(false)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

template <typename T, typename Terms>
void sum_sorted(const Batch<T>& batch, const Tensor& on, bool targets, const Terms& terms, const Rows<T>& rows) {
  using A = Accumulator<T>;
  const int64_t count = batch.batch * (targets ? batch.targets : 1);
  if (count == 0 || batch.dim == 0) return;
  const Tensor unsorted = new_rows(on, count);
  launch<1>("gather_rows", on, count, gather_rows<T>, batch, targets, mutable_data<int64_t>(unsorted));
  const std::array<Tensor, 2> sorting = sort_rows(unsorted);
  const Sorted sorted{data<int64_t>(sorting[0]), data<int64_t>(sorting[1]), count};
  const int64_t groups = (count + kRun - 1) / kRun;
  const Tensor parts = new_matrix(on, 2 * groups, batch.dim);
  launch<kWarp>("sum_groups", on, groups, sum_groups<T, Terms>, sorted, terms, rows, groups, mutable_data<A>(parts));
  launch<kWarp>("sum_parts", on, groups, sum_parts<T>, sorted, rows, groups, data<A>(parts));
}

}  // namespace

template <typename T>
void sorted_gradients(const Batch<T>& batch, const Tensor& grad_loss, const Tensor& coef, const Tensor& center_grad,
                      const Tensor& grad_in, const Tensor& grad_out) {
  using A = Accumulator<T>;
  sum_sorted<T>(batch, grad_in, false, CenterTerms<A>{data<A>(grad_loss), data<A>(center_grad), batch.dim},
                Rows<T>{mutable_data<T>(grad_in), batch.dim, batch.dim, false, A(1)});
  sum_sorted<T>(batch, grad_in, true, TargetTerms<T>{batch, data<A>(grad_loss), data<A>(coef)},
                Rows<T>{mutable_data<T>(grad_out), batch.dim, batch.dim, false, A(1)});
}

template <typename T>
void sorted_step(const Batch<T>& batch, const Tensor& coef, const Tensor& center_grad, Accumulator<T> factor,
                 const Tensor& in, const Tensor& out) {
  using A = Accumulator<T>;
  const A* ones = nullptr;
  sum_sorted<T>(batch, in, true, TargetTerms<T>{batch, ones, data<A>(coef)},  // reads in, still as it was
                Rows<T>{mutable_data<T>(out), batch.out_stride, batch.dim, true, factor});
  sum_sorted<T>(batch, in, false, CenterTerms<A>{ones, data<A>(center_grad), batch.dim},
                Rows<T>{mutable_data<T>(in), batch.in_stride, batch.dim, true, factor});
}

#define W2V_SORTED(T)                                                                                            \
  template void sorted_gradients<T>(const Batch<T>&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, \
                                    const Tensor&);                                                              \
  template void sorted_step<T>(const Batch<T>&, const Tensor&, const Tensor&, Accumulator<T>, const Tensor&,     \
                               const Tensor&);
W2V_SORTED(float)
W2V_SORTED(double)
W2V_SORTED(torch::headeronly::BFloat16)
W2V_SORTED(torch::headeronly::Half)
#undef W2V_SORTED

}  // namespace w2v
