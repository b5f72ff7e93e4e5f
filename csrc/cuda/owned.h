// The rows of out that occur in a batch, each changed by one warp alone: no zeroing before and no atomics.
//
// count_rows numbers the occurrences of every row of out (int atomics on 4 V' bytes, which the L2 cache holds). The
// kernel that knows the slopes leaves those of the first kSlots occurrences of a row in a table, beside the row of in
// that they multiply; owned_rows then takes 32 rows per warp, reads their numbers and slots together, and sums and
// writes each row once, in the order of memory. What a row has beyond kSlots is added by atomics, in add_targets: rows
// that frequent are mostly in the L2 cache. A step with D <= 128 goes further: a row that occurs once is read by no
// other example, so its own example writes it at once, from the registers it was read to, and nothing is read twice.
//
// In rows of D numbers, of B T occurrences of which R rows are different and S occur once: R - S read and written here
// (a gradient: V' written), and B read, the v, from the L2 cache but for the first time. By atomics it would be B T
// read and written, and a gradient V' written besides. On an H200 (B = 65,536, T = 11, D = 128, V' = 1 M) this takes a
// fifth off a step and a tenth off the gradients where indices are uniform, and adds a tenth where they are distributed
// as 1 / rank: then most occurrences are beyond kSlots, and have been counted for nothing.
#pragma once
#include "batch.h"

namespace w2v {

constexpr int64_t kMaxRowsPerTarget = 4;  // V' / (B T), beyond which counting all of V' costs more than atomics
constexpr int kSlots = 4;                 // 32 bytes, a sector of the cache
constexpr int kOwnedTile = 4;             // rows of a warp in flight, with 2 slots each
constexpr int kOwnedBlocks = 5;           // on an SM: 96 registers

struct alignas(8) Slot {
  float slope;
  uint32_t center;
};

struct Owned {
  uint32_t* counts;  // (V',) occurrences
  uint32_t* ranks;   // (B, T) the occurrence's number among those of its row
  Slot* slots;       // (V', kSlots)

  // Leaves an occurrence's slope with its row, and gives what is left to atomics.
  __device__ float leave(int64_t row, uint32_t rank, float slope, int64_t center) const {
    if (rank >= kSlots) return slope;
    slots[row * kSlots + rank] = {slope, static_cast<uint32_t>(center)};
    return 0;
  }
};

// What a step changes at once.
struct OwnedStep {
  Owned owned;
  float factor;
  float* out;
};

template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks) count_rows(const Batch<T> batch, const Owned owned) {
  const uint32_t width = static_cast<uint32_t>(batch.targets);
  const int64_t count = batch.batch * batch.targets;  // below 2^32
  for (int64_t i = first_item<1>(); i < count; i += item_stride<1>()) {
    const int64_t b = static_cast<uint32_t>(i) / width, j = i - b * width;
    const int64_t row = batch.target_row(b, j);
    batch.check_target(j, row);
    owned.ranks[i] = atomicAdd(owned.counts + row, uint32_t{1});
  }
}

