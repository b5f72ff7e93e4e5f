// The kernels of loss.cu, which says what they do and what bounds them.
#pragma once
#include "batch.h"
#include "occurrences.h"

namespace w2v {

template <typename T>
constexpr int kTile = sizeof(T) <= 4 ? 16 : 4;  // targets at a time: their rows take 64 registers (float64: 32)
constexpr int kForwardBlocks = 4;               // on an SM, and no more: 128 registers; a warp has several examples
constexpr int kAddBlocks = 5;                   // 96

// A step as loss_forward sees it: where slopes go, and what is stepped at once.
struct ListedStep {
  Listed listed;
  float factor;
  float* out;
};

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
// kListed: for a step, see occurrences.h. Slopes go to the list, not to coef; rows that occur once, if they are held,
// are stepped here.
template <typename T, bool kWide, bool kHeld, bool kListed>
__global__ void __launch_bounds__(kThreads, kForwardBlocks)
    loss_forward(const Batch<T> batch, const ListedStep step, Accumulator<T>* loss, Accumulator<T>* coef,
                 Accumulator<T>* center_grad) {
  using A = Accumulator<T>;
  constexpr int kOwn = kTile<T>;
  const int lane = lane_of_warp(), own = lane % kOwn;  // the target of a tile whose score comes to this lane
  int64_t b = first_item<kWarp>();
  int64_t next_center = b < batch.batch ? batch.center_row(b) : 0, next_target = batch.lane_target(b, 0);
  for (; b < batch.batch; b += item_stride<kWarp>()) {
    const int64_t center = next_center, after = b + item_stride<kWarp>();
    int64_t target = next_target;  // the row of target first + lane
    if (after < batch.batch) next_center = batch.center_row(after);
    next_target = batch.lane_target(after, 0);
    batch.check_center(center);
    const T* v = batch.in + center * batch.in_stride;
    A total = 0;
    for (int64_t first = 0; first < batch.targets; first += kOwn) {
      const int count = static_cast<int>(batch.targets - first < kOwn ? batch.targets - first : kOwn);
      if (first > 0) target = batch.lane_target(b, first);
      batch.check_lane_target(first, target);
      const uint32_t own_row = static_cast<uint32_t>(target);  // there are fewer than 2^32
      RowUse use = {};  // asked for before the rows, as the slope is known after them
      uint32_t rank = 0;
      if constexpr (kListed) {
        if (lane < count) {
          use = step.listed.uses[target];
          rank = step.listed.ranks[b * batch.targets + first + lane];
        }
      }
      Quad<T> held[kOwn], x;
      A score[kOwn] = {};
      for (int64_t piece = 0; piece < (kHeld ? 1 : batch.dim); piece += kPiece) {
        x = load_quad<kWide>(v, piece, batch.dim);
#pragma unroll
        for (int t = 0; t < kOwn; ++t) {
          const int64_t row = __shfl_sync(0xFFFFFFFFu, own_row, t);
          if (t < count) held[t] = load_quad<kWide>(batch.out + row * batch.out_stride, piece, batch.dim);
        }
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
      const bool once = kListed && kHeld && use.count == 1;
      if (lane < count) {
        total += (s < 0 ? A(0) : s) + log1p(e);
        if constexpr (!kListed)
          coef[b * batch.targets + first + lane] = slope;
        else if (!once)
          step.listed.leave(target, use, rank, slope, center);
      }
      if (center_grad == nullptr) continue;
      const uint32_t alone = kListed && kHeld ? __ballot_sync(0xFFFFFFFFu, once) : 0;
      for (int64_t piece = 0; piece < (kHeld ? 1 : batch.dim); piece += kPiece) {
        Quad<A> grad = {};
#pragma unroll
        for (int t = 0; t < kOwn; ++t) {
          const A g = __shfl_sync(0xFFFFFFFFu, slope, t);
          int64_t row = 0;
          if constexpr (kListed || !kHeld) row = __shfl_sync(0xFFFFFFFFu, own_row, t);
          if (t >= count) continue;
          if constexpr (!kHeld) held[t] = load_quad<kWide>(batch.out + row * batch.out_stride, piece, batch.dim);
#pragma unroll
          for (int i = 0; i < kQuad; ++i) grad.x[i] += g * static_cast<A>(held[t].x[i]);
          if constexpr (kListed && kHeld) {
            if ((alone >> t & 1) == 0) continue;
#pragma unroll
            for (int i = 0; i < kQuad; ++i) held[t].x[i] += step.factor * (g * x.x[i]);
            stream_quad(step.out + row * batch.out_stride, piece, batch.dim, held[t]);
          }
        }
        A* row = center_grad + b * batch.dim;
        if constexpr (kWide) {
          if (first > 0) {
            const Quad<A> before = load_quad<true>(row, piece, batch.dim);
#pragma unroll
            for (int i = 0; i < kQuad; ++i) grad.x[i] += before.x[i];
          }
          store_quad(row, piece, batch.dim, grad);
        } else {
#pragma unroll
          for (int i = 0; i < kQuad; ++i) {
            const int64_t d = column<false>(piece, i);
            if (d < batch.dim) row[d] = first == 0 ? grad.x[i] : row[d] + grad.x[i];
          }
        }
      }
    }
    total = warp_sum(total);
    if (lane == 0) loss[b] = total;
    if (center_grad != nullptr && batch.targets == 0)
      for (int64_t d = lane; d < batch.dim; d += kWarp) center_grad[b * batch.dim + d] = 0;
  }
}

// center_grad (B, D) = sum_j coef_j u_j, where loss_forward was not asked for it.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    center_gradients(const Batch<T> batch, const Accumulator<T>* coef, Accumulator<T>* center_grad) {
  using A = Accumulator<T>;
  for (int64_t b = first_item<kWarp>(); b < batch.batch; b += item_stride<kWarp>()) {
    batch.check_indices(b);
    for (int64_t piece = 0; piece < batch.dim; piece += kPiece) {
      A sum[kQuad] = {};
#pragma unroll 4
      for (int64_t j = 0; j < batch.targets; ++j) {
        const Quad<T> u = load_quad<false>(batch.u(b, j), piece, batch.dim);
        const A slope = coef[b * batch.targets + j];
#pragma unroll
        for (int i = 0; i < kQuad; ++i) sum[i] += slope * static_cast<A>(u.x[i]);
      }
#pragma unroll
      for (int i = 0; i < kQuad; ++i)
        if (column<false>(piece, i) < batch.dim) center_grad[b * batch.dim + column<false>(piece, i)] = sum[i];
    }
  }
}

// in += factor * grad_loss * center_grad (B, D); no grad_loss means ones. Rows of stride numbers.
template <typename T, bool kWide, typename A>
__device__ inline void add_center(const Batch<T>& batch, int64_t b, A scale, const A* center_grad, A* in,
                                  int64_t stride) {
  A* row = in + batch.center_row(b) * stride;
  for (int64_t piece = 0; piece < batch.dim; piece += kPiece) {
    const Quad<A> grad = load_quad<kWide>(center_grad + b * batch.dim, piece, batch.dim);
    A step[kQuad];
#pragma unroll
    for (int i = 0; i < kQuad; ++i) step[i] = scale * grad.x[i];
    add_quad<kWide>(row, piece, batch.dim, step);
  }
}

template <typename T, bool kWide>
__global__ void __launch_bounds__(kThreads, kBlocks)
    add_centers(const Batch<T> batch, const Accumulator<T>* grad_loss, const Accumulator<T>* center_grad,
                Accumulator<T> factor, Accumulator<T>* in, int64_t stride) {
  for (int64_t b = first_item<kWarp>(); b < batch.batch; b += item_stride<kWarp>()) {
    batch.check_center(batch.center_row(b));
    const Accumulator<T> scale = grad_loss == nullptr ? factor : factor * grad_loss[b];
    add_center<T, kWide>(batch, b, scale, center_grad, in, stride);
  }
}

// The same with factor 1, and the targets' slopes go to the list.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    list_gradients(const Batch<T> batch, const Listed listed, const float* grad_loss, const float* coef,
                   const float* center_grad, float* grad_in) {
  const int lane = lane_of_warp();
  for (int64_t b = first_item<kWarp>(); b < batch.batch; b += item_stride<kWarp>()) {
    const int64_t center = batch.center_row(b);
    batch.check_center(center);
    const float scale = grad_loss[b];
    for (int64_t j = lane; j < batch.targets; j += kWarp) {
      const int64_t row = batch.target_row(b, j), place = b * batch.targets + j;
      listed.leave(row, listed.uses[row], listed.ranks[place], scale * coef[place], center);
    }
    add_center<T, true>(batch, b, scale, center_grad, grad_in, batch.dim);
  }
}

