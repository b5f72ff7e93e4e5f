// An epoch of CBOW with negative sampling, and of hierarchical softmax for CBOW and skip-gram, on the GPU.
//
// One warp trains one sentence at a time (sentence.h); lane l holds the columns l, l + 32, ... of every row. A score is
// summed over the lanes; what is learnt is added to memory at once, by atomics. Rows are read from L2 as they are, for
// the scores and again for the update. A plain kernel, that follows the CPU's (cpu/cbow_kernel.h, cpu/hs_kernel.h) step
// by step: with one sentence in flight its result is that of one thread, to rounding.
//
// Bound, per centre with C contexts and N outputs: (2 C + 3 N) D numbers read and (C + N) D added to by atomics for
// CBOW, 3 C N D read and C N D added to for skip-gram with a tree, all in L2. It has not been run on a GPU yet.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>

#include "../checks.h"
#include "../epoch_plan.h"
#include "../lanes.h"
#include "launch.h"
#include "sentence.h"

namespace w2v {
namespace {

struct FamilyParams {
  EpochParams epoch;
  float *in, *out;
  int64_t stride;
  int dim;
  bool mean, divide;
  const int64_t* path_start;  // null: negative sampling
  const int32_t* path;
  int64_t coefs;  // floats: the most scores that a centre has
  int64_t bytes;  // of shared memory for a warp
};

enum class Model { kCbow, kCbowTree, kSkipGramTree };

template <Model kModel>
class Trainer {
 public:
  double loss = 0;
  int64_t pairs = 0;

  __device__ Trainer(const FamilyParams& params, const WordRing& ring, float* shared)
      : p_(params), ring_(ring), lane_(lane_of_warp()), hidden_(shared), coef_(shared + 2 * kBlock * params.dim) {}

  __device__ void block(const SentenceReader& reader, int64_t center, int count, int64_t filled) {
    if constexpr (kModel == Model::kSkipGramTree) {
      for (int g = 0; g < count; ++g) skipgram(reader, center + g, filled);
    } else {
      for (int g = 0; g < count; ++g) gather(center + g, filled, hidden(g));
      if constexpr (kModel == Model::kCbow) {
        predict(reader, center, count);
      } else {
        for (int g = 0; g < count; ++g) descend(reader, center + g, hidden(g), hidden(kBlock + g));
      }
      for (int g = 0; g < count; ++g) scatter(center + g, filled, hidden(kBlock + g));
      pairs += count;
    }
  }

 private:
  __device__ float* hidden(int i) const { return hidden_ + i * p_.dim; }
  __device__ float* in_row(int64_t e) const { return p_.in + ring_.word[ring_.at(e)] * p_.stride; }
  __device__ int64_t low(int64_t c) const { return larger<int64_t>(0, c - ring_.reach[ring_.at(c)]); }
  __device__ int64_t high(int64_t c, int64_t filled) const {
    return smaller<int64_t>(filled, c + ring_.reach[ring_.at(c)] + 1);
  }

  // Columns of one's own need no meeting of lanes.
  __device__ void gather(int64_t c, int64_t filled, float* h) const {
    const int64_t from = low(c), to = high(c, filled);
    const float take = p_.mean ? 1.0f / static_cast<float>(to - from - 1) : 1.0f;
    for (int d = lane_; d < p_.dim; d += kWarp) {
      float sum = 0;
      for (int64_t e = from; e < to; ++e)
        if (e != c) sum += take * load_now(in_row(e) + d);
      h[d] = sum;
    }
  }

  __device__ void scatter(int64_t c, int64_t filled, const float* delta) const {
    const int64_t from = low(c), to = high(c, filled);
    const float give = p_.divide ? 1.0f / static_cast<float>(to - from - 1) : 1.0f;
    for (int d = lane_; d < p_.dim; d += kWarp)
      for (int64_t e = from; e < to; ++e)
        if (e != c) atomicAdd(in_row(e) + d, give * delta[d]);
  }

