// One warp trains one sentence of skip-gram with negative sampling: the twin of cpu/sgns_kernel.h, with the same draws.
//
// A block is kBlock = 2 neighbouring centres and the K negatives that they share; its contexts are the words in either
// window, its outputs the N = kBlock + K rows of `out`. The sentence slides through a queue of kept words, two at a
// time. A word's row of `in` is read once, when it comes within W of a centre, into a slot of shared memory, is used
// and moved there by all blocks it is in, and what it has moved is added to memory once, when it leaves; the same word
// twice in the queue shares a slot, as it shares a row. The outputs are read into registers, and their steps added
// after each block: a row that occurs twice among them gets both. Lane l holds the columns 4 l + 128 c, 4 l + 1 +
// 128 c, ...; rows never cross lanes, only scores do: those of a tile of contexts (28) are summed together, each step
// halving what a lane still holds, in 31 exchanges.
//
// Written once for the GPU and for the tests' emulation: `Warp` gives the lanes. On the GPU each_lane(f) calls f for
// the thread's own lane and PerLane<T> is a register; in the emulation f runs for all lanes, one after the other, and
// PerLane<T> is an array. What one lane writes to shared memory and another reads lies in different calls of each_lane
// with sync() between them.
//
//   Warp::PerLane<T>            [lane] is that lane's own T
//   each_lane(f)                f(lane)
//   lanes_where(f)              the lanes for which f(lane), as bits
//   exchange(&x, mask)          lane gets the x of lane ^ mask
//   sync()                      shared memory written before is seen by all lanes after
//   take()                      the next number of the counter
//   load(row, column)           4 numbers of a row in global memory, as it is now
//   add(row, column, old, now, bits)  row += now - old; bits are random, for stochastic rounding
//   prefetch(row, bytes)        a hint
//   report(i)                   word i of the corpus is out of range
//   check(rule)                 stops where it does not hold
#pragma once
#include <cmath>
#include <cstdint>

#include "epoch_plan.h"
#include "lanes.h"

namespace w2v {

// kChunks > 0: a row of D <= 128 kChunks is held in registers, and there is one group of outputs, N <= kOutputs.
// kChunks = 0: any D and K; rows of `out` are read again for the update.
template <typename Warp, typename T, int kChunks>
class SentenceTrainer {
 public:
  template <typename U>
  using PerLane = typename Warp::template PerLane<U>;

  W2V_DEVICE SentenceTrainer(Warp& warp, const EpochParams& params, const EpochLayout& layout, char* shared, T* in,
                             T* out, int64_t stride)
      : warp_(warp), p_(params), layout_(layout), shared_(shared), in_(in), out_(out), stride_(stride) {
    warp_.each_lane([&](int lane) { loss_[lane] = 0; });
  }

  // Trains on the stretches that the counter hands out, until there are none.
  W2V_DEVICE void run() {
    for (int64_t n = warp_.take(); p_.stretch_begin(n) < p_.end; n = warp_.take()) {
      const int64_t end = p_.stretch_end(n);
      for (int64_t at = p_.stretch_begin(n); at < end; at += kWarpLanes) {
        uint32_t starts = warp_.lanes_where([&](int lane) { return at + lane < end && p_.starts_at(at + lane); });
        for (; starts != 0; starts &= starts - 1) train(at + lowest_bit(starts));
      }
    }
  }

  W2V_DEVICE PerLane<double>& loss() { return loss_; }  // summed over pairs; the sum over lanes is the sum
  W2V_DEVICE int64_t pairs() const { return pairs_; }   // (centre, context) pairs
  W2V_DEVICE int64_t words() const { return words_; }   // words after subsampling

 private:
  template <typename U>
  W2V_DEVICE U* at(int32_t offset) const {
    return reinterpret_cast<U*>(shared_ + offset);
  }
  W2V_DEVICE int32_t in_queue(int64_t e) const { return static_cast<int32_t>(e & (layout_.queue - 1)); }
  W2V_DEVICE int32_t& word_of(int64_t e) const { return at<int32_t>(layout_.queue_word)[in_queue(e)]; }
  W2V_DEVICE int32_t& reach_of(int64_t e) const { return at<int32_t>(layout_.queue_reach)[in_queue(e)]; }
  W2V_DEVICE int32_t& slot_of(int64_t e) const { return at<int32_t>(layout_.queue_slot)[in_queue(e)]; }
  W2V_DEVICE int64_t& place_of(int64_t e) const { return at<int64_t>(layout_.queue_place)[in_queue(e)]; }
  W2V_DEVICE int64_t& last_of(int32_t slot) const { return at<int64_t>(layout_.slot_last)[slot]; }

