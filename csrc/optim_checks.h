// The checks of an optimiser's arguments, shared by the CPU and the CUDA operators.
#pragma once
#include <optional>

#include "checks.h"
#include "optim_rules.h"

namespace w2v {

// What every step gets beside its own state and numbers.
struct StepArguments {
  const Tensor& weight;               // (V, D)
  const std::optional<Tensor>& rows;  // (N,) int64; none: row i of values is for row i
  const Tensor& values;               // (N, D)
  const std::optional<Tensor>& grad_scale;
  double clip_row_norm, max_norm, weight_decay;
  bool decoupled;
  double lr;
  int64_t seed;

  // Not an aggregate: nvcc 13.0 garbles braced arguments inside a template.
  StepArguments(const Tensor& weight, const std::optional<Tensor>& rows, const Tensor& values,
                const std::optional<Tensor>& grad_scale, double clip_row_norm, double max_norm, double weight_decay,
                bool decoupled, double lr, int64_t seed)
      : weight(weight),
        rows(rows),
        values(values),
        grad_scale(grad_scale),
        clip_row_norm(clip_row_norm),
        max_norm(max_norm),
        weight_decay(weight_decay),
        decoupled(decoupled),
        lr(lr),
        seed(seed) {}

  int64_t count() const { return values.size(0); }
  int64_t dim() const { return weight.size(1); }

