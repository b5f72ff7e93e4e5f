// An epoch of fastText's models on the GPU: the kernel around subword_warp.h, and its operator.
//
// One warp trains one sentence at a time, as in epoch.cu. Bounds, per kept word, with n sums (16 on the IMDB corpus), 6
// contexts and K = 5 at D = 100: n + 6 (1 + K) rows of 400 bytes read and as many added to by atomics, 42 KB, so at an
// assumed 3 TB/s of L2 70 M words/s while the sums (55 MB there) fit it. Continuous bag of words has n + 1 + K rows, 18
// KB and 170 M words/s. A context costs 3 (1 + K) D multiply-adds on rows in shared memory, 33 reads and writes of 16
// bytes per lane and 128 columns: 6 contexts a word take 800 cycles of an SM's shared memory, 290 M words/s on 132 of
// them. With the 194 sentences in flight that n-grams shared by many words allow, an H200 trains 17 M raw words/s: so
// few warps wait nearly always.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "../subword_warp.h"
#include "device_warp.h"
#include "epoch_arguments.h"

namespace w2v {
namespace {

// Each of `warps` warps has layout.bytes of the dynamic shared memory; sums and bad as train_sgns_cuda_ has them.
__global__ void __launch_bounds__(kThreads, 2)
    train_words(const __grid_constant__ SubwordSums params, const __grid_constant__ EpochLayout layout, float* in,
                float* out, int64_t stride, int64_t warps, Counter* counter, Counter* bad, double* sums) {
  const int own = static_cast<int>(threadIdx.x) / kWarp;
  if (static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + own >= warps) return;
  DeviceWarp warp(counter, bad);
  SubwordTrainer<DeviceWarp> trainer(warp, params, layout, dynamic_shared() + own * layout.bytes, in, out, stride);
  trainer.run();
  add_sums(trainer, sums);
}

void train(const Tensor& in_weight, const Tensor& ngram_weight, const Tensor& out_weight, const Tensor& sums,
           const Tensor& bad, const Tensor& first_entry, const Tensor& entries, const Tensor& word_rows,
           const Tensor& group_rows, const Tensor& ids, const Tensor& alias, const Tensor& keep, bool cbow,
           int64_t first, int64_t num_ids, int64_t begin, int64_t end, int64_t window, int64_t negative, int64_t seed,
           int64_t epoch, int64_t epochs, double lr, int64_t sentences_in_flight) {
  const EpochArguments a{in_weight, out_weight, sums,   bad,  ids,   keep,   first, num_ids,
                         begin,     end,        window, seed, epoch, epochs, lr,    sentences_in_flight,
                         0};
  SubwordSums params{a.check(), nullptr, nullptr, nullptr, nullptr, nullptr, cbow};
  W2V_CHECK(in_weight.scalar_type() == ScalarType::Float, "in_weight: expected dtype float32, got ",
            torch::headeronly::toString(in_weight.scalar_type()));
  params.epoch.alias = check_noise(alias, in_weight, negative);
  params.epoch.negative = static_cast<int>(negative);
  check_weight(ngram_weight, "ngram_weight", ngram_weight);
  W2V_CHECK(ngram_weight.scalar_type() == ScalarType::Float && ngram_weight.device() == in_weight.device() &&
                ngram_weight.size(1) == in_weight.size(1) && ngram_weight.stride(0) == in_weight.stride(0),
            "ngram_weight: expected the dtype, columns, strides and device of in_weight, ", shape_of(in_weight),
            ", got ", shape_of(ngram_weight));
  check_in_place(in_weight, ngram_weight);
  check_in_place(ngram_weight, out_weight);
  const int64_t vocab_size = in_weight.size(0);
  W2V_CHECK(vocab_size + ngram_weight.size(0) <= 0x7FFFFFFF,
            "in_weight, ngram_weight: expected fewer than 2^31 rows together, got ", shape_of(in_weight), " and ",
            shape_of(ngram_weight));
  check_vector(first_entry, "first_entry", ScalarType::Long, vocab_size + 1, in_weight);
  check_vector(entries, "entries", ScalarType::Int, -1, in_weight);
  check_vector(word_rows, "word_rows", ScalarType::Float, vocab_size, in_weight);
  check_vector(group_rows, "group_rows", ScalarType::Float, vocab_size + ngram_weight.size(0), in_weight);
  params.ngrams = static_cast<float*>(ngram_weight.mutable_data_ptr());
  params.first = first_entry.const_data_ptr<int64_t>();
  params.entries = entries.const_data_ptr<int32_t>();
  params.word_rows = word_rows.const_data_ptr<float>();
  params.group_rows = group_rows.const_data_ptr<float>();
  using Trainer = SubwordTrainer<DeviceWarp>;
  const EpochLayout layout(params.epoch.window, params.epoch.negative, in_weight.size(1), 1 + params.epoch.negative,
                           Trainer::extra_rows(params.epoch.negative));
  a.check_layout(layout, negative);
  if (begin == end) return;
  a.start("train_words", layout, train_words, params, layout, static_cast<float*>(in_weight.mutable_data_ptr()),
          static_cast<float*>(out_weight.mutable_data_ptr()), in_weight.stride(0));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CUDA, m) { m.impl("train_subwords_cuda_", TORCH_BOX(&train)); }

}  // namespace w2v
