// The arguments that the operators of the epoch path share on CUDA, checked, and how their warps are started.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <string>

#include "../checks.h"
#include "../epoch_plan.h"
#include "launch.h"

namespace w2v {

inline int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check_cuda("cudaDeviceGetAttribute", device, cudaDeviceGetAttribute(&value, which, device));
  return value;
}

// Warps of a block of so many bytes of shared memory each: as many as fit, at most kThreads / kWarp, and fewer where
// one multiprocessor would have more than it need.
inline int64_t warps_of_block(int64_t warps, int64_t bytes, int device) {
  const int multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device);
  const int64_t most = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return larger<int64_t>(
      1, smaller(most / bytes, smaller<int64_t>(kThreads / kWarp, (warps + multiprocessors - 1) / multiprocessors)));
}

inline void check_weight(const Tensor& weight, const char* name, const Tensor& like) {
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

inline void check_vector(const Tensor& t, const char* name, ScalarType type, int64_t size, const Tensor& weight) {
  W2V_CHECK(t.dim() == 1 && (size < 0 || t.size(0) == size) && t.scalar_type() == type && t.is_contiguous(), name,
            ": expected a contiguous ", torch::headeronly::toString(type), " tensor of shape (",
            size < 0 ? std::string("N") : std::to_string(size), ",), got ", shape_of(t));
  W2V_CHECK(t.device() == weight.device(), name, ": expected to be on the device of in_weight");
}

inline const AliasColumn* check_noise(const Tensor& alias, const Tensor& in_weight, int64_t negative) {
  const int64_t vocab_size = in_weight.size(0);
  W2V_CHECK(alias.dim() == 2 && alias.size(0) == vocab_size && alias.size(1) == 2 &&
                alias.scalar_type() == ScalarType::Int && alias.is_contiguous() &&
                alias.device() == in_weight.device() && reinterpret_cast<uintptr_t>(alias.data_ptr()) % 8 == 0,
            "alias: expected the contiguous int32 tensor (V, 2) that alias_table gives, with V = ", vocab_size,
            ", on the device of in_weight, got shape ", shape_of(alias));
  W2V_CHECK(negative >= 1 && negative <= 1000, "negative: expected an integer from 1 to 1000, got ", negative);
  return static_cast<const AliasColumn*>(alias.const_data_ptr());
}

// What is part of an epoch of any model. Hidden, as its references to Tensor are.
struct __attribute__((visibility("hidden"))) EpochArguments {
  const Tensor &in_weight, &out_weight, &sums, &bad, &ids, &keep;
  int64_t first, num_ids, begin, end, window, seed, epoch, epochs;
  double lr;
  int64_t sentences_in_flight, hot_words;

  int device() const { return in_weight.get_device_index(); }

  // All but the noise, which not every model has: alias and negative are 0, and prefetch is false.
  EpochParams check() const {
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
    W2V_CHECK(in_weight.size(1) >= 1 && in_weight.size(1) <= 1 << 20, "in_weight: expected 1 to 2^20 columns, got ",
              in_weight.size(1));
    const int64_t last = first + ids.size(0);
    W2V_CHECK(first >= 0 && last <= num_ids, "first, num_ids: expected ids to be words first to first + N of num_ids, ",
              "got ", first, " and N = ", ids.size(0), " of ", num_ids);
    W2V_CHECK(first <= begin && begin <= end && end <= last, "begin, end: expected ", first,
              " <= begin <= end <= ", last, ", got ", begin, " and ", end);
    W2V_CHECK(window >= 1 && window <= 10000, "window: expected an integer from 1 to 10000, got ", window);
    W2V_CHECK(epochs >= 1 && epoch >= 0 && epoch < epochs, "epoch: expected 0 <= epoch < epochs, got ", epoch, " of ",
              epochs);
    W2V_CHECK(lr > 0 && std::isfinite(lr), "lr: expected a positive number, got ", lr);
    W2V_CHECK(sentences_in_flight >= 1 && sentences_in_flight <= 1 << 20,
              "sentences_in_flight: expected an integer from 1 to 2^20, got ", sentences_in_flight);
    W2V_CHECK(hot_words >= 0 && hot_words <= vocab_size, "hot_words: expected an integer from 0 to ", vocab_size,
              ", got ", hot_words);
    return {ids.const_data_ptr<int32_t>(),
            first,
            last,
            num_ids,
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
            false,
            static_cast<int>(hot_words)};
  }

  // Whether a warp's part of shared memory fits a block.
  void check_layout(const EpochLayout& layout, int64_t negative) const {
    const int64_t most = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device());
    W2V_CHECK(layout.bytes <= most, "dim, window: expected the ", layout.contexts, " rows of a block's windows to fit ",
              most, " bytes of shared memory, got ", layout.bytes, " bytes for dim = ", in_weight.size(1),
              ", window = ", window, ", negative = ", negative);
  }

  // Starts kernel(args..., warps, counter, bad, sums) with a warp for each sentence in flight.
  template <typename Kernel, typename... Args>
  void start(const char* name, const EpochLayout& layout, Kernel kernel, const Args&... args) const {
    const int64_t warps = sentences_in_flight, of_block = warps_of_block(warps, layout.bytes, device());
    const Tensor counter = torch::stable::new_zeros(ids, {1}, ScalarType::Long);
    launch_blocks(
        name, in_weight, (warps + of_block - 1) / of_block, static_cast<int>(of_block * kWarp), of_block * layout.bytes,
        kernel, args..., warps, static_cast<unsigned long long*>(counter.mutable_data_ptr()),
        static_cast<unsigned long long*>(bad.mutable_data_ptr()), static_cast<double*>(sums.mutable_data_ptr()));
  }
};

}  // namespace w2v