  StepOptions options() const {
    return {lr, weight_decay, decoupled, clip_row_norm, max_norm, seed >= 0, static_cast<uint64_t>(seed)};
  }
};

inline bool is_weight_type(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::BFloat16 ||
         type == ScalarType::Half;
}

inline void check_not_negative(double number, const char* name) {
  W2V_CHECK(number >= 0 && number <= std::numeric_limits<double>::max(), name, ": expected a finite number >= 0, got ",
            number);
}

inline void check_rows(const std::optional<Tensor>& rows, const Tensor& values, int64_t num_rows) {
  if (!rows.has_value()) {
    W2V_CHECK(values.size(0) == num_rows, "values: expected shape (V, D) with V = ", num_rows,
              " where no rows are given, got ", shape_of(values));
    return;
  }
  W2V_CHECK(rows->dim() == 1 && rows->size(0) == values.size(0) && rows->scalar_type() == ScalarType::Long,
            "rows: expected shape (N,) = (", values.size(0), ",) and dtype int64 to match values, got ",
            shape_of(*rows), " ", torch::headeronly::toString(rows->scalar_type()));
  W2V_CHECK(rows->device() == values.device(), "rows: expected to be on the device of values");
}

inline void check_norm_arguments(const std::optional<Tensor>& rows, const Tensor& values, int64_t num_rows,
                                 double clip_row_norm) {
  W2V_CHECK(values.dim() == 2 && is_weight_type(values.scalar_type()), "values: expected float (N, D), got ",
            shape_of(values), " ", torch::headeronly::toString(values.scalar_type()));
  W2V_CHECK(num_rows >= 0 && num_rows <= 0xFFFFFFFF && values.size(0) < 0xFFFFFFFF,
            "values: expected fewer than 2^32 rows, got ", shape_of(values), " and num_rows = ", num_rows);
  check_rows(rows, values, num_rows);
  check_not_negative(clip_row_norm, "clip_row_norm");
}

inline void check_step_arguments(const StepArguments& a) {
  W2V_CHECK(a.weight.dim() == 2, "weight: expected shape (V, D), got ", shape_of(a.weight));
  const ScalarType type = a.weight.scalar_type();
  W2V_CHECK(is_weight_type(type), "weight: expected dtype float32, float64, bfloat16 or float16, got ",
            torch::headeronly::toString(type));
  const int64_t vocab_size = a.weight.size(0);
  W2V_CHECK(vocab_size <= 0xFFFFFFFF, "weight: expected fewer than 2^32 rows, got ", shape_of(a.weight));
  W2V_CHECK(a.weight.size(1) <= 1 || a.weight.stride(1) == 1,
            "weight: expected contiguous rows for an in-place step, got stride(1) = ", a.weight.stride(1));
  W2V_CHECK(vocab_size <= 1 || a.weight.stride(0) >= a.weight.size(1),
            "weight: expected rows that do not overlap, got stride(0) = ", a.weight.stride(0));
  W2V_CHECK(a.values.dim() == 2 && a.values.size(1) == a.weight.size(1),
            "values: expected shape (N, D) with D = ", a.weight.size(1), " to match weight, got ", shape_of(a.values));
  W2V_CHECK(a.values.scalar_type() == type, "values: expected the dtype of weight, ", torch::headeronly::toString(type),
            ", got ", torch::headeronly::toString(a.values.scalar_type()));
  W2V_CHECK(a.values.device() == a.weight.device(), "values: expected to be on the device of weight");
  W2V_CHECK(a.count() < 0xFFFFFFFF, "values: expected fewer than 2^32 rows, got ", shape_of(a.values));
  check_rows(a.rows, a.values, vocab_size);
  if (a.grad_scale.has_value()) {
    W2V_CHECK(a.grad_scale->numel() == 1 && a.grad_scale->scalar_type() == ScalarType::Double,
              "grad_scale: expected one float64 number, got ", shape_of(*a.grad_scale), " ",
              torch::headeronly::toString(a.grad_scale->scalar_type()));
    W2V_CHECK(a.grad_scale->device() == a.weight.device(), "grad_scale: expected to be on the device of weight");
  }
  check_not_negative(a.lr, "lr");
  check_not_negative(a.weight_decay, "weight_decay");
  check_not_negative(a.clip_row_norm, "clip_row_norm");
  check_not_negative(a.max_norm, "max_norm");
  W2V_CHECK(a.seed < 0 || type == ScalarType::BFloat16,
            "seed: expected -1, as stochastic rounding is for bfloat16, got ", a.seed, " with ",
            torch::headeronly::toString(type));
}

// A table of the optimiser's own: (V, D), or (V,) where per_row.
inline void check_state(const StepArguments& a, const Tensor& state, const char* name, bool per_row, ScalarType type) {
  const bool fits = per_row ? state.dim() == 1 : state.dim() == 2 && state.size(1) == a.weight.size(1);
  W2V_CHECK(fits && state.size(0) == a.weight.size(0), name, ": expected shape ", per_row ? "(V,)" : "(V, D)",
            " with the V", per_row ? "" : " and D", " of weight, ", shape_of(a.weight), ", got ", shape_of(state));
  W2V_CHECK(state.scalar_type() == type, name, ": expected dtype ", torch::headeronly::toString(type), ", got ",
            torch::headeronly::toString(state.scalar_type()));
  W2V_CHECK(state.device() == a.weight.device(), name, ": expected to be on the device of weight");
  W2V_CHECK(state.is_contiguous(), name, ": expected a contiguous tensor");
}

template <typename A>
A* state_data(const Tensor& t) {
  return static_cast<A*>(t.mutable_data_ptr());
}

// ---- the rules, made of checked arguments -------------------------------------------------------------------------

// Calls body(rule) with the rule that the arguments ask for.
template <typename A, typename Body>
void with_sgd(const StepArguments& a, const std::optional<Tensor>& buffer, double momentum, bool nesterov,
              const Body& body) {
  if (!buffer.has_value()) return body(SgdRule<A>{static_cast<A>(a.lr)});
  body(MomentumRule<A>{static_cast<A>(a.lr), static_cast<A>(momentum), nesterov, state_data<A>(*buffer)});
}

template <typename A, typename Body>
void with_adagrad(const StepArguments& a, const Tensor& sum, double eps, const Body& body) {
  const A lr = static_cast<A>(a.lr), small = static_cast<A>(eps);
  if (sum.dim() == 1) return body(RowwiseAdagradRule<A>{lr, small, state_data<A>(sum)});
  body(AdagradRule<A>{lr, small, state_data<A>(sum)});
}

template <typename A>
AdamRule<A> make_adam(const StepArguments& a, const Tensor& average, const Tensor& square,
                      const std::optional<Tensor>& row_steps, double beta1, double beta2, double eps, int64_t step) {
  AdamRule<A> rule{a.lr,
                   beta1,
                   beta2,
                   static_cast<A>(beta2),
                   static_cast<A>(1 - beta1),
                   static_cast<A>(1 - beta2),
                   static_cast<A>(eps),
                   state_data<A>(average),
                   state_data<A>(square),
                   row_steps.has_value() ? state_data<int32_t>(*row_steps) : nullptr};
  if (!row_steps.has_value()) rule.set_time(static_cast<double>(step));
  return rule;
}

inline void check_sgd(const StepArguments& a, const std::optional<Tensor>& buffer, double momentum, bool nesterov) {
  check_step_arguments(a);
  W2V_CHECK(momentum >= 0 && momentum < 1, "momentum: expected a number in [0, 1), got ", momentum);
  W2V_CHECK(buffer.has_value() == (momentum > 0), "momentum_buffer: expected one if, and only if, momentum > 0, got ",
            buffer.has_value() ? "one" : "none", " with momentum = ", momentum);
  W2V_CHECK(!nesterov || momentum > 0, "nesterov: expected momentum > 0, got ", momentum);
  if (buffer.has_value()) check_state(a, *buffer, "momentum_buffer", false, accumulator_type(a.weight));
}

inline void check_adagrad(const StepArguments& a, const Tensor& sum, double eps) {
  check_step_arguments(a);
  check_not_negative(eps, "eps");
  check_state(a, sum, "sum", sum.dim() == 1, accumulator_type(a.weight));
}

inline void check_adam(const StepArguments& a, const Tensor& average, const Tensor& square,
                       const std::optional<Tensor>& row_steps, double beta1, double beta2, double eps, int64_t step) {
  check_step_arguments(a);
  check_not_negative(eps, "eps");
  W2V_CHECK(beta1 >= 0 && beta1 < 1, "beta1: expected a number in [0, 1), got ", beta1);
  W2V_CHECK(beta2 >= 0 && beta2 < 1, "beta2: expected a number in [0, 1), got ", beta2);
  W2V_CHECK(step >= 1, "step: expected a number >= 1, got ", step);
  check_state(a, average, "exp_avg", false, accumulator_type(a.weight));
  check_state(a, square, "exp_avg_sq", false, accumulator_type(a.weight));
  if (row_steps.has_value()) check_state(a, *row_steps, "row_steps", true, ScalarType::Int);
}

}  // namespace w2v
