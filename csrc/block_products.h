// A block of contexts, rows in shared memory, against outputs, rows of `out`: all scores, and then what each moves.
//
// Outputs are trained in groups of kOutputs. They are read into registers, and their steps added to memory after the
// block: a row that occurs twice among them gets both. Rows never cross lanes, only scores do: those of a tile of
// contexts (28 of 32) are summed together, each step halving what a lane still holds, in 31 exchanges (warp_sums.h).
// What takes the time of a block is waiting, as a scheduler has one or two warps: so tiles go side by side, and
// addresses and coefficients are looked up before the one before has been used.
//
// kChunks = the pieces of 128 columns that D takes: a row is held in registers, and there is one group of outputs, N <=
// kOutputs.
// kChunks = 0: any D and N; rows of `out` are read again for the update.
#pragma once
#include <cstdint>

#include "sentence_window.h"
#include "warp_sums.h"

namespace w2v {

// Self, the model, says of its blocks, which have num_contexts rows, those in the slots that layout.context lists:
//
//   num_outputs(block)           N
//   output_row(block, n)         null: there is no such output
//   mark_of(block, n)            what weight_of needs to know of output n, looked up once; -1: there is none
//   weight_of(block, m, n, mark) as logistic() takes it
//   kTile                        contexts whose scores are summed together, in one pass over the lanes' numbers,
//   kTiles                       and how many such passes are made at the same time
//   kSteps                       0: a context is moved; else the row so many slots behind it becomes its step
template <typename Warp, typename T, int kChunks, typename Self>
class BlockProducts : public SentenceWindow<Warp, T, Self> {
 public:
  using Window = SentenceWindow<Warp, T, Self>;
  template <typename U>
  using PerLane = typename Window::template PerLane<U>;
  using Window::Window;

 protected:
  using Window::chunks;
  using Window::column;
  using Window::inside;
  using Window::layout_;
  using Window::loss_;
  using Window::rate_;
  using Window::rounding_bits;
  using Window::self;
  using Window::step_;
  using Window::value;
  using Window::warp_;

  W2V_DEVICE Vec4& delta(int context, int lane) const {
    return this->template at<Vec4>(layout_.deltas)[context * kWarpLanes + lane];
  }
  W2V_DEVICE float* coefs(int group, int context) const {
    return this->template at<float>(layout_.coef) + (group * layout_.contexts + context) * kCoefPitch;
  }
  template <typename Block>
  W2V_DEVICE int groups(const Block& block) const {
    return kChunks > 0 ? 1 : (self().num_outputs(block) + kOutputs - 1) / kOutputs;
  }

  // Scores of all groups first, then what they move.
  template <typename Block, int kHeld>
  W2V_DEVICE void learn(const Block& block, PerLane<Vec4> (*outputs)[kHeld]) {
    warp_.sync();  // the contexts' slots have been listed
    for (int group = 0; group < groups(block); ++group) scores(block, group, outputs);
    warp_.sync();
    update(block, outputs);
    warp_.sync();  // the slots of contexts, coefficients and negatives are free to be written again
  }

  // Where the outputs of the block are, while they are held in registers.
  template <typename Block>
  W2V_DEVICE void find_outputs(const Block& block) {
    W2V_UNROLL
    for (int n = 0; n < kOutputs; ++n) rows_[n] = self().output_row(block, n);
  }

  W2V_DEVICE void load_output(const T* row, int chunk, PerLane<Vec4>* output) {
    warp_.each_lane([&](int lane) {
      (*output)[lane] = Warp::load(row, column(chunk, lane), row != nullptr && inside(chunk, lane));
    });
  }

  template <typename Block>
  W2V_DEVICE void load_group(const Block& block, int group, int chunk, PerLane<Vec4> (*outputs)[1]) {
    W2V_UNROLL
    for (int n = 0; n < kOutputs; ++n) rows_[n] = self().output_row(block, group * kOutputs + n);
    W2V_UNROLL
    for (int n = 0; n < kOutputs; ++n) load_output(rows_[n], chunk, &outputs[n][0]);
  }