// out += factor * grad_loss * coef * v, by atomics: the targets' step while in is still as it was, or their gradient.
template <typename T, bool kWide>
__global__ void __launch_bounds__(kThreads, kAddBlocks)
    add_targets(const Batch<T> batch, const Accumulator<T>* grad_loss, const Accumulator<T>* coef,
                Accumulator<T> factor, Accumulator<T>* out, int64_t stride) {
  using A = Accumulator<T>;
  for (int64_t b = first_item<kWarp>(); b < batch.batch; b += item_stride<kWarp>()) {
    const A scale = grad_loss == nullptr ? factor : factor * grad_loss[b];
    const T* v = batch.v(b);
    for (int64_t base = 0; base < batch.targets; base += kWarp) {
      const int count = static_cast<int>(batch.targets - base < kWarp ? batch.targets - base : kWarp);
      const int64_t target = batch.lane_target(b, base), place = b * batch.targets + base + lane_of_warp();
      const A slope = lane_of_warp() < count ? scale * coef[place] : A(0);
      batch.check_lane_target(base, target);
      const uint32_t own_row = static_cast<uint32_t>(target);
      for (int64_t piece = 0; piece < batch.dim; piece += kPiece) {
        const Quad<T> x = load_quad<kWide>(v, piece, batch.dim);
        for (int t = 0; t < count; ++t) {
          const A g = __shfl_sync(0xFFFFFFFFu, slope, t);
          const int64_t row = __shfl_sync(0xFFFFFFFFu, own_row, t);
          A step[kQuad];
#pragma unroll
          for (int i = 0; i < kQuad; ++i) step[i] = g * static_cast<A>(x.x[i]);
          add_quad<kWide>(out + row * stride, piece, batch.dim, step);
        }
      }
    }
  }
}

}  // namespace w2v
