// Every operator of the library, on one page. The CPU kernels are registered in cpu/*_ops.cpp, the CUDA kernels in
// cuda/*.cu, shape functions and gradient formulas in w2v_ext/ops.py.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(w2v_ext, m) {
  // Autograd path. in_weight, out_weight (V, D); center (B,), pos (B, P), neg (B, K) int32 | int64.
  // loss (B,) and coef (B, P + K) = d loss / d score, in float32 (float64 for float64 weights). On CUDA, and if asked
  // for, center_grad (B, D) = d loss / d v, which spares the gradients a second look at the rows; otherwise (B, 0).
  m.def(
      "negative_sampling_loss(Tensor in_weight, Tensor out_weight, Tensor center, Tensor pos, Tensor neg, "
      "bool sparse_grad, bool with_center_grad=False) -> (Tensor loss, Tensor coef, Tensor center_grad)");
  m.def(
      "negative_sampling_loss_backward(Tensor grad_loss, Tensor coef, Tensor in_weight, Tensor out_weight, "
      "Tensor center, Tensor pos, Tensor neg, Tensor? center_grad=None) -> (Tensor grad_in, Tensor grad_out)");
  // The same as unique, ascending rows (R,) int64 and their values (R, D), for each weight.
  m.def(
      "negative_sampling_loss_backward_sparse(Tensor grad_loss, Tensor coef, Tensor in_weight, Tensor out_weight, "
      "Tensor center, Tensor pos, Tensor neg, Tensor? center_grad=None) -> (Tensor in_rows, Tensor in_values, "
      "Tensor out_rows, Tensor out_values)");
  // The dense gradients of CUDA tensors, each row summed in a fixed order: the same bits in every run.
  m.def(
      "negative_sampling_loss_backward_sorted(Tensor grad_loss, Tensor coef, Tensor in_weight, Tensor out_weight, "
      "Tensor center, Tensor pos, Tensor neg, Tensor? center_grad=None) -> (Tensor grad_in, Tensor grad_out)");
  // Direct path: the SGD step of loss.sum() * scale, in place; gives the losses (B,) before the step.
  m.def(
      "sgns_step_(Tensor(a!) in_weight, Tensor(b!) out_weight, Tensor center, Tensor pos, Tensor neg, float step) "
      "-> Tensor loss");
  // The same on CUDA tensors, each row summed in a fixed order.
  m.def(
      "sgns_step_sorted_(Tensor(a!) in_weight, Tensor(b!) out_weight, Tensor center, Tensor pos, Tensor neg, "
      "float step) -> Tensor loss");

  // Optimisers: the rows (N,) int64 of weight (V, D), row by row stepped in place by values (N, D); none means all, in
  // order. State in float32 (float64 for float64 weights). On the CPU a row may come several times and gets the sum; on
  // CUDA each comes once. 0 in clip_row_norm and max_norm means none, -1 in seed rounding to nearest.
  m.def(
      "sparse_sgd_(Tensor(a!) weight, Tensor(b!)? momentum_buffer, Tensor? rows, Tensor values, float momentum, "
      "bool nesterov, float lr, float weight_decay, bool decoupled, float clip_row_norm, Tensor? grad_scale, "
      "float max_norm, int seed) -> ()");
  // sum (V, D), or (V,) for the row-wise form.
  m.def(
      "sparse_adagrad_(Tensor(a!) weight, Tensor(b!) sum, Tensor? rows, Tensor values, float eps, float lr, "
      "float weight_decay, bool decoupled, float clip_row_norm, Tensor? grad_scale, float max_norm, int seed) -> ()");
  // row_steps (V,) int32 counts each row's own steps, which then take the place of step.
  m.def(
      "sparse_adam_(Tensor(a!) weight, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor(d!)? row_steps, Tensor? rows, "
      "Tensor values, float beta1, float beta2, float eps, int step, float lr, float weight_decay, bool decoupled, "
      "float clip_row_norm, Tensor? grad_scale, float max_norm, int seed) -> ()");
  // The squared norm of each row of a gradient, in any order, none longer than clip_row_norm (0: no limit).
  m.def("row_square_norms(Tensor? rows, Tensor values, int num_rows, float clip_row_norm) -> Tensor");

  // weights (V,) float64 -> alias table (V, 2) int32: threshold (bits of a uint32) and alias of each column.
  m.def("alias_table(Tensor weights) -> Tensor");
  // (B, count) int64 draws from the alias table, none equal to positive (B,) int64 of its row; positive -1 excludes
  // none.
  m.def("sample_negatives(Tensor alias, Tensor positive, int count, int seed) -> Tensor");

  // Epoch path: trains on the sentences that start in ids[begin, end), in place, and gives the float64 sums
  // (loss, pairs, words after subsampling). ids int32, sentences closed by -1; keep (V,) int32 holds uint32 thresholds.
  m.def(
      "train_sgns_(Tensor(a!) in_weight, Tensor(b!) out_weight, Tensor ids, Tensor alias, Tensor keep, int window, "
      "int negative, int seed, int epoch, int epochs, float lr, int begin, int end, int threads) -> Tensor");
  // CBOW: mean or sum of the contexts; divide: each context gets the gradient divided by their number.
  m.def(
      "train_cbow_(Tensor(a!) in_weight, Tensor(b!) out_weight, Tensor ids, Tensor alias, Tensor keep, bool mean, "
      "bool divide, int window, int negative, int seed, int epoch, int epochs, float lr, int begin, int end, "
      "int threads) -> Tensor");
  // Hierarchical softmax, of skip-gram or CBOW: row n of out_weight is inner node n, and word w's path from the root is
  // path (L,) int32 from path_start[w] to path_start[w + 1], (V + 1,) int64, each step node << 1 | code.
  m.def(
      "train_hs_(Tensor(a!) in_weight, Tensor(b!) out_weight, Tensor ids, Tensor path_start, Tensor path, Tensor keep, "
      "bool cbow, bool mean, bool divide, int window, int seed, int epoch, int epochs, float lr, int begin, int end, "
      "int threads) -> Tensor");
  // Skip-gram on CUDA, without waiting for it: sums (3,) float64 grows by (loss, pairs, words), and bad (1,) int64
  // falls to the first place of a word that is out of range (start it at 2^63 - 1). ids are words first, first + 1, ...
  // of a corpus of num_ids; begin and end are places in that corpus. Weights float32 or bfloat16.
  m.def(
      "train_sgns_cuda_(Tensor(a!) in_weight, Tensor(b!) out_weight, Tensor(c!) sums, Tensor(d!) bad, Tensor ids, "
      "Tensor alias, Tensor keep, int first, int num_ids, int begin, int end, int window, int negative, int seed, "
      "int epoch, int epochs, float lr, int sentences_in_flight, int hot_words) -> ()");
  // The same of CBOW and of hierarchical softmax, in float32; longest: the nodes of the longest path.
  m.def(
      "train_cbow_cuda_(Tensor(a!) in_weight, Tensor(b!) out_weight, Tensor(c!) sums, Tensor(d!) bad, Tensor ids, "
      "Tensor alias, Tensor keep, bool mean, bool divide, int first, int num_ids, int begin, int end, int window, "
      "int negative, int seed, int epoch, int epochs, float lr, int sentences_in_flight, int hot_words) -> ()");
  m.def(
      "train_hs_cuda_(Tensor(a!) in_weight, Tensor(b!) out_weight, Tensor(c!) sums, Tensor(d!) bad, Tensor ids, "
      "Tensor path_start, Tensor path, Tensor keep, int longest, bool cbow, bool mean, bool divide, int first, "
      "int num_ids, int begin, int end, int window, int seed, int epoch, int epochs, float lr, "
      "int sentences_in_flight, int hot_words) -> ()");
  // fastText's models: rows that the same words have are kept as one sum, those of one word alone in in_weight (V, D),
  // all others in ngram_weight (C, D). Word w has the sums entries[first[w]:first[w + 1]] (e >= V: ngram_weight[e -
  // V]), of word_rows (V,) rows; sum e is of group_rows (V + C,) rows. Trains on the whole stretches of ids, at
  // multiples of `stretch`, that begin in [begin, end).
  m.def(
      "train_subwords_(Tensor(a!) in_weight, Tensor(b!) ngram_weight, Tensor(c!) out_weight, Tensor first, "
      "Tensor entries, Tensor word_rows, Tensor group_rows, Tensor ids, Tensor alias, Tensor keep, bool cbow, "
      "int window, int negative, int seed, int epoch, int epochs, float lr, int begin, int end, int stretch, "
      "int threads) -> Tensor");
  // The same on CUDA, as train_sgns_cuda_: the sums of a word are read when it comes near a centre, and added to when
  // it leaves. Entries are first_entry's here, and first is a place in the corpus.
  m.def(
      "train_subwords_cuda_(Tensor(a!) in_weight, Tensor(b!) ngram_weight, Tensor(c!) out_weight, Tensor(d!) sums, "
      "Tensor(e!) bad, Tensor first_entry, Tensor entries, Tensor word_rows, Tensor group_rows, Tensor ids, "
      "Tensor alias, Tensor keep, bool cbow, int first, int num_ids, int begin, int end, int window, int negative, "
      "int seed, int epoch, int epochs, float lr, int sentences_in_flight) -> ()");
  // The vectors of the words (V, D): their sums, divided by word_rows.
  m.def(
      "compose_subwords(Tensor in_weight, Tensor ngram_weight, Tensor first, Tensor entries, Tensor word_rows, "
      "Tensor group_rows) -> Tensor");
  // GloVe with AdaGrad over cells (N, 4) int32 (row, column, bits of float32 log count and weight), in place: table
  // (V, 4, P) and bias (V, 4) float32. blocks (B, 2) int64: first cell and number of cells, in the order of training;
  // rounds (R + 1,) int64: the first block of each round, in which blocks share no word. begin and end are places in
  // that order. Gives the float64 sums (loss, nonzeros), the same for any number of threads.
  m.def(
      "train_glove_(Tensor(a!) table, Tensor(b!) bias, Tensor cells, Tensor blocks, Tensor rounds, float lr, int "
      "begin, "
      "int end, int threads) -> Tensor");
  // The same on CUDA, without waiting for it: block b of firsts (B,) int64 has the places starts[b] to starts[b + 1] of
  // starts (B + 1,) int64. sums (2,) float64 grows by (loss, nonzeros), and bad (1,) int64 falls to the first place
  // whose cell is out of range (start it at 2^63 - 1).
  m.def(
      "train_glove_cuda_(Tensor(a!) table, Tensor(b!) bias, Tensor(c!) sums, Tensor(d!) bad, Tensor cells, "
      "Tensor firsts, Tensor starts, float lr, int begin, int end, int cells_in_flight) -> ()");
  // The last end of whole sentences of ids in [begin, begin + limit]: where a chunk that goes to the device is cut.
  m.def("chunk_end(Tensor ids, int begin, int limit) -> int");
  // Text classification, see cpu/classify_kernel.h. Line i has the words tokens[ends[i-1]:ends[i]] and the word n-grams
  // ngrams[ngram_ends[i-1]:ngram_ends[i]], rows of in_weight; word w has the rows rows[row_ends[w-1]:row_ends[w]]. -1
  // is a row of zeros. Trains on lines order[begin:end] in place, and gives the float64 sums (loss, examples). Line i
  // has the labels labels[label_ends[i-1]:label_ends[i]]; path, path_ends: of each label in the tree, for the loss hs.
  m.def(
      "train_classifier_(Tensor(a!) in_weight, Tensor(b!) out_weight, Tensor tokens, Tensor ends, Tensor ngrams, "
      "Tensor ngram_ends, Tensor rows, Tensor row_ends, str loss, Tensor labels, Tensor label_ends, Tensor path, "
      "Tensor path_ends, Tensor order, float lr, int seed, int epoch, int epochs, int begin, int end, int threads) -> "
      "Tensor");
  // The same on CUDA, without waiting for it: sums (2,) float64 grows by (loss, examples), and bad (1,) int64 falls to
  // the first place of `order` whose line has a number out of range (start it at 2^63 - 1). longest: the nodes of the
  // longest path.
  m.def(
      "train_classifier_cuda_(Tensor(a!) in_weight, Tensor(b!) out_weight, Tensor(c!) sums, Tensor(d!) bad, "
      "Tensor tokens, Tensor ends, Tensor ngrams, Tensor ngram_ends, Tensor rows, Tensor row_ends, str loss, "
      "Tensor labels, Tensor label_ends, Tensor path, Tensor path_ends, Tensor order, int longest, float lr, int seed, "
      "int epoch, int epochs, int begin, int end, int lines_in_flight) -> ()");
  // The k most probable labels (N, k) int32 of each line, -1 where fewer reach the threshold, and their probabilities.
  m.def(
      "classify(Tensor in_weight, Tensor out_weight, Tensor tokens, Tensor ends, Tensor ngrams, Tensor ngram_ends, "
      "Tensor rows, Tensor row_ends, str loss, Tensor children, int k, float threshold, int threads) -> "
      "(Tensor labels, Tensor probabilities)");
  // The rows of the n-grams of some lines, where each line's end, and the first row that is free then: bucket b has the
  // row bucket_rows[b]. Buckets that are -1 get the rows from `first` on; with first < 0 they stay as they are.
  m.def(
      "ngram_rows_(Tensor(a!) bucket_rows, Tensor tokens, Tensor ends, Tensor hashes, Tensor lines, int word_ngrams, "
      "int first, int threads) -> (Tensor rows, Tensor ends, int next)");
  // On CUDA: the label-smoothed cross-entropy of each row of scores (N, V) + bias (V,) for target (N,) int64, and its
  // slopes in place of the scores, if they are wanted. bias and losses in float32 (float64 for float64 scores).
  m.def(
      "softmax_slopes_cuda_(Tensor(a!) scores, Tensor? bias, Tensor target, float smoothing, Tensor(b!) losses, "
      "bool with_slopes) -> ()");
  // Several ranks that train the same rows (N, D) float32: what this one, `own`, has moved by since all agreed on base
  // goes into moves (R, N, D) bfloat16; and from everybody's moves base moves by their sum, rows by what the others
  // moved. The sum S of moves d is shortened to S min(1, overshoot sum |d|^2 / |S|^2); not so if overshoot is 0.
  m.def("give_rows_(Tensor(a!) moves, Tensor rows, Tensor base, int own) -> ()");
  m.def("take_rows_(Tensor(a!) rows, Tensor(b!) base, Tensor moves, int own, float overshoot) -> ()");
  // In memory that several processes share, counts (R,) int64: counts[own] = count, after all that was written before;
  // and whether all have come to `count` within so many seconds, with all that was written before seen after.
  m.def("post_count_(Tensor(a!) counts, int own, int count) -> ()");
  m.def("counts_reach(Tensor counts, int count, float seconds) -> bool");
  // The instruction set that the CPU kernels use here.
  m.def("cpu_kernels() -> str");
}