  // The coefficients of one group of outputs with all contexts, and their loss.
  template <typename Block, int kHeld>
  W2V_DEVICE void scores(const Block& block, int group, PerLane<Vec4> (*outputs)[kHeld]) {
    constexpr int kTile = Self::kTile, kTiles = Self::kTiles;
    PerLane<int32_t> marks;
    warp_.each_lane([&](int lane) { marks[lane] = self().mark_of(block, group * kOutputs + lane % kOutputs); });
    for (int first = 0; first < block.num_contexts;) {
      const int left = block.num_contexts - first;
      if (kTiles >= 3 && left > 2 * kTile) {
        score_tiles<(kTiles < 3 ? 1 : 3)>(block, group, first, outputs, marks);
        first += 3 * kTile;
      } else if (kTiles >= 2 && left > kTile) {
        score_tiles<(kTiles < 2 ? 1 : 2)>(block, group, first, outputs, marks);
        first += 2 * kTile;
      } else {
        score_tiles<1>(block, group, first, outputs, marks);
        first += kTile;
      }
    }
  }

  template <int kTiles, typename Block, int kHeld>
  W2V_DEVICE void score_tiles(const Block& block, int group, int first, PerLane<Vec4> (*outputs)[kHeld],
                              PerLane<int32_t>& marks) {
    constexpr int kTile = Self::kTile, kSums = kTile * kOutputs <= 8 ? 8 : kTile * kOutputs <= 16 ? 16 : kWarpLanes;
    static_assert(kTile * kOutputs <= kSums);
    PerLane<float> sums[kTiles][kSums];
    W2V_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      W2V_UNROLL
      for (int i = 0; i < kSums; ++i) warp_.each_lane([&](int lane) { sums[tile][i][lane] = 0; });
    }
    int32_t slots[kTiles * kTile];
    const int32_t* context = this->template at<int32_t>(layout_.context);
    W2V_UNROLL
    for (int m = 0; m < kTiles * kTile; ++m)  // beyond the last one, it once more, to no effect
      slots[m] = context[smaller(first + m, block.num_contexts - 1)];
    if constexpr (kChunks > 0) {
      W2V_UNROLL
      for (int chunk = 0; chunk < kChunks; ++chunk) dots<kTiles>(slots, chunk, outputs, chunk, sums);
    } else {
      for (int chunk = 0; chunk < chunks(); ++chunk) {
        load_group(block, group, chunk, outputs);
        dots<kTiles>(slots, chunk, outputs, 0, sums);
      }
    }
    warp_.sync();  // lanes are together, without which exchanges go one by one
    sum_over_lanes<kSums, kTiles>(warp_, sums);
    warp_.each_lane([&](int lane) {
      const int n = lane % kOutputs;
      float weights[kTiles];
      W2V_UNROLL
      for (int tile = 0; tile < kTiles; ++tile) {
        const int m = first + tile * kTile + lane / kOutputs;
        const float weight = self().weight_of(block, m, group * kOutputs + n, marks[lane]);
        weights[tile] = (lane < kTile * kOutputs) & (m < block.num_contexts) ? weight : 0.0f;
      }
      float loss = 0;
      W2V_UNROLL
      for (int tile = 0; tile < kTiles; ++tile) {
        const int m = first + tile * kTile + lane / kOutputs;
        const Slope slope = logistic(sums[tile][0][lane], weights[tile], rate_);
        loss += slope.loss;
        if (lane < kTile * kOutputs && m < block.num_contexts) coefs(group, m)[n] = slope.coefficient;
      }
      loss_[lane] += static_cast<double>(loss);
    });
  }

  // sums[tile][m kOutputs + n] += the lane's part of context m of the tile . output n
  template <int kTiles, int kHeld, int kSums>
  W2V_DEVICE void dots(const int32_t* slots, int chunk, PerLane<Vec4> (*outputs)[kHeld], int held,
                       PerLane<float> (*sums)[kSums]) {
    constexpr int kTile = Self::kTile;
    warp_.each_lane([&](int lane) {
      W2V_UNROLL
      for (int m = 0; m < kTiles * kTile; ++m) {
        const Vec4 row = value(slots[m], chunk, lane);
        W2V_UNROLL
        for (int n = 0; n < kOutputs; ++n) {
          float& sum = sums[m / kTile][m % kTile * kOutputs + n][lane];
          sum = dot(sum, row, outputs[n][held][lane]);
        }
      }
    });
  }

