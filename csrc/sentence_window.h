// The sentences of a corpus, each trained by one warp, word by word: what the kernels of all models over a corpus
// share, with the draws of cpu/sgns_plan.h.
//
// The sentence slides through a queue of kept words, two at a time. A word's row is fetched once, when it comes within
// W of a centre, into a slot of shared memory, is used and moved there by all blocks it is in, and what it has moved is
// added to memory once, when it leaves; the same word twice in the queue shares a slot, as it shares a row. A frequent
// word is in many sentences' windows at the same time, and all would move its row from where it was: its row is added
// to memory after every block and fetched again before the next. Lane l holds the columns 4 l + 128 c, 4 l + 1 + 128 c,
// ...; rows never cross lanes.
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
//   load(row, column, here)     4 numbers of a row in global memory, as it is now; zeros where `here` does not hold
//   add(row, column, old, now, bits, here)  row += now - old; bits are random, for stochastic rounding
//   prefetch(row, bytes)        a hint
//   report(i)                   word i of the corpus is out of range
//   check(rule)                 stops where it does not hold
#pragma once
#include <cstdint>

#include "epoch_plan.h"
#include "lanes.h"

namespace w2v {

// Self is the model, derived from this class:
//
//   kCentersPerDraw         neighbouring centres that share their negatives; 0: there are none
//   kFetchTogether          rows of words that are on their way at a time
//   train_block(center)     trains queued words center and, where there is one, center + 1
//   kKnownChunks            pieces of 128 columns that a row has, where that is known; or 0
//   fetch(word, column, here)  4 numbers of a word's row, and
//   give(word, column, old, now, here)  what becomes of what it has moved: as below, or the model's own
template <typename Warp, typename T, typename Self>
class SentenceWindow {
 public:
  template <typename U>
  using PerLane = typename Warp::template PerLane<U>;

