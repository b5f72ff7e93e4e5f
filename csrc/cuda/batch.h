// A batch of the loss as its kernels see it, and how a warp's lanes share the columns of a row: 4 each of 128 at a
// time.
#pragma once
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>

#include "launch.h"

namespace w2v {

constexpr int kQuad = 4;               // columns of a lane at a time
constexpr int kPiece = kQuad * kWarp;  // of a warp

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

  __device__ void check_center(int64_t row) const {
    W2V_DEVICE_ASSERT(row >= 0 && row < in_rows && "center: index out of range for in_weight");
  }
  __device__ void check_target(int64_t j, int64_t row) const {
    if (j < positives)
      W2V_DEVICE_ASSERT(row >= 0 && row < out_rows && "pos: index out of range for out_weight");
    else
      W2V_DEVICE_ASSERT(row >= 0 && row < out_rows && "neg: index out of range for out_weight");
  }

  // Called once per example, by its warp, before its rows are used.
  __device__ void check_indices(int64_t b) const {
    check_center(center_row(b));
    for (int64_t j = lane_of_warp(); j < targets; j += kWarp) check_target(j, target_row(b, j));
    __syncwarp();  // no lane uses an index that another one refuses
  }

  // Lane t's row is that of target first + t: neighbours, read at once; others then ask for it by a shuffle.
  __device__ int64_t lane_target(int64_t b, int64_t first) const {
    const int64_t j = first + lane_of_warp();
    return b < batch && j < targets ? target_row(b, j) : 0;
  }
  __device__ void check_lane_target(int64_t first, int64_t row) const {
    const int64_t j = first + lane_of_warp();
    if (j < targets) check_target(j, row);
    __syncwarp();  // no lane uses an index that another one refuses
  }

  __device__ int64_t center_row(int64_t b) const { return center.at(b, 0); }
  __device__ int64_t target_row(int64_t b, int64_t j) const {
    const bool positive = j < positives;  // a choice of addresses, not of two reads that a warp makes in turn
    const IndexView view{positive ? pos.data : neg.data, positive ? pos.row_stride : neg.row_stride,
                         positive ? pos.column_stride : neg.column_stride, positive ? pos.wide : neg.wide};
    return view.at(b, positive ? j : j - positives);
  }
  __device__ const T* v(int64_t b) const { return in + center_row(b) * in_stride; }
  __device__ const T* u(int64_t b, int64_t j) const { return out + target_row(b, j) * out_stride; }
};

// A lane's 4 columns of the 128 from `first` on. kWide: 4 neighbours, read at once, where all rows start on a multiple
// of 4 numbers and D is one too; otherwise every 32nd, so that the warp's reads are of neighbours.
template <bool kWide>
__device__ inline int64_t column(int64_t first, int i) {
  return kWide ? first + lane_of_warp() * kQuad + i : first + i * kWarp + lane_of_warp();
}

template <typename T>
struct alignas(kQuad * sizeof(T) < 16 ? kQuad * sizeof(T) : 16) Quad {
  T x[kQuad];
};

template <bool kWide, typename T>
__device__ inline Quad<T> load_quad(const T* row, int64_t first, int64_t dim) {
  Quad<T> q;
  if constexpr (kWide) {
    const int64_t d = column<true>(first, 0);
    if (d < dim) {
      q = *reinterpret_cast<const Quad<T>*>(row + d);
    } else {
#pragma unroll
      for (int i = 0; i < kQuad; ++i) q.x[i] = static_cast<T>(0);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      const int64_t d = column<false>(first, i);
      q.x[i] = d < dim ? row[d] : static_cast<T>(0);
    }
  }
  return q;
}

// The wide columns of a row.
template <typename T>
__device__ inline void store_quad(T* row, int64_t first, int64_t dim, const Quad<T>& q) {
  const int64_t d = column<true>(first, 0);
  if (d < dim) *reinterpret_cast<Quad<T>*>(row + d) = q;
}

// The same for numbers that nothing reads soon: the L2 cache gives them up first, and keeps what is read again.
template <typename T>
__device__ inline void stream_quad(T* row, int64_t first, int64_t dim, const Quad<T>& q) {
#ifdef __CUDACC__
  if constexpr (std::is_same_v<T, float>) {
    const int64_t d = column<true>(first, 0);
    if (d < dim) __stcs(reinterpret_cast<float4*>(row + d), make_float4(q.x[0], q.x[1], q.x[2], q.x[3]));
    return;
  }
#endif
  store_quad(row, first, dim, q);
}

// row += x, atomically: 16 bytes at a time where the chip can and kWide holds, else number by number.
template <bool kWide, typename A>
__device__ inline void add_quad(A* row, int64_t first, int64_t dim, const A (&x)[kQuad]) {
#if __CUDA_ARCH__ >= 900
  constexpr bool kVector = kWide && std::is_same_v<A, float>;
#else
  constexpr bool kVector = false;
#endif
  if constexpr (kVector) {
    const int64_t d = column<true>(first, 0);
    if (d < dim)
      asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(row + d)),
                   "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3])
                   : "memory");
  } else {
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      const int64_t d = column<kWide>(first, i);
      if (d < dim) atomicAdd(row + d, x[i]);
    }
  }
}

// ---- on the host ---------------------------------------------------------------------------------------------------

// Not written out where they are used: nvcc 13.0 garbles braced sizes inside a template.
inline Tensor new_matrix(const Tensor& like, int64_t rows, int64_t columns) {
  return torch::stable::new_empty(like, {rows, columns}, accumulator_type(like));
}

inline Tensor new_zero_matrix(const Tensor& like, int64_t rows, int64_t columns, ScalarType type) {
  return torch::stable::new_zeros(like, {rows, columns}, type);
}

inline Tensor new_losses(const Tensor& like, int64_t batch) {
  return torch::stable::new_empty(like, {batch}, accumulator_type(like));
}

template <typename A>
const A* data(const Tensor& t) {
  return static_cast<const A*>(t.const_data_ptr());
}

template <typename A>
A* mutable_data(const Tensor& t) {
  return static_cast<A*>(t.mutable_data_ptr());
}

inline IndexView index_view(const Tensor& t) {
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

// Whether 4 columns can be read at once. Not of float64: 32 bytes are two reads in any case.
template <typename T>
bool rows_are_wide(const Batch<T>& batch) {
  const auto aligned = [](const T* data) { return reinterpret_cast<uintptr_t>(data) % sizeof(Quad<T>) == 0; };
  return sizeof(T) <= 4 && batch.dim % kQuad == 0 && batch.in_stride % kQuad == 0 && batch.out_stride % kQuad == 0 &&
         aligned(batch.in) && aligned(batch.out);
}

// ---- the sorted path, sorted.cu ------------------------------------------------------------------------------------

// Gradients of (loss * grad_loss).sum(), each row summed in a fixed order, in float32 (float64), and rounded once.
// center_grad (B, D) = d loss.sum() / d v.
template <typename T>
void sorted_gradients(const Batch<T>& batch, const Tensor& grad_loss, const Tensor& coef, const Tensor& center_grad,
                      const Tensor& grad_in, const Tensor& grad_out);

// weight += factor * gradient, likewise.
template <typename T>
void sorted_step(const Batch<T>& batch, const Tensor& coef, const Tensor& center_grad, Accumulator<T> factor,
                 const Tensor& in, const Tensor& out);

}  // namespace w2v