  // One context after the other: it moves by coef . outputs, and the outputs by coef * context, so that a context is
  // pulled to where the ones before it have moved the outputs. With several groups of outputs, each meets the contexts
  // as they were, and an output that is a row of two groups meets the second as the first has left it.
  template <typename Block, int kHeld>
  W2V_DEVICE void update(const Block& block, PerLane<Vec4> (*outputs)[kHeld]) {
    if constexpr (kChunks > 0) {
      W2V_UNROLL
      for (int chunk = 0; chunk < kChunks; ++chunk) {
        move(block, chunk, 0, outputs, chunk);
        add_moved(block, 0, chunk, outputs, chunk);
      }
    } else {
      for (int chunk = 0; chunk < chunks(); ++chunk) {
        for (int group = 0; group < groups(block); ++group) {
          load_group(block, group, chunk, outputs);
          move(block, chunk, group, outputs, 0);
          add_moved(block, group, chunk, outputs, 0);
        }
      }
    }
    step_ += static_cast<uint64_t>(self().num_outputs(block));
  }

  template <typename Block, int kHeld>
  W2V_DEVICE void add_moved(const Block& block, int group, int chunk, PerLane<Vec4> (*outputs)[kHeld], int held) {
    W2V_UNROLL
    for (int n = 0; n < kOutputs; ++n) {
      const int output = group * kOutputs + n;
      T* row = kRowsHeld ? rows_[n] : self().output_row(block, output);
      warp_.each_lane([&](int lane) {
        Warp::add(row, column(chunk, lane), outputs[n][held][lane], moved_[n][lane],
                  rounding_bits(column(chunk, lane) + output * layout_.pitch), row != nullptr && inside(chunk, lane));
      });
    }
  }

  template <typename Block, int kHeld>
  W2V_DEVICE void move(const Block& block, int chunk, int group, PerLane<Vec4> (*outputs)[kHeld], int held) {
    const int32_t* context = this->template at<int32_t>(layout_.context);
    const bool first = group == 0, last = group == groups(block) - 1;
    W2V_UNROLL
    for (int n = 0; n < kOutputs; ++n) warp_.each_lane([&](int lane) { moved_[n][lane] = outputs[n][held][lane]; });
    int32_t next = context[0];
    const Vec4* packed = reinterpret_cast<const Vec4*>(coefs(group, 0));
    Vec4 next_low = packed[0], next_high = packed[1];
    for (int m = 0; m < block.num_contexts; ++m) {
      const int32_t slot = next;
      const float coef[kOutputs] = {next_low.x,  next_low.y,  next_low.z, next_low.w,
                                    next_high.x, next_high.y, next_high.z};
      const int following = smaller(m + 1, block.num_contexts - 1);
      next = context[following];
      packed = reinterpret_cast<const Vec4*>(coefs(group, following));
      next_low = packed[0];
      next_high = packed[1];
      warp_.each_lane([&](int lane) {
        const Vec4 row = value(slot, chunk, lane);
        Vec4 step = kChunks > 0 || first ? Vec4{0, 0, 0, 0} : delta(m, lane);
        W2V_UNROLL
        for (int n = 0; n < kOutputs; ++n) {
          add_scaled(&step, coef[n], moved_[n][lane]);
          add_scaled(&moved_[n][lane], coef[n], row);
        }
        if (kChunks > 0 || last) {
          if constexpr (Self::kSteps == 0) {
            value(slot, chunk, lane) = {row.x + step.x, row.y + step.y, row.z + step.z, row.w + step.w};
          } else {
            value(slot + Self::kSteps, chunk, lane) = step;
          }
        } else {
          delta(m, lane) = step;
        }
      });
    }
  }

  static constexpr bool kRowsHeld = sizeof(T) >= sizeof(float);  // rounding takes the registers otherwise
  PerLane<Vec4> moved_[kOutputs];
  T* rows_[kOutputs];  // of the outputs in registers; null: there is none
};

}  // namespace w2v
