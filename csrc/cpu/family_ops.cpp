// The epoch path of CBOW and of hierarchical softmax on the CPU.
#include <torch/csrc/stable/library.h>

#include "../checks.h"
#include "epoch_arguments.h"
#include "hogwild.h"
#include "kernels.h"

namespace w2v {
namespace {

Tensor train_cbow(const Tensor& in_weight, const Tensor& out_weight, const Tensor& ids, const Tensor& alias,
                  const Tensor& keep, bool mean, bool divide, int64_t window, int64_t negative, int64_t seed,
                  int64_t epoch, int64_t epochs, double lr, int64_t begin, int64_t end, int64_t threads) {
  SgnsParams params = check_epoch(in_weight, out_weight, ids, keep, window, seed, epoch, epochs, lr, begin, end);
  params.alias = check_noise(alias, in_weight.size(0), negative);
  params.negative = static_cast<int>(negative);
  params.mean = mean;
  params.divide = divide;
  return train_in_threads(params, in_weight, begin, end, threads, kernels().train_cbow, {.bags = true});
}

Tensor train_hs(const Tensor& in_weight, const Tensor& out_weight, const Tensor& ids, const Tensor& path_start,
                const Tensor& path, const Tensor& keep, bool cbow, bool mean, bool divide, int64_t window, int64_t seed,
                int64_t epoch, int64_t epochs, double lr, int64_t begin, int64_t end, int64_t threads) {
  SgnsParams params = check_epoch(in_weight, out_weight, ids, keep, window, seed, epoch, epochs, lr, begin, end);
  check_paths(path_start, path, in_weight.size(0));
  params.path_start = path_start.const_data_ptr<int64_t>();
  params.path = path.const_data_ptr<int32_t>();
  params.mean = mean;
  params.divide = divide;
  return train_in_threads(params, in_weight, begin, end, threads,
                          cbow ? kernels().train_cbow_hs : kernels().train_skipgram_hs, {.bags = cbow});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CPU, m) {
  m.impl("train_cbow_", TORCH_BOX(&train_cbow));
  m.impl("train_hs_", TORCH_BOX(&train_hs));
}

}  // namespace w2v
