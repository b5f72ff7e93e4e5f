// The kernels of loss.cu, which says what they do and what bounds them.
#pragma once
#include "batch.h"
#include "owned.h"

namespace w2v {

template <typename T>
constexpr int kTile = sizeof(T) <= 4 ? 16 : 4;  // targets at a time: their rows take 64 registers (float64: 32)
constexpr int kGradientTile = 4;                // rows of a gradient in flight, with one of them added to by atomics
constexpr int kForwardBlocks = 4;               // on an SM, and no more: 128 registers; a warp has several examples
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
// kOwned: for a step, see owned.h. Rows that occur once are stepped here, if they are held; coef is what is left.
template <typename T, bool kWide, bool kHeld, bool kOwned>
__global__ void __launch_bounds__(kThreads, kForwardBlocks)
    loss_forward(const Batch<T> batch, const OwnedStep step, Accumulator<T>* loss, Accumulator<T>* coef,
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
      uint32_t occurrences = 0, rank = 0;  // asked for before the rows, as the slope is known after them
      if constexpr (kOwned) {
        if (lane < count) {
          occurrences = step.owned.counts[target];
          rank = step.owned.ranks[b * batch.targets + first + lane];
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
      const bool once = kOwned && kHeld && occurrences == 1;
      if (lane < count) {
        total += (s < 0 ? A(0) : s) + log1p(e);
        A left = slope;
        if constexpr (kOwned) left = once ? A(0) : step.owned.leave(target, rank, slope, center);
        coef[b * batch.targets + first + lane] = left;
      }
      if (center_grad == nullptr) continue;
      const uint32_t alone = kOwned && kHeld ? __ballot_sync(0xFFFFFFFFu, once) : 0;
      for (int64_t piece = 0; piece < (kHeld ? 1 : batch.dim); piece += kPiece) {
        Quad<A> grad = {};
#pragma unroll
        for (int t = 0; t < kOwn; ++t) {
          const A g = __shfl_sync(0xFFFFFFFFu, slope, t);
          int64_t row = 0;
          if constexpr (kOwned || !kHeld) row = __shfl_sync(0xFFFFFFFFu, own_row, t);
          if (t >= count) continue;
          if constexpr (!kHeld) held[t] = load_quad<kWide>(batch.out + row * batch.out_stride, piece, batch.dim);
#pragma unroll
          for (int i = 0; i < kQuad; ++i) grad.x[i] += g * static_cast<A>(held[t].x[i]);
          if constexpr (kOwned && kHeld) {
            if ((alone >> t & 1) == 0) continue;
#pragma unroll
            for (int i = 0; i < kQuad; ++i) held[t].x[i] += step.factor * (g * x.x[i]);
            store_quad(step.out + row * batch.out_stride, piece, batch.dim, held[t]);
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

// Adds the gradients of (loss * grad_loss).sum() to grad_in (V, D) and grad_out (V', D).
// kOwned: leaves those of out in owned's slots, and their slopes in left (B, P + K) where there is no slot.
template <typename T, bool kWide, bool kOwned>
__global__ void __launch_bounds__(kThreads, kOwned ? kForwardBlocks : kGradientBlocks)
    loss_gradients(const Batch<T> batch, const Owned owned, const Accumulator<T>* grad_loss, const Accumulator<T>* coef,
                   Accumulator<T>* grad_in, Accumulator<T>* grad_out, Accumulator<T>* left) {
  using A = Accumulator<T>;
  constexpr int kRows = kOwned ? kTile<T> : kGradientTile;
  const int64_t dim = batch.dim;
  const int lane = lane_of_warp();
  for (int64_t b = first_item<kWarp>(); b < batch.batch; b += item_stride<kWarp>()) {
    const int64_t center = batch.center_row(b);
    batch.check_center(center);
    const A scale = grad_loss[b];
    for (int64_t piece = 0; piece < dim; piece += kPiece) {
      Quad<T> x;
      if constexpr (!kOwned) x = load_quad<kWide>(batch.in + center * batch.in_stride, piece, dim);
      A sum[kQuad] = {};
      for (int64_t base = 0; base < batch.targets; base += kWarp) {
        const int count = static_cast<int>(batch.targets - base < kWarp ? batch.targets - base : kWarp);
        const int64_t target = batch.lane_target(b, base), place = b * batch.targets + base + lane;
        const A slope = lane < count ? scale * coef[place] : A(0);
        uint32_t rank = 0;
        if constexpr (kOwned) {
          if (piece == 0 && lane < count) rank = owned.ranks[place];
        }
        batch.check_lane_target(base, target);
        const uint32_t own_row = static_cast<uint32_t>(target);
        for (int first = 0; first < count; first += kRows) {
          int64_t row[kRows];
          Quad<T> u[kRows];
#pragma unroll
          for (int t = 0; t < kRows; ++t) {
            if (first + t >= count) break;
            row[t] = __shfl_sync(0xFFFFFFFFu, own_row, first + t);
            u[t] = load_quad<kWide>(batch.out + row[t] * batch.out_stride, piece, dim);
          }
#pragma unroll
          for (int t = 0; t < kRows; ++t) {
            if (first + t >= count) break;
            const A g = __shfl_sync(0xFFFFFFFFu, slope, first + t);
#pragma unroll
            for (int i = 0; i < kQuad; ++i) sum[i] += g * static_cast<A>(u[t].x[i]);
            if constexpr (!kOwned) {
              A step[kQuad];
#pragma unroll
              for (int i = 0; i < kQuad; ++i) step[i] = g * static_cast<A>(x.x[i]);
              add_quad<kWide>(grad_out + row[t] * dim, piece, dim, step);
            }
          }
        }
        if constexpr (kOwned) {
          if (piece == 0 && lane < count) left[place] = owned.leave(target, rank, slope, center);
        }
      }
      add_quad<kWide>(grad_in + center * dim, piece, dim, sum);
    }
  }
}

// out += factor * coef * v, the targets' step while in is still as it was, or their gradient. Rows of stride numbers.
template <typename T, bool kWide>
__global__ void __launch_bounds__(kThreads, kGradientBlocks)
    add_targets(const Batch<T> batch, const Accumulator<T>* coef, Accumulator<T> factor, Accumulator<T>* out,
                int64_t stride) {
  using A = Accumulator<T>;
  const int lane = lane_of_warp();
  for (int64_t b = first_item<kWarp>(); b < batch.batch; b += item_stride<kWarp>()) {
    for (int64_t base = 0; base < batch.targets; base += kWarp) {
      const A slope = base + lane < batch.targets ? factor * coef[b * batch.targets + base + lane] : A(0);
      const uint32_t some = __ballot_sync(0xFFFFFFFFu, slope != A(0));  // few or none, where owned.h has done the rest
      if (some == 0) continue;
      const uint32_t own_row = static_cast<uint32_t>(batch.lane_target(b, base));
      const T* v = batch.v(b);
      for (int64_t piece = 0; piece < batch.dim; piece += kPiece) {
        const Quad<T> x = load_quad<kWide>(v, piece, batch.dim);
        for (uint32_t rest = some; rest != 0; rest &= rest - 1) {
          const int t = __ffs(static_cast<int>(rest)) - 1;
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

}  // namespace w2v
