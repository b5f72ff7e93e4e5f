// A block of contexts, rows in shared memory, against outputs, rows of `out`: all scores, and then what each moves.
//
// Outputs are trained in groups of kOutputs. They are read into registers, and their steps added to memory after the
// block: a row that occurs twice among them gets both. Rows never cross lanes, only scores do: those of a tile of
// contexts (28 of 32) are summed together, each step halving what a lane still holds, in 31 exchanges (warp_sums.h).
//
// kChunks > 0: a row of D <= 128 kChunks is held in registers, and there is one group of outputs, N <= kOutputs.
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
//   weight_of(block, m, n)       as logistic() takes it
//   kTile                        contexts whose scores are summed together
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

  W2V_DEVICE void load_output(const T* row, int chunk, PerLane<Vec4>* output) {
    warp_.each_lane([&](int lane) {
      (*output)[lane] = row != nullptr && inside(chunk, lane) ? Warp::load(row, column(chunk, lane)) : Vec4{0, 0, 0, 0};
    });
  }

  template <typename Block>
  W2V_DEVICE void load_group(const Block& block, int group, int chunk, PerLane<Vec4> (*outputs)[1]) {
    W2V_UNROLL
    for (int n = 0; n < kOutputs; ++n)
      load_output(self().output_row(block, group * kOutputs + n), chunk, &outputs[n][0]);
  }

  // The coefficients of one group of outputs with all contexts, and their loss.
  template <typename Block, int kHeld>
  W2V_DEVICE void scores(const Block& block, int group, PerLane<Vec4> (*outputs)[kHeld]) {
    constexpr int kTile = Self::kTile, kSums = kTile * kOutputs <= 8 ? 8 : kTile * kOutputs <= 16 ? 16 : kWarpLanes;
    static_assert(kTile * kOutputs <= kSums);
    const int32_t* context = this->template at<int32_t>(layout_.context);
    for (int first = 0; first < block.num_contexts; first += kTile) {
      PerLane<float> sums[kSums];
      W2V_UNROLL
      for (int i = 0; i < kSums; ++i) warp_.each_lane([&](int lane) { sums[i][lane] = 0; });
      if constexpr (kChunks > 0) {
        W2V_UNROLL
        for (int chunk = 0; chunk < kChunks; ++chunk)
          dots(context + first, block.num_contexts - first, chunk, outputs, chunk, sums);
      } else {
        for (int chunk = 0; chunk < chunks(); ++chunk) {
          load_group(block, group, chunk, outputs);
          dots(context + first, block.num_contexts - first, chunk, outputs, 0, sums);
        }
      }
      sum_over_lanes<kSums>(warp_, sums);
      warp_.each_lane([&](int lane) {
        const int m = first + lane / kOutputs, n = lane % kOutputs;
        if (lane >= kTile * kOutputs || m >= block.num_contexts) return;
        const Slope slope = logistic(sums[0][lane], self().weight_of(block, m, group * kOutputs + n), rate_);
        coefs(group, m)[n] = slope.coefficient;
        loss_[lane] += static_cast<double>(slope.loss);
      });
    }
  }

  // sums[m kOutputs + n] += the lane's part of context m . output n
  template <int kHeld>
  W2V_DEVICE void dots(const int32_t* context, int num_contexts, int chunk, PerLane<Vec4> (*outputs)[kHeld], int held,
                       PerLane<float>* sums) {
    W2V_UNROLL
    for (int m = 0; m < Self::kTile; ++m) {
      if (m >= num_contexts) break;
      const int32_t slot = context[m];
      warp_.each_lane([&](int lane) {
        const Vec4 row = inside(chunk, lane) ? value(slot, chunk, lane) : Vec4{0, 0, 0, 0};
        W2V_UNROLL
        for (int n = 0; n < kOutputs; ++n)
          sums[m * kOutputs + n][lane] = dot(sums[m * kOutputs + n][lane], row, outputs[n][held][lane]);
      });
    }
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
      T* row = self().output_row(block, output);
      if (row == nullptr) continue;
      warp_.each_lane([&](int lane) {
        if (inside(chunk, lane))
          Warp::add(row, column(chunk, lane), outputs[n][held][lane], moved_[n][lane],
                    rounding_bits(column(chunk, lane) + output * layout_.pitch));
      });
    }
  }

  template <typename Block, int kHeld>
  W2V_DEVICE void move(const Block& block, int chunk, int group, PerLane<Vec4> (*outputs)[kHeld], int held) {
    const int32_t* context = this->template at<int32_t>(layout_.context);
    const bool first = group == 0, last = group == groups(block) - 1;
    W2V_UNROLL
    for (int n = 0; n < kOutputs; ++n) warp_.each_lane([&](int lane) { moved_[n][lane] = outputs[n][held][lane]; });
    for (int m = 0; m < block.num_contexts; ++m) {
      const int32_t slot = context[m];
      const Vec4* packed = reinterpret_cast<const Vec4*>(coefs(group, m));
      const Vec4 low = packed[0], high = packed[1];
      const float coef[kOutputs] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z};
      warp_.each_lane([&](int lane) {
        const bool here = inside(chunk, lane);
        const Vec4 row = here ? value(slot, chunk, lane) : Vec4{0, 0, 0, 0};
        Vec4 step = kChunks > 0 || first ? Vec4{0, 0, 0, 0} : delta(m, lane);
        W2V_UNROLL
        for (int n = 0; n < kOutputs; ++n) {
          add_scaled(&step, coef[n], moved_[n][lane]);
          add_scaled(&moved_[n][lane], coef[n], row);
        }
        if (!here) return;
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

  PerLane<Vec4> moved_[kOutputs];
};

}  // namespace w2v
