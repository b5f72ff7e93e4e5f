// One warp trains one sentence of fastText's models: the twin of cpu/subword_kernel.h, with the same draws.
//
// A word's vector is the mean of its rows, of which sums are kept, one for all rows that the same words have. Words
// come and go as sentence_window.h says: a vector is composed from its sums when the word comes within W of a centre,
// trained there, in shared memory, and what it has moved is added to its sums when it leaves. So a word of n sums costs
// n reads and n additions each time it is met, and sees of the words with n-grams in common what they had learnt when
// they left (on the CPU: what they had learnt a stretch before).
//
// A centre's vector meets the outputs of its contexts one after the other: the context's row of `out` and those of
// negatives of its own, which lie in shared memory meanwhile. For continuous bag of words the mean of all rows of its
// window's words meets the centre's.
#pragma once
#include <cstdint>

#include "sentence_window.h"
#include "warp_sums.h"

namespace w2v {

struct SubwordSums {
  EpochParams epoch;
  float* ngrams;            // (C, D) of the stride of in_weight
  const int64_t* first;     // (V + 1,) word w has the sums entries[first[w]] to entries[first[w + 1]]:
  const int32_t* entries;   // e < V is row e of in_weight, others row e - V of `ngrams`
  const float* word_rows;   // (V,) how many rows the mean of a word is of
  const float* group_rows;  // (V + C,) how many rows a sum is of
  bool cbow;
};

template <typename Warp>
class SubwordTrainer : public SentenceWindow<Warp, float, SubwordTrainer<Warp>> {
 public:
  using Window = SentenceWindow<Warp, float, SubwordTrainer<Warp>>;
  template <typename U>
  using PerLane = typename Window::template PerLane<U>;
  static constexpr int kCentersPerDraw = 1, kFetchTogether = 1, kKnownChunks = 0;
  static constexpr int kTogether = 8;      // outputs that are read, and whose scores are summed, together
  static constexpr int kSumsTogether = 8;  // sums of a word that are on their way at a time

  // Rows behind the words': the outputs as they are now, then as they were read; then a window's mean.
  static W2V_HOST_DEVICE constexpr int extra_rows(int negative) { return 2 * (1 + negative) + 1; }

  W2V_DEVICE SubwordTrainer(Warp& warp, const SubwordSums& sums, const EpochLayout& layout, char* shared, float* in,
                            float* out, int64_t stride)
      : Window(warp, sums.epoch, layout, shared, in, out, stride), sums_(sums) {}

  W2V_DEVICE Vec4 fetch(int32_t word, int32_t column, bool here) const {
    Vec4 sum{0, 0, 0, 0};
    each_sum(word, [&](const int32_t (&entries)[kSumsTogether]) {
      Vec4 rows[kSumsTogether];
      W2V_UNROLL
      for (int i = 0; i < kSumsTogether; ++i)
        rows[i] = Warp::load(sum_row(larger(entries[i], 0)), column, here && entries[i] >= 0);
      W2V_UNROLL
      for (int i = 0; i < kSumsTogether; ++i) add_scaled(&sum, 1.0f, rows[i]);
    });
    const float scale = 1.0f / sums_.word_rows[word];
    return {sum.x * scale, sum.y * scale, sum.z * scale, sum.w * scale};
  }

  W2V_DEVICE void give(int32_t word, int32_t column, const Vec4& old, const Vec4& now, bool here) const {
    const Vec4 step{now.x - old.x, now.y - old.y, now.z - old.z, now.w - old.w}, none{0, 0, 0, 0};
    each_sum(word, [&](const int32_t (&entries)[kSumsTogether]) {
      float rows[kSumsTogether];  // of each sum
      W2V_UNROLL
      for (int i = 0; i < kSumsTogether; ++i) rows[i] = entries[i] >= 0 ? sums_.group_rows[entries[i]] : 0.0f;
      W2V_UNROLL
      for (int i = 0; i < kSumsTogether; ++i) {
        if (entries[i] < 0) continue;
        Vec4 all = none;
        add_scaled(&all, rows[i], step);
        Warp::add(sum_row(entries[i]), column, none, all, 0, here);
      }
    });
  }

  W2V_DEVICE void train_block(int64_t first) {
    this->enter_windows(first);
    for (int64_t center = first; center < this->filled_ && center < first + kBlock; ++center) train_center(center);
  }

