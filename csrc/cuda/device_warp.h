// A warp as sentence_window.h and its models ask for it, seen by one of its threads.
#pragma once
#include "../sentence_window.h"
#include "../stochastic_round.h"
#include "launch.h"
#include "memory.h"

namespace w2v {

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
    W2V_DEVICE_ASSERT(rule && "alias: word out of range for out_weight, or path: longer than longest");
  }

  template <typename T>
  static __device__ __forceinline__ Vec4 load(const T* row, int32_t column, bool here) {
    return load_shared_row(row + column, here);
  }

  static __device__ __forceinline__ void add(float* row, int32_t column, const Vec4& old, const Vec4& now, uint64_t,
                                             bool here) {
    add_to_row(row + column, {now.x - old.x, now.y - old.y, now.z - old.z, now.w - old.w}, here);
  }

  // The sum is rounded, and the difference to what was read is added: a number of bfloat16's own grid there, so that
  // steps of others in between are not lost, and nothing is rounded once more.
  static __device__ __forceinline__ void add(__nv_bfloat16* row, int32_t column, const Vec4& old, const Vec4& now,
                                             uint64_t bits, bool here) {
    const uint32_t low = static_cast<uint32_t>(bits), high = static_cast<uint32_t>(bits >> 32);
    add_to_row(row + column,
               {stochastic_round(now.x, low & 0xFFFFu) - old.x, stochastic_round(now.y, low >> 16) - old.y,
                stochastic_round(now.z, high & 0xFFFFu) - old.z, stochastic_round(now.w, high >> 16) - old.w},
               here);
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

// Adds what a trainer has summed to sums (3,): loss, pairs, words after subsampling.
template <typename Trainer>
__device__ __forceinline__ void add_sums(Trainer& trainer, double* sums) {
  const double loss = warp_sum(trainer.loss()[lane_of_warp()]);
  if (lane_of_warp() != 0) return;
  atomicAdd(sums, loss);
  atomicAdd(sums + 1, static_cast<double>(trainer.pairs()));
  atomicAdd(sums + 2, static_cast<double>(trainer.words()));
}

}  // namespace w2v