  static W2V_DEVICE int32_t column(int chunk, int lane) { return 4 * (chunk * kWarpLanes + lane); }
  W2V_DEVICE bool inside(int chunk, int lane) const { return column(chunk, lane) < layout_.pitch; }
  W2V_DEVICE int chunks() const { return (layout_.pitch + 4 * kWarpLanes - 1) / (4 * kWarpLanes); }
  W2V_DEVICE Vec4& value(int32_t slot, int chunk, int lane) const {
    return *at<Vec4>(layout_.value + 4 * (slot * layout_.pitch + column(chunk, lane)));
  }
  W2V_DEVICE Vec4& base(int32_t slot, int chunk, int lane) const {
    return *at<Vec4>(layout_.base + 4 * (slot * layout_.pitch + column(chunk, lane)));
  }
  W2V_DEVICE Vec4& delta(int context, int lane) const { return at<Vec4>(layout_.deltas)[context * kWarpLanes + lane]; }
  W2V_DEVICE float* coefs(int group, int context) const {
    return at<float>(layout_.coef) + (group * layout_.contexts + context) * kCoefPitch;
  }
  W2V_DEVICE T* in_row(int32_t word) const { return in_ + word * stride_; }
  W2V_DEVICE T* out_row(int32_t word) const { return out_ + word * stride_; }

  W2V_DEVICE uint64_t rounding_bits(int32_t column) const {
    return draw(rounding_key_, (step_ * static_cast<uint64_t>(layout_.pitch) + static_cast<uint64_t>(column)) / 4);
  }

  W2V_DEVICE void train(int64_t start) {
    start_ = start;
    key_ = sentence_key(p_.seed, p_.epoch, static_cast<uint64_t>(start));
    if constexpr (sizeof(T) < sizeof(float)) rounding_key_ = mix64(~key_);
    step_ = 0;
    rate_ = p_.rate(start);
    place_ = 0;
    open_ = true;
    filled_ = entered_ = left_ = drawn_begin_ = drawn_end_ = 0;
    warp_.sync();  // no lane is at the sentence before, with its slots
    warp_.each_lane([&](int lane) {
      for (int32_t slot = lane; slot < layout_.contexts; slot += kWarpLanes) last_of(slot) = -1;
    });
    warp_.sync();
    for (int64_t center = 0;; center += kBlock) {
      for (; left_ < center - p_.window; ++left_) leave(left_);
      while (open_ && filled_ < center + kBlock + p_.window) read_words();
      if (center >= filled_) break;
      if (filled_ == 1) break;  // nothing to predict
      if (center == drawn_end_) draw_negatives(center);
      train_block(center);
    }
    for (; left_ < entered_; ++left_) leave(left_);
    words_ += filled_;
  }

  // Takes the sentence's next 32 words and queues those that subsampling leaves.
  W2V_DEVICE void read_words() {
    PerLane<int32_t> word;
    PerLane<uint64_t> bits;
    const int64_t from = start_ + place_;
    warp_.sync();  // no lane reads what the queue held before
    warp_.each_lane([&](int lane) { word[lane] = from + lane < p_.last ? p_.id(from + lane) : -1; });
    const uint32_t closing =
        warp_.lanes_where([&](int lane) { return static_cast<uint32_t>(word[lane]) >= p_.vocab_size; });
    const int count = closing == 0 ? kWarpLanes : lowest_bit(closing);
    if (closing != 0) {
      open_ = false;
      if (warp_.lanes_where([&](int lane) { return lane == count && word[lane] >= 0; })) warp_.report(from + count);
    }
    const uint32_t kept = warp_.lanes_where([&](int lane) {
      if (lane >= count) return false;
      bits[lane] = draw(key_, static_cast<uint64_t>(place_ + lane) * static_cast<uint64_t>(1 + p_.negative));
      return static_cast<uint32_t>(bits[lane] >> 32) <= p_.keep[word[lane]];
    });
    warp_.each_lane([&](int lane) {
      if ((kept >> lane & 1u) == 0) return;
      const int64_t e = filled_ + count_bits(kept & ((1u << lane) - 1u));
      word_of(e) = word[lane];
      place_of(e) = place_ + lane;
      reach_of(e) =
          1 + static_cast<int32_t>(below(static_cast<uint32_t>(bits[lane]), static_cast<uint32_t>(p_.window)));
      if (p_.prefetch) {
        warp_.prefetch(in_row(word[lane]), layout_.pitch);
        warp_.prefetch(out_row(word[lane]), layout_.pitch);
      }
    });
    filled_ += count_bits(kept);
    place_ += count;
    warp_.sync();
  }

