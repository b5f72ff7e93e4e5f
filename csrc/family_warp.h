// One warp trains one sentence of CBOW, or of CBOW or skip-gram with hierarchical softmax: the twins of
// cpu/cbow_kernel.h and cpu/hs_kernel.h, with the same draws and in the same order.
//
// Words come and go as sentence_window.h says, each row read once and added to once while a window slides over it, or
// with every block where the word is frequent.
// CBOW: what predicts a centre is h, the mean or sum of its contexts' rows, in a slot behind the words'; h meets the
// outputs as a context does (block_products.h) and stays, its step goes to a row of its own, and from there to the
// contexts. The h of a block of 2 centres are both taken before either is learnt from. A tree: the outputs of a centre
// are the inner nodes on the path to it, in groups of kOutputs, and there are no negatives.
#pragma once
#include <cstdint>

#include "block_products.h"

namespace w2v {

struct FamilyParams {
  EpochParams epoch;
  bool mean, divide;          // CBOW: h is a mean, or else a sum; each context gets its gradient divided, or else whole
  const int64_t* path_start;  // a tree: word w has path[path_start[w]] to path[path_start[w + 1]], from the root:
  const int32_t* path;        // node << 1 | code
};

// The outputs of a block are the nodes of a path, which layout.negatives lists.
struct PathBlock {
  int num_contexts, num_nodes;
};

template <typename Warp, typename Self>
class PathProducts : public BlockProducts<Warp, float, 0, Self> {
 public:
  using Products = BlockProducts<Warp, float, 0, Self>;
  using Products::Products;

  W2V_DEVICE int num_outputs(const PathBlock& block) const { return block.num_nodes; }
  W2V_DEVICE float* output_row(const PathBlock& block, int n) const {
    return n < block.num_nodes ? this->out_row(step_of(n) >> 1) : nullptr;
  }
  W2V_DEVICE int32_t mark_of(const PathBlock& block, int n) const { return n < block.num_nodes ? step_of(n) : -1; }
  W2V_DEVICE float weight_of(const PathBlock&, int, int, int32_t mark) const {  // the score is high for code 0
    return mark >= 0 ? static_cast<float>(2 * (mark & 1) - 1) : 0.0f;
  }

 protected:
  // Trains the contexts that layout.context lists (by now, in lanes' own writes) to find a word.
  W2V_DEVICE void learn_path(const FamilyParams& params, int32_t word, int num_contexts) {
    const int64_t from = params.path_start[word];
    const PathBlock block{num_contexts, static_cast<int>(params.path_start[word + 1] - from)};
    this->warp_.check(block.num_nodes <= this->layout_.groups * kOutputs && "longest: a path has more nodes");
    this->warp_.each_lane([&](int lane) {
      for (int n = lane; n < block.num_nodes; n += kWarpLanes)
        this->template at<int32_t>(this->layout_.negatives)[n] = params.path[from + n];
    });
    typename Products::template PerLane<Vec4> outputs[kOutputs][1];
    this->learn(block, outputs);
  }

 private:
  W2V_DEVICE int32_t step_of(int n) const { return this->template at<int32_t>(this->layout_.negatives)[n]; }
};

// Skip-gram: the contexts of a centre against its path.
template <typename Warp>
class SkipGramTree : public PathProducts<Warp, SkipGramTree<Warp>> {
 public:
  using Path = PathProducts<Warp, SkipGramTree<Warp>>;
  static constexpr int kCentersPerDraw = 0, kFetchTogether = 4, kKnownChunks = 0;
  static constexpr int kTile = kTileContexts, kTiles = 2, kSteps = 0;
  static constexpr int kExtraRows = 0;

  W2V_DEVICE SkipGramTree(Warp& warp, const FamilyParams& params, const EpochLayout& layout, char* shared, float* in,
                          float* out, int64_t stride)
      : Path(warp, params.epoch, layout, shared, in, out, stride), params_(params) {}

  W2V_DEVICE void train_block(int64_t first) {
    this->enter_windows(first);
    for (int64_t center = first; center < this->filled_ && center < first + kBlock; ++center) {
      const int64_t low = this->window_low(center), count = this->window_high(center) - low - 1;
      this->warp_.each_lane([&](int lane) {
        for (int64_t m = lane; m < count; m += kWarpLanes)
          this->template at<int32_t>(this->layout_.context)[m] = this->slot_of(low + m + (low + m >= center ? 1 : 0));
      });
      this->pairs_ += count;
      this->learn_path(params_, this->word_of(center), static_cast<int>(count));
    }
  }

 private:
  const FamilyParams& params_;
};

// What the two kinds of CBOW share: h, and what becomes of its step. Slots behind the words': h of each centre of a
// block, then their steps.
template <typename Warp, typename Parent>
class Bags : public Parent {
 public:
  static constexpr int kSteps = kBlock, kExtraRows = 2 * kBlock;

  W2V_DEVICE Bags(Warp& warp, const FamilyParams& params, const EpochLayout& layout, char* shared, float* in,
                  float* out, int64_t stride)
      : Parent(warp, params.epoch, layout, shared, in, out, stride), params_(params) {}

