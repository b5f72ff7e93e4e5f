// Sums over the lanes of a warp, many at a time.
#pragma once
#include <cmath>

#include "epoch_plan.h"
#include "lanes.h"

namespace w2v {

// Of 2 kStep sums, a lane keeps kStep and gives the others to lane ^ kStep, in return for its part of those it keeps:
// at the end sums[0] of lane l is its part of sums[l % (2 kStep)], summed over all lanes that agree with l in the bits
// above. kMany such sets at a time, so that their exchanges need not wait for each other.
template <int kStep, int kMany, int kCount, typename Warp>
W2V_DEVICE void fold(Warp& warp, typename Warp::template PerLane<float> (*sums)[kCount]) {
  W2V_UNROLL
  for (int i = 0; i < kStep; ++i) {
    W2V_UNROLL
    for (int set = 0; set < kMany; ++set) {
      auto& own = sums[set];
      typename Warp::template PerLane<float> given;
      warp.each_lane([&](int lane) {
        const bool upper = (lane & kStep) != 0;
        given[lane] = upper ? own[i][lane] : own[i + kStep][lane];
        own[i][lane] = upper ? own[i + kStep][lane] : own[i][lane];
      });
      warp.exchange(&given, kStep);
      warp.each_lane([&](int lane) { own[i][lane] += given[lane]; });
    }
  }
  if constexpr (kStep > 1) fold<kStep / 2, kMany>(warp, sums);
}

// sums[set][0] of lane l becomes the sum over the warp of sums[set][l % kCount]; kCount is a power of two up to 32.
template <int kCount, int kMany, typename Warp>
W2V_DEVICE void sum_over_lanes(Warp& warp, typename Warp::template PerLane<float> (*sums)[kCount]) {
  fold<kCount / 2, kMany>(warp, sums);
  W2V_UNROLL
  for (int step = kCount; step < kWarpLanes; step *= 2) {
    W2V_UNROLL
    for (int set = 0; set < kMany; ++set) {
      typename Warp::template PerLane<float> other = sums[set][0];
      warp.exchange(&other, step);
      warp.each_lane([&](int lane) { sums[set][0][lane] += other[lane]; });
    }
  }
}

// The slope and the loss of one score: lr times weight times (label - sigmoid(score)), and |weight| log(1 + e^t). The
// weight is -1 where the score should be high, above 0 where it should be low, 0 where it does not count.
struct Slope {
  float coefficient, loss;
};
W2V_DEVICE Slope logistic(float score, float weight, float rate) {
  const float t = weight < 0 ? -score : score;
#ifdef __CUDA_ARCH__  // by the special function unit, to some 1e-7 of 1
  const float e = __expf(-fabsf(t)), log1p_e = __logf(1.0f + e), inverse = __fdividef(1.0f, 1.0f + e);
#else
  const float e = std::exp(-std::fabs(t)), log1p_e = std::log1p(e), inverse = 1.0f / (1.0f + e);
#endif
  const float slope = -rate * weight * (t < 0 ? e : 1.0f) * inverse;
  const float loss = std::fabs(weight) * ((t < 0 ? 0.0f : t) + log1p_e);  // a NaN gets into it
  return weight == 0 ? Slope{0.0f, 0.0f} : Slope{slope, loss};
}

}  // namespace w2v
