// Argument checks shared by the CPU and the CUDA operators: each says which argument, the rule, and what came.
#pragma once
#include <torch/csrc/stable/tensor.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>

#include "accumulator.h"

namespace w2v {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

// Raises ValueError in Python.
#define W2V_CHECK(rule, ...) \
  if (!(rule)) throw std::invalid_argument(::w2v::text(__VA_ARGS__))

inline std::string shape_of(const Tensor& t) {
  std::string s = "(";
  for (int64_t i = 0; i < t.dim(); ++i) s += (i ? ", " : "") + std::to_string(t.size(i));
  return s + (t.dim() == 1 ? ",)" : ")");
}

inline bool is_index(const Tensor& t) {
  return t.scalar_type() == ScalarType::Int || t.scalar_type() == ScalarType::Long;
}

struct LossShape {
  int64_t batch, positives, negatives, dim, in_rows, out_rows;
};

inline LossShape check_loss_arguments(const Tensor& in_weight, const Tensor& out_weight, const Tensor& center,
                                      const Tensor& pos, const Tensor& neg) {
  W2V_CHECK(in_weight.dim() == 2, "in_weight: expected shape (V, D), got ", shape_of(in_weight));
  W2V_CHECK(out_weight.dim() == 2, "out_weight: expected shape (V, D), got ", shape_of(out_weight));
  const ScalarType type = in_weight.scalar_type();
  W2V_CHECK(type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::BFloat16 ||
                type == ScalarType::Half,
            "in_weight: expected dtype float32, float64, bfloat16 or float16, got ", torch::headeronly::toString(type));
  W2V_CHECK(out_weight.scalar_type() == type, "out_weight: expected the dtype of in_weight, ",
            torch::headeronly::toString(type), ", got ", torch::headeronly::toString(out_weight.scalar_type()));
  W2V_CHECK(in_weight.size(1) == out_weight.size(1), "out_weight: expected shape (V, D) with D = ", in_weight.size(1),
            " to match in_weight, got ", shape_of(out_weight));
  W2V_CHECK(in_weight.size(0) <= 0xFFFFFFFF && out_weight.size(0) <= 0xFFFFFFFF,
            "in_weight, out_weight: expected fewer than 2^32 rows, got ", shape_of(in_weight), " and ",
            shape_of(out_weight));
  W2V_CHECK(center.dim() == 1, "center: expected shape (B,), got ", shape_of(center));
  const int64_t batch = center.size(0);
  W2V_CHECK(pos.dim() == 2 && pos.size(0) == batch, "pos: expected shape (B,) or (B, P) with B = ", batch,
            " to match center, got ", shape_of(pos));
  W2V_CHECK(neg.dim() == 2 && neg.size(0) == batch, "neg: expected shape (B, K) with B = ", batch,
            " to match center, got ", shape_of(neg));
  const Tensor* indices[] = {&center, &pos, &neg};
  const char* names[] = {"center", "pos", "neg"};
  for (int i = 0; i < 3; ++i)
    W2V_CHECK(is_index(*indices[i]), names[i], ": expected dtype int32 or int64, got ",
              torch::headeronly::toString(indices[i]->scalar_type()));
  const auto device = in_weight.device();
  const Tensor* others[] = {&out_weight, &center, &pos, &neg};
  const char* other_names[] = {"out_weight", "center", "pos", "neg"};
  for (int i = 0; i < 4; ++i)
    W2V_CHECK(others[i]->device() == device, other_names[i], ": expected to be on the device of in_weight");
  const LossShape shape{batch, pos.size(1), neg.size(1), in_weight.size(1), in_weight.size(0), out_weight.size(0)};
  W2V_CHECK(batch * (shape.positives + shape.negatives) < 0xFFFFFFFF,
            "pos, neg: expected fewer than 2^32 indices in a batch, got ", shape_of(pos), " and ", shape_of(neg));
  return shape;
}

inline ScalarType accumulator_type(const Tensor& weight) {
  return weight.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_gradient_arguments(const Tensor& grad_loss, const Tensor& coef, const Tensor& in_weight,
                                     const LossShape& shape) {
  const ScalarType type = accumulator_type(in_weight);
  const int64_t targets = shape.positives + shape.negatives;
  W2V_CHECK(grad_loss.dim() == 1 && grad_loss.size(0) == shape.batch && grad_loss.scalar_type() == type,
            "grad_loss: expected shape (B,) = (", shape.batch, ",) in the accumulation dtype, got ",
            shape_of(grad_loss));
  W2V_CHECK(coef.dim() == 2 && coef.size(0) == shape.batch && coef.size(1) == targets && coef.scalar_type() == type,
            "coef: expected shape (B, P + K) = (", shape.batch, ", ", targets, ") in the accumulation dtype, got ",
            shape_of(coef));
  W2V_CHECK(grad_loss.device() == in_weight.device(), "grad_loss: expected to be on the device of in_weight");
  W2V_CHECK(coef.device() == in_weight.device(), "coef: expected to be on the device of in_weight");
}

// A saved center_grad has D columns, or none.
inline void check_center_grad(const Tensor& center_grad, const Tensor& in_weight, const LossShape& shape) {
  W2V_CHECK(center_grad.dim() == 2 && center_grad.size(0) == shape.batch &&
                (center_grad.size(1) == shape.dim || center_grad.size(1) == 0) &&
                center_grad.scalar_type() == accumulator_type(in_weight),
            "center_grad: expected shape (B, D) = (", shape.batch, ", ", shape.dim,
            ") in the accumulation dtype, or no columns, got ", shape_of(center_grad));
  W2V_CHECK(center_grad.device() == in_weight.device(), "center_grad: expected to be on the device of in_weight");
}

inline Tensor with_contiguous_rows(const Tensor& weight) {
  return weight.size(1) <= 1 || weight.stride(1) == 1 ? weight : torch::stable::contiguous(weight);
}

// Calls body(T{}) with the C++ type of the weights.
template <typename Body>
void with_weight_type(const Tensor& weight, const Body& body) {
  switch (weight.scalar_type()) {
    case ScalarType::Double:
      return body(double{});
    case ScalarType::BFloat16:
      return body(torch::headeronly::BFloat16{});
    case ScalarType::Half:
      return body(torch::headeronly::Half{});
    default:
      return body(float{});
  }
}

// Whether two weights (rows contiguous) have a number in common; columns beside each other of one wider tensor have
// not.
inline bool share_memory(const Tensor& a, const Tensor& b) {
  if (a.numel() == 0 || b.numel() == 0) return false;
  const int64_t item = static_cast<int64_t>(a.element_size());
  const int64_t a0 = static_cast<int64_t>(reinterpret_cast<uintptr_t>(a.data_ptr()));
  const int64_t b0 = static_cast<int64_t>(reinterpret_cast<uintptr_t>(b.data_ptr()));
  const int64_t a1 = a0 + ((a.size(0) - 1) * a.stride(0) + a.size(1)) * item;
  const int64_t b1 = b0 + ((b.size(0) - 1) * b.stride(0) + b.size(1)) * item;
  if (a1 <= b0 || b1 <= a0) return false;
  if (a.stride(0) != b.stride(0)) return true;
  const int64_t row = a.stride(0) * item, apart = ((b0 - a0) % row + row) % row;
  return apart < a.size(1) * item || apart + b.size(1) * item > row;
}

// In-place updates write through the tensors they were given, so rows must lie in memory as they are.
inline void check_in_place(const Tensor& in_weight, const Tensor& out_weight) {
  W2V_CHECK(in_weight.size(1) <= 1 || in_weight.stride(1) == 1,
            "in_weight: expected contiguous rows for an in-place step, got stride(1) = ", in_weight.stride(1));
  W2V_CHECK(out_weight.size(1) <= 1 || out_weight.stride(1) == 1,
            "out_weight: expected contiguous rows for an in-place step, got stride(1) = ", out_weight.stride(1));
  const Tensor* weights[] = {&in_weight, &out_weight};
  const char* names[] = {"in_weight", "out_weight"};
  for (int i = 0; i < 2; ++i)
    W2V_CHECK(weights[i]->size(0) <= 1 || weights[i]->stride(0) >= weights[i]->size(1), names[i],
              ": expected rows that do not overlap, got stride(0) = ", weights[i]->stride(0));
  W2V_CHECK(!share_memory(in_weight, out_weight),
            "out_weight: expected other memory than in_weight's (tied weights cannot be updated in place)");
}

}  // namespace w2v
