// The rows of out that a batch meets, each with the occurrences that add to it side by side: what frequent rows get is
// summed before it is added to memory, and rows that a gradient writes are written once.
//
// count_rows numbers the occurrences of every row of out (int atomics on 8 V' bytes, which the L2 cache holds; for what
// comes several times in 512 occurrences, one), and place_rows gives each row a stretch of a list: rows that occur
// `few` times or less from its front, the others from its back. What knows the slopes then leaves them there, beside
// the row of in that they multiply. add_listed takes 32 neighbours of the back per warp, sums those of one row in
// registers, and adds each sum by one atomic, so that a row that occurs n times is added to some 1 + n / 32 times. The
// front serves two ends:
//   a gradient   owned_rows takes 32 rows per warp and writes each once, in the order of memory: zero, or the sum of
//                a row's few occurrences. It is not set to zero before, and most rows are met by no atomic at all
//   a step       with D <= 128, few = 1: a row that occurs once is read by no other example, so its own example writes
//                it at once, from the registers it was read to, and its place in the list stays empty
//
// In rows of D numbers, of B T occurrences of which R rows are different and S occur once: R - S read and written here
// (a gradient: V' written), and as many read as occurrences are listed, the v, from the L2 cache but for the first
// time. By atomics it would be B T read and written, and a gradient V' written besides. On an H200 (B = 65,536, T = 11,
// D = 128, V' = 1 M), by commit 3f76e28, whose count_rows knew no hash table: a step takes 0.33 ms, of which
// loss_forward 0.19 and add_listed 0.08; the gradients with the loss 0.57 ms, of which owned_rows 0.20 (512 MB written,
// and the v mostly not from the cache, which what is written has flushed), loss_forward 0.13 and setting grad_in to
// zero 0.12. (Since then owned_rows, and loss_forward for the rows that it steps, mark what they write to leave the
// cache first; no GPU has run that.) With indices distributed as 1 / rank 0.33 and 0.61 ms, of which count_rows 0.09;
// by atomics alone 0.65 and 0.89 (an earlier commit).
#pragma once
#include "batch.h"

namespace w2v {

constexpr int64_t kMaxRowsPerTarget = 4;  // V' / (B T), beyond which counting all of V' costs more than atomics
constexpr uint32_t kFew = 4;              // occurrences of a row that owned_rows sums
constexpr int kOwnedTile = 4;             // rows of a warp in flight, with 2 occurrences each
constexpr int kOwnedBlocks = 5;           // on an SM: 96 registers
constexpr int kListedTile = 8;            // occurrences of a warp in flight
constexpr int kListedBlocks = 6;          // on an SM: 80 registers
constexpr int kPlaced = 8 * kWarp;        // rows of a warp

struct alignas(8) RowUse {
  uint32_t count, begin;  // occurrences, and where they are in the list
};

struct alignas(8) Occurrence {
  float slope;
  uint32_t center;
};

struct Listed {
  RowUse* uses;      // (V',)
  uint32_t* ranks;   // (B, T) the occurrence's number among those of its row
  Occurrence* list;  // (B T,)
  uint32_t* rows;    // (B T,) of the occurrences at the back
  uint64_t* taken;   // of the list: 32 bits from the front, and 32 from the back
  int64_t size;      // B T, below 2^32
  uint32_t few;