  // The negatives of the blocks of centres [center, drawn_end_), as many as 32 lanes draw at once; each block's are the
  // draws of its first centre.
  W2V_DEVICE void draw_negatives(int64_t center) {
    const int negative = p_.negative;
    const int64_t blocks = smaller<int64_t>(layout_.draw_blocks, (filled_ - center + kBlock - 1) / kBlock);
    drawn_begin_ = center;
    drawn_end_ = center + kBlock * blocks;
    const int count = static_cast<int>(blocks) * negative;
    warp_.each_lane([&](int lane) {
      for (int i = lane; i < count; i += kWarpLanes) {
        const int64_t e = center + kBlock * (i / negative);
        const uint64_t number =
            static_cast<uint64_t>(place_of(e)) * static_cast<uint64_t>(1 + negative) + 1 + i % negative;
        const uint32_t word = sample_alias(p_.alias, p_.vocab_size, draw(key_, number));
        warp_.check(word < p_.vocab_size && "alias: word out of range for out_weight");
        at<int32_t>(layout_.negatives)[i] = static_cast<int32_t>(word);
        if (p_.prefetch) warp_.prefetch(out_row(static_cast<int32_t>(word)), layout_.pitch);
      }
    });
    warp_.sync();
  }

  // kBlock neighbouring centres, one at the end of a sentence of an odd number of words.
  struct Block {
    int64_t first, low;  // queued words: the centres [first, first + count), the contexts [low, low + num_contexts)
    int count, num_contexts;
    int32_t word[kBlock], reach[kBlock];  // of the centres
  };

  W2V_DEVICE bool has_output(const Block& block, int output) const {
    return output < kBlock ? output < block.count : output < kBlock + p_.negative;
  }

  W2V_DEVICE int32_t output_word(const Block& block, int output) const {
    if (output < kBlock) return word_of(block.first + output);
    return at<int32_t>(layout_.negatives)[(block.first - drawn_begin_) / kBlock * p_.negative + output - kBlock];
  }

  W2V_DEVICE T* output_row(const Block& block, int output) const {  // null: there is no such output
    return has_output(block, output) ? out_row(output_word(block, output)) : nullptr;
  }

  // -1: context m is in the window of the centre `output`. c > 0: the negative `output` stands for c windows that m is
  // in; one whose centre is the same word does not count.
  W2V_DEVICE float weight_of(const Block& block, int m, int output) const {
    if (!has_output(block, output)) return 0;
    const int32_t word = output_word(block, output);
    float weight = 0;
    W2V_UNROLL
    for (int g = 0; g < kBlock; ++g) {
      const int distance = static_cast<int>(block.low - block.first) + m - g;
      const bool inside = g < block.count && distance != 0 && distance <= block.reach[g] && -distance <= block.reach[g];
      if (output < kBlock) {
        weight -= inside && output == g ? 1.0f : 0.0f;
      } else {
        weight += inside && word != block.word[g] ? 1.0f : 0.0f;
      }
    }
    return weight;
  }

  // Brings the row of queued word e into a slot: the one where it is, or a free one.
  W2V_DEVICE void enter(int64_t e) {
    const int32_t word = word_of(e);
    const int32_t* slot_word = at<int32_t>(layout_.slot_word);
    int32_t slot = -1, free = -1;
    for (int32_t first = 0; first < layout_.contexts && slot < 0; first += kWarpLanes) {
      const auto used = [&](int lane) { return first + lane < layout_.contexts && last_of(first + lane) >= left_; };
      const uint32_t same = warp_.lanes_where([&](int lane) { return used(lane) && slot_word[first + lane] == word; });
      const uint32_t unused =
          warp_.lanes_where([&](int lane) { return first + lane < layout_.contexts && !used(lane); });
      if (same != 0) slot = first + lowest_bit(same);
      if (unused != 0 && free < 0) free = first + lowest_bit(unused);
    }
    if (slot < 0) {  // there is a free one: at most 2 W + kBlock - 1 other words are in the windows
      slot = free;
      const T* row = in_row(word);
      warp_.each_lane([&](int lane) {
        for (int chunk = 0; inside(chunk, lane); ++chunk)
          value(slot, chunk, lane) = base(slot, chunk, lane) = Warp::load(row, column(chunk, lane));
      });
    }
    warp_.sync();  // all lanes have looked at the slots
    warp_.each_lane([&](int lane) {
      if (lane != 0) return;
      at<int32_t>(layout_.slot_word)[slot] = word;
      last_of(slot) = e;
      slot_of(e) = slot;
    });
    warp_.sync();
  }

