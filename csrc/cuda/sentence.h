// What the kernels of CBOW and hierarchical softmax share: one warp reads a sentence, keeps what subsampling leaves of
// it in a ring, and hands out blocks of kBlock neighbouring centres, with the draws of the CPU (cpu/sgns_plan.h).
#pragma once
#include <cstdint>

#include "../epoch_plan.h"
#include "launch.h"

namespace w2v {

using Counter = unsigned long long;
constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

// The kept words around a block, in shared memory; entry e stands at e & (size - 1).
struct WordRing {
  int64_t* place;  // in the sentence
  int32_t *word, *reach;
  int32_t size;  // a power of two, at least 2 W + 64: the windows, and two reads of 32 words

  static W2V_HOST_DEVICE constexpr int32_t size_for(int window) {
    int32_t size = 64;
    while (size < 2 * window + 2 * kWarpLanes) size *= 2;
    return size;
  }
  static W2V_HOST_DEVICE constexpr int64_t bytes_for(int window) { return int64_t{16} * size_for(window); }

  __device__ WordRing(char* shared, int window) : size(size_for(window)) {
    place = reinterpret_cast<int64_t*>(shared);
    word = reinterpret_cast<int32_t*>(shared + 8 * size);
    reach = word + size;
  }
  __device__ int32_t at(int64_t e) const { return static_cast<int32_t>(e & (size - 1)); }
};

// The sentences that start in [begin, end), dealt out to warps by a counter. train_block(center, count, filled) is
// called for words [center, center + count) of the ring, whose windows lie in [0, filled).
class SentenceReader {
 public:
  uint64_t key;
  float rate;
  int64_t words = 0;

  __device__ SentenceReader(const EpochParams& params, const WordRing& ring, Counter* counter, Counter* bad)
      : p_(params), ring_(ring), counter_(counter), bad_(bad), lane_(lane_of_warp()) {}

  template <typename TrainBlock>
  __device__ void run(const TrainBlock& train_block) {
    for (int64_t n = take(); p_.stretch_begin(n) < p_.end; n = take()) {
      const int64_t end = p_.stretch_end(n);
      for (int64_t at = p_.stretch_begin(n); at < end; at += kWarpLanes) {
        uint32_t starts = __ballot_sync(kAllLanes, at + lane_ < end && p_.starts_at(at + lane_));
        for (; starts != 0; starts &= starts - 1) sentence(at + lowest_bit(starts), train_block);
      }
    }
  }

 private:
  __device__ int64_t take() {
    Counter n = 0;
    if (lane_ == 0) n = atomicAdd(counter_, Counter{1});
    return static_cast<int64_t>(__shfl_sync(kAllLanes, n, 0));
  }

  template <typename TrainBlock>
  __device__ void sentence(int64_t start, const TrainBlock& train_block) {
    start_ = start;
    key = sentence_key(p_.seed, p_.epoch, static_cast<uint64_t>(start));
    rate = p_.rate(start);
    place_ = filled_ = 0;
    open_ = true;
    for (int64_t center = 0;; center += kBlock) {
      while (open_ && filled_ < center + kBlock + p_.window) read_words();
      if (center >= filled_ || filled_ == 1) break;  // the end, or nothing to predict
      train_block(center, static_cast<int>(smaller<int64_t>(kBlock, filled_ - center)), filled_);
    }
    words += filled_;
  }

  // Takes the sentence's next 32 words and keeps those that subsampling leaves.
  __device__ void read_words() {
    const int64_t from = start_ + place_;
    __syncwarp();  // no lane reads what the ring held before
    const int32_t word = from + lane_ < p_.last ? p_.id(from + lane_) : -1;
    const uint32_t closing = __ballot_sync(kAllLanes, static_cast<uint32_t>(word) >= p_.vocab_size);
    const int count = closing == 0 ? kWarpLanes : lowest_bit(closing);
    if (closing != 0) {
      open_ = false;
      if (lane_ == count && word >= 0) atomicMin(bad_, static_cast<Counter>(from + count));
    }
    const uint64_t bits = draw(key, static_cast<uint64_t>(place_ + lane_) * static_cast<uint64_t>(1 + p_.negative));
    const bool keep = lane_ < count && static_cast<uint32_t>(bits >> 32) <= p_.keep[lane_ < count ? word : 0];
    const uint32_t kept = __ballot_sync(kAllLanes, keep);
    if (keep) {
      const int32_t e = ring_.at(filled_ + count_bits(kept & ((1u << lane_) - 1u)));
      ring_.word[e] = word;
      ring_.place[e] = place_ + lane_;
      ring_.reach[e] = 1 + static_cast<int32_t>(below(static_cast<uint32_t>(bits), static_cast<uint32_t>(p_.window)));
    }
    filled_ += count_bits(kept);
    place_ += count;
    __syncwarp();
  }

  const EpochParams& p_;
  const WordRing& ring_;
  Counter *counter_, *bad_;
  int lane_;
  int64_t start_ = 0, place_ = 0, filled_ = 0;
  bool open_ = false;
};

// A number that other warps add to at the same time: as it is now, not as the L1 cache saw it.
__device__ __forceinline__ float load_now(const float* at) { return *static_cast<const volatile float*>(at); }

}  // namespace w2v