  __device__ void leave(int64_t row, RowUse use, uint32_t rank, float slope, int64_t center) const {
    const uint32_t place = use.begin + rank;
    list[place] = {slope, static_cast<uint32_t>(center)};
    if (use.count > few) rows[place] = static_cast<uint32_t>(row);
  }
};

constexpr int kCounted = 16 * kWarp;                          // occurrences of a warp
constexpr int kBucketBits = 10, kBuckets = 1 << kBucketBits;  // of its hash table, in shared memory
constexpr uint32_t kNoRow = 0xFFFFFFFF;                       // there are fewer rows

struct Buckets {
  uint32_t row[kBuckets], count[kBuckets];
};

// Frequent rows come several times in the occurrences of a warp: it adds to memory once for all of them. Where two rows
// have the same bucket, the second is counted in memory at once.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks) count_rows(const Batch<T> batch, const Listed listed) {
  constexpr int kOfLane = kCounted / kWarp;
  const uint32_t width = static_cast<uint32_t>(batch.targets);
  const int lane = lane_of_warp();
  const int64_t first = first_item<kWarp>() * kCounted;
  if (first >= listed.size) return;
  Buckets& buckets = reinterpret_cast<Buckets*>(dynamic_shared())[threadIdx.x / kWarp];
  for (int i = lane; i < kBuckets; i += kWarp) {
    buckets.row[i] = kNoRow;
    buckets.count[i] = 0;
  }
  __syncwarp();
  uint32_t row[kOfLane], bucket[kOfLane], rank[kOfLane];
#pragma unroll
  for (int k = 0; k < kOfLane; ++k) {
    const int64_t i = first + k * kWarp + lane;
    row[k] = kNoRow;
    if (i >= listed.size) continue;
    const int64_t b = static_cast<uint32_t>(i) / width, j = i - b * width, target = batch.target_row(b, j);
    batch.check_target(j, target);
    row[k] = static_cast<uint32_t>(target);
  }
#pragma unroll
  for (int k = 0; k < kOfLane; ++k) {
    if (row[k] == kNoRow) continue;
    bucket[k] = row[k] * 0x9E3779B1u >> (32 - kBucketBits);  // multiplicative hashing, Knuth vol. 3, 6.4
    const uint32_t before = atomicCAS(&buckets.row[bucket[k]], kNoRow, row[k]);
    if (before == kNoRow || before == row[k]) {
      rank[k] = atomicAdd(&buckets.count[bucket[k]], uint32_t{1});
    } else {
      rank[k] = atomicAdd(&listed.uses[row[k]].count, uint32_t{1});
      bucket[k] = kBuckets;
    }
  }
  __syncwarp();
#pragma unroll 8
  for (int i = lane; i < kBuckets; i += kWarp)  // from here on count is what the row had before
    if (buckets.row[i] != kNoRow) buckets.count[i] = atomicAdd(&listed.uses[buckets.row[i]].count, buckets.count[i]);
  __syncwarp();
#pragma unroll
  for (int k = 0; k < kOfLane; ++k)
    if (row[k] != kNoRow)
      listed.ranks[first + k * kWarp + lane] = rank[k] + (bucket[k] < kBuckets ? buckets.count[bucket[k]] : 0);
}

// Rows that are neighbours have places that are, so that a warp of owned_rows reads a stretch of the list.
static __global__ void __launch_bounds__(kThreads, kBlocks) place_rows(const Listed listed, int64_t rows) {
  const int lane = lane_of_warp();
  for (int64_t g = first_item<kWarp>(); g * kPlaced < rows; g += item_stride<kWarp>()) {
    uint32_t counts[kPlaced / kWarp];
    uint64_t ends[kPlaced / kWarp], sum = 0;  // of those before and of the row itself: front, and back << 32
#pragma unroll
    for (int k = 0; k < kPlaced / kWarp; ++k) {
      const int64_t row = g * kPlaced + k * kWarp + lane;
      counts[k] = row < rows ? listed.uses[row].count : 0;
      uint64_t end = counts[k] > listed.few ? uint64_t{counts[k]} << 32 : counts[k];
#pragma unroll
      for (int step = 1; step < kWarp; step *= 2) {
        const uint64_t below = __shfl_up_sync(0xFFFFFFFFu, end, step);
        if (lane >= step) end += below;
      }
      ends[k] = sum + end;
      sum += __shfl_sync(0xFFFFFFFFu, end, kWarp - 1);
    }
    uint64_t base = 0;
    if (lane == 0 && sum != 0)
      base = atomicAdd(reinterpret_cast<unsigned long long*>(listed.taken), static_cast<unsigned long long>(sum));
    base = __shfl_sync(0xFFFFFFFFu, base, 0);
#pragma unroll
    for (int k = 0; k < kPlaced / kWarp; ++k) {
      if (counts[k] == 0) continue;
      const uint64_t end = base + ends[k];
      const uint32_t front = static_cast<uint32_t>(end) - counts[k];
      const uint32_t back = static_cast<uint32_t>(listed.size) - static_cast<uint32_t>(end >> 32);
      listed.uses[g * kPlaced + k * kWarp + lane].begin = counts[k] > listed.few ? back : front;
    }
  }
}