  // Queued word e has left the windows: what its row has moved is added to memory, unless the word is there once more.
  W2V_DEVICE void leave(int64_t e) {
    const int32_t slot = slot_of(e);
    if (last_of(slot) != e) return;
    T* row = in_row(word_of(e));
    warp_.each_lane([&](int lane) {
      for (int chunk = 0; inside(chunk, lane); ++chunk)
        Warp::add(row, column(chunk, lane), base(slot, chunk, lane), value(slot, chunk, lane),
                  rounding_bits(column(chunk, lane)));
    });
    ++step_;
  }

  W2V_DEVICE void train_block(int64_t first) {
    Block block{first, first, static_cast<int>(smaller<int64_t>(kBlock, filled_ - first)), 0, {}, {}};
    PerLane<Vec4> outputs[kOutputs][kChunks > 0 ? kChunks : 1];
    if constexpr (kChunks > 0) {  // on their way while the words that come into the windows are looked after
      W2V_UNROLL
      for (int n = 0; n < kOutputs; ++n) {
        const T* row = output_row(block, n);
        W2V_UNROLL
        for (int chunk = 0; chunk < kChunks; ++chunk) load_output(row, chunk, &outputs[n][chunk]);
      }
    }
    for (; entered_ < filled_ && entered_ < first + kBlock + p_.window; ++entered_) enter(entered_);
    int64_t last = first;
    W2V_UNROLL
    for (int g = 0; g < kBlock; ++g) {
      if (g >= block.count) break;
      const int64_t center = first + g;
      block.word[g] = word_of(center);
      block.reach[g] = reach_of(center);
      const int64_t from = larger<int64_t>(0, center - block.reach[g]);
      const int64_t to = smaller(filled_ - 1, center + block.reach[g]);
      block.low = smaller(block.low, from);
      last = larger(last, to);
      pairs_ += to - from;
    }
    block.num_contexts = static_cast<int>(last + 1 - block.low);
    warp_.each_lane([&](int lane) {
      for (int m = lane; m < block.num_contexts; m += kWarpLanes)
        at<int32_t>(layout_.context)[m] = slot_of(block.low + m);
    });
    warp_.sync();
    for (int group = 0; group < layout_.groups; ++group) scores(block, group, outputs);
    warp_.sync();
    update(block, outputs);
    warp_.sync();  // the slots of contexts, coefficients and negatives are free to be written again
  }

  W2V_DEVICE void load_output(const T* row, int chunk, PerLane<Vec4>* output) {
    warp_.each_lane([&](int lane) {
      (*output)[lane] = row != nullptr && inside(chunk, lane) ? Warp::load(row, column(chunk, lane)) : Vec4{0, 0, 0, 0};
    });
  }

  W2V_DEVICE void load_group(const Block& block, int group, int chunk, PerLane<Vec4> (*outputs)[1]) {
    W2V_UNROLL
    for (int n = 0; n < kOutputs; ++n) load_output(output_row(block, group * kOutputs + n), chunk, &outputs[n][0]);
  }

  // The coefficients of one group of outputs with all contexts, and their loss.
  template <int kHeld>
  W2V_DEVICE void scores(const Block& block, int group, PerLane<Vec4> (*outputs)[kHeld]) {
    const int32_t* context = at<int32_t>(layout_.context);
    for (int first = 0; first < block.num_contexts; first += kTileContexts) {
      PerLane<float> sums[kWarpLanes];
      W2V_UNROLL
      for (int i = 0; i < kWarpLanes; ++i) warp_.each_lane([&](int lane) { sums[i][lane] = 0; });
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
      fold<kWarpLanes / 2>(sums);
      warp_.each_lane([&](int lane) {
        const int m = first + lane / kOutputs, n = lane % kOutputs;
        if (lane >= kTileContexts * kOutputs || m >= block.num_contexts) return;
        const float weight = weight_of(block, m, group * kOutputs + n);
        const float t = weight < 0 ? -sums[0][lane] : sums[0][lane];  // loss = |weight| log(1 + e^t)
        const float e = std::exp(-std::fabs(t));
        coefs(group, m)[n] = weight != 0 ? -rate_ * weight * (t < 0 ? e : 1.0f) / (1.0f + e) : 0.0f;
        if (weight != 0)  // a NaN gets into the loss
          loss_[lane] += static_cast<double>(std::fabs(weight) * ((t < 0 ? 0.0f : t) + std::log1p(e)));
      });
    }
  }

