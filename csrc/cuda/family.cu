// An epoch of CBOW with negative sampling, and of hierarchical softmax for CBOW and skip-gram, on the GPU: the kernels
// around family_warp.h, and their operators.
//
// One warp trains one sentence at a time, as in epoch.cu. A word's row is read once and added to once while a window
// slides over it (a frequent word's with every block); rows of outputs are read for the scores and again for the
// update, and added to by atomics.
//
// Bounds, per centre, with C contexts and D = 100 (400 bytes a row, 3 reads or writes each of N outputs and 2 of a
// word's own row):
//   CBOW        N = (2 + K) / 2: 3 N + 2 rows, 5 KB, so at an assumed 3 TB/s of L2 600 M centres/s. Arithmetic: 2 C D
//               additions for h and its step, and 3 (2 + K) D multiply-adds: less than half of skip-gram's
//   tree        N = 11.2 nodes on average on the IMDB corpus: 3 N + 2 rows, 14 KB, so 200 M centres/s. Arithmetic: 3 C
//   N D
//               multiply-adds for skip-gram, 3 N D for CBOW
// What limits a tree is another thing: all warps add to the root at all times, so there must not be many (see
// default_sentences_in_flight in w2v_ext/methods/cuda_epoch.py). An H200 trains 127 M centres/s of CBOW (508 sentences
// in flight) and 33 M of skip-gram with a tree (256): latency, as in epoch.cu.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "../family_warp.h"
#include "device_warp.h"
#include "epoch_arguments.h"

namespace w2v {
namespace {

// Each of `warps` warps has layout.bytes of the dynamic shared memory; sums and bad as train_sgns_cuda_ has them.
template <typename Trainer>
__global__ void __launch_bounds__(kThreads, 2)
    train_family(const __grid_constant__ FamilyParams params, const __grid_constant__ EpochLayout layout, float* in,
                 float* out, int64_t stride, int64_t warps, Counter* counter, Counter* bad, double* sums) {
  const int own = static_cast<int>(threadIdx.x) / kWarp;
  if (static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + own >= warps) return;
  DeviceWarp warp(counter, bad);
  Trainer trainer(warp, params, layout, dynamic_shared() + own * layout.bytes, in, out, stride);
  trainer.run();
  add_sums(trainer, sums);
}

template <typename Trainer>
void start(const EpochArguments& a, const FamilyParams& params, int outputs) {
  const EpochLayout layout(params.epoch.window, params.epoch.negative, a.in_weight.size(1), outputs,
                           Trainer::kExtraRows);
  a.check_layout(layout, params.epoch.negative);
  if (a.begin == a.end) return;
  a.start("train_family", layout, train_family<Trainer>, params, layout,
          static_cast<float*>(a.in_weight.mutable_data_ptr()), static_cast<float*>(a.out_weight.mutable_data_ptr()),
          a.in_weight.stride(0));
}

void check_float32(const Tensor& in_weight) {
  W2V_CHECK(in_weight.scalar_type() == ScalarType::Float, "in_weight: expected dtype float32, got ",
            torch::headeronly::toString(in_weight.scalar_type()));
}

void train_cbow(const Tensor& in_weight, const Tensor& out_weight, const Tensor& sums, const Tensor& bad,
                const Tensor& ids, const Tensor& alias, const Tensor& keep, bool mean, bool divide, int64_t first,
                int64_t num_ids, int64_t begin, int64_t end, int64_t window, int64_t negative, int64_t seed,
                int64_t epoch, int64_t epochs, double lr, int64_t sentences_in_flight, int64_t hot_words) {
  const EpochArguments a{in_weight, out_weight, sums,   bad,  ids,   keep,   first, num_ids,
                         begin,     end,        window, seed, epoch, epochs, lr,    sentences_in_flight,
                         hot_words};
  FamilyParams params{a.check(), mean, divide, nullptr, nullptr};
  check_float32(in_weight);
  params.epoch.alias = check_noise(alias, in_weight, negative);
  params.epoch.negative = static_cast<int>(negative);
  start<Cbow<DeviceWarp>>(a, params, kBlock + params.epoch.negative);
}

void train_tree(const Tensor& in_weight, const Tensor& out_weight, const Tensor& sums, const Tensor& bad,
                const Tensor& ids, const Tensor& path_start, const Tensor& path, const Tensor& keep, int64_t longest,
                bool cbow, bool mean, bool divide, int64_t first, int64_t num_ids, int64_t begin, int64_t end,
                int64_t window, int64_t seed, int64_t epoch, int64_t epochs, double lr, int64_t sentences_in_flight,
                int64_t hot_words) {
  const EpochArguments a{in_weight, out_weight, sums,   bad,  ids,   keep,   first, num_ids,
                         begin,     end,        window, seed, epoch, epochs, lr,    sentences_in_flight,
                         hot_words};
  FamilyParams params{a.check(), mean, divide, nullptr, nullptr};
  check_float32(in_weight);
  const int64_t vocab_size = in_weight.size(0);
  W2V_CHECK(vocab_size <= 0x3FFFFFFF, "in_weight: expected at most 2^30 - 1 rows for a tree, got ", vocab_size);
  check_vector(path_start, "path_start", ScalarType::Long, vocab_size + 1, in_weight);
  check_vector(path, "path", ScalarType::Int, -1, in_weight);
  W2V_CHECK(longest >= 1 && longest < vocab_size, "longest: expected 1 to ", vocab_size - 1,
            " nodes on the longest path, got ", longest);
  params.path_start = path_start.const_data_ptr<int64_t>();
  params.path = path.const_data_ptr<int32_t>();
  if (cbow) {
    start<CbowTree<DeviceWarp>>(a, params, static_cast<int>(longest));
  } else {
    start<SkipGramTree<DeviceWarp>>(a, params, static_cast<int>(longest));
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CUDA, m) {
  m.impl("train_cbow_cuda_", TORCH_BOX(&train_cbow));
  m.impl("train_hs_cuda_", TORCH_BOX(&train_tree));
}

}  // namespace w2v
