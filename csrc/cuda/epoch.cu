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
//   L2          N rows of out read and added to, and 2 rows of in: 2 (N + 2) D numbers. 7.2 KB for D = 100, K = 5, so
//               at an assumed 3 TB/s, half of it atomics, about 800 M windows/s
//   memory      nothing but ids while both tables (2 V D numbers) fit the L2 cache, 60 MB there: V = 75,000 at D = 100.
//               At D = 300 21.6 KB per block less what hits: with half of it missing, 4.3 TB/s allow 800 M windows/s
//   latency     an assumed 2,500 cycles from block to block of a sentence, so that 528 warps (one per scheduler) train
//               up to 700 M windows/s
// A raw word gives 0.76 windows at sample 1e-3 on the IMDB corpus. Shared memory: 2 (2 W + 2) D floats per warp and 2
// KB. An SM holds 12 warps at D = 100, for want of registers, and 7 at D = 300.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>

#include "../checks.h"
#include "../epoch_warp.h"
#include "../stochastic_round.h"
#include "launch.h"
#include "memory.h"

namespace w2v {
namespace {

static_assert(kWarp == kWarpLanes);
using Counter = unsigned long long;

// What epoch_warp.h asks for, as a thread of a warp sees it.
class DeviceWarp {
 public:
  template <typename T>
  struct PerLane {
    T own;
    __device__ __forceinline__ T& operator[](int) { return own; }
  };

  __device__ __forceinline__ DeviceWarp(Counter* counter, Counter* bad)
      : counter_(counter), bad_(bad), lane_(lane_of_warp()) {}

  template <typename Body>
  __device__ __forceinline__ void each_lane(const Body& body) {
    body(lane_);
  }

  template <typename Rule>
  __device__ __forceinline__ uint32_t lanes_where(const Rule& rule) {
    return __ballot_sync(kAll, rule(lane_));
  }

  __device__ __forceinline__ void exchange(PerLane<float>* x, int mask) {
    x->own = __shfl_xor_sync(kAll, x->own, mask);
  }
  __device__ __forceinline__ void sync() { __syncwarp(); }

  __device__ __forceinline__ int64_t take() {
    Counter n = 0;
    if (lane_ == 0) n = atomicAdd(counter_, Counter{1});
    return static_cast<int64_t>(__shfl_sync(kAll, n, 0));
  }

  __device__ __forceinline__ void report(int64_t i) {
    if (lane_ == 0) atomicMin(bad_, static_cast<Counter>(i));
  }

  __device__ __forceinline__ void check(bool rule) {
    W2V_DEVICE_ASSERT(rule && "alias: word out of range for out_weight");
  }

  template <typename T>
  static __device__ __forceinline__ Vec4 load(const T* row, int32_t column) {
    return load_shared_row(row + column);
  }

  static __device__ __forceinline__ void add(float* row, int32_t column, const Vec4& old, const Vec4& now, uint64_t) {
    add_to_row(row + column, {now.x - old.x, now.y - old.y, now.z - old.z, now.w - old.w});
  }

  // The sum is rounded, and the difference to what was read is added: a number of bfloat16's own grid there, so that
  // steps of others in between are not lost, and nothing is rounded once more.
  static __device__ __forceinline__ void add(__nv_bfloat16* row, int32_t column, const Vec4& old, const Vec4& now,
                                             uint64_t bits) {
    const uint32_t low = static_cast<uint32_t>(bits), high = static_cast<uint32_t>(bits >> 32);
    add_to_row(row + column,
               {stochastic_round(now.x, low & 0xFFFFu) - old.x, stochastic_round(now.y, low >> 16) - old.y,
                stochastic_round(now.z, high & 0xFFFFu) - old.z, stochastic_round(now.w, high >> 16) - old.w});
  }

  template <typename T>
  __device__ __forceinline__ void prefetch(const T* row, int32_t numbers) {
    const char* line = reinterpret_cast<const char*>(row);
#pragma unroll 1
    for (const char* end = line + numbers * sizeof(T); line < end; line += 128) prefetch_line(line);
  }

