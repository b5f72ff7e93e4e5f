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

// ---- GloVe ----------------------------------------------------------------------------------------------------------

struct GloveCell {
  uint32_t row, column;
  float log_count, weight;  // weight = min(1, (count / x_max)^alpha)
};

struct GloveParams {
  float* table;         // (V, 4, padded): w, the sums of its squared steps, c, and theirs; 64-byte aligned
  float* bias;          // (V, 4): the same of the biases
  int64_t padded;       // D, rounded up to a multiple of 16
  uint32_t vocab_size;  // V
  float lr;
};

struct GloveStats {
  double loss = 0;       // summed over nonzeros: weight * diff^2 / 2
  int64_t nonzeros = 0;  // a cell beside the diagonal is two
};

// ---- the autograd path: losses, coefficients and gradients of a batch ----------------------------------------------

// One batch, its indices checked and laid side by side: row b of `index` holds the P positives, then the K negatives.
template <typename T>
struct LossBatch {
  const T* in;
  const T* out;
  int64_t in_stride, out_stride, dim;
  const uint32_t* center;             // (B,)
  const uint32_t* index;              // (B, P + K)
  int64_t batch, positives, targets;  // B, P, P + K
};

// The occurrences of an index array grouped by row: segment s is row rows[s], in the slots start[s] to start[s + 1].
// What stands in slot i is position order[i] of the array (null where the slots hold all that is needed).
struct Segments {
  const uint32_t* rows;
  const uint32_t* start;
  const uint32_t* order;
  int64_t count;
};

// What an occurrence of a target adds to its row: coef * in[row].
template <typename A>
struct Occurrence {
  A coef;
  uint32_t row;
};

// Where the sum of segment s goes.
template <typename T>
struct RowSink {
  enum class How { kSegment, kRow, kStep };  // row s = sum; row rows[s] = sum; row rows[s] -= step * sum
  T* rows;
  int64_t stride;
  How how;
  double step = 0;
};

// How the examples, grouped by centre, give the sums of each centre and what each occurrence of a target adds to its
// row. Row i of the batch's `index` belongs to the example in slot i of `centers`.
template <typename T>
struct CenterPass {
  using A = Accumulator<T>;
  Segments centers;
  const uint32_t* slot;  // (B, P + K): where the targets' occurrences go
  Occurrence<A>* occurrences;
  const A* grad_loss;  // (B,) and (B, P + K), in the batch's own order; if null, the coefficients are taken from the
  const A* coef;       // scores, and the losses go into loss (B,)
  A* loss;
  A* sums;          // (centers.count, D), or
  RowSink<T> sink;  // if that is null
};

// Each works on a part of the batch, examples or slots [begin, end) (a segment belongs to where it starts), so that
// threads can share it.
template <typename T>
struct LossKernels {
  using A = Accumulator<T>;
  // loss (B,), coef (B, P + K) = d loss / d score
  void (*forward)(const LossBatch<T>&, A* loss, A* coef, int64_t begin, int64_t end);
  void (*centers)(const LossBatch<T>&, const CenterPass<T>&, int64_t begin, int64_t end);
  void (*targets)(const LossBatch<T>&, const Segments&, const Occurrence<A>*, const RowSink<T>&, int64_t begin,
                  int64_t end);
  // row rows[s] -= step * sums[s] for s in [begin, end)
  void (*add)(const Segments&, const A* sums, int64_t dim, const RowSink<T>&, int64_t begin, int64_t end);
};

struct KernelTable {
  const char* name;
  // trains on the sentences that start in ids[begin, end)
  void (*train_sgns)(const SgnsParams&, int64_t begin, int64_t end, SgnsStats*);
  // a thread's own rows meet everybody's: shared += own - base, then own = base = shared; count is a multiple of 16
  void (*merge_rows)(float* shared, float* own, float* base, int64_t count);
  void (*train_glove)(const GloveParams&, const GloveCell*, int64_t count, GloveStats*);
  LossKernels<float> f32;
  LossKernels<double> f64;
  LossKernels<torch::headeronly::BFloat16> bf16;
  LossKernels<torch::headeronly::Half> f16;
};

// The table for this machine, or the one that the environment variable W2V_EXT_CPU names (avx512, avx2, portable).
const KernelTable& kernels();

}  // namespace w2v
