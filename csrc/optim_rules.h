// The arithmetic of the optimisers, the same on the CPU and the GPU: what each subtracts from a number of a row, given
// the gradient, and what it remembers.
//
// A rule is copied for every row that is stepped (at) and told the mean square of the row's gradient (begin); for each
// number of the row, its state is loaded, the step taken, which updates it, and the state stored; then the rule stores
// what it keeps per row (finish). On a GPU a warp's lanes hold copies of it: one of them finishes.
#pragma once
#include <cmath>
#include <cstdint>

#include "rng.h"
#include "stochastic_round.h"

namespace w2v {

// What all rules have in common; 0 in clip_row_norm and max_norm means none.
struct StepOptions {
  double lr;
  double weight_decay;
  bool decoupled;        // the weight shrinks by lr * weight_decay; else weight_decay * weight joins the gradient
  double clip_row_norm;  // a row's gradient that is longer is shortened to this
  double max_norm;       // a row of the weight that is longer after the step is shortened to this
  bool stochastic;       // rounding (bfloat16)
  uint64_t seed;         // of it
};

template <typename A>
struct SgdRule {
  static constexpr bool kNeedsMeanSquare = false;
  struct Numbers {};
  A lr;

  template <typename Body>
  void each_state(const Body&) const {}
  W2V_HOST_DEVICE SgdRule at(int64_t, int64_t) const { return *this; }
  W2V_HOST_DEVICE void begin(A) {}
  W2V_HOST_DEVICE Numbers load(int64_t) const { return {}; }
  W2V_HOST_DEVICE A step(Numbers*, A gradient) const { return lr * gradient; }
  W2V_HOST_DEVICE void store(int64_t, Numbers) const {}
  W2V_HOST_DEVICE void finish() const {}
};

template <typename A>
struct MomentumRule {
  static constexpr bool kNeedsMeanSquare = false;
  struct Numbers {
    A average;
  };
  A lr, momentum;
  bool nesterov;
  A* buffer;  // (V, D)

  template <typename Body>
  void each_state(const Body& body) const {
    body(buffer);
  }
  W2V_HOST_DEVICE MomentumRule at(int64_t row, int64_t dim) const {
    return {lr, momentum, nesterov, buffer + row * dim};
  }
  W2V_HOST_DEVICE void begin(A) {}
  W2V_HOST_DEVICE Numbers load(int64_t d) const { return {buffer[d]}; }
  W2V_HOST_DEVICE A step(Numbers* n, A gradient) const {
    n->average = momentum * n->average + gradient;
    return lr * (nesterov ? gradient + momentum * n->average : n->average);
  }
  W2V_HOST_DEVICE void store(int64_t d, Numbers n) const { buffer[d] = n.average; }
  W2V_HOST_DEVICE void finish() const {}
};

template <typename A>
struct AdagradRule {
  static constexpr bool kNeedsMeanSquare = false;
  struct Numbers {
    A sum;
  };
  A lr, eps;
  A* sum;  // (V, D) of squared gradients

  template <typename Body>
  void each_state(const Body& body) const {
    body(sum);
  }
  W2V_HOST_DEVICE AdagradRule at(int64_t row, int64_t dim) const { return {lr, eps, sum + row * dim}; }
  W2V_HOST_DEVICE void begin(A) {}
  W2V_HOST_DEVICE Numbers load(int64_t d) const { return {sum[d]}; }
  W2V_HOST_DEVICE A step(Numbers* n, A gradient) const {
    n->sum += gradient * gradient;
    return lr * gradient / (std::sqrt(n->sum) + eps);
  }
  W2V_HOST_DEVICE void store(int64_t d, Numbers n) const { sum[d] = n.sum; }
  W2V_HOST_DEVICE void finish() const {}
};

template <typename A>
struct RowwiseAdagradRule {
  static constexpr bool kNeedsMeanSquare = true;
  struct Numbers {};
  A lr, eps;
  A* sum;  // (V,) of mean squared gradients
  A total = 0, rate = 0;

  template <typename Body>
  void each_state(const Body&) const {}  // a number per row: too little to fetch ahead
  W2V_HOST_DEVICE RowwiseAdagradRule at(int64_t row, int64_t) const { return {lr, eps, sum + row}; }
  W2V_HOST_DEVICE void begin(A mean_square) {
    total = *sum + mean_square;
    rate = lr / (std::sqrt(total) + eps);
  }
  W2V_HOST_DEVICE Numbers load(int64_t) const { return {}; }
  W2V_HOST_DEVICE A step(Numbers*, A gradient) const { return rate * gradient; }
  W2V_HOST_DEVICE void store(int64_t, Numbers) const {}
  W2V_HOST_DEVICE void finish() const { *sum = total; }
};

template <typename A>
struct AdamRule {
  static constexpr bool kNeedsMeanSquare = false;
  struct Numbers {
    A average, square;
  };
  double lr, beta1, beta2;
  A decay, new1, new2, eps;  // beta2, 1 - beta1 and 1 - beta2: taken in double, or 1 - 0.999 would lose 4 digits
  A *average, *square;       // (V, D)
  int32_t* steps;            // (V,) steps of each row; null: the number of steps is the same for all
  A rate = 0, scale = 0;     // lr / (1 - beta1^t) and 1 / sqrt(1 - beta2^t) after t steps
  int32_t row_steps = 0;

  template <typename Body>
  void each_state(const Body& body) const {
    body(average);
    body(square);
  }
  W2V_HOST_DEVICE AdamRule at(int64_t row, int64_t dim) const {
    AdamRule rule = *this;
    rule.average += row * dim;
    rule.square += row * dim;
    if (steps != nullptr) rule.steps += row;
    return rule;
  }
  W2V_HOST_DEVICE void begin(A) {
    if (steps == nullptr) return;
    row_steps = *steps + 1;
    set_time(row_steps);
  }
  W2V_HOST_DEVICE void set_time(double t) {
    rate = static_cast<A>(lr / (1 - std::pow(beta1, t)));
    scale = static_cast<A>(1 / std::sqrt(1 - std::pow(beta2, t)));
  }
  W2V_HOST_DEVICE Numbers load(int64_t d) const { return {average[d], square[d]}; }
  W2V_HOST_DEVICE A step(Numbers* n, A gradient) const {
    n->average += new1 * (gradient - n->average);
    n->square = decay * n->square + new2 * (gradient * gradient);
    return rate * n->average / (std::sqrt(n->square) * scale + eps);
  }
  W2V_HOST_DEVICE void store(int64_t d, Numbers n) const {
    average[d] = n.average;
    square[d] = n.square;
  }
  W2V_HOST_DEVICE void finish() const {
    if (steps != nullptr) *steps = row_steps;
  }
};

}  // namespace w2v