 private:
  static constexpr uint32_t kAll = 0xFFFFFFFFu;
  Counter *counter_, *bad_;
  int lane_;
};

// Blocks on an SM for which registers must do: 2 x 7 rows of a warp lie in them, of up to kChunks pieces (of bfloat16,
// rounding takes some more).
template <typename T, int kChunks>
constexpr int kBlocksAtOnce = kChunks < (sizeof(T) < 4 ? 2 : 3) ? 3 : 2;

// sums (3,) += loss, pairs, words after subsampling; bad becomes the first place of a word that is out of range, if
// any. Each of `warps` warps has layout.bytes of the dynamic shared memory.
template <typename T, int kChunks>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<T, kChunks>)
    train_sentences(const __grid_constant__ EpochParams params, const __grid_constant__ EpochLayout layout, T* in,
                    T* out, int64_t stride, int64_t warps, Counter* counter, Counter* bad, double* sums) {
  const int own = static_cast<int>(threadIdx.x) / kWarp;
  if (static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + own >= warps) return;
  DeviceWarp warp(counter, bad);
  SentenceTrainer<DeviceWarp, T, kChunks> trainer(warp, params, layout, dynamic_shared() + own * layout.bytes, in, out,
                                                  stride);
  trainer.run();
  const double loss = warp_sum(trainer.loss()[lane_of_warp()]);
  if (lane_of_warp() == 0) {
    atomicAdd(sums, loss);
    atomicAdd(sums + 1, static_cast<double>(trainer.pairs()));
    atomicAdd(sums + 2, static_cast<double>(trainer.words()));
  }
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check_cuda("cudaDeviceGetAttribute", device, cudaDeviceGetAttribute(&value, which, device));
  return value;
}

template <typename T, int kChunks>
void start(const EpochParams& params, const EpochLayout& layout, const Tensor& in_weight, const Tensor& out_weight,
           int64_t warps, const Tensor& counter, const Tensor& bad, const Tensor& sums) {
  const int device = in_weight.get_device_index();
  const int multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device);
  const int64_t most = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  const int64_t of_block =
      larger<int64_t>(1, smaller(most / layout.bytes, smaller<int64_t>(kThreads / kWarp, warps / multiprocessors)));
  launch_blocks("train_sentences", in_weight, (warps + of_block - 1) / of_block, static_cast<int>(of_block * kWarp),
                of_block * layout.bytes, train_sentences<T, kChunks>, params, layout,
                static_cast<T*>(in_weight.mutable_data_ptr()), static_cast<T*>(out_weight.mutable_data_ptr()),
                in_weight.stride(0), warps, static_cast<Counter*>(counter.mutable_data_ptr()),
                static_cast<Counter*>(bad.mutable_data_ptr()), static_cast<double*>(sums.mutable_data_ptr()));
}

template <typename T>
void start_with(const EpochParams& params, const EpochLayout& layout, const Tensor& in_weight, const Tensor& out_weight,
                int64_t warps, const Tensor& counter, const Tensor& bad, const Tensor& sums) {
  const int chunks = layout.groups == 1 ? (layout.pitch + 4 * kWarp - 1) / (4 * kWarp) : 0;
  switch (chunks) {
    case 1:
      return start<T, 1>(params, layout, in_weight, out_weight, warps, counter, bad, sums);
    case 2:
      return start<T, 2>(params, layout, in_weight, out_weight, warps, counter, bad, sums);
    case 3:
      return start<T, 3>(params, layout, in_weight, out_weight, warps, counter, bad, sums);
    default:
      return start<T, 0>(params, layout, in_weight, out_weight, warps, counter, bad, sums);
  }
}

void check_weight(const Tensor& weight, const char* name, const Tensor& like) {
  const ScalarType type = weight.scalar_type();
  W2V_CHECK(weight.dim() == 2 && (type == ScalarType::Float || type == ScalarType::BFloat16), name,
            ": expected float32 or bfloat16 of shape (V, D), got ", torch::headeronly::toString(type), " of shape ",
            shape_of(weight));
  W2V_CHECK(type == like.scalar_type() && weight.size(0) == like.size(0) && weight.size(1) == like.size(1) &&
                weight.stride(0) == like.stride(0),
            name, ": expected the dtype, shape and strides of in_weight, ", shape_of(like), ", got ", shape_of(weight));
  const int64_t padded = (weight.size(1) + 3) / 4 * 4, item = static_cast<int64_t>(weight.element_size());
  int64_t storage_bytes = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(weight.get(), &storage_bytes));
  W2V_CHECK(weight.stride(1) == 1 && weight.stride(0) >= padded && weight.stride(0) % 4 == 0 &&
                reinterpret_cast<uintptr_t>(weight.data_ptr()) % 16 == 0 &&
                item * (weight.storage_offset() + (weight.size(0) - 1) * weight.stride(0) + padded) <= storage_bytes,
            name, ": expected 16-byte aligned rows, padded with zeros to a multiple of 4 numbers, got stride(0) = ",
            weight.stride(0));
}

void check_vector(const Tensor& t, const char* name, ScalarType type, int64_t size, const Tensor& weight) {
  W2V_CHECK(t.dim() == 1 && (size < 0 || t.size(0) == size) && t.scalar_type() == type && t.is_contiguous(), name,
            ": expected a contiguous ", torch::headeronly::toString(type), " tensor of shape (",
            size < 0 ? std::string("N") : std::to_string(size), ",), got ", shape_of(t));
  W2V_CHECK(t.device() == weight.device(), name, ": expected to be on the device of in_weight");
}

