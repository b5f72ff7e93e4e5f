// What the kernels take and give: pointers, sizes and one parameter struct, never a tensor. Each instruction set
// provides one KernelTable; dispatch.cpp picks the table once, at the first call.
#pragma once
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>

#include "../accumulator.h"
#include "../sampler.h"

namespace w2v {

// ---- the direct path: an epoch of skip-gram with negative sampling, updated in place --------------------------------

struct SgnsParams {
  float* in;      // (V, D) word vectors: row r starts at in + r * stride, 64-byte aligned, padded with zeros
  float* out;     // (V, D) output vectors, laid out alike
  float* hot_in;  // a thread's own copies of the first num_hot rows of each, laid out alike
  float* hot_out;
  uint32_t num_hot;
  int64_t stride;       // floats from row to row, a multiple of 16
  int64_t dim;          // D
  uint32_t vocab_size;  // V
  const int32_t* ids;   // the corpus: sentences of word ids, each closed by -1
  int64_t num_ids;
  const AliasColumn* alias;  // (V,) noise distribution
  const uint32_t* keep;      // (V,) a word stays if 32 random bits do not exceed this
  int window;
  int negative;
  uint64_t seed;
  uint32_t epoch;
  uint32_t epochs;
  double lr;  // at the start; falls linearly over all epochs, to lr / 10,000
};

struct SgnsStats {
  double loss = 0;    // summed over pairs
  int64_t pairs = 0;  // (centre, context) pairs
  int64_t words = 0;  // words left after subsampling
};

// ---- the autograd path: losses, coefficients and gradients of a batch ----------------------------------------------

// One batch, its indices checked and laid side by side: row b of `index` holds the P positives, then the K negatives.
template <typename T>
struct Batch {
  const T* in;
  const T* out;
  int64_t in_stride, out_stride, dim;
  const uint32_t* center;             // (B,)
  const uint32_t* index;              // (B, P + K)
  int64_t batch, positives, targets;  // B, P, P + K
};

// The occurrences of an index array grouped by row: segment s is row rows[s] at positions order[start[s], start[s +
// 1]).
struct Segments {
  const uint32_t* rows;
  const int64_t* start;
  const uint32_t* order;
  int64_t count;
};

// Each works on a part of the batch, examples or occurrences [begin, end), so that threads can share it.
template <typename T>
struct LossKernels {
  using A = Accumulator<T>;
  // loss (B,), coef (B, P + K) = d loss / d score, and, unless null, center_grad (B, D) = d loss / d v
  void (*forward)(const Batch<T>&, A* loss, A* coef, A* center_grad, int64_t begin, int64_t end);
  // gradient of in_weight: row s of dst (row rows[s] if dense) = sum over the segment of grad_loss * coef . u
  void (*center_rows)(const Batch<T>&, const A* grad_loss, const A* coef, const Segments&, bool dense, T* dst,
                      int64_t begin, int64_t end);
  // gradient of out_weight: row s of dst (row rows[s] if dense) = sum over the segment of grad_loss * coef * v
  void (*target_rows)(const Batch<T>&, const A* grad_loss, const A* coef, const Segments&, bool dense, T* dst,
                      int64_t begin, int64_t end);
  // in-place SGD: out[row] -= scale * sum of coef * v, then in[row] -= scale * sum of center_grad
  void (*step_targets)(const Batch<T>&, const A* coef, const Segments&, double scale, T* out, int64_t begin,
                       int64_t end);
  void (*step_centers)(const Batch<T>&, const A* center_grad, const Segments&, double scale, T* in, int64_t begin,
                       int64_t end);
};

struct KernelTable {
  const char* name;
  // trains on the sentences that start in ids[begin, end)
  void (*train_sgns)(const SgnsParams&, int64_t begin, int64_t end, SgnsStats*);
  // a thread's own rows meet everybody's: shared += own - base, then own = base = shared; count is a multiple of 16
  void (*merge_rows)(float* shared, float* own, float* base, int64_t count);
  LossKernels<float> f32;
  LossKernels<double> f64;
  LossKernels<torch::headeronly::BFloat16> bf16;
  LossKernels<torch::headeronly::Half> f16;
};

// The table for this machine, or the one that the environment variable W2V_EXT_CPU names (avx512, avx2, portable).
const KernelTable& kernels();

}  // namespace w2v