  // Node n of a word's path, and whether its score should be high (-1) or low (1).
  struct Node {
    float* row;
    float weight;
  };
  __device__ int num_nodes(int32_t word) const {
    return static_cast<int>(p_.path_start[word + 1] - p_.path_start[word]);
  }
  __device__ Node node(int32_t word, int n) const {
    const int32_t step = p_.path[p_.path_start[word] + n];
    return {p_.out + static_cast<int64_t>(step >> 1) * p_.stride, static_cast<float>(2 * (step & 1) - 1)};
  }

  // Output n of a block: the centres, then the negatives, which are drawn at the place of its first centre.
  __device__ uint32_t output(uint64_t key, int64_t center, int count, int n) const {
    if (n < count) return static_cast<uint32_t>(ring_.word[ring_.at(center + n)]);
    const EpochParams& e = p_.epoch;
    const uint64_t first = static_cast<uint64_t>(ring_.place[ring_.at(center)]) * static_cast<uint64_t>(1 + e.negative);
    return sample_alias(e.alias, e.vocab_size, draw(key, first + static_cast<uint64_t>(1 + n - count)));
  }

  // lr (label - sigmoid(score)) times |weight|; the loss is counted by one lane.
  __device__ float coefficient(float score, float weight, float rate) {
    const float t = weight < 0 ? -score : score, e = expf(-fabsf(t)), size = fabsf(weight);
    if (lane_ == 0) loss += static_cast<double>(size * (fmaxf(t, 0.0f) + log1pf(e)));
    return -rate * weight * (t < 0 ? e : 1.0f) / (1.0f + e);
  }

  // The h of a block against its outputs: all scores first; then one centre after the other moves them.
  __device__ void predict(const SentenceReader& reader, int64_t center, int count) {
    const int num_outputs = count + p_.epoch.negative;
    __syncwarp();  // every lane has read the coefficients before
    for (int n = 0; n < num_outputs; ++n) {
      const uint32_t word = output(reader.key, center, count, n);
      const float* row = p_.out + static_cast<int64_t>(word) * p_.stride;
      for (int g = 0; g < count; ++g) {
        const bool own = word == static_cast<uint32_t>(ring_.word[ring_.at(center + g)]);
        const float weight = n == g ? -1.0f : (n < count || own ? 0.0f : 1.0f);
        float sum = 0;
        for (int d = lane_; d < p_.dim; d += kWarp) sum += hidden(g)[d] * load_now(row + d);
        const float coef = coefficient(warp_sum(sum), weight, reader.rate);
        if (lane_ == 0) coef_[n * kBlock + g] = coef;
      }
    }
    for (int g = 0; g < count; ++g)
      for (int d = lane_; d < p_.dim; d += kWarp) hidden(kBlock + g)[d] = 0;
    __syncwarp();
    for (int n = 0; n < num_outputs; ++n) {
      const float* row = p_.out + static_cast<int64_t>(output(reader.key, center, count, n)) * p_.stride;
      for (int d = lane_; d < p_.dim; d += kWarp) {
        float u = load_now(row + d);
        for (int g = 0; g < count; ++g) {
          hidden(kBlock + g)[d] += coef_[n * kBlock + g] * u;
          u += coef_[n * kBlock + g] * hidden(g)[d];
        }
      }
    }
    for (int n = 0; n < num_outputs; ++n) {
      float* row = p_.out + static_cast<int64_t>(output(reader.key, center, count, n)) * p_.stride;
      for (int d = lane_; d < p_.dim; d += kWarp) {
        float step = 0;
        for (int g = 0; g < count; ++g) step += coef_[n * kBlock + g] * hidden(g)[d];
        atomicAdd(row + d, step);
      }
    }
  }