  // sums[m kOutputs + n] += the lane's part of context m . output n
  template <int kHeld>
  W2V_DEVICE void dots(const int32_t* context, int num_contexts, int chunk, PerLane<Vec4> (*outputs)[kHeld], int held,
                       PerLane<float>* sums) {
    W2V_UNROLL
    for (int m = 0; m < kTileContexts; ++m) {
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

  // Of 2 kStep sums, a lane keeps kStep and gives the others to lane ^ kStep, in return for its part of those it keeps:
  // at the end sums[0] of lane l is the sum of all lanes' sums[l].
  template <int kStep>
  W2V_DEVICE void fold(PerLane<float>* sums) {
    W2V_UNROLL
    for (int i = 0; i < kStep; ++i) {
      PerLane<float> given;
      warp_.each_lane([&](int lane) {
        const bool upper = (lane & kStep) != 0;
        given[lane] = upper ? sums[i][lane] : sums[i + kStep][lane];
        sums[i][lane] = upper ? sums[i + kStep][lane] : sums[i][lane];
      });
      warp_.exchange(&given, kStep);
      warp_.each_lane([&](int lane) { sums[i][lane] += given[lane]; });
    }
    if constexpr (kStep > 1) fold<kStep / 2>(sums);
  }

  // One context after the other: it moves by coef . outputs, and the outputs by coef * context, so that a context is
  // pulled to where the ones before it have moved the outputs. With several groups of outputs, each meets the contexts
  // as they were, and an output that is a row of two groups meets the second as the first has left it.
  template <int kHeld>
  W2V_DEVICE void update(const Block& block, PerLane<Vec4> (*outputs)[kHeld]) {
    if constexpr (kChunks > 0) {
      W2V_UNROLL
      for (int chunk = 0; chunk < kChunks; ++chunk) {
        move(chunk, 0, block.num_contexts, outputs, chunk);
        add_moved(block, 0, chunk, outputs, chunk);
      }
    } else {
      for (int chunk = 0; chunk < chunks(); ++chunk) {
        for (int group = 0; group < layout_.groups; ++group) {
          load_group(block, group, chunk, outputs);
          move(chunk, group, block.num_contexts, outputs, 0);
          add_moved(block, group, chunk, outputs, 0);
        }
      }
    }
    step_ += static_cast<uint64_t>(kBlock + p_.negative);
  }

  template <int kHeld>
  W2V_DEVICE void add_moved(const Block& block, int group, int chunk, PerLane<Vec4> (*outputs)[kHeld], int held) {
    W2V_UNROLL
    for (int n = 0; n < kOutputs; ++n) {
      const int output = group * kOutputs + n;
      T* row = output_row(block, output);
      if (row == nullptr) continue;
      warp_.each_lane([&](int lane) {
        if (inside(chunk, lane))
          Warp::add(row, column(chunk, lane), outputs[n][held][lane], moved_[n][lane],
                    rounding_bits(column(chunk, lane) + output * layout_.pitch));
      });
    }
  }

  template <int kHeld>
  W2V_DEVICE void move(int chunk, int group, int num_contexts, PerLane<Vec4> (*outputs)[kHeld], int held) {
    const int32_t* context = at<int32_t>(layout_.context);
    const bool first = group == 0, last = group == layout_.groups - 1;
    W2V_UNROLL
    for (int n = 0; n < kOutputs; ++n) warp_.each_lane([&](int lane) { moved_[n][lane] = outputs[n][held][lane]; });
    for (int m = 0; m < num_contexts; ++m) {
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
          value(slot, chunk, lane) = {row.x + step.x, row.y + step.y, row.z + step.z, row.w + step.w};
        } else {
          delta(m, lane) = step;
        }
      });
    }
  }

  Warp& warp_;
  const EpochParams& p_;
  const EpochLayout& layout_;
  char* shared_;
  T *in_, *out_;
  int64_t stride_;
  PerLane<Vec4> moved_[kOutputs];
  PerLane<double> loss_;
  int64_t pairs_ = 0, words_ = 0;

  // of the sentence
  int64_t start_, place_;               // in the corpus; of the next word to read, in it
  int64_t filled_, entered_, left_;     // words queued, brought to a slot, gone
  int64_t drawn_begin_, drawn_end_;     // centres whose negatives are drawn
  uint64_t key_, rounding_key_, step_;  // step_ counts rows that were added to
  float rate_;
  bool open_;  // there are words to read
};

}  // namespace w2v