 private:
  // Calls visit with the entries of a word, some at a time, -1 where there are no more.
  template <typename Visit>
  W2V_DEVICE void each_sum(int32_t word, const Visit& visit) const {
    const int64_t end = sums_.first[word + 1];
    for (int64_t k = sums_.first[word]; k < end; k += kSumsTogether) {
      int32_t entries[kSumsTogether];
      W2V_UNROLL
      for (int i = 0; i < kSumsTogether; ++i) entries[i] = k + i < end ? sums_.entries[k + i] : -1;
      visit(entries);
    }
  }

  W2V_DEVICE float* sum_row(int64_t entry) const {
    const int64_t vocab_size = this->p_.vocab_size;
    return entry < vocab_size ? this->in_ + entry * this->stride_ : sums_.ngrams + (entry - vocab_size) * this->stride_;
  }
  W2V_DEVICE int num_outputs() const { return 1 + this->p_.negative; }
  // Of queued word `target` and its negatives.
  W2V_DEVICE int32_t output_word(int64_t target, int n) const {
    if (n == 0) return this->word_of(target);
    if (sums_.cbow) return this->negative_of(target, n - 1);
    return this->template at<int32_t>(this->layout_.negatives)[first_negative_ + n - 1];
  }
  W2V_DEVICE int32_t now(int n) const { return this->layout_.contexts + n; }
  W2V_DEVICE int32_t before(int n) const { return this->layout_.contexts + num_outputs() + n; }
  W2V_DEVICE int32_t mean() const { return this->layout_.contexts + 2 * num_outputs(); }

  W2V_DEVICE void train_center(int64_t center) {
    const int64_t low = this->window_low(center), high = this->window_high(center);
    if (sums_.cbow) {
      this->need_negatives(center);
      read_outputs(center);
      gather(center, low, high);
      learn(center, mean(), center, low, high);
      add_outputs(center);
      ++this->pairs_;
      return;
    }
    const int64_t pairs = high - low - 1;
    int64_t pair = 0;
    for (int64_t e = low; e < high; ++e) {
      if (e == center) continue;
      first_negative_ = static_cast<int32_t>(pair % this->layout_.draw_blocks) * this->p_.negative;
      if (first_negative_ == 0) draw_negatives(center, pair, smaller<int64_t>(this->layout_.draw_blocks, pairs - pair));
      ++pair;
      read_outputs(e);
      learn(e, this->slot_of(center), e, center, center + 1);
      add_outputs(e);
    }
    this->pairs_ += pairs;
  }

  // The negatives of some pairs of a centre, from `pair` on: see cpu/subword_kernel.h. No lane may be at others.
  W2V_DEVICE void draw_negatives(int64_t center, int64_t pair, int64_t pairs) {
    const EpochParams& p = this->p_;
    const auto number = static_cast<uint64_t>(this->place_of(center) * 2 * p.window + pair);
    const uint64_t first = number * static_cast<uint64_t>(p.negative);
    const int count = static_cast<int>(pairs) * p.negative;
    this->warp_.each_lane([&](int lane) {
      for (int i = lane; i < count; i += kWarpLanes) {
        const uint64_t bits = draw(this->key_, ~(first + static_cast<uint64_t>(i)));
        const uint32_t word = sample_alias(p.alias, p.vocab_size, bits);
        this->warp_.check(word < p.vocab_size && "alias: word out of range for out_weight");
        this->template at<int32_t>(this->layout_.negatives)[i] = static_cast<int32_t>(word);
        if (p.prefetch) this->warp_.prefetch(this->out_row(static_cast<int32_t>(word)), this->layout_.pitch);
      }
    });
    this->warp_.sync();
  }

  // Several at a time, as each is on its way for longer than a pair takes to be learnt.
  W2V_DEVICE void read_outputs(int64_t target) {
    for (int first = 0; first < num_outputs(); first += kTogether) {
      const float* rows[kTogether];
      W2V_UNROLL
      for (int i = 0; i < kTogether; ++i)
        rows[i] = first + i < num_outputs() ? this->out_row(output_word(target, first + i)) : nullptr;
      this->warp_.each_lane([&](int lane) {
        for (int chunk = 0; chunk < this->chunks(); ++chunk) {
          Vec4 read[kTogether];
          W2V_UNROLL
          for (int i = 0; i < kTogether; ++i)
            read[i] = Warp::load(rows[i], this->column(chunk, lane), rows[i] != nullptr && this->inside(chunk, lane));
          W2V_UNROLL
          for (int i = 0; i < kTogether; ++i)
            if (rows[i] != nullptr)
              this->value(now(first + i), chunk, lane) = this->value(before(first + i), chunk, lane) = read[i];
        }
      });
    }
  }

