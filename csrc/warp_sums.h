// Sums over the lanes of a warp, many at a time.
#pragma once
#include <cmath>

#include "epoch_plan.h"
#include "lanes.h"

namespace w2v {

// Of 2 kStep sums, a lane keeps kStep and gives the others to lane ^ kStep, in return for its part of those it keeps:
// at the end sums[0] of lane l is its part of sums[l % (2 kStep)], summed over all lanes that agree with l in the bits
// above.
template <int kStep, typename Warp>
W2V_DEVICE void fold(Warp& warp, typename Warp::template PerLane<float>* sums) {
  W2V_UNROLL
  for (int i = 0; i < kStep; ++i) {
    typename Warp::template PerLane<float> given;
    warp.each_lane([&](int lane) {
      const bool upper = (lane & kStep) != 0;
      given[lane] = upper ? sums[i][lane] : sums[i + kStep][lane];
      sums[i][lane] = upper ? sums[i + kStep][lane] : sums[i][lane];
    });
    warp.exchange(&given, kStep);
    warp.each_lane([&](int lane) { sums[i][lane] += given[lane]; });
  }
  if constexpr (kStep > 1) fold<kStep / 2>(warp, sums);
}

// sums[0] of lane l becomes the sum over the warp of sums[l % kCount]; kCount is a power of two up to 32.
template <int kCount, typename Warp>
W2V_DEVICE void sum_over_lanes(Warp& warp, typename Warp::template PerLane<float>* sums) {
  fold<kCount / 2>(warp, sums);
  W2V_UNROLL
  for (int step = kCount; step < kWarpLanes; step *= 2) {
    typename Warp::template PerLane<float> other = sums[0];
    warp.exchange(&other, step);
    warp.each_lane([&](int lane) { sums[0][lane] += other[lane]; });
  }
}

// The slope and the loss of one score: lr times weight times (label - sigmoid(score)), and |weight| log(1 + e^t). The
// weight is -1 where the score should be high, above 0 where it should be low, 0 where it does not count.
struct Slope {
  float coefficient, loss;
};
W2V_DEVICE Slope logistic(float score, float weight, float rate) {
  if (weight == 0) return {0.0f, 0.0f};
  const float t = weight < 0 ? -score : score;
  const float e = std::exp(-std::fabs(t));  // a NaN gets into the loss
  return {-rate * weight * (t < 0 ? e : 1.0f) / (1.0f + e), std::fabs(weight) * ((t < 0 ? 0.0f : t) + std::log1p(e))};
}

}  // namespace w2v