// out = the sum of slope * v of rows that occur kFew times or less, and zero, which it is for rows that occur more
// often until add_listed comes.
template <typename T>
__global__ void __launch_bounds__(kThreads, kOwnedBlocks)
    owned_rows(const Batch<T> batch, const Listed listed, float* out, int64_t stride) {
  constexpr int kTogether = 2;
  const int lane = lane_of_warp();
  const int64_t dim = batch.dim, groups = (batch.out_rows + kWarp - 1) / kWarp;
  for (int64_t g = first_item<kWarp>(); g < groups; g += item_stride<kWarp>()) {
    const int64_t first = g * kWarp;
    const bool exists = first + lane < batch.out_rows;
    const RowUse use = exists ? listed.uses[first + lane] : RowUse{};
    const uint32_t n = use.count <= kFew ? use.count : 0;
    Occurrence own[kFew] = {};
#pragma unroll
    for (uint32_t s = 0; s < kFew; ++s)
      if (n > s) own[s] = listed.list[use.begin + s];
    const uint32_t empty = __ballot_sync(0xFFFFFFFFu, exists && n == 0);
    const Quad<float> zero = {};
    for (uint32_t rows = empty; rows != 0; rows &= rows - 1)
      for (int64_t piece = 0; piece < dim; piece += kPiece)
        stream_quad(out + (first + __ffs(static_cast<int>(rows)) - 1) * stride, piece, dim, zero);
    uint32_t rows = __ballot_sync(0xFFFFFFFFu, n > 0);
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
#pragma unroll
        for (int s = 0; s < static_cast<int>(kFew); s += kTogether) {
          if (most <= s) break;
          Quad<T> v[kOwnedTile][kTogether];
#pragma unroll
          for (int r = 0; r < kOwnedTile; ++r)
#pragma unroll
            for (int k = 0; k < kTogether; ++k) {
              const int64_t center = __shfl_sync(0xFFFFFFFFu, own[s + k].center, from[r]);
              if (have[r] > s + k) v[r][k] = load_quad<true>(batch.in + center * batch.in_stride, piece, dim);
            }
#pragma unroll
          for (int r = 0; r < kOwnedTile; ++r)
#pragma unroll
            for (int k = 0; k < kTogether; ++k) {
              const float slope = __shfl_sync(0xFFFFFFFFu, own[s + k].slope, from[r]);
              if (have[r] <= s + k) continue;
#pragma unroll
              for (int i = 0; i < kQuad; ++i) sum[r].x[i] += slope * static_cast<float>(v[r][k].x[i]);
            }
        }
#pragma unroll
        for (int r = 0; r < kOwnedTile; ++r)
          if (have[r] > 0) stream_quad(out + (first + from[r]) * stride, piece, dim, sum[r]);
      }
    }
  }
}

