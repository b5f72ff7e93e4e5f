// The arguments that the operators of the epoch path share, checked, and as the kernels take them.
#pragma once
#include <cmath>
#include <cstdint>

#include "../checks.h"
#include "kernels.h"

namespace w2v {

inline const AliasColumn* check_alias(const Tensor& alias) {
  W2V_CHECK(alias.dim() == 2 && alias.size(1) == 2 && alias.scalar_type() == ScalarType::Int && alias.is_contiguous(),
            "alias: expected the contiguous int32 tensor (V, 2) that alias_table gives, got shape ", shape_of(alias));
  return static_cast<const AliasColumn*>(alias.const_data_ptr());
}

// The noise distribution of a vocabulary, of which `negative` words are drawn at a time.
inline const AliasColumn* check_noise(const Tensor& alias, int64_t vocab_size, int64_t negative) {
  const AliasColumn* table = check_alias(alias);
  W2V_CHECK(alias.size(0) == vocab_size, "alias: expected ", vocab_size, " words as in_weight, got ", alias.size(0));
  for (int64_t i = 0; i < vocab_size; ++i)
    W2V_CHECK(table[i].alias < vocab_size, "alias: expected words below ", vocab_size, ", got ", table[i].alias,
              " in column ", i);
  W2V_CHECK(negative >= 1 && negative <= 1000, "negative: expected an integer from 1 to 1000, got ", negative);
  return table;
}

inline void check_weight(const Tensor& weight, const char* name, const Tensor& like) {
  W2V_CHECK(weight.dim() == 2 && weight.scalar_type() == ScalarType::Float, name,
            ": expected float32 of shape (V, D), got shape ", shape_of(weight));
  W2V_CHECK(weight.size(0) == like.size(0) && weight.size(1) == like.size(1) && weight.stride(0) == like.stride(0),
            name, ": expected the shape and strides of in_weight, ", shape_of(like), ", got ", shape_of(weight));
  const int64_t padded = (weight.size(1) + 15) / 16 * 16;
  int64_t storage_bytes = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(weight.get(), &storage_bytes));
  W2V_CHECK(weight.stride(1) == 1 && weight.stride(0) == padded &&
                reinterpret_cast<uintptr_t>(weight.data_ptr()) % 64 == 0 &&
                4 * (weight.storage_offset() + weight.size(0) * padded) <= storage_bytes,
            name, ": expected 64-byte aligned rows, all padded with zeros to ", padded,
            " floats, got stride(0) = ", weight.stride(0));
}

// The paths of a tree's words: word w's are nodes below V - 1, in path[path_start[w]] to path[path_start[w + 1]].
inline void check_paths(const Tensor& path_start, const Tensor& path, int64_t vocab_size) {
  W2V_CHECK(path_start.dim() == 1 && path_start.size(0) == vocab_size + 1 &&
                path_start.scalar_type() == ScalarType::Long && path_start.is_contiguous(),
            "path_start: expected a contiguous int64 tensor of shape (V + 1,) = (", vocab_size + 1, ",), got ",
            shape_of(path_start));
  W2V_CHECK(path.dim() == 1 && path.scalar_type() == ScalarType::Int && path.is_contiguous(),
            "path: expected a contiguous int32 tensor of shape (L,), got shape ", shape_of(path));
  const int64_t* start = path_start.const_data_ptr<int64_t>();
  W2V_CHECK(start[0] == 0 && start[vocab_size] == path.size(0), "path_start: expected 0 to ", path.size(0), ", got ",
            start[0], " to ", start[vocab_size]);
  for (int64_t w = 0; w < vocab_size; ++w)
    W2V_CHECK(start[w] < start[w + 1], "path_start: expected rising numbers, got ", start[w], " and ", start[w + 1],
              " at position ", w);
  const int32_t* step = path.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < path.size(0); ++i)
    W2V_CHECK(step[i] >= 0 && step[i] >> 1 < vocab_size - 1, "path: expected nodes below ", vocab_size - 1, ", got ",
              step[i] >> 1, " at position ", i);
}

// All but the noise, which not every model has: alias and negative are 0.
inline SgnsParams check_epoch(const Tensor& in_weight, const Tensor& out_weight, const Tensor& ids, const Tensor& keep,
                              int64_t window, int64_t seed, int64_t epoch, int64_t epochs, double lr, int64_t begin,
                              int64_t end) {
  check_weight(in_weight, "in_weight", in_weight);
  check_weight(out_weight, "out_weight", in_weight);
  check_in_place(in_weight, out_weight);
  const int64_t vocab_size = in_weight.size(0);
  W2V_CHECK(vocab_size >= 2, "in_weight: expected at least two rows, got ", vocab_size);
  W2V_CHECK(ids.dim() == 1 && ids.scalar_type() == ScalarType::Int && ids.is_contiguous(),
            "ids: expected a contiguous int32 tensor of shape (N,), got shape ", shape_of(ids));
  W2V_CHECK(
      keep.dim() == 1 && keep.size(0) == vocab_size && keep.scalar_type() == ScalarType::Int && keep.is_contiguous(),
      "keep: expected a contiguous int32 tensor of shape (V,) = (", vocab_size, ",), got ", shape_of(keep));
  W2V_CHECK(window >= 1 && window <= 10000, "window: expected an integer from 1 to 10000, got ", window);
  W2V_CHECK(epochs >= 1 && epoch >= 0 && epoch < epochs, "epoch: expected 0 <= epoch < epochs, got ", epoch, " of ",
            epochs);
  W2V_CHECK(lr > 0 && std::isfinite(lr), "lr: expected a positive number, got ", lr);
  W2V_CHECK(begin >= 0 && begin <= end && end <= ids.size(0), "begin, end: expected 0 <= begin <= end <= ", ids.size(0),
            ", got ", begin, " and ", end);
  return {static_cast<float*>(in_weight.mutable_data_ptr()),
          static_cast<float*>(out_weight.mutable_data_ptr()),
          nullptr,
          nullptr,
          0,
          in_weight.stride(0),
          in_weight.size(1),
          static_cast<uint32_t>(vocab_size),
          ids.const_data_ptr<int32_t>(),
          ids.size(0),
          nullptr,
          static_cast<const uint32_t*>(keep.const_data_ptr()),
          static_cast<int>(window),
          0,
          static_cast<uint64_t>(seed),
          static_cast<uint32_t>(epoch),
          static_cast<uint32_t>(epochs),
          lr};
}

}  // namespace w2v
