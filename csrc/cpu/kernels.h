// What the kernels take and give: pointers, sizes and one parameter struct, never a tensor. Each instruction set
// provides one KernelTable; dispatch.cpp picks the table once, at the first call.
#pragma once
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <cstdint>

#include "../accumulator.h"
#include "../optim_rules.h"
#include "../sampler.h"
#include "subword_params.h"

namespace w2v {

// ---- the direct path: an epoch of skip-gram or CBOW, updated in place -----------------------------------------------

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
  double lr;                   // at the start; falls linearly over all epochs, to lr / 10,000
  bool own_negatives = false;  // each centre of a block has its own, and does not share them; or
  bool no_negatives = false;   // the batch has none: each pair has its own, see subword_kernel.h
  bool mean = true;            // CBOW: what predicts is the mean of the contexts' rows (or their sum), and
  bool divide = false;         // each context gets that vector's gradient divided by the number of contexts (or whole)
  // Hierarchical softmax: `out` holds inner nodes, and path[path_start[w]] to path[path_start[w + 1]] lead from the
  // root to word w: node << 1 | code.
  const int64_t* path_start = nullptr;
  const int32_t* path = nullptr;

  int negatives_of_block() const { return no_negatives ? 0 : own_negatives ? kBlock * negative : negative; }

  // The learning rate at a place of the corpus, in this epoch.
  double rate(int64_t offset) const {
    const double total = static_cast<double>(num_ids) * epochs;
    const double progress = (static_cast<double>(num_ids) * epoch + static_cast<double>(offset)) / total;
    return lr * (progress < 1.0 - 1e-4 ? 1.0 - progress : 1e-4);
  }
};

// The overlap c of a row that a thread's stretch has moved so much: `moved` is the sum of its steps' learning rates
// times the curvature of the loss along the row. See HotRows.
inline float overlap_of(double moved) { return static_cast<float>(-0.8 * std::expm1(-moved)); }

struct SgnsStats {
  double loss = 0;    // summed over pairs
  int64_t pairs = 0;  // (centre, context) pairs; CBOW: centres
  int64_t words = 0;  // words left after subsampling
};

// ---- text classification: a line is the mean of its words', subwords' and word n-grams' vectors --------------------

enum class LabelLoss { kSoftmax, kHierarchical, kOneVsAll };

struct ClassifyParams {
  float* in;      // (R, D) rows of words, subwords and n-grams: row r starts at in + r * stride, 64-byte aligned,
                  // padded with zeros
  float* hot_in;  // a thread's own copies of the first num_hot of these rows, laid out alike
  uint32_t num_hot;
  float* out;      // (L, D) a row for each label, or (L - 1, D) for each inner node of the tree, laid out alike
  int64_t stride;  // floats from row to row, a multiple of 16
  int64_t dim;     // D
  uint32_t num_in, num_out, num_labels;
  // Line i has the words tokens[ends[i-1], ends[i]), each the number of one of num_words words, and the n-grams with
  // the rows ngrams[ngram_ends[i-1], ngram_ends[i]). Word w has the rows rows[row_ends[w-1], row_ends[w]): its own,
  // where it has one, and its subwords'. -1 counts, and is a row of zeros.
  const int32_t* tokens;
  const int64_t* ends;
  const int32_t* ngrams;
  const int64_t* ngram_ends;
  int64_t num_lines;
  const int32_t* rows;
  const int64_t* row_ends;
  int64_t num_words;
  LabelLoss loss;
};

struct ClassifyTraining {
  const int32_t* order;  // the lines, in the order they are trained in; each has a label
  int64_t num_examples;
  const int32_t* labels;  // line i has labels[label_ends[i-1], label_ends[i])
  const int64_t* label_ends;
  const int32_t* path;       // label l has path[path_ends[l-1], path_ends[l]): inner nodes, each times 2, plus 1 if the
  const int64_t* path_ends;  // label is to its right
  uint64_t seed;
  uint32_t epoch, epochs;
  double lr;     // at the start; falls linearly to 0
  bool measure;  // fill in ClassifyStats' moved_in and moved_out
};

struct ClassifyStats {
  double loss = 0;
  int64_t examples = 0;
  double moved_in = 0, moved_out = 0;  // of all input rows together, and of an output: see overlap_of
};