// out += factor * slope * v of the occurrences at the back of the list.
template <typename T>
__global__ void __launch_bounds__(kThreads, kListedBlocks)
    add_listed(const Batch<T> batch, const Listed listed, float factor, float* out, int64_t stride) {
  const int lane = lane_of_warp();
  const int64_t dim = batch.dim, begin = listed.size - static_cast<int64_t>(*listed.taken >> 32);
  for (int64_t g = first_item<kWarp>(); begin + g * kWarp < listed.size; g += item_stride<kWarp>()) {
    const int64_t first = begin + g * kWarp, left = listed.size - first;
    const int count = left < kWarp ? static_cast<int>(left) : kWarp;
    const Occurrence own = lane < count ? listed.list[first + lane] : Occurrence{};
    const uint32_t own_row = lane < count ? listed.rows[first + lane] : 0;
    const uint32_t next_row = __shfl_sync(0xFFFFFFFFu, own_row, (lane + 1) % kWarp);
    const uint32_t last = __ballot_sync(0xFFFFFFFFu, lane + 1 == count || next_row != own_row);
    for (int64_t piece = 0; piece < dim; piece += kPiece) {
      float sum[kQuad] = {};
      for (int base = 0; base < count; base += kListedTile) {
        Quad<T> v[kListedTile];
#pragma unroll
        for (int t = 0; t < kListedTile; ++t) {
          const int64_t center = __shfl_sync(0xFFFFFFFFu, own.center, base + t);
          if (base + t < count) v[t] = load_quad<true>(batch.in + center * batch.in_stride, piece, dim);
        }
#pragma unroll
        for (int t = 0; t < kListedTile; ++t) {
          const float slope = factor * __shfl_sync(0xFFFFFFFFu, own.slope, base + t);
          const int64_t row = __shfl_sync(0xFFFFFFFFu, own_row, base + t);
          if (base + t >= count) continue;
#pragma unroll
          for (int i = 0; i < kQuad; ++i) sum[i] += slope * static_cast<float>(v[t].x[i]);
          if ((last >> (base + t) & 1) == 0) continue;
          add_quad<true>(out + row * stride, piece, dim, sum);
#pragma unroll
          for (int i = 0; i < kQuad; ++i) sum[i] = 0;
        }
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

// Whether occurrences are to be listed: rows read 4 columns at once, and a batch that meets enough of them.
template <typename T>
bool lists_rows(const Batch<T>& batch) {
  const int64_t targets = batch.batch * batch.targets;
  return rows_are_wide(batch) && targets > 0 && batch.out_rows <= kMaxRowsPerTarget * targets;
}

// The tables, for as long as kernels that use them are started, with every occurrence counted and given its place.
struct ListedTables {
  Tensor uses, ranks, list, rows;  // uses has `taken` at its end
  int64_t size;
  uint32_t few;

  template <typename T>
  ListedTables(const Batch<T>& batch, const Tensor& on, uint32_t few_occurrences)
      : uses(new_zero_integers(on, 2 * batch.out_rows + 2)),
        ranks(new_integers(on, batch.batch * batch.targets)),
        list(new_integers(on, 2 * batch.batch * batch.targets)),
        rows(new_integers(on, batch.batch * batch.targets)),
        size(batch.batch * batch.targets),
        few(few_occurrences) {
    constexpr int64_t kWarps = kThreads / kWarp;  // of a block
    const int64_t warps = (size + kCounted - 1) / kCounted;
    launch_blocks("count_rows", on, (warps + kWarps - 1) / kWarps, kThreads, kWarps * sizeof(Buckets), count_rows<T>,
                  batch, kernel_view());
    const int64_t groups = (batch.out_rows + kPlaced - 1) / kPlaced;
    launch<kWarp>("place_rows", on, groups, place_rows, kernel_view(), batch.out_rows);
  }

  Listed kernel_view() const {
    RowUse* all = mutable_data<RowUse>(uses);
    return {all,
            mutable_data<uint32_t>(ranks),
            mutable_data<Occurrence>(list),
            mutable_data<uint32_t>(rows),
            reinterpret_cast<uint64_t*>(all + (uses.size(0) / 2 - 1)),
            size,
            few};
  }
};

template <typename T>
void start_add_listed(const Batch<T>& batch, const Tensor& on, const ListedTables& tables, float factor, float* out,
                      int64_t stride) {
  launch_resident<kWarp>("add_listed", on, (tables.size + kWarp - 1) / kWarp, kListedBlocks, add_listed<T>, batch,
                         tables.kernel_view(), factor, out, stride);
}

}  // namespace w2v
