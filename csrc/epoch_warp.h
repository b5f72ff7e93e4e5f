// One warp trains one sentence of skip-gram with negative sampling: the twin of cpu/sgns_kernel.h, with the same draws.
//
// A block is kBlock = 2 neighbouring centres and the K negatives that they share; its contexts are the words in either
// window, its outputs the N = kBlock + K rows of `out`. Words come and go as sentence_window.h says, contexts and
// outputs meet as in block_products.h.
#pragma once
#include <cstdint>

#include "block_products.h"

namespace w2v {

template <typename Warp, typename T, int kChunks>
class SentenceTrainer : public BlockProducts<Warp, T, kChunks, SentenceTrainer<Warp, T, kChunks>> {
 public:
  using Products = BlockProducts<Warp, T, kChunks, SentenceTrainer>;
  template <typename U>
  using PerLane = typename Products::template PerLane<U>;
  using Products::Products;
  static constexpr int kCentersPerDraw = kBlock, kFetchTogether = kChunks == 3 ? 2 : 4, kKnownChunks = kChunks,
                       kSteps = 0;
  static constexpr int kTile = kTileContexts, kTiles = kChunks == 1                                 ? 3
                                                       : kChunks == 2 && sizeof(T) >= sizeof(float) ? 2
                                                                                                    : 1;

  // kBlock neighbouring centres, one at the end of a sentence of an odd number of words.
  struct Block {
    int64_t first, low;  // queued words: the centres [first, first + count), the contexts [low, low + num_contexts)
    int count, num_contexts;
    int32_t word[kBlock], reach[kBlock];  // of the centres
    int offset;                           // low - first
  };

  W2V_DEVICE bool has_output(const Block& block, int output) const {
    return output < kBlock ? output < block.count : output < kBlock + p_.negative;
  }

  W2V_DEVICE int32_t output_word(const Block& block, int output) const {
    if (output < kBlock) return word_of(block.first + output);
    return this->negative_of(block.first, output - kBlock);
  }

  W2V_DEVICE int num_outputs(const Block&) const { return kBlock + p_.negative; }

  W2V_DEVICE T* output_row(const Block& block, int output) const {  // null: there is no such output
    return has_output(block, output) ? out_row(output_word(block, output)) : nullptr;
  }

  W2V_DEVICE int32_t mark_of(const Block& block, int output) const {
    return has_output(block, output) ? output_word(block, output) : -1;
  }

  // -1: context m is in the window of the centre `output`. c > 0: the negative `output` stands for c windows that m is
  // in; one whose centre is the same word does not count.
  W2V_DEVICE float weight_of(const Block& block, int m, int output, int32_t mark) const {
    float weight = 0;
    W2V_UNROLL
    for (int g = 0; g < kBlock; ++g) {
      const int distance = block.offset + m - g;
      const bool inside =
          (g < block.count) & (distance != 0) & (distance <= block.reach[g]) & (-distance <= block.reach[g]);
      const float of_center = output == g ? -1.0f : 0.0f, of_negative = mark != block.word[g] ? 1.0f : 0.0f;
      weight += inside ? (output < kBlock ? of_center : of_negative) : 0.0f;
    }
    return mark >= 0 ? weight : 0.0f;
  }

  W2V_DEVICE void train_block(int64_t first) {
    this->need_negatives(first);
    Block block{first, first, static_cast<int>(smaller<int64_t>(kBlock, filled_ - first)), 0, {}, {}, 0};
    PerLane<Vec4> outputs[kOutputs][kChunks > 0 ? kChunks : 1];
    if constexpr (kChunks > 0) {  // on their way while the words that come into the windows are looked after
      this->find_outputs(block);
      W2V_UNROLL
      for (int n = 0; n < kOutputs; ++n) {
        W2V_UNROLL
        for (int chunk = 0; chunk < kChunks; ++chunk) this->load_output(this->rows_[n], chunk, &outputs[n][chunk]);
      }
    }
    this->enter_windows(first);
    int64_t last = first;
    W2V_UNROLL
    for (int g = 0; g < kBlock; ++g) {
      if (g >= block.count) break;
      const int64_t center = first + g;
      block.word[g] = word_of(center);
      block.reach[g] = reach_of(center);
      const int64_t from = this->window_low(center), to = this->window_high(center) - 1;
      block.low = smaller(block.low, from);
      last = larger(last, to);
      pairs_ += to - from;
    }
    block.num_contexts = static_cast<int>(last + 1 - block.low);
    block.offset = static_cast<int>(block.low - first);
    warp_.each_lane([&](int lane) {
      for (int m = lane; m < block.num_contexts; m += kWarpLanes)
        this->template at<int32_t>(layout_.context)[m] = slot_of(block.low + m);
    });
    this->learn(block, outputs);
  }

 private:
  using Products::filled_;
  using Products::layout_;
  using Products::out_row;
  using Products::p_;
  using Products::pairs_;
  using Products::reach_of;
  using Products::slot_of;
  using Products::warp_;
  using Products::word_of;
};

}  // namespace w2v