struct ClassifyAnswer {
  const int32_t* children;  // (L - 1, 2) of the inner nodes: leaf l is l, inner node n is L + n
  int64_t k;
  float threshold;
  int32_t* labels;  // (lines, k) from the most probable on, -1 where there is none
  float* probabilities;
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

// ---- the optimisers: the rows that a gradient touched step their weight --------------------------------------------

// A gradient as rows of values (N, D): segment s sums those of its slots, for row rows[s]. Where `start` is null, slot
// s is the only one of segment s; where `rows` is null, that is row s.
template <typename T>
struct RowGradient {
  const T* values;
  int64_t stride, dim;
  Segments segments;
  double scale;  // of every row, after it is shortened
};

template <typename T>
struct WeightRows {
  T* data;
  int64_t stride;
};

// Each works on the segments that start in slots [begin, end).
template <typename T>
struct OptimKernels {
  using A = Accumulator<T>;
  template <typename Rule>
  using Step = void (*)(const RowGradient<T>&, const WeightRows<T>&, const StepOptions&, const Rule&, int64_t begin,
                        int64_t end);
  Step<SgdRule<A>> sgd;
  Step<MomentumRule<A>> momentum;
  Step<AdagradRule<A>> adagrad;
  Step<RowwiseAdagradRule<A>> rowwise_adagrad;
  Step<AdamRule<A>> adam;
  // squares: the squared norm of each segment's sum, none longer than `longest` (0: no limit)
  void (*square_norms)(const RowGradient<T>&, double longest, A* squares, int64_t begin, int64_t end);
};

// ---- several ranks: what rows have moved by
// --------------------------------------------------------------------------

struct ExchangeRows {
  float* rows;  // (N, D), row r starts at rows + r * stride
  int64_t stride;
  float* base;      // (N, D): where all ranks last agreed the rows are
  uint16_t* moves;  // (R, N, D) bfloat16: rank k's start at moves + k * rank_stride
  int64_t rank_stride;
  int64_t ranks, own;  // R, and which of them this is
  int64_t dim;
  float overshoot = 0;  // c: the sum S of the moves d is shortened to S min(1, c sum |d|^2 / |S|^2); 0: never
};

struct KernelTable {
  const char* name;
  // trains on the sentences that start in ids[begin, end)
  void (*train_sgns)(const SgnsParams&, int64_t begin, int64_t end, SgnsStats*);
  void (*train_cbow)(const SgnsParams&, int64_t begin, int64_t end, SgnsStats*);
  void (*train_skipgram_hs)(const SgnsParams&, int64_t begin, int64_t end, SgnsStats*);
  void (*train_cbow_hs)(const SgnsParams&, int64_t begin, int64_t end, SgnsStats*);
  // the same for fastText's models; `words` is a thread's own, and as it was left by the stretch before
  void (*train_subwords)(const SubwordParams&, int64_t begin, int64_t end, StretchWords* words, SgnsStats*);
  // a thread's own row meets everybody's: shared = own + (1 - overlap) (shared - base), then own = base = shared; count
  // is a multiple of 16
  void (*merge_row)(float* shared, float* own, float* base, int64_t count, float overlap);
  // trains on order[begin, end)
  void (*train_lines)(const ClassifyParams&, const ClassifyTraining&, int64_t begin, int64_t end, ClassifyStats*);
  // answers lines [begin, end)
  void (*answer_lines)(const ClassifyParams&, const ClassifyAnswer&, int64_t begin, int64_t end);
  void (*train_glove)(const GloveParams&, const GloveCell*, int64_t count, GloveStats*);
  void (*give_rows)(const ExchangeRows&, int64_t begin, int64_t end);
  void (*take_rows)(const ExchangeRows&, int64_t begin, int64_t end);
  LossKernels<float> f32;
  LossKernels<double> f64;
  LossKernels<torch::headeronly::BFloat16> bf16;
  LossKernels<torch::headeronly::Half> f16;
  OptimKernels<float> optim_f32;
  OptimKernels<double> optim_f64;
  OptimKernels<torch::headeronly::BFloat16> optim_bf16;
  OptimKernels<torch::headeronly::Half> optim_f16;
};

// The table for this machine, or the one that the environment variable W2V_EXT_CPU names (avx512, avx2, portable).
const KernelTable& kernels();

}  // namespace w2v
