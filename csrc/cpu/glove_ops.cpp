// GloVe on the CPU: train_glove_ hands blocks of cells to threads. Blocks of one round share no word, so threads never
// meet, and the result is the same bits for any number of them; between rounds they wait for each other.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cmath>
#include <exception>
#include <vector>

#include "../checks.h"
#include "kernels.h"
#include "threads.h"

namespace w2v {
namespace {

int64_t check_cells(const Tensor& cells) {
  W2V_CHECK(cells.dim() == 2 && cells.size(1) == 4 && cells.scalar_type() == ScalarType::Int && cells.is_contiguous(),
            "cells: expected a contiguous int32 tensor of shape (N, 4), got shape ", shape_of(cells));
  return cells.size(0);
}

void check_tables(const Tensor& table, const Tensor& bias) {
  W2V_CHECK(table.dim() == 3 && table.size(1) == 4 && table.size(2) % 16 == 0 && table.is_contiguous() &&
                table.scalar_type() == ScalarType::Float && reinterpret_cast<uintptr_t>(table.data_ptr()) % 64 == 0,
            "table: expected contiguous, 64-byte aligned float32 of shape (V, 4, P), P a multiple of 16, got shape ",
            shape_of(table));
  W2V_CHECK(bias.dim() == 2 && bias.size(0) == table.size(0) && bias.size(1) == 4 && bias.is_contiguous() &&
                bias.scalar_type() == ScalarType::Float,
            "bias: expected contiguous float32 of shape (V, 4) with V = ", table.size(0), ", got shape ",
            shape_of(bias));
  W2V_CHECK(table.size(0) <= 0xFFFFFFFF, "table: expected fewer than 2^32 rows, got ", table.size(0));
}

// The stretch of cells to train of one block, in the order of training.
struct Piece {
  int64_t first, count;
};

// What lies between begin and end, and where the rounds of it begin.
struct Plan {
  std::vector<Piece> pieces;
  std::vector<int64_t> rounds;

  Plan(const Tensor& blocks, const Tensor& rounds_, int64_t num_cells, int64_t begin, int64_t end) {
    W2V_CHECK(
        blocks.dim() == 2 && blocks.size(1) == 2 && blocks.scalar_type() == ScalarType::Long && blocks.is_contiguous(),
        "blocks: expected a contiguous int64 tensor of shape (B, 2), got shape ", shape_of(blocks));
    W2V_CHECK(rounds_.dim() == 1 && rounds_.size(0) >= 1 && rounds_.scalar_type() == ScalarType::Long &&
                  rounds_.is_contiguous(),
              "rounds: expected a contiguous int64 tensor of shape (R + 1,), got shape ", shape_of(rounds_));
    const int64_t* block = blocks.const_data_ptr<int64_t>();
    const int64_t* border = rounds_.const_data_ptr<int64_t>();
    const int64_t num_rounds = rounds_.size(0) - 1;
    W2V_CHECK(border[0] == 0 && border[num_rounds] == blocks.size(0),
              "rounds: expected to go from 0 to B = ", blocks.size(0), ", got ", border[0], " to ", border[num_rounds]);
    int64_t at = 0;
    for (int64_t r = 0; r < num_rounds; ++r) {
      W2V_CHECK(border[r] <= border[r + 1], "rounds: expected ascending numbers, got ", border[r], ", ", border[r + 1]);
      rounds.push_back(static_cast<int64_t>(pieces.size()));
      for (int64_t b = border[r]; b < border[r + 1]; ++b) {
        const int64_t first = block[2 * b], count = block[2 * b + 1];
        W2V_CHECK(first >= 0 && count >= 0 && first <= num_cells && count <= num_cells - first,
                  "blocks: expected cells from 0 to ", num_cells, ", got ", count, " from ", first);
        const int64_t low = std::max(at, begin), high = std::min(at + count, end);
        if (low < high) pieces.push_back({first + low - at, high - low});
        at += count;
      }
    }
    rounds.push_back(static_cast<int64_t>(pieces.size()));
    W2V_CHECK(begin >= 0 && begin <= end && end <= at, "begin, end: expected 0 <= begin <= end <= ", at, ", got ",
              begin, " and ", end);
  }
};

Tensor train_glove(const Tensor& table, const Tensor& bias, const Tensor& cells, const Tensor& blocks,
                   const Tensor& rounds, double lr, int64_t begin, int64_t end, int64_t threads) {
  check_tables(table, bias);
  const Plan plan(blocks, rounds, check_cells(cells), begin, end);
  W2V_CHECK(lr > 0 && std::isfinite(lr), "lr: expected a positive number, got ", lr);
  check_threads(threads);
  const GloveParams params{static_cast<float*>(table.mutable_data_ptr()), static_cast<float*>(bias.mutable_data_ptr()),
                           table.size(2), static_cast<uint32_t>(table.size(0)), static_cast<float>(lr)};
  const GloveCell* all = static_cast<const GloveCell*>(cells.const_data_ptr());

  const auto kernel = kernels().train_glove;
  std::vector<GloveStats> stats(plan.pieces.size());  // by piece: summed in order, whichever thread had it
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr failure;
  const auto train_round = [&](size_t round) {
    for (int64_t i = next++; i < plan.rounds[round + 1] && !failed; i = next++) {
      try {
        GloveStats own;
        kernel(params, all + plan.pieces[i].first, plan.pieces[i].count, &own);
        stats[i] = own;
      } catch (...) {
        if (!failed.exchange(true)) failure = std::current_exception();
      }
    }
  };
  size_t round = 0;
  const size_t num_rounds = plan.rounds.size() - 1;
  bool done = num_rounds == 0;  // this and round change where all threads wait, and nowhere else
  const auto next_round = [&]() noexcept {
    next = plan.rounds[++round];
    done = failed || round == num_rounds;
  };
  const int64_t useful = std::min<int64_t>(threads, static_cast<int64_t>(plan.pieces.size()));
  std::barrier<decltype(next_round)> barrier(std::max<int64_t>(useful, 1), next_round);
  run_threads(
      std::max<int64_t>(useful, 1),
      [&](int64_t) {
        while (!done) {
          train_round(round);
          barrier.arrive_and_wait();
        }
      },
      [&] { barrier.arrive_and_drop(); });
  if (failure) std::rethrow_exception(failure);

  GloveStats sum;
  for (const GloveStats& s : stats) {
    sum.loss += s.loss;
    sum.nonzeros += s.nonzeros;
  }
  return float64_tensor(table, {sum.loss, static_cast<double>(sum.nonzeros)});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CPU, m) { m.impl("train_glove_", TORCH_BOX(&train_glove)); }

}  // namespace w2v
