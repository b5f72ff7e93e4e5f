// What an epoch on the GPU is cut into, in plain C++, so that the tests can run it without a GPU: the part of the
// corpus that is on the device, how its sentences are handed out, where a chunk of it may end, the learning rate, and
// what one warp keeps in shared memory.
#pragma once
#include <cstdint>

#include "sampler.h"

namespace w2v {

constexpr int kWarpLanes = 32;
constexpr int kStretch = 256;     // ids a warp takes at a time: short, so that all warps end together
constexpr int kOutputs = 7;       // rows of out that a warp holds in registers: of kBlock centres and 5 negatives
constexpr int kCoefPitch = 8;     // floats from one context's coefficients to the next one's: two 16-byte reads
constexpr int kTileContexts = 4;  // contexts whose scores are summed together: 4 x 7 of 32 lanes
constexpr int kMaskedSlots = 32;  // slots, the first ones, of which bits tell which hold frequent words
static_assert(kOutputs <= kCoefPitch && kTileContexts * kOutputs <= kWarpLanes);

template <typename T>
W2V_HOST_DEVICE constexpr T smaller(T a, T b) {
  return a < b ? a : b;
}
template <typename T>
W2V_HOST_DEVICE constexpr T larger(T a, T b) {
  return a < b ? b : a;
}

struct EpochParams {
  const int32_t* ids;   // words [first, last) of the corpus: sentences of word ids, each closed by -1
  int64_t first, last;  // first is 0, or where a sentence starts
  int64_t num_ids;      // of the whole corpus
  int64_t begin, end;   // train on the sentences that start here; they end before last
  const AliasColumn* alias;
  const uint32_t* keep;  // (V,) a word stays if 32 random bits do not exceed this
  uint32_t vocab_size;   // V
  int window, negative;
  uint64_t seed;
  uint32_t epoch, epochs;
  double lr;
  bool prefetch;  // the tables do not fit the L2 cache
  int hot_words;  // of words below it, the frequent ones, what a block has moved is added to memory at once

  W2V_HOST_DEVICE int32_t id(int64_t i) const { return ids[i - first]; }

  // Whether a sentence starts at i, which must be here. (A sentence of no words is none.)
  W2V_HOST_DEVICE bool starts_at(int64_t i) const { return id(i) >= 0 && (i == first || id(i - 1) < 0); }

  // Hand-out n of the counter: [stretch_begin(n), stretch_end(n)), nothing left to do once that is empty.
  W2V_HOST_DEVICE int64_t stretch_begin(int64_t n) const { return begin + n * kStretch; }
  W2V_HOST_DEVICE int64_t stretch_end(int64_t n) const { return smaller(stretch_begin(n) + kStretch, end); }

  // As on the CPU: falls linearly over all epochs, to a 10,000th.
  W2V_HOST_DEVICE float rate(int64_t offset) const {
    const double total = static_cast<double>(num_ids) * epochs;
    const double progress = (static_cast<double>(num_ids) * epoch + static_cast<double>(offset)) / total;
    return static_cast<float>(lr * larger(1.0 - progress, 1e-4));
  }
};

// Where the chunk that starts at begin must end, so that it holds whole sentences and at most `limit` ids: behind the
// last -1 in it; -1 where the first sentence alone is longer.
inline int64_t chunk_end(const int32_t* ids, int64_t num_ids, int64_t begin, int64_t limit) {
  if (num_ids - begin <= limit) return num_ids;
  for (int64_t end = begin + limit; end > begin; --end)
    if (ids[end - 1] < 0) return end;
  return -1;
}

// A warp's part of shared memory, as byte offsets. Rows of the words around the centres lie in `slots`, one for each
// different word; kept words pass through a queue, from where they are read until no window to come can hold them.
struct EpochLayout {
  int32_t contexts;     // 2 W + kBlock: the most words in the windows of a block, its centres among them
  int32_t queue;        // a power of two, at least contexts + 32: what is in the windows, and one read of 32 words
  int32_t pitch;        // columns of a row: D rounded up to a multiple of 4
  int32_t width;        // floats from row to row, zeros behind the columns: a multiple of 128, 4 for each lane, so that
                        // no lane need be told from the others
  int32_t groups;       // of kOutputs outputs
  int32_t draw_blocks;  // whose negatives are drawn at a time

  int32_t value, base;  // float (contexts, width): the slots: rows as they are now, and as they were read
  int32_t deltas;       // float (contexts, 128): steps of the contexts, while there are groups of outputs to come
  int32_t coef;         // float (groups, contexts, kCoefPitch): lr times weight times (label - sigmoid(score))
  int32_t queue_place;  // int64 (queue,): places in the sentence
  int32_t slot_last;    // int64 (contexts,): the last word of the queue that uses the slot
  int32_t queue_word, queue_reach, queue_slot;  // int32 (queue,)
  int32_t slot_word;                            // int32 (contexts,)
  int32_t context;                              // int32 (contexts,): slots of the block's contexts
  int32_t negatives;                            // int32 (draw_blocks * K,); of a tree: a word's path
  int64_t bytes;

  EpochLayout(int window, int negative, int64_t dim) : EpochLayout(window, negative, dim, kBlock + negative, 0) {}

  // outputs: the most that a context meets. extra: rows beside those of the words, in the slots behind theirs.
  EpochLayout(int window, int negative, int64_t dim, int outputs, int extra) {
    contexts = 2 * window + kBlock;
    queue = 64;
    while (queue < contexts + kWarpLanes) queue *= 2;
    pitch = static_cast<int32_t>((dim + 3) / 4 * 4);
    width = (pitch + 4 * kWarpLanes - 1) / (4 * kWarpLanes) * (4 * kWarpLanes);
    groups = (outputs + kOutputs - 1) / kOutputs;
    draw_blocks = negative > 0 ? larger(1, kWarpLanes / negative) : 1;
    bytes = 0;
    value = take(int64_t{4} * (contexts + extra) * width);
    base = take(int64_t{4} * contexts * width);
    deltas = take(groups > 1 ? int64_t{4} * contexts * 4 * kWarpLanes : 0);
    coef = take(int64_t{4} * groups * contexts * kCoefPitch);
    queue_place = take(int64_t{8} * queue);
    slot_last = take(int64_t{8} * contexts);
    queue_word = take(int64_t{4} * queue);
    queue_reach = take(int64_t{4} * queue);
    queue_slot = take(int64_t{4} * queue);
    slot_word = take(int64_t{4} * contexts);
    context = take(int64_t{4} * contexts);
    negatives = take(int64_t{4} * (negative > 0 ? draw_blocks * negative : outputs));
  }

 private:
  int32_t take(int64_t size) {  // 16-byte aligned; past 2^31 the sum alone is right, and refused by the caller
    const int64_t at = bytes;
    bytes += (size + 15) / 16 * 16;
    return static_cast<int32_t>(at);
  }
};

}  // namespace w2v
