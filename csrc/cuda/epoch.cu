// An epoch of skip-gram with negative sampling on the GPU: the kernel around epoch_warp.h, and its operator.
//
// One warp trains one sentence at a time, in blocks of up to 4 warps that never wait for each other; a warp that is
// done takes the next 256 ids from a counter. The number of warps is the number of sentences in flight: more hide more
// latency, but see rows of frequent words that are older by as many sentences.
//
// Bounds, per block of 2 centres with M contexts (8.8 on average at W = 5) and N = 2 + K outputs; a window is half of
// it:
//   arithmetic  3 M N D multiply-adds: 12 instructions of a warp for each pair and 128 columns, about 740 for D <= 128;
//               with the sums across lanes (125 for each 4 contexts), shared memory and bookkeeping an estimated 1,600.
//               An H100 or H200 (132 x 4 schedulers, 1.7 GHz) issues 900 G instructions/s: about 1,100 M windows/s
//   L2          N rows of out read and added to, 2 rows of in and those of frequent words, 4 of 12 on the IMDB corpus:
//               2 (N + 6) D numbers. 10 KB for D = 100, K = 5, so at an assumed 3 TB/s, half of it atomics, about 600 M
//               windows/s
//   memory      nothing but ids while both tables (2 V D numbers) fit the L2 cache, 60 MB there: V = 75,000 at D = 100.
//               At D = 300 21.6 KB per block less what hits: with half of it missing, 4.3 TB/s allow 800 M windows/s
//   latency     what decides. With one warp on each scheduler (508 in flight) an H200 takes 10,600 cycles from block to
//               block of a sentence, by the disassembly some 2,900 instructions: 190 M windows/s, 250 M raw words/s on
//               the IMDB corpus, of which a raw word gives 0.76 windows at sample 1e-3. With two, 377 M raw words/s
// So lanes must stay together. A branch that some lanes take leaves a warp in two halves which go on one after the
// other, and exchanges between lanes then go one by one: with rows of D numbers in shared memory, and lanes told apart
// by where D ends, a block took more than twice as long. Rows are padded with zeros to 128 columns instead, and what
// reads or writes memory is predicated. Shared memory: 2 (2 W + 2) rows per warp and 2 KB. An SM holds 8 warps at D =
// 100, for want of registers, and 5 at D = 300.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "../epoch_warp.h"
#include "device_warp.h"
#include "epoch_arguments.h"

namespace w2v {
namespace {

// Blocks on an SM for which registers must do. There is seldom more than one: sentences in flight are few, for the sake
// of what they learn, and a warp that holds much in registers waits less.
constexpr int kBlocksAtOnce = 2;

// sums (3,) += loss, pairs, words after subsampling; bad becomes the first place of a word that is out of range, if
// any. Each of `warps` warps has layout.bytes of the dynamic shared memory.
template <typename T, int kChunks>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    train_sentences(const __grid_constant__ EpochParams params, const __grid_constant__ EpochLayout layout, T* in,
                    T* out, int64_t stride, int64_t warps, Counter* counter, Counter* bad, double* sums) {
  const int own = static_cast<int>(threadIdx.x) / kWarp;
  if (static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + own >= warps) return;
  DeviceWarp warp(counter, bad);
  SentenceTrainer<DeviceWarp, T, kChunks> trainer(warp, params, layout, dynamic_shared() + own * layout.bytes, in, out,
                                                  stride);
  trainer.run();
  add_sums(trainer, sums);
}

template <typename T, int kChunks>
void start(const EpochArguments& a, const EpochParams& params, const EpochLayout& layout) {
  a.start("train_sentences", layout, train_sentences<T, kChunks>, params, layout,
          static_cast<T*>(a.in_weight.mutable_data_ptr()), static_cast<T*>(a.out_weight.mutable_data_ptr()),
          a.in_weight.stride(0));
}

template <typename T>
void start_with(const EpochArguments& a, const EpochParams& params, const EpochLayout& layout) {
  const int chunks = layout.groups == 1 ? layout.width / (4 * kWarp) : 0;
  switch (chunks) {
    case 1:
      return start<T, 1>(a, params, layout);
    case 2:
      return start<T, 2>(a, params, layout);
    case 3:
      return start<T, 3>(a, params, layout);
    default:
      return start<T, 0>(a, params, layout);
  }
}

void train(const Tensor& in_weight, const Tensor& out_weight, const Tensor& sums, const Tensor& bad, const Tensor& ids,
           const Tensor& alias, const Tensor& keep, int64_t first, int64_t num_ids, int64_t begin, int64_t end,
           int64_t window, int64_t negative, int64_t seed, int64_t epoch, int64_t epochs, double lr,
           int64_t sentences_in_flight, int64_t hot_words) {
  const EpochArguments a{in_weight, out_weight, sums,   bad,  ids,   keep,   first, num_ids,
                         begin,     end,        window, seed, epoch, epochs, lr,    sentences_in_flight,
                         hot_words};
  EpochParams params = a.check();
  params.alias = check_noise(alias, in_weight, negative);
  params.negative = static_cast<int>(negative);
  const EpochLayout layout(params.window, params.negative, in_weight.size(1));
  a.check_layout(layout, negative);
  if (begin == end) return;
  const int64_t tables = 2 * in_weight.size(0) * in_weight.stride(0) * static_cast<int64_t>(in_weight.element_size());
  params.prefetch = tables > attribute(cudaDevAttrL2CacheSize, a.device());
  if (in_weight.scalar_type() == ScalarType::Float) {
    start_with<float>(a, params, layout);
  } else {
    start_with<__nv_bfloat16>(a, params, layout);
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CUDA, m) { m.impl("train_sgns_cuda_", TORCH_BOX(&train)); }

}  // namespace w2v