  // h against the path of centre c: scores first, then what they move.
  __device__ void descend(const SentenceReader& reader, int64_t c, const float* h, float* delta) {
    const int32_t word = ring_.word[ring_.at(c)];
    const int count = num_nodes(word);
    for (int d = lane_; d < p_.dim; d += kWarp) delta[d] = 0;
    __syncwarp();  // every lane has read the coefficients before
    for (int n = 0; n < count; ++n) {
      const Node o = node(word, n);
      float sum = 0;
      for (int d = lane_; d < p_.dim; d += kWarp) sum += h[d] * load_now(o.row + d);
      const float coef = coefficient(warp_sum(sum), o.weight, reader.rate);
      if (lane_ == 0) coef_[n] = coef;
    }
    __syncwarp();
    for (int n = 0; n < count; ++n) {
      float* row = node(word, n).row;
      for (int d = lane_; d < p_.dim; d += kWarp) {
        delta[d] += coef_[n] * load_now(row + d);
        atomicAdd(row + d, coef_[n] * h[d]);
      }
    }
  }

  // The contexts of centre c against its path: all scores, then one context after the other.
  __device__ void skipgram(const SentenceReader& reader, int64_t c, int64_t filled) {
    const int32_t word = ring_.word[ring_.at(c)];
    const int64_t from = low(c), to = high(c, filled);
    const int count = num_nodes(word);
    __syncwarp();  // every lane has read the coefficients before
    float* coef = coef_;
    for (int64_t e = from; e < to; ++e) {
      if (e == c) continue;
      for (int n = 0; n < count; ++n) {
        const Node o = node(word, n);
        float sum = 0;
        for (int d = lane_; d < p_.dim; d += kWarp) sum += load_now(in_row(e) + d) * load_now(o.row + d);
        const float value = coefficient(warp_sum(sum), o.weight, reader.rate);
        if (lane_ == 0) coef[n] = value;
      }
      coef += count;
    }
    __syncwarp();
    for (int d = lane_; d < p_.dim; d += kWarp) {
      coef = coef_;
      for (int64_t e = from; e < to; ++e) {
        if (e == c) continue;
        const float v = load_now(in_row(e) + d);
        float step = 0;
        for (int n = 0; n < count; ++n) {
          float* row = node(word, n).row + d;
          step += coef[n] * load_now(row);
          atomicAdd(row, coef[n] * v);
        }
        atomicAdd(in_row(e) + d, step);
        coef += count;
      }
    }
    pairs += to - from - 1;
  }