void train(const Tensor& in_weight, const Tensor& out_weight, const Tensor& sums, const Tensor& bad, const Tensor& ids,
           const Tensor& alias, const Tensor& keep, int64_t first, int64_t num_ids, int64_t begin, int64_t end,
           int64_t window, int64_t negative, int64_t seed, int64_t epoch, int64_t epochs, double lr,
           int64_t sentences_in_flight) {
  check_weight(in_weight, "in_weight", in_weight);
  check_weight(out_weight, "out_weight", in_weight);
  W2V_CHECK(out_weight.device() == in_weight.device(), "out_weight: expected to be on the device of in_weight");
  check_in_place(in_weight, out_weight);
  const int64_t vocab_size = in_weight.size(0);
  W2V_CHECK(vocab_size >= 2 && vocab_size <= 0x7FFFFFFF, "in_weight: expected 2 to 2^31 - 1 rows, got ", vocab_size);
  check_vector(sums, "sums", ScalarType::Double, 3, in_weight);
  check_vector(bad, "bad", ScalarType::Long, 1, in_weight);
  check_vector(ids, "ids", ScalarType::Int, -1, in_weight);
  check_vector(keep, "keep", ScalarType::Int, vocab_size, in_weight);
  W2V_CHECK(alias.dim() == 2 && alias.size(0) == vocab_size && alias.size(1) == 2 &&
                alias.scalar_type() == ScalarType::Int && alias.is_contiguous() &&
                alias.device() == in_weight.device() && reinterpret_cast<uintptr_t>(alias.data_ptr()) % 8 == 0,
            "alias: expected the contiguous int32 tensor (V, 2) that alias_table gives, with V = ", vocab_size,
            ", on the device of in_weight, got shape ", shape_of(alias));
  W2V_CHECK(in_weight.size(1) >= 1 && in_weight.size(1) <= 1 << 20, "in_weight: expected 1 to 2^20 columns, got ",
            in_weight.size(1));
  const int64_t last = first + ids.size(0);
  W2V_CHECK(first >= 0 && last <= num_ids, "first, num_ids: expected ids to be words first to first + N of num_ids, ",
            "got ", first, " and N = ", ids.size(0), " of ", num_ids);
  W2V_CHECK(first <= begin && begin <= end && end <= last, "begin, end: expected ", first, " <= begin <= end <= ", last,
            ", got ", begin, " and ", end);
  W2V_CHECK(window >= 1 && window <= 10000, "window: expected an integer from 1 to 10000, got ", window);
  W2V_CHECK(negative >= 1 && negative <= 1000, "negative: expected an integer from 1 to 1000, got ", negative);
  W2V_CHECK(epochs >= 1 && epoch >= 0 && epoch < epochs, "epoch: expected 0 <= epoch < epochs, got ", epoch, " of ",
            epochs);
  W2V_CHECK(lr > 0 && std::isfinite(lr), "lr: expected a positive number, got ", lr);
  W2V_CHECK(sentences_in_flight >= 1 && sentences_in_flight <= 1 << 20,
            "sentences_in_flight: expected an integer from 1 to 2^20, got ", sentences_in_flight);
  const int device = in_weight.get_device_index();
  const EpochLayout layout(static_cast<int>(window), static_cast<int>(negative), in_weight.size(1));
  const int64_t most = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  W2V_CHECK(layout.bytes <= most, "dim, window: expected the ", layout.contexts, " rows of a block's windows to fit ",
            most, " bytes of shared memory, got ", layout.bytes, " bytes for dim = ", in_weight.size(1),
            ", window = ", window, ", negative = ", negative);
  if (begin == end) return;

  const int64_t tables = 2 * vocab_size * in_weight.stride(0) * static_cast<int64_t>(in_weight.element_size());
  const EpochParams params{ids.const_data_ptr<int32_t>(),
                           first,
                           last,
                           num_ids,
                           begin,
                           end,
                           static_cast<const AliasColumn*>(alias.const_data_ptr()),
                           static_cast<const uint32_t*>(keep.const_data_ptr()),
                           static_cast<uint32_t>(vocab_size),
                           static_cast<int>(window),
                           static_cast<int>(negative),
                           static_cast<uint64_t>(seed),
                           static_cast<uint32_t>(epoch),
                           static_cast<uint32_t>(epochs),
                           lr,
                           tables > attribute(cudaDevAttrL2CacheSize, device)};
  const Tensor counter = torch::stable::new_zeros(ids, {1}, ScalarType::Long);
  if (in_weight.scalar_type() == ScalarType::Float) {
    start_with<float>(params, layout, in_weight, out_weight, sentences_in_flight, counter, bad, sums);
  } else {
    start_with<__nv_bfloat16>(params, layout, in_weight, out_weight, sentences_in_flight, counter, bad, sums);
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CUDA, m) { m.impl("train_sgns_cuda_", TORCH_BOX(&train)); }

}  // namespace w2v