  W2V_DEVICE SentenceWindow(Warp& warp, const EpochParams& params, const EpochLayout& layout, char* shared, T* in,
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

 protected:
  W2V_DEVICE Self& self() { return static_cast<Self&>(*this); }
  W2V_DEVICE const Self& self() const { return static_cast<const Self&>(*this); }
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
  W2V_DEVICE int chunks() const {
    return Self::kKnownChunks > 0 ? Self::kKnownChunks : layout_.width / (4 * kWarpLanes);
  }
  W2V_DEVICE int32_t width() const {
    return Self::kKnownChunks > 0 ? Self::kKnownChunks * 4 * kWarpLanes : layout_.width;
  }
  W2V_DEVICE Vec4& value(int32_t slot, int chunk, int lane) const {
    return *at<Vec4>(layout_.value + 4 * (slot * width() + column(chunk, lane)));
  }
  W2V_DEVICE Vec4& base(int32_t slot, int chunk, int lane) const {
    return *at<Vec4>(layout_.base + 4 * (slot * width() + column(chunk, lane)));
  }
  W2V_DEVICE T* in_row(int32_t word) const { return in_ + word * stride_; }
  W2V_DEVICE T* out_row(int32_t word) const { return out_ + word * stride_; }

  W2V_DEVICE uint64_t rounding_bits(int32_t column) const {
    return draw(rounding_key_, (step_ * static_cast<uint64_t>(layout_.pitch) + static_cast<uint64_t>(column)) / 4);
  }

  // The words near a centre: queued words [low, high), the centre among them.
  W2V_DEVICE int64_t window_low(int64_t center) const { return larger<int64_t>(0, center - reach_of(center)); }
  W2V_DEVICE int64_t window_high(int64_t center) const { return smaller(filled_, center + reach_of(center) + 1); }

  W2V_DEVICE Vec4 fetch(int32_t word, int32_t column, bool here) const {
    return Warp::load(in_row(word), column, here);
  }
  W2V_DEVICE void give(int32_t word, int32_t column, const Vec4& old, const Vec4& now, bool here) const {
    Warp::add(in_row(word), column, old, now, rounding_bits(column), here);
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
    hot_ = 0;
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
      self().train_block(center);
      give_hot();
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

  // The negatives of centre `center` and of those that share them, at its place; k is from 0 to negative - 1.
  W2V_DEVICE int32_t negative_of(int64_t center, int k) const {
    return at<int32_t>(layout_.negatives)[(center - drawn_begin_) / Self::kCentersPerDraw * p_.negative + k];
  }

  // Draws the negatives of a centre if need be, and of as many that follow as 32 lanes can at once; neighbours that
  // share theirs have the draws of the first of them. No lane may be at negatives drawn before.
  W2V_DEVICE void need_negatives(int64_t center) {
    if (center != drawn_end_) return;
    constexpr int kShare = Self::kCentersPerDraw;
    const int negative = p_.negative;
    const int64_t blocks = smaller<int64_t>(layout_.draw_blocks, (filled_ - center + kShare - 1) / kShare);
    drawn_begin_ = center;
    drawn_end_ = center + kShare * blocks;
    const int count = static_cast<int>(blocks) * negative;
    warp_.each_lane([&](int lane) {
      for (int i = lane; i < count; i += kWarpLanes) {
        const int64_t e = center + kShare * (i / negative);
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

  // Brings the words that are in a window of the block at `first`, or before it, into slots, and the rows of frequent
  // words to where others have moved them.
  W2V_DEVICE void enter_windows(int64_t first) {
    uint32_t wanted = 0;
    for (; entered_ < filled_ && entered_ < first + kBlock + p_.window; ++entered_) wanted |= enter(entered_);
    fetch_slots(0, wanted | hot_);
    for (int32_t from = kMaskedSlots; from < layout_.contexts; from += kWarpLanes) fetch_slots(from, hot_from(from));
  }

  // The rows of the slots `from` and on whose bits are set.
  W2V_DEVICE void fetch_slots(int32_t from, uint32_t wanted) {
    while (wanted != 0) {
      constexpr int kTogether = Self::kFetchTogether;
      int32_t slot[kTogether], word[kTogether];
      W2V_UNROLL
      for (int i = 0; i < kTogether; ++i) {
        slot[i] = wanted != 0 ? from + lowest_bit(wanted) : -1;
        wanted &= wanted - 1;
      }
      W2V_UNROLL
      for (int i = 0; i < kTogether; ++i) word[i] = at<int32_t>(layout_.slot_word)[larger(slot[i], 0)];
      warp_.each_lane([&](int lane) {
        for (int chunk = 0; chunk < chunks(); ++chunk) {
          Vec4 row[kTogether];
          W2V_UNROLL
          for (int i = 0; i < kTogether; ++i)
            row[i] = self().fetch(word[i], column(chunk, lane), slot[i] >= 0 && inside(chunk, lane));
          W2V_UNROLL
          for (int i = 0; i < kTogether; ++i)
            if (slot[i] >= 0) value(slot[i], chunk, lane) = base(slot[i], chunk, lane) = row[i];
        }
      });
    }
  }

  // The slots from the kMaskedSlots-th on that hold frequent words, as bits: looked up, as windows seldom are so wide.
  W2V_DEVICE uint32_t hot_from(int32_t from) const {
    if (p_.hot_words == 0) return 0;
    return warp_.lanes_where([&](int lane) {
      const int32_t slot = from + lane;
      return slot < layout_.contexts && last_of(slot) >= left_ && is_hot(slot);
    });
  }
  W2V_DEVICE bool is_hot(int32_t slot) const { return at<int32_t>(layout_.slot_word)[slot] < p_.hot_words; }

  // Gives queued word e a slot: the one where it is, or a free one, whose bit is returned for its row to be fetched
  // (beyond kMaskedSlots, it is fetched here).
  W2V_DEVICE uint32_t enter(int64_t e) {
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
    uint32_t wanted = 0;
    if (slot < 0) {  // there is a free one: at most 2 W + kBlock - 1 other words are in the windows
      slot = free;
      if (slot < kMaskedSlots) {
        wanted = 1u << slot;
        if (word < p_.hot_words) hot_ |= wanted;
      } else {
        warp_.each_lane([&](int lane) {
          for (int chunk = 0; chunk < chunks(); ++chunk)
            value(slot, chunk, lane) = base(slot, chunk, lane) =
                self().fetch(word, column(chunk, lane), inside(chunk, lane));
        });
      }
    }
    warp_.sync();  // all lanes have looked at the slots
    warp_.each_lane([&](int lane) {
      if (lane != 0) return;
      at<int32_t>(layout_.slot_word)[slot] = word;
      last_of(slot) = e;
      slot_of(e) = slot;
    });
    warp_.sync();
    return wanted;
  }

  // Queued word e has left the windows: what its row has moved is added to memory, unless the word is there once more,
  // or this has been done after the last block.
  W2V_DEVICE void leave(int64_t e) {
    const int32_t slot = slot_of(e);
    if (last_of(slot) != e) return;
    if (!is_hot(slot)) return give_slot(slot);
    if (slot < kMaskedSlots) hot_ &= ~(1u << slot);
  }

  W2V_DEVICE void give_hot() {
    for (uint32_t left = hot_; left != 0; left &= left - 1) give_slot(lowest_bit(left));
    for (int32_t from = kMaskedSlots; from < layout_.contexts; from += kWarpLanes)
      for (uint32_t left = hot_from(from); left != 0; left &= left - 1) give_slot(from + lowest_bit(left));
  }

  W2V_DEVICE void give_slot(int32_t slot) {
    const int32_t word = at<int32_t>(layout_.slot_word)[slot];
    warp_.each_lane([&](int lane) {
      for (int chunk = 0; chunk < chunks(); ++chunk)
        self().give(word, column(chunk, lane), base(slot, chunk, lane), value(slot, chunk, lane), inside(chunk, lane));
    });
    ++step_;
  }

  Warp& warp_;
  const EpochParams& p_;
  const EpochLayout& layout_;
  char* shared_;
  T *in_, *out_;
  int64_t stride_;
  PerLane<double> loss_;
  int64_t pairs_ = 0, words_ = 0;

  // of the sentence
  int64_t start_, place_;               // in the corpus; of the next word to read, in it
  int64_t filled_, entered_, left_;     // words queued, brought to a slot, gone
  int64_t drawn_begin_, drawn_end_;     // centres whose negatives are drawn
  uint64_t key_, rounding_key_, step_;  // step_ counts rows that were added to
  float rate_;
  uint32_t hot_;  // the first slots of frequent words, as bits: between blocks, memory has the rows of all of them
  bool open_;     // there are words to read
};

}  // namespace w2v