  const FamilyParams& p_;
  const WordRing& ring_;
  int lane_;
  float *hidden_, *coef_;
};

// sums (3,) += loss, pairs (CBOW: centres), words; bad becomes the first place of a word that is out of range, if any.
template <Model kModel>
__global__ void __launch_bounds__(kThreads) train_family(const __grid_constant__ FamilyParams params, int64_t warps,
                                                         Counter* counter, Counter* bad, double* sums) {
  const int own = static_cast<int>(threadIdx.x) / kWarp;
  if (static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + own >= warps) return;
  char* shared = dynamic_shared() + own * params.bytes;
  const WordRing ring(shared, params.epoch.window);
  SentenceReader reader(params.epoch, ring, counter, bad);
  Trainer<kModel> trainer(params, ring, reinterpret_cast<float*>(shared + WordRing::bytes_for(params.epoch.window)));
  reader.run([&](int64_t center, int count, int64_t filled) { trainer.block(reader, center, count, filled); });
  if (lane_of_warp() == 0) {
    atomicAdd(sums, trainer.loss);
    atomicAdd(sums + 1, static_cast<double>(trainer.pairs));
    atomicAdd(sums + 2, static_cast<double>(reader.words));
  }
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check_cuda("cudaDeviceGetAttribute", device, cudaDeviceGetAttribute(&value, which, device));
  return value;
}

void check_vector(const Tensor& t, const char* name, ScalarType type, int64_t size, const Tensor& weight) {
  W2V_CHECK(t.dim() == 1 && (size < 0 || t.size(0) == size) && t.scalar_type() == type && t.is_contiguous(), name,
            ": expected a contiguous ", torch::headeronly::toString(type), " tensor of shape (",
            size < 0 ? std::string("N") : std::to_string(size), ",), got ", shape_of(t));
  W2V_CHECK(t.device() == weight.device(), name, ": expected to be on the device of in_weight");
}

FamilyParams check(const Tensor& in_weight, const Tensor& out_weight, const Tensor& sums, const Tensor& bad,
                   const Tensor& ids, const Tensor& keep, int64_t window, int64_t seed, int64_t epoch, int64_t epochs,
                   double lr, int64_t begin, int64_t end, int64_t sentences_in_flight) {
  const Tensor* weights[] = {&in_weight, &out_weight};
  const char* names[] = {"in_weight", "out_weight"};
  for (int i = 0; i < 2; ++i)
    W2V_CHECK(weights[i]->dim() == 2 && weights[i]->scalar_type() == ScalarType::Float &&
                  weights[i]->device() == in_weight.device() && weights[i]->size(0) == in_weight.size(0) &&
                  weights[i]->size(1) == in_weight.size(1) && weights[i]->stride(0) == in_weight.stride(0),
              names[i], ": expected float32 of shape (V, D), alike for both weights, got shape ",
              shape_of(*weights[i]));
  check_in_place(in_weight, out_weight);
  const int64_t vocab_size = in_weight.size(0);
  W2V_CHECK(vocab_size >= 2 && vocab_size <= 0x3FFFFFFF, "in_weight: expected 2 to 2^30 rows, got ", vocab_size);
  check_vector(sums, "sums", ScalarType::Double, 3, in_weight);
  check_vector(bad, "bad", ScalarType::Long, 1, in_weight);
  check_vector(ids, "ids", ScalarType::Int, -1, in_weight);
  check_vector(keep, "keep", ScalarType::Int, vocab_size, in_weight);
  W2V_CHECK(begin >= 0 && begin <= end && end <= ids.size(0), "begin, end: expected 0 <= begin <= end <= ", ids.size(0),
            ", got ", begin, " and ", end);
  W2V_CHECK(window >= 1 && window <= 10000, "window: expected an integer from 1 to 10000, got ", window);
  W2V_CHECK(epochs >= 1 && epoch >= 0 && epoch < epochs, "epoch: expected 0 <= epoch < epochs, got ", epoch, " of ",
            epochs);
  W2V_CHECK(lr > 0 && std::isfinite(lr), "lr: expected a positive number, got ", lr);
  W2V_CHECK(sentences_in_flight >= 1 && sentences_in_flight <= 1 << 20,
            "sentences_in_flight: expected an integer from 1 to 2^20, got ", sentences_in_flight);
  FamilyParams params{};
  params.epoch = {ids.const_data_ptr<int32_t>(),
                  0,
                  ids.size(0),
                  ids.size(0),
                  begin,
                  end,
                  nullptr,
                  static_cast<const uint32_t*>(keep.const_data_ptr()),
                  static_cast<uint32_t>(vocab_size),
                  static_cast<int>(window),
                  0,
                  static_cast<uint64_t>(seed),
                  static_cast<uint32_t>(epoch),
                  static_cast<uint32_t>(epochs),
                  lr,
                  false};
  params.in = static_cast<float*>(in_weight.mutable_data_ptr());
  params.out = static_cast<float*>(out_weight.mutable_data_ptr());
  params.stride = in_weight.stride(0);
  params.dim = static_cast<int>(in_weight.size(1));
  return params;
}

template <Model kModel>
void start(FamilyParams params, const Tensor& in_weight, const Tensor& ids, const Tensor& sums, const Tensor& bad,
           int64_t warps) {
  const int device = in_weight.get_device_index();
  const int64_t most = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  const int64_t floats = 2 * kBlock * int64_t{params.dim} + params.coefs;
  params.bytes = WordRing::bytes_for(params.epoch.window) + (4 * floats + 15) / 16 * 16;
  W2V_CHECK(params.bytes <= most, "dim, window: expected a block's rows and scores to fit ", most,
            " bytes of shared memory, got ", params.bytes, " bytes for dim = ", params.dim,
            ", window = ", params.epoch.window);
  if (params.epoch.begin == params.epoch.end) return;
  const int multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device);
  const int64_t of_block =
      larger<int64_t>(1, smaller(most / params.bytes, smaller<int64_t>(kThreads / kWarp, warps / multiprocessors)));
  const Tensor counter = torch::stable::new_zeros(ids, {1}, ScalarType::Long);
  launch_blocks("train_family", in_weight, (warps + of_block - 1) / of_block, static_cast<int>(of_block * kWarp),
                of_block * params.bytes, train_family<kModel>, params, warps,
                static_cast<Counter*>(counter.mutable_data_ptr()), static_cast<Counter*>(bad.mutable_data_ptr()),
                static_cast<double*>(sums.mutable_data_ptr()));
}

void train_cbow(const Tensor& in_weight, const Tensor& out_weight, const Tensor& sums, const Tensor& bad,
                const Tensor& ids, const Tensor& alias, const Tensor& keep, bool mean, bool divide, int64_t window,
                int64_t negative, int64_t seed, int64_t epoch, int64_t epochs, double lr, int64_t begin, int64_t end,
                int64_t sentences_in_flight) {
  FamilyParams params = check(in_weight, out_weight, sums, bad, ids, keep, window, seed, epoch, epochs, lr, begin, end,
                              sentences_in_flight);
  W2V_CHECK(alias.dim() == 2 && alias.size(0) == in_weight.size(0) && alias.size(1) == 2 &&
                alias.scalar_type() == ScalarType::Int && alias.is_contiguous() &&
                alias.device() == in_weight.device() && reinterpret_cast<uintptr_t>(alias.data_ptr()) % 8 == 0,
            "alias: expected the contiguous int32 tensor (V, 2) that alias_table gives, with V = ", in_weight.size(0),
            ", on the device of in_weight, got shape ", shape_of(alias));
  W2V_CHECK(negative >= 1 && negative <= 1000, "negative: expected an integer from 1 to 1000, got ", negative);
  params.epoch.alias = static_cast<const AliasColumn*>(alias.const_data_ptr());
  params.epoch.negative = static_cast<int>(negative);
  params.mean = mean;
  params.divide = divide;
  params.coefs = kBlock * (kBlock + negative);
  start<Model::kCbow>(params, in_weight, ids, sums, bad, sentences_in_flight);
}

void train_hs(const Tensor& in_weight, const Tensor& out_weight, const Tensor& sums, const Tensor& bad,
              const Tensor& ids, const Tensor& path_start, const Tensor& path, const Tensor& keep, int64_t longest,
              bool cbow, bool mean, bool divide, int64_t window, int64_t seed, int64_t epoch, int64_t epochs, double lr,
              int64_t begin, int64_t end, int64_t sentences_in_flight) {
  FamilyParams params = check(in_weight, out_weight, sums, bad, ids, keep, window, seed, epoch, epochs, lr, begin, end,
                              sentences_in_flight);
  check_vector(path_start, "path_start", ScalarType::Long, in_weight.size(0) + 1, in_weight);
  check_vector(path, "path", ScalarType::Int, -1, in_weight);
  W2V_CHECK(longest >= 1 && longest < in_weight.size(0), "longest: expected 1 to ", in_weight.size(0) - 1,
            " nodes on the longest path, got ", longest);
  params.path_start = path_start.const_data_ptr<int64_t>();
  params.path = path.const_data_ptr<int32_t>();
  params.mean = mean;
  params.divide = divide;
  params.coefs = longest * (cbow ? 1 : 2 * window);
  if (cbow) {
    start<Model::kCbowTree>(params, in_weight, ids, sums, bad, sentences_in_flight);
  } else {
    start<Model::kSkipGramTree>(params, in_weight, ids, sums, bad, sentences_in_flight);
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CUDA, m) {
  m.impl("train_cbow_cuda_", TORCH_BOX(&train_cbow));
  m.impl("train_hs_cuda_", TORCH_BOX(&train_hs));
}

}  // namespace w2v
