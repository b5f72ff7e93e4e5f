// GloVe on the GPU: csrc/cpu/glove_kernel.h, a warp for each cell, updates by atomic additions (Hogwild).
//
// A lane has every 32nd number of the two words' rows. The warp reads the vectors once for the two scores and, from L1,
// once more for the updates, with AdaGrad's sums: 8 D floats read and 8 D atomic additions a cell of two nonzeros.
// Cells come in the CPU's order, block by block, so that the rows which the warps in flight meet lie in L2: the bound
// is L2's rate of atomic additions. With one warp the result is the CPU's to rounding.
#include <torch/csrc/stable/library.h>

#include <cmath>

#include "launch.h"

namespace w2v {
namespace {

using Counter = unsigned long long;

struct alignas(16) GloveCell {
  uint32_t row, column;
  float log_count, weight;
};

struct GloveArguments {
  float* table;  // (V, 4, padded): w, its sums, c, its sums
  float* bias;   // (V, 4)
  const GloveCell* cells;
  const int64_t *firsts, *starts;
  int64_t num_blocks, padded, begin, end, warps;
  uint32_t vocab_size;
  float lr;
};

// Which cell stands at a place of the order: block b has the places starts[b] to starts[b + 1], and begins with
// firsts[b].
__device__ int64_t cell_at(const GloveArguments& a, int64_t place) {
  int64_t low = 0, high = a.num_blocks - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (a.starts[middle] <= place) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return a.firsts[low] + (place - a.starts[low]);
}

__device__ void adagrad(float* value, float* sum, float step) {
  atomicAdd(value, -step / sqrtf(1.0f + *sum));
  atomicAdd(sum, step * step);
}

__global__ void __launch_bounds__(kThreads, kBlocks) train_cells(GloveArguments a, double* sums, Counter* bad) {
  const int64_t d = a.padded;
  const int lane = lane_of_warp();
  double loss = 0, nonzeros = 0;
  const int64_t warp = first_item<kWarp>();
  if (warp >= a.warps) return;
  for (int64_t place = a.begin + warp; place < a.end; place += a.warps) {
    const GloveCell cell = a.cells[cell_at(a, place)];
    const uint32_t i = cell.row, j = cell.column;
    if (i >= a.vocab_size || j >= a.vocab_size) {
      if (lane == 0) atomicMin(bad, static_cast<Counter>(place));
      continue;
    }
    float* const row = a.table + 4 * d * i;
    float* const column = a.table + 4 * d * j;
    float* const row_bias = a.bias + 4 * static_cast<int64_t>(i);
    float* const column_bias = a.bias + 4 * static_cast<int64_t>(j);
    float score0 = 0, score1 = 0;
    for (int64_t n = lane; n < d; n += kWarp) {
      score0 += row[n] * column[2 * d + n];
      score1 += column[n] * row[2 * d + n];
    }
    const float diff0 = warp_sum(score0) + row_bias[0] + column_bias[2] - cell.log_count;
    const float diff1 = warp_sum(score1) + column_bias[0] + row_bias[2] - cell.log_count;
    const float step0 = a.lr * cell.weight * diff0, step1 = a.lr * cell.weight * diff1;
    const bool two = i != j;
    __syncwarp();  // all lanes have read the biases
    for (int64_t n = lane; n < d; n += kWarp) {
      const float w0 = row[n], c0 = column[2 * d + n], w1 = column[n], c1 = row[2 * d + n];
      adagrad(row + n, row + d + n, step0 * c0);
      adagrad(column + 2 * d + n, column + 3 * d + n, step0 * w0);
      if (!two) continue;
      adagrad(column + n, column + d + n, step1 * c1);
      adagrad(row + 2 * d + n, row + 3 * d + n, step1 * w1);
    }
    if (lane == 0) {
      adagrad(row_bias, row_bias + 1, step0);
      adagrad(column_bias + 2, column_bias + 3, step0);
      if (two) {
        adagrad(column_bias, column_bias + 1, step1);
        adagrad(row_bias + 2, row_bias + 3, step1);
      }
    }
    __syncwarp();  // before the next cell reads what this one has moved
    loss += 0.5 * static_cast<double>(cell.weight * diff0) * diff0;
    if (two) loss += 0.5 * static_cast<double>(cell.weight * diff1) * diff1;
    nonzeros += two ? 2 : 1;
  }
  if (lane == 0 && nonzeros > 0) {
    atomicAdd(sums, loss);
    atomicAdd(sums + 1, nonzeros);
  }
}

void check(const Tensor& t, const char* name, ScalarType type, const Tensor& table) {
  W2V_CHECK(t.scalar_type() == type && t.is_contiguous(), name, ": expected a contiguous ",
            torch::headeronly::toString(type), " tensor, got ", torch::headeronly::toString(t.scalar_type()));
  W2V_CHECK(t.device() == table.device(), name, ": expected to be on the device of table");
}

void train(const Tensor& table, const Tensor& bias, const Tensor& sums, const Tensor& bad, const Tensor& cells,
           const Tensor& firsts, const Tensor& starts, double lr, int64_t begin, int64_t end, int64_t cells_in_flight) {
  check(table, "table", ScalarType::Float, table);
  check(bias, "bias", ScalarType::Float, table);
  check(sums, "sums", ScalarType::Double, table);
  check(bad, "bad", ScalarType::Long, table);
  check(cells, "cells", ScalarType::Int, table);
  check(firsts, "firsts", ScalarType::Long, table);
  check(starts, "starts", ScalarType::Long, table);
  W2V_CHECK(table.dim() == 3 && table.size(1) == 4 && table.size(0) <= 0x7FFFFFFF,
            "table: expected shape (V, 4, P), got ", shape_of(table));
  W2V_CHECK(bias.dim() == 2 && bias.size(0) == table.size(0) && bias.size(1) == 4,
            "bias: expected shape (V, 4) with V = ", table.size(0), ", got ", shape_of(bias));
  W2V_CHECK(cells.dim() == 2 && cells.size(1) == 4 && reinterpret_cast<uintptr_t>(cells.data_ptr()) % 16 == 0,
            "cells: expected 16-byte aligned cells of shape (N, 4), got ", shape_of(cells));
  W2V_CHECK(sums.numel() == 2 && bad.numel() == 1, "sums, bad: expected 2 numbers and 1, got ", sums.numel(), " and ",
            bad.numel());
  W2V_CHECK(firsts.dim() == 1 && starts.dim() == 1 && starts.size(0) == firsts.size(0) + 1,
            "starts: expected a number more than firsts, got ", shape_of(starts), " and ", shape_of(firsts));
  W2V_CHECK(begin >= 0 && begin <= end && end <= cells.size(0),
            "begin, end: expected 0 <= begin <= end <= ", cells.size(0), ", got ", begin, " and ", end);
  W2V_CHECK(lr > 0 && std::isfinite(lr), "lr: expected a positive number, got ", lr);
  W2V_CHECK(cells_in_flight >= 1, "cells_in_flight: expected an integer >= 1, got ", cells_in_flight);
  if (begin == end) return;
  const int64_t warps = std::min({cells_in_flight, end - begin, kMaxBlocks});
  const GloveArguments arguments{static_cast<float*>(table.mutable_data_ptr()),
                                 static_cast<float*>(bias.mutable_data_ptr()),
                                 static_cast<const GloveCell*>(cells.const_data_ptr()),
                                 firsts.const_data_ptr<int64_t>(),
                                 starts.const_data_ptr<int64_t>(),
                                 firsts.size(0),
                                 table.size(2),
                                 begin,
                                 end,
                                 warps,
                                 static_cast<uint32_t>(table.size(0)),
                                 static_cast<float>(lr)};
  double* const all = static_cast<double*>(sums.mutable_data_ptr());
  Counter* const first_bad = static_cast<Counter*>(bad.mutable_data_ptr());
  launch<kWarp>("train_cells", table, warps, train_cells, arguments, all, first_bad);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CUDA, m) { m.impl("train_glove_cuda_", TORCH_BOX(&train)); }

}  // namespace w2v
