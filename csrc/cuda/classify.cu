// An epoch of text classification on the GPU: cpu/classify_kernel.h, a warp for each line, updates by atomic additions.
//
// Lane l has the columns 4 l, 4 l + 1, ... of each 128. The numbers of a line's rows are looked up by all lanes at
// once, 32 words at a time, and then handed round; the rows are read four at a time, for the mean, and added to once
// the step is known. Outputs are read for the scores, 8 at a time, and again for the step. The next line is taken from
// a counter, so that long lines keep nobody waiting. With one line in flight the result is the CPU's with one thread,
// to rounding.
//
// Bound, per line of R rows (466 on the IMDB reviews with pairs of words, D = 100): R rows of 400 bytes read and as
// many added to, 370 KB, in L2 where it holds them (most pairs of words occur once, and come from memory): at 4.3 TB/s
// 11 M lines/s. The default number of lines in flight stays far below that: every line moves the same few outputs, so
// it is the staleness of those that counts: 0.42 M lines/s on an H200 with 64, and 1.5 M with 256.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <string>

#include "classify_line.h"
#include "epoch_arguments.h"

namespace w2v {
namespace {

// sums (2,) += loss, examples; bad becomes the first place in the order whose line has a number out of range, if any.
template <int kHeld>
__global__ void __launch_bounds__(kThreads, 4)
    train_lines(const __grid_constant__ LineArguments a, Counter* counter, Counter* bad, double* sums) {
  const int own = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + own;
  if (warp >= a.warps) return;
  LineTrainer<kHeld> trainer(a, dynamic_shared() + own * a.bytes,
                             a.scores != nullptr ? a.scores + warp * a.most : nullptr, bad);
  DeviceWarp hand(counter, bad);
  for (int64_t n = a.begin + hand.take(); n < a.end; n = a.begin + hand.take()) trainer.train(n);
  const double loss = warp_sum(trainer.loss);
  if (lane_of_warp() != 0) return;
  atomicAdd(sums, loss);
  atomicAdd(sums + 1, trainer.examples);
}

LabelLoss loss_of(const std::string& name) {
  if (name == "softmax") return LabelLoss::kSoftmax;
  if (name == "hs") return LabelLoss::kHierarchical;
  W2V_CHECK(name == "ova", "loss: expected softmax, hs or ova, got ", name);
  return LabelLoss::kOneVsAll;
}

void train(const Tensor& in_weight, const Tensor& out_weight, const Tensor& sums, const Tensor& bad,
           const Tensor& tokens, const Tensor& ends, const Tensor& ngrams, const Tensor& ngram_ends, const Tensor& rows,
           const Tensor& row_ends, const std::string& loss, const Tensor& labels, const Tensor& label_ends,
           const Tensor& path, const Tensor& path_ends, const Tensor& order, int64_t longest, double lr, int64_t seed,
           int64_t epoch, int64_t epochs, int64_t begin, int64_t end, int64_t lines_in_flight) {
  check_weight(in_weight, "in_weight", in_weight);
  check_weight(out_weight, "out_weight", out_weight);
  W2V_CHECK(in_weight.scalar_type() == ScalarType::Float && out_weight.scalar_type() == ScalarType::Float &&
                out_weight.size(1) == in_weight.size(1) && out_weight.device() == in_weight.device(),
            "out_weight: expected float32 of shape (N, D) with the D of in_weight, on its device, got shape ",
            shape_of(out_weight));
  check_in_place(in_weight, out_weight);
  W2V_CHECK(in_weight.size(0) >= 1 && in_weight.size(0) < INT32_MAX && out_weight.size(0) >= 1,
            "in_weight, out_weight: expected 1 to 2^31 - 2 rows, got ", in_weight.size(0), " and ", out_weight.size(0));
  W2V_CHECK(in_weight.size(1) >= 1 && in_weight.size(1) <= 1 << 20, "in_weight: expected 1 to 2^20 columns, got ",
            in_weight.size(1));
  const int64_t num_lines = ends.size(0);
  check_vector(sums, "sums", ScalarType::Double, 2, in_weight);
  check_vector(bad, "bad", ScalarType::Long, 1, in_weight);
  check_vector(tokens, "tokens", ScalarType::Int, -1, in_weight);
  check_vector(ends, "ends", ScalarType::Long, -1, in_weight);
  check_vector(ngrams, "ngrams", ScalarType::Int, -1, in_weight);
  check_vector(ngram_ends, "ngram_ends", ScalarType::Long, num_lines, in_weight);
  check_vector(rows, "rows", ScalarType::Int, -1, in_weight);
  check_vector(row_ends, "row_ends", ScalarType::Long, -1, in_weight);
  check_vector(labels, "labels", ScalarType::Int, -1, in_weight);
  check_vector(label_ends, "label_ends", ScalarType::Long, num_lines, in_weight);
  check_vector(path, "path", ScalarType::Int, -1, in_weight);
  check_vector(path_ends, "path_ends", ScalarType::Long, -1, in_weight);
  check_vector(order, "order", ScalarType::Int, -1, in_weight);
  W2V_CHECK(lr > 0 && std::isfinite(lr), "lr: expected a positive number, got ", lr);
  W2V_CHECK(epochs >= 1 && epoch >= 0 && epoch < epochs, "epoch: expected 0 <= epoch < epochs, got ", epoch, " of ",
            epochs);
  W2V_CHECK(begin >= 0 && begin <= end && end <= order.size(0),
            "begin, end: expected 0 <= begin <= end <= ", order.size(0), ", got ", begin, " and ", end);
  W2V_CHECK(lines_in_flight >= 1 && lines_in_flight <= 1 << 20,
            "lines_in_flight: expected an integer from 1 to 2^20, got ", lines_in_flight);
  LineArguments a{};
  a.loss = loss_of(loss);
  a.in = static_cast<float*>(in_weight.mutable_data_ptr());
  a.out = static_cast<float*>(out_weight.mutable_data_ptr());
  a.in_stride = in_weight.stride(0);
  a.out_stride = out_weight.stride(0);
  a.num_in = in_weight.size(0);
  a.num_out = out_weight.size(0);
  const bool tree = a.loss == LabelLoss::kHierarchical;
  a.num_labels = a.num_out + (tree ? 1 : 0);
  W2V_CHECK(!tree || path_ends.size(0) == a.num_labels, "path_ends: expected shape (L,) = (", a.num_labels, ",), got ",
            shape_of(path_ends));
  W2V_CHECK(!tree || longest >= 1, "longest: expected the nodes of the longest path, got ", longest);
  a.tokens = tokens.const_data_ptr<int32_t>();
  a.ends = ends.const_data_ptr<int64_t>();
  a.ngrams = ngrams.const_data_ptr<int32_t>();
  a.ngram_ends = ngram_ends.const_data_ptr<int64_t>();
  a.num_lines = num_lines;
  a.rows = rows.const_data_ptr<int32_t>();
  a.row_ends = row_ends.const_data_ptr<int64_t>();
  a.num_words = row_ends.size(0);
  a.order = order.const_data_ptr<int32_t>();
  a.num_examples = order.size(0);
  a.labels = labels.const_data_ptr<int32_t>();
  a.label_ends = label_ends.const_data_ptr<int64_t>();
  a.path = path.const_data_ptr<int32_t>();
  a.path_ends = path_ends.const_data_ptr<int64_t>();
  a.seed = static_cast<uint64_t>(seed);
  a.epoch = static_cast<uint32_t>(epoch);
  a.epochs = static_cast<uint32_t>(epochs);
  a.lr = lr;
  a.begin = begin;
  a.end = end;
  a.pitch = static_cast<int>((in_weight.size(1) + 3) / 4 * 4);
  a.most = tree ? longest : a.num_out;
  const bool shared_scores = a.most <= kSharedScores;
  a.bytes = (4 * (a.pitch + (shared_scores ? a.most : 0)) + 15) / 16 * 16;
  const int device = in_weight.get_device_index();
  const int64_t most = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  W2V_CHECK(a.bytes <= most, "dim: expected the mean of a line and its scores to fit ", most,
            " bytes of shared memory, got ", a.bytes, " bytes for dim = ", in_weight.size(1));
  if (begin == end) return;
  a.warps = smaller(lines_in_flight, end - begin);
  const int64_t of_block = warps_of_block(a.warps, a.bytes, device);
  const int64_t scratch = shared_scores ? 0 : a.warps * a.most;
  const Tensor scores = torch::stable::new_empty(in_weight, {scratch}, ScalarType::Float);
  if (!shared_scores) a.scores = static_cast<float*>(scores.mutable_data_ptr());
  const Tensor counter = torch::stable::new_zeros(tokens, {1}, ScalarType::Long);
  const auto start = [&](auto kernel) {
    launch_blocks("train_lines", in_weight, (a.warps + of_block - 1) / of_block, static_cast<int>(of_block * kWarp),
                  of_block * a.bytes, kernel, a, static_cast<Counter*>(counter.mutable_data_ptr()),
                  static_cast<Counter*>(bad.mutable_data_ptr()), static_cast<double*>(sums.mutable_data_ptr()));
  };
  a.pitch <= 4 * kWarp ? start(train_lines<1>) : start(train_lines<3>);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CUDA, m) { m.impl("train_classifier_cuda_", TORCH_BOX(&train)); }

}  // namespace w2v
