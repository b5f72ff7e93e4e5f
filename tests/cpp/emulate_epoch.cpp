// The epoch's GPU code (csrc/epoch_warp.h) run on the CPU, lane after lane, for test_epoch_emulation.py: a shared
// library with C functions, called through ctypes. `order` is the order in which a step's lanes run; the results may
// not depend on it.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "epoch_warp.h"
#include "stochastic_round.h"

namespace {

using namespace w2v;

struct State {
  int64_t counter = 0, bad = -1;
  int64_t loads = 0, adds = 0, prefetches = 0;
};

State* state = nullptr;
bool backwards = false;

struct Bfloat16 {
  uint16_t bits;
};

float to_float(float x) { return x; }
float to_float(Bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

void add_to(float* number, float old, float now, uint32_t) { *number += now - old; }
void add_to(Bfloat16* number, float old, float now, uint32_t bits) {
  const float sum = to_float(*number) + (stochastic_round(now, bits) - old);  // on the grid already: cut, not rounded
  uint32_t whole;
  std::memcpy(&whole, &sum, 4);
  number->bits = static_cast<uint16_t>(whole >> 16);
}

struct EmulatedWarp {
  template <typename T>
  struct PerLane {
    T own[kWarpLanes];
    T& operator[](int lane) { return own[lane]; }
  };

  template <typename Body>
  void each_lane(const Body& body) {
    for (int i = 0; i < kWarpLanes; ++i) body(backwards ? kWarpLanes - 1 - i : i);
  }

  template <typename Rule>
  uint32_t lanes_where(const Rule& rule) {
    uint32_t bits = 0;
    each_lane([&](int lane) { bits |= static_cast<uint32_t>(rule(lane)) << lane; });
    return bits;
  }

  void exchange(PerLane<float>* x, int mask) {
    const PerLane<float> before = *x;
    for (int lane = 0; lane < kWarpLanes; ++lane) x->own[lane] = before.own[lane ^ mask];
  }

  void sync() {}
  int64_t take() { return state->counter++; }
  void report(int64_t i) { state->bad = i; }
  void check(bool rule) {
    if (!rule) throw std::out_of_range("word out of range");
  }

  template <typename T>
  static Vec4 load(const T* row, int32_t column, bool here) {
    if (!here) return {0, 0, 0, 0};
    ++state->loads;
    const T* at = row + column;
    return {to_float(at[0]), to_float(at[1]), to_float(at[2]), to_float(at[3])};
  }

  template <typename T>
  static void add(T* row, int32_t column, const Vec4& old, const Vec4& now, uint64_t bits, bool here) {
    if (!here) return;
    ++state->adds;
    T* at = row + column;
    add_to(at, old.x, now.x, static_cast<uint32_t>(bits) & 0xFFFF);
    add_to(at + 1, old.y, now.y, static_cast<uint32_t>(bits >> 16) & 0xFFFF);
    add_to(at + 2, old.z, now.z, static_cast<uint32_t>(bits >> 32) & 0xFFFF);
    add_to(at + 3, old.w, now.w, static_cast<uint32_t>(bits >> 48) & 0xFFFF);
  }

  template <typename T>
  void prefetch(const T*, int32_t) {
    ++state->prefetches;
  }
};

template <typename T, int kChunks>
void run(const EpochParams& params, const EpochLayout& layout, T* in, T* out, int64_t stride, double* sums) {
  std::vector<char> memory(layout.bytes + 4096, static_cast<char>(0xAB));
  char* shared = memory.data() + (16 - reinterpret_cast<uintptr_t>(memory.data()) % 16) % 16;
  EmulatedWarp warp;
  SentenceTrainer<EmulatedWarp, T, kChunks> trainer(warp, params, layout, shared, in, out, stride);
  trainer.run();
  for (const char* past = shared + layout.bytes; past != memory.data() + memory.size(); ++past)
    if (*past != static_cast<char>(0xAB)) throw std::out_of_range("shared memory written behind its end");
  for (int lane = 0; lane < kWarpLanes; ++lane) sums[0] += trainer.loss()[lane];
  sums[1] += static_cast<double>(trainer.pairs());
  sums[2] += static_cast<double>(trainer.words());
}

template <typename T>
void run(int chunks, const EpochParams& params, int64_t dim, T* in, T* out, int64_t stride, double* sums) {
  const EpochLayout layout(params.window, params.negative, dim);
  switch (chunks) {
    case 1:
      return run<T, 1>(params, layout, in, out, stride, sums);
    case 2:
      return run<T, 2>(params, layout, in, out, stride, sums);
    case 3:
      return run<T, 3>(params, layout, in, out, stride, sums);
    default:
      return run<T, 0>(params, layout, in, out, stride, sums);
  }
}

}  // namespace

extern "C" {

// Trains on the sentences that start in [begin, end) as one warp does; ids are words [first, last) of the corpus.
// in and out are (V, D) float32, or with bfloat16 the bits of bfloat16; rows `stride` numbers apart. sums (3,) as
// train_sgns_ gives; counts (3,): rows read and added to, in groups of 4 numbers, and hints. Gives the place of a word
// that is out of range, or -1.
int64_t emulate_epoch(int bfloat16, int order, int chunks, void* in, void* out, int64_t stride, int64_t dim,
                      const int32_t* ids, int64_t first, int64_t last, int64_t num_ids, int64_t begin, int64_t end,
                      const uint32_t* alias, const uint32_t* keep, uint32_t vocab_size, int window, int negative,
                      uint64_t seed, uint32_t epoch, uint32_t epochs, double lr, int prefetch, int hot_words,
                      double* sums, int64_t* counts) {
  State own;
  state = &own;
  backwards = order != 0;
  const EpochParams params{
      ids,  first,         last,     num_ids,  begin, end,   reinterpret_cast<const AliasColumn*>(alias),
      keep, vocab_size,    window,   negative, seed,  epoch, epochs,
      lr,   prefetch != 0, hot_words};
  if (bfloat16) {
    run(chunks, params, dim, static_cast<Bfloat16*>(in), static_cast<Bfloat16*>(out), stride, sums);
  } else {
    run(chunks, params, dim, static_cast<float*>(in), static_cast<float*>(out), stride, sums);
  }
  counts[0] = own.loads;
  counts[1] = own.adds;
  counts[2] = own.prefetches;
  return own.bad;
}

int64_t chunk_end(const int32_t* ids, int64_t num_ids, int64_t begin, int64_t limit) {
  return w2v::chunk_end(ids, num_ids, begin, limit);
}

int64_t shared_bytes(int window, int negative, int64_t dim) { return EpochLayout(window, negative, dim).bytes; }

float round_number(float number, uint32_t bits) { return stochastic_round(number, bits); }
}