// kStep: out += factor * sum of slope * v, of the rows that occur kFewest times or more. Otherwise out = factor * that
// sum, and zero where there is none.
template <typename T, bool kStep, int kFewest>
__global__ void __launch_bounds__(kThreads, kOwnedBlocks)
    owned_rows(const Batch<T> batch, const Owned owned, float factor, float* out, int64_t stride) {
  static_assert(kStep || kFewest == 1);
  constexpr int kTogether = 2;
  const int lane = lane_of_warp();
  const int64_t dim = batch.dim, groups = (batch.out_rows + kWarp - 1) / kWarp;
  for (int64_t g = first_item<kWarp>(); g < groups; g += item_stride<kWarp>()) {
    const int64_t first = g * kWarp;
    const bool exists = first + lane < batch.out_rows;
    const uint32_t n = exists ? owned.counts[first + lane] : 0;
    Slot slot[kSlots] = {};
    if (n >= kFewest) {
#pragma unroll
      for (int s = 0; s < kSlots; ++s)
        if (n > s) slot[s] = owned.slots[(first + lane) * kSlots + s];
    }
    if constexpr (!kStep) {
      const uint32_t empty = __ballot_sync(0xFFFFFFFFu, exists && n == 0);
      const Quad<float> zero = {};
      for (uint32_t rows = empty; rows != 0; rows &= rows - 1)
        for (int64_t piece = 0; piece < dim; piece += kPiece)
          store_quad(out + (first + __ffs(static_cast<int>(rows)) - 1) * stride, piece, dim, zero);
    }
    uint32_t rows = __ballot_sync(0xFFFFFFFFu, n >= kFewest);
    while (rows != 0) {
      int from[kOwnedTile];
      uint32_t have[kOwnedTile], most = 0;
#pragma unroll
      for (int r = 0; r < kOwnedTile; ++r) {
        from[r] = rows != 0 ? __ffs(static_cast<int>(rows)) - 1 : 0;
        have[r] = __shfl_sync(0xFFFFFFFFu, n, from[r]);
        if (rows == 0) have[r] = 0;
        most = have[r] > most ? have[r] : most;
        rows &= rows - 1;
      }
      for (int64_t piece = 0; piece < dim; piece += kPiece) {
        Quad<float> sum[kOwnedTile] = {};
        if constexpr (kStep) {
#pragma unroll
          for (int r = 0; r < kOwnedTile; ++r)
            if (have[r] > 0) sum[r] = load_quad<true>(out + (first + from[r]) * stride, piece, dim);
        }
#pragma unroll
        for (int s = 0; s < kSlots; s += kTogether) {
          if (most <= s) break;
          Quad<T> v[kOwnedTile][kTogether];
#pragma unroll
          for (int r = 0; r < kOwnedTile; ++r)
#pragma unroll
            for (int k = 0; k < kTogether; ++k) {
              const int64_t center = __shfl_sync(0xFFFFFFFFu, slot[s + k].center, from[r]);
              if (have[r] > s + k) v[r][k] = load_quad<true>(batch.in + center * batch.in_stride, piece, dim);
            }
#pragma unroll
          for (int r = 0; r < kOwnedTile; ++r)
#pragma unroll
            for (int k = 0; k < kTogether; ++k) {
              const float slope = factor * __shfl_sync(0xFFFFFFFFu, slot[s + k].slope, from[r]);
              if (have[r] <= s + k) continue;
#pragma unroll
              for (int i = 0; i < kQuad; ++i) sum[r].x[i] += slope * static_cast<float>(v[r][k].x[i]);
            }
        }
#pragma unroll
        for (int r = 0; r < kOwnedTile; ++r)
          if (have[r] > 0) store_quad(out + (first + from[r]) * stride, piece, dim, sum[r]);
      }
    }
  }
}

// ---- on the host ---------------------------------------------------------------------------------------------------

// Not inside a template: see new_matrix.
inline Tensor new_integers(const Tensor& like, int64_t count) {
  return torch::stable::new_empty(like, {count}, ScalarType::Int);
}

inline Tensor new_zero_integers(const Tensor& like, int64_t count) {
  return torch::stable::new_zeros(like, {count}, ScalarType::Int);
}

// Whether rows are to be owned: rows read 4 columns at once, and a batch that meets enough of them.
template <typename T>
bool owns_rows(const Batch<T>& batch) {
  const int64_t targets = batch.batch * batch.targets;
  return rows_are_wide(batch) && targets > 0 && batch.out_rows <= kMaxRowsPerTarget * targets;
}

// The tables, for as long as kernels that use them are started, and the occurrences counted.
struct OwnedTables {
  Tensor counts, ranks, slots;

  template <typename T>
  OwnedTables(const Batch<T>& batch, const Tensor& on)
      : counts(new_zero_integers(on, batch.out_rows)),
        ranks(new_integers(on, batch.batch * batch.targets)),
        slots(new_integers(on, batch.out_rows * kSlots * 2)) {
    launch<1>("count_rows", on, batch.batch * batch.targets, count_rows<T>, batch, kernel_view());
  }

  Owned kernel_view() const {
    return {mutable_data<uint32_t>(counts), mutable_data<uint32_t>(ranks), mutable_data<Slot>(slots)};
  }
};

template <typename T, bool kStep, int kFewest>
void start_owned_rows(const Batch<T>& batch, const Tensor& on, const OwnedTables& tables, float factor, float* out,
                      int64_t stride) {
  const int64_t groups = (batch.out_rows + kWarp - 1) / kWarp;
  launch<kWarp>("owned_rows", on, groups, owned_rows<T, kStep, kFewest>, batch, tables.kernel_view(), factor, out,
                stride);
}

}  // namespace w2v