 protected:
  W2V_DEVICE int32_t bag(int g) const { return this->layout_.contexts + g; }

  W2V_DEVICE float share(int64_t center) const {
    return 1.0f / static_cast<float>(this->window_high(center) - this->window_low(center) - 1);
  }

  // Lanes have columns of their own, and need not meet.
  W2V_DEVICE void gather(int64_t center, int g) {
    const int64_t low = this->window_low(center), high = this->window_high(center);
    const float take = params_.mean ? share(center) : 1.0f;
    this->warp_.each_lane([&](int lane) {
      for (int chunk = 0; chunk < this->chunks(); ++chunk) {
        Vec4 sum{0, 0, 0, 0};
        for (int64_t e = low; e < high; ++e)
          if (e != center) add_scaled(&sum, take, this->value(this->slot_of(e), chunk, lane));
        this->value(bag(g), chunk, lane) = sum;
      }
    });
  }

  W2V_DEVICE void scatter(int64_t center, int g) {
    const int64_t low = this->window_low(center), high = this->window_high(center);
    const float give = params_.divide ? share(center) : 1.0f;
    this->warp_.each_lane([&](int lane) {
      for (int chunk = 0; chunk < this->chunks(); ++chunk) {
        const Vec4 step = this->value(bag(g) + kSteps, chunk, lane);
        for (int64_t e = low; e < high; ++e)
          if (e != center) add_scaled(&this->value(this->slot_of(e), chunk, lane), give, step);
      }
    });
  }

  const FamilyParams& params_;
};

template <typename Warp>
class CbowTree : public Bags<Warp, PathProducts<Warp, CbowTree<Warp>>> {
 public:
  using Parent = Bags<Warp, PathProducts<Warp, CbowTree<Warp>>>;
  using Parent::Parent;
  static constexpr int kCentersPerDraw = 0, kFetchTogether = 4, kKnownChunks = 0, kTile = 1, kTiles = 1;

  W2V_DEVICE void train_block(int64_t first) {
    this->enter_windows(first);
    const int count = static_cast<int>(smaller<int64_t>(kBlock, this->filled_ - first));
    for (int g = 0; g < count; ++g) this->gather(first + g, g);
    for (int g = 0; g < count; ++g) {
      this->warp_.each_lane([&](int lane) {
        if (lane == 0) *this->template at<int32_t>(this->layout_.context) = this->bag(g);
      });
      this->learn_path(this->params_, this->word_of(first + g), 1);
    }
    for (int g = 0; g < count; ++g) this->scatter(first + g, g);
    this->pairs_ += count;
  }
};

struct CbowBlock {
  int64_t first;     // of the centres,
  int num_contexts;  // of which there are as many as h
};

// The h of a block against its centres and the negatives that they share.
template <typename Warp>
class Cbow : public Bags<Warp, BlockProducts<Warp, float, 0, Cbow<Warp>>> {
 public:
  using Parent = Bags<Warp, BlockProducts<Warp, float, 0, Cbow<Warp>>>;
  using Parent::Parent;
  static constexpr int kCentersPerDraw = kBlock, kFetchTogether = 4, kKnownChunks = 0, kTile = kBlock, kTiles = 1;

  W2V_DEVICE int num_outputs(const CbowBlock&) const { return kBlock + this->p_.negative; }

  W2V_DEVICE int32_t output_word(const CbowBlock& block, int n) const {
    return n < kBlock ? this->word_of(block.first + n) : this->negative_of(block.first, n - kBlock);
  }
  W2V_DEVICE bool has_output(const CbowBlock& block, int n) const {
    return n < kBlock ? n < block.num_contexts : n < kBlock + this->p_.negative;
  }
  W2V_DEVICE float* output_row(const CbowBlock& block, int n) const {
    return has_output(block, n) ? this->out_row(output_word(block, n)) : nullptr;
  }

  W2V_DEVICE int32_t mark_of(const CbowBlock& block, int n) const {
    return has_output(block, n) ? output_word(block, n) : -1;
  }
  // A negative that is the centre does not count.
  W2V_DEVICE float weight_of(const CbowBlock& block, int g, int n, int32_t mark) const {
    if (n < kBlock) return n == g ? -1.0f : 0.0f;
    return mark >= 0 && mark != this->word_of(block.first + g) ? 1.0f : 0.0f;
  }

  W2V_DEVICE void train_block(int64_t first) {
    this->need_negatives(first);
    this->enter_windows(first);
    const CbowBlock block{first, static_cast<int>(smaller<int64_t>(kBlock, this->filled_ - first))};
    for (int g = 0; g < block.num_contexts; ++g) this->gather(first + g, g);
    this->warp_.each_lane([&](int lane) {
      if (lane < kBlock) this->template at<int32_t>(this->layout_.context)[lane] = this->bag(lane);
    });
    typename Parent::template PerLane<Vec4> outputs[kOutputs][1];
    this->learn(block, outputs);
    for (int g = 0; g < block.num_contexts; ++g) this->scatter(first + g, g);
    this->pairs_ += block.num_contexts;
  }
};

}  // namespace w2v