  W2V_DEVICE void add_outputs(int64_t target) {
    for (int n = 0; n < num_outputs(); ++n) {
      float* row = this->out_row(output_word(target, n));
      this->warp_.each_lane([&](int lane) {
        for (int chunk = 0; chunk < this->chunks(); ++chunk)
          Warp::add(row, this->column(chunk, lane), this->value(before(n), chunk, lane),
                    this->value(now(n), chunk, lane), 0, this->inside(chunk, lane));
      });
    }
    this->warp_.sync();  // negatives may be drawn again
  }

  // A word counts as many times as it has rows.
  W2V_DEVICE void gather(int64_t center, int64_t low, int64_t high) {
    float total = 0;
    for (int64_t e = low; e < high; ++e)
      if (e != center) total += sums_.word_rows[this->word_of(e)];
    this->warp_.each_lane([&](int lane) {
      for (int chunk = 0; chunk < this->chunks(); ++chunk) {
        Vec4 sum{0, 0, 0, 0};
        for (int64_t e = low; e < high; ++e)
          if (e != center)
            add_scaled(&sum, sums_.word_rows[this->word_of(e)], this->value(this->slot_of(e), chunk, lane));
        const float scale = 1.0f / total;
        this->value(mean(), chunk, lane) = {sum.x * scale, sum.y * scale, sum.z * scale, sum.w * scale};
      }
    });
  }

  // The row in a slot against the outputs of a target, which it moves; what it would be moved by, queued words [low,
  // high) are, but not `apart`.
  W2V_DEVICE void learn(int64_t target, int32_t slot, int64_t apart, int64_t low, int64_t high) {
    float* coef = this->template at<float>(this->layout_.coef);
    this->warp_.sync();  // lanes are together again
    for (int first = 0; first < num_outputs(); first += kTogether) score(target, slot, first, coef);
    this->warp_.sync();
    this->warp_.each_lane([&](int lane) {
      for (int chunk = 0; chunk < this->chunks(); ++chunk) {
        const Vec4 row = this->value(slot, chunk, lane);
        Vec4 step{0, 0, 0, 0};
        for (int n = 0; n < num_outputs(); ++n) {
          Vec4& output = this->value(now(n), chunk, lane);
          add_scaled(&step, coef[n], output);
          add_scaled(&output, coef[n], row);
        }
        for (int64_t e = low; e < high; ++e)
          if (e != apart) add_scaled(&this->value(this->slot_of(e), chunk, lane), 1.0f, step);
      }
    });
    this->warp_.sync();  // the coefficients have been read
  }

  W2V_DEVICE void score(int64_t target, int32_t slot, int first, float* coef) {
    PerLane<float> all_sums[1][kTogether];
    auto& sums = all_sums[0];
    this->warp_.each_lane([&](int lane) {
      W2V_UNROLL
      for (int i = 0; i < kTogether; ++i) sums[i][lane] = 0;
      for (int chunk = 0; chunk < this->chunks(); ++chunk) {
        const Vec4 row = this->value(slot, chunk, lane);
        W2V_UNROLL
        for (int i = 0; i < kTogether; ++i)
          if (first + i < num_outputs())
            sums[i][lane] = dot(sums[i][lane], row, this->value(now(first + i), chunk, lane));
      }
    });
    sum_over_lanes<kTogether, 1>(this->warp_, all_sums);
    this->warp_.each_lane([&](int lane) {
      const int n = first + lane;
      if (lane >= kTogether || n >= num_outputs()) return;
      const int32_t word = this->word_of(target);
      const float weight = n == 0 ? -1.0f : (output_word(target, n) != word ? 1.0f : 0.0f);
      const Slope slope = logistic(sums[0][lane], weight, this->rate_);
      coef[n] = slope.coefficient;
      this->loss_[lane] += static_cast<double>(slope.loss);
    });
  }

  const SubwordSums& sums_;
  int32_t first_negative_ = 0;  // of the pair, among those that are drawn
};

}  // namespace w2v
