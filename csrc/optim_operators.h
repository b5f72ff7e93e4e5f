// The optimisers' operators, the same on every device but for Device::step_each_row(a, make), which runs the step of
// the rule that make(A{}, body) calls body with, on each row that a has a gradient of; a has been checked.
#pragma once
#include <optional>

#include "optim_checks.h"

namespace w2v {

template <typename Device>
struct OptimOperators {
  static void sgd(const Tensor& weight, const std::optional<Tensor>& momentum_buffer, const std::optional<Tensor>& rows,
                  const Tensor& values, double momentum, bool nesterov, double lr, double weight_decay, bool decoupled,
                  double clip_row_norm, const std::optional<Tensor>& grad_scale, double max_norm, int64_t seed) {
    const StepArguments a(weight, rows, values, grad_scale, clip_row_norm, max_norm, weight_decay, decoupled, lr, seed);
    check_sgd(a, momentum_buffer, momentum, nesterov);
    Device::step_each_row(a, [&](auto zero, const auto& body) {
      with_sgd<decltype(zero)>(a, momentum_buffer, momentum, nesterov, body);
    });
  }

  static void adagrad(const Tensor& weight, const Tensor& sum, const std::optional<Tensor>& rows, const Tensor& values,
                      double eps, double lr, double weight_decay, bool decoupled, double clip_row_norm,
                      const std::optional<Tensor>& grad_scale, double max_norm, int64_t seed) {
    const StepArguments a(weight, rows, values, grad_scale, clip_row_norm, max_norm, weight_decay, decoupled, lr, seed);
    check_adagrad(a, sum, eps);
    Device::step_each_row(a, [&](auto zero, const auto& body) { with_adagrad<decltype(zero)>(a, sum, eps, body); });
  }

  static void adam(const Tensor& weight, const Tensor& exp_avg, const Tensor& exp_avg_sq,
                   const std::optional<Tensor>& row_steps, const std::optional<Tensor>& rows, const Tensor& values,
                   double beta1, double beta2, double eps, int64_t step, double lr, double weight_decay, bool decoupled,
                   double clip_row_norm, const std::optional<Tensor>& grad_scale, double max_norm, int64_t seed) {
    const StepArguments a(weight, rows, values, grad_scale, clip_row_norm, max_norm, weight_decay, decoupled, lr, seed);
    check_adam(a, exp_avg, exp_avg_sq, row_steps, beta1, beta2, eps, step);
    Device::step_each_row(a, [&](auto zero, const auto& body) {
      body(make_adam<decltype(zero)>(a, exp_avg, exp_avg_sq, row_steps, beta1, beta2, eps, step));
    });
  }
};

}  // namespace w2v
