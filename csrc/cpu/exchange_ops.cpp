// give_rows_ and take_rows_: what the ranks of a distributed training exchange. Checks, and the sharing of rows among
// PyTorch's threads; the kernels are in exchange_kernel.h.
#include <torch/csrc/stable/library.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <thread>

#include "../checks.h"
#include "kernels.h"

namespace w2v {
namespace {

constexpr int64_t kRows = 256;  // that are worth a thread

ExchangeRows check_exchange(const Tensor& rows, const Tensor& base, const Tensor& moves, int64_t own) {
  W2V_CHECK(rows.dim() == 2 && rows.scalar_type() == ScalarType::Float && (rows.size(1) <= 1 || rows.stride(1) == 1),
            "rows: expected a float32 tensor of shape (N, D) with contiguous rows, got shape ", shape_of(rows));
  W2V_CHECK(rows.size(0) <= 1 || rows.stride(0) >= rows.size(1),
            "rows: expected rows that do not overlap, got stride(0) = ", rows.stride(0));
  W2V_CHECK(base.dim() == 2 && base.scalar_type() == ScalarType::Float && base.is_contiguous() &&
                base.size(0) == rows.size(0) && base.size(1) == rows.size(1),
            "base: expected a contiguous float32 tensor of the shape of rows, ", shape_of(rows), ", got shape ",
            shape_of(base));
  const bool fits = moves.dim() == 3 && moves.size(1) == rows.size(0) && moves.size(2) == rows.size(1);
  W2V_CHECK(fits && moves.scalar_type() == ScalarType::BFloat16,
            "moves: expected a bfloat16 tensor of shape (R, N, D) with (N, D) = ", shape_of(rows), ", got shape ",
            shape_of(moves));
  W2V_CHECK(moves.numel() == 0 || ((moves.size(2) == 1 || moves.stride(2) == 1) &&
                                   (moves.size(1) == 1 || moves.stride(1) == moves.size(2))),
            "moves: expected contiguous numbers of each rank, got stride(1) = ", moves.stride(1));
  W2V_CHECK(own >= 0 && own < moves.size(0), "own: expected a rank from 0 to ", moves.size(0) - 1, ", got ", own);
  return {static_cast<float*>(rows.data_ptr()),
          rows.stride(0),
          static_cast<float*>(base.data_ptr()),
          static_cast<uint16_t*>(moves.data_ptr()),
          moves.stride(0),
          moves.size(0),
          own,
          rows.size(1)};
}

void give_rows(const Tensor& moves, const Tensor& rows, const Tensor& base, int64_t own) {
  const ExchangeRows params = check_exchange(rows, base, moves, own);
  torch::stable::parallel_for(0, rows.size(0), kRows,
                              [&](int64_t begin, int64_t end) { kernels().give_rows(params, begin, end); });
}

void take_rows(const Tensor& rows, const Tensor& base, const Tensor& moves, int64_t own, double overshoot) {
  ExchangeRows params = check_exchange(rows, base, moves, own);
  W2V_CHECK(std::isfinite(overshoot) && overshoot >= 0, "overshoot: expected a finite number >= 0, got ", overshoot);
  params.overshoot = static_cast<float>(overshoot);
  torch::stable::parallel_for(0, rows.size(0), kRows,
                              [&](int64_t begin, int64_t end) { kernels().take_rows(params, begin, end); });
}

int64_t* check_counts(const Tensor& counts) {
  W2V_CHECK(counts.dim() == 1 && counts.scalar_type() == ScalarType::Long && counts.is_contiguous(),
            "counts: expected a contiguous int64 tensor of shape (R,), got shape ", shape_of(counts));
  return static_cast<int64_t*>(counts.data_ptr());
}

void post_count(const Tensor& counts, int64_t own, int64_t count) {
  int64_t* data = check_counts(counts);
  W2V_CHECK(own >= 0 && own < counts.size(0), "own: expected a rank from 0 to ", counts.size(0) - 1, ", got ", own);
  std::atomic_ref<int64_t>(data[own]).store(count, std::memory_order_release);
}

// Gives the core away between looks: where there are fewer cores than ranks, another one needs it to come that far.
bool counts_reach(const Tensor& counts, int64_t count, double seconds) {
  int64_t* data = check_counts(counts);
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  const int64_t ranks = counts.size(0);
  for (int64_t rank = 0, looks = 0; rank < ranks;) {
    if (std::atomic_ref<int64_t>(data[rank]).load(std::memory_order_acquire) >= count) {
      ++rank;
    } else {
      if (std::chrono::steady_clock::now() >= end) return false;
      if (++looks < 64)
        std::this_thread::yield();
      else
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }
  return true;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CPU, m) {
  m.impl("give_rows_", TORCH_BOX(&give_rows));
  m.impl("take_rows_", TORCH_BOX(&take_rows));
  m.impl("post_count_", TORCH_BOX(&post_count));
  m.impl("counts_reach", TORCH_BOX(&counts_reach));
}

}  // namespace w2v
