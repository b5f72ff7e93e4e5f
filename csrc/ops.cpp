// Every operator of the library, on one page. The CPU kernels are registered in cpu/*_ops.cpp, the CUDA kernels in
// cuda/*.cu, shape functions and gradient formulas in w2v_ext/ops.py.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(w2v_ext, m) {
  // Autograd path. in_weight, out_weight (V, D); center (B,), pos (B, P), neg (B, K) int32 | int64.
  // loss (B,) and coef (B, P + K) = d loss / d score, in float32 (float64 for float64 weights).
  m.def(
      "negative_sampling_loss(Tensor in_weight, Tensor out_weight, Tensor center, Tensor pos, Tensor neg, "
      "bool sparse_grad) -> (Tensor loss, Tensor coef)");
  m.def(
      "negative_sampling_loss_backward(Tensor grad_loss, Tensor coef, Tensor in_weight, Tensor out_weight, "
      "Tensor center, Tensor pos, Tensor neg) -> (Tensor grad_in, Tensor grad_out)");
  // The same as unique, ascending rows (R,) int64 and their values (R, D), for each weight.
  m.def(
      "negative_sampling_loss_backward_sparse(Tensor grad_loss, Tensor coef, Tensor in_weight, Tensor out_weight, "
      "Tensor center, Tensor pos, Tensor neg) -> (Tensor in_rows, Tensor in_values, Tensor out_rows, "
      "Tensor out_values)");
  // The dense gradients of CUDA tensors, each row summed in a fixed order: the same bits in every run.
  m.def(
      "negative_sampling_loss_backward_sorted(Tensor grad_loss, Tensor coef, Tensor in_weight, Tensor out_weight, "
      "Tensor center, Tensor pos, Tensor neg) -> (Tensor grad_in, Tensor grad_out)");
  // Direct path: the SGD step of loss.sum() * scale, in place; gives the losses (B,) before the step.
  m.def(
      "sgns_step_(Tensor(a!) in_weight, Tensor(b!) out_weight, Tensor center, Tensor pos, Tensor neg, float step) "
      "-> Tensor loss");
  // The same on CUDA tensors, each row summed in a fixed order.
  m.def(
      "sgns_step_sorted_(Tensor(a!) in_weight, Tensor(b!) out_weight, Tensor center, Tensor pos, Tensor neg, "
      "float step) -> Tensor loss");

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
      "int epoch, int epochs, float lr, int sentences_in_flight) -> ()");
  // The last end of whole sentences of ids in [begin, begin + limit]: where a chunk that goes to the device is cut.
  m.def("chunk_end(Tensor ids, int begin, int limit) -> int");
  // The instruction set that the CPU kernels use here.
  m.def("cpu_kernels() -> str");
}
