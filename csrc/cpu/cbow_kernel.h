// CBOW with negative sampling over a stretch of the corpus, updated in place (one thread; Hogwild between threads).
//
// What predicts a centre is h, the mean (or sum) of the rows of its contexts. Two neighbouring centres (a block, as
// sgns_plan.h cuts them) are prepared together, as their windows overlap:
//
//   gather_rows   each row in either window is read once and added to both h, with the weights 0 or 1 / contexts
//   train_center  for one centre, then for the other: h against the centre's row of out and its K negatives', by
//                 sgns_block.h with one context; h stays, what it would have moved goes to a delta
//   scatter_rows  each row in either window is read and written once, and gets its share of both deltas
//
// Each centre has its own negatives. Shared by two centres, as skip-gram does it, they made this 1.2 times as fast, but
// worse (see SHARED).
//
// Arithmetic: 4 M D + 6 (1 + K) D multiply-adds a block of M rows in either window; with W = 5, K = 5, D = 100 (112
// with padding) and M = 8.8 it is 250 vectors of 16 lanes per centre in two units, less than half of skip-gram's.
// Memory: 1 + K rows of out and one of in per centre come from L2 or beyond, which weighs the more; they are prefetched
// two blocks early.
//
// Two centres' sums at once, from masks, do more additions than runs of neighbouring contexts would (8.8 + 8.8 for 12),
// but have one loop, whose end the processor mispredicts, where those have three.

constexpr int kGather = 4;  // vectors of D at a time: loops over contexts end less often

// The windows of a block's centres, and what h takes from a context in it and gives back to it.
struct Windows {
  std::vector<int32_t> masks;           // bit g of masks[m]: context m is in the window of centre g
  std::vector<float> take[2], give[2];  // 0 where it is not
  std::vector<float> memory;
  float *h[2], *delta[2];  // rows, aligned

  Windows(int window, int64_t padded) : masks(2 * window + kBlock + kWidth), memory(4 * padded + 16) {
    static_assert(kBlock == 2);
    for (int g = 0; g < kBlock; ++g) {
      take[g].resize(masks.size());
      give[g].resize(masks.size());
    }
    float* aligned = memory.data() + (-reinterpret_cast<uintptr_t>(memory.data()) / sizeof(float)) % 16;
    for (int g = 0; g < kBlock; ++g) {
      h[g] = aligned + g * padded;
      delta[g] = aligned + (kBlock + g) * padded;
    }
  }

  W2V_INLINE void set(const SgnsParams& p, const Batch& batch, const Block& block) {
    const int most = 2 * p.window + kBlock;
    find_masks(block, batch.windows.data(), most, masks.data());
    for (int g = 0; g < kBlock; ++g) {
      const int32_t center = block.first + g, reach = g < block.count ? batch.windows[center] : 0;
      const int count = std::min(block.high, center + reach + 1) - std::max(block.low, center - reach) - 1;
      const float share = g < block.count ? 1.0f / static_cast<float>(count) : 0.0f;
      const float taken = p.mean ? share : 1.0f, given = p.divide ? share : 1.0f;
      for (int m = 0; m < most; m += kWidth) {
        const Vf in = __builtin_convertvector(load_integers(masks.data() + m) >> g & 1, Vf);
        store(take[g].data() + m, in * taken);
        store(give[g].data() + m, in * given);
      }
    }
  }
};

template <int V>
W2V_INLINE void gather_columns(const Windows& w, float* const* rows, int count, int64_t d) {
  Vf first[V] = {}, second[V] = {};
  for (int m = 0; m < count; ++m) {
    const Vf one = broadcast(w.take[0][m]), two = broadcast(w.take[1][m]);
    W2V_EACH(v) {
      const Vf row = load(rows[m] + d + v * kWidth);
      first[v] += one * row;
      second[v] += two * row;
    }
  }
  W2V_EACH(v) store(w.h[0] + d + v * kWidth, first[v]);
  W2V_EACH(v) store(w.h[1] + d + v * kWidth, second[v]);
}

// The rows `ahead`, which come into the windows two blocks later, are prefetched on the way.
template <int V>
W2V_INLINE void scatter_columns(const Windows& w, float* const* rows, int count, float* const* ahead, int64_t d) {
  Vf first[V], second[V];
  W2V_EACH(v) first[v] = load(w.delta[0] + d + v * kWidth);
  W2V_EACH(v) second[v] = load(w.delta[1] + d + v * kWidth);
  W2V_EACH(v) {
    if ((d + v * kWidth) % 16 != 0) continue;
#pragma GCC unroll 2
    for (int g = 0; g < kBlock; ++g) __builtin_prefetch(ahead[g] + d + v * kWidth, 1, 3);
  }
  for (int m = 0; m < count; ++m) {
    const Vf one = broadcast(w.give[0][m]), two = broadcast(w.give[1][m]);
    W2V_EACH(v) {
      float* at = rows[m] + d + v * kWidth;
      store(at, load(at) + one * first[v] + two * second[v]);
    }
  }
}

inline void gather_rows(const Windows& w, float* const* rows, int count, int64_t padded) {
  int64_t d = 0;
  for (; d + kGather * kWidth <= padded; d += kGather * kWidth) gather_columns<kGather>(w, rows, count, d);
  switch ((padded - d) / kWidth) {
    case 3:
      return gather_columns<3>(w, rows, count, d);
    case 2:
      return gather_columns<2>(w, rows, count, d);
    case 1:
      return gather_columns<1>(w, rows, count, d);
  }
}

inline void scatter_rows(const Windows& w, float* const* rows, int count, int64_t padded, float* const* ahead) {
  int64_t d = 0;
  for (; d + kGather * kWidth <= padded; d += kGather * kWidth) scatter_columns<kGather>(w, rows, count, ahead, d);
  switch ((padded - d) / kWidth) {
    case 3:
      return scatter_columns<3>(w, rows, count, ahead, d);
    case 2:
      return scatter_columns<2>(w, rows, count, ahead, d);
    case 1:
      return scatter_columns<1>(w, rows, count, ahead, d);
  }
}

// Where the contexts of the block after the next come from that are not in a window yet.
W2V_INLINE void find_rows_ahead(const SgnsParams& p, const Batch& batch, const Block& next, float** ahead) {
  for (int g = 0; g < kBlock; ++g)
    ahead[g] = batch.in_rows[std::min<int64_t>(next.first + p.window + g, batch.kept - 1)];
}

// One group of a centre's outputs, which are its own row of out and the negatives'.
struct CenterGroup {
  float* const* h;  // one row
  float* const* outputs;
  float* const* ahead;
  const float* weights;
  float *coef, *delta;
  int64_t padded;
  float lr;

  template <int N>
  W2V_INLINE void score(Vf* loss) const {
    constexpr int kVectors = (N + kWidth - 1) / kWidth;
    Vf sum = *loss;
    score_rows<N, (kVectors < kTogether ? kVectors : kTogether)>(h, 1, outputs, padded, weights, coef, broadcast(-lr),
                                                                 &sum);
    *loss = sum;
  }
  template <int N, bool kFirst>
  W2V_INLINE void update() const {
    update_rows<N, kFirst, false>(h, 1, outputs, padded, coef, delta, ahead);
  }
};

// What is done with a group whose size is a constant.
struct WholeCenter {
  const CenterGroup& group;
  Vf* loss;
  template <int N>
  W2V_INLINE void run() const {
    group.score<N>(loss);
    group.update<N, true>();
  }
};
struct ScoreOutputs {
  const CenterGroup& group;
  Vf* loss;
  template <int N>
  W2V_INLINE void run() const {
    group.score<N>(loss);
  }
};
struct UpdateOutputs {  // on top of what is in delta
  const CenterGroup& group;
  template <int N>
  W2V_INLINE void run() const {
    group.update<N, false>();
  }
};

// Buffers of one thread. A group's weights and coefficients start at a multiple of kGroup, as far as its vectors reach.
struct CbowScratch {
  Batch batch;
  Windows windows;
  std::vector<float*> outputs, ahead, originals;
  std::vector<float> plain, weights, coef;  // weights without collisions, and with
  std::vector<float> spare;
  float* copies;  // in spare: two aligned rows per output
  static constexpr int kRegion = (kGroup + kWidth - 1) / kWidth * kWidth;

  CbowScratch(const SgnsParams& p, int64_t padded) : windows(p.window, padded) {
    const int num_outputs = 1 + p.negative, groups = (num_outputs + kGroup - 1) / kGroup;
    outputs.resize(num_outputs);
    originals.resize(num_outputs);
    ahead.resize(num_outputs);
    for (std::vector<float>* v : {&plain, &weights, &coef}) v->resize(groups * kRegion + kTogether * kWidth);
    for (int n = 0; n < num_outputs; ++n) plain[place(n)] = n == 0 ? -1.0f : 1.0f;
    spare.resize(2 * num_outputs * padded + 16);
    copies = spare.data() + (-reinterpret_cast<uintptr_t>(spare.data()) / sizeof(float)) % 16;
  }

  static int place(int output) { return output / kGroup * kRegion + output % kGroup; }
};

// Trains centre g of a block with windows.h[g]; what would move that goes to windows.delta[g].
inline void train_center(const SgnsParams& p, int64_t padded, CbowScratch* s, int64_t index, int64_t after, int g,
                         LossSum* loss) {
  const Batch& batch = s->batch;
  const Block &block = batch.blocks[index], &next = batch.blocks[after];
  const int num_outputs = 1 + p.negative;
  float** outputs = s->outputs.data();
  float** ahead = s->ahead.data();
  outputs[0] = batch.out_rows[block.first + g];
  ahead[0] = batch.out_rows[next.first + std::min(g, next.count - 1)];
  for (int k = 0; k < p.negative; ++k) {
    outputs[1 + k] = batch.negatives[(index * kBlock + g) * p.negative + k];
    ahead[1 + k] = batch.negatives[(after * kBlock + g) * p.negative + k];
  }
  const float* weights = s->plain.data();
  int copies = 0;
  if (!block.plain) {
    s->weights = s->plain;
    weights = s->weights.data();
    for (int n = 1; n < num_outputs; ++n)
      if (outputs[n] == outputs[0]) s->weights[CbowScratch::place(n)] = 0;
    copies = separate(outputs, num_outputs, padded, s->copies, s->originals.data());
  }
  CenterGroup group{s->windows.h + g, nullptr, nullptr, nullptr, nullptr, s->windows.delta[g], padded, block.lr};
  const auto select = [&](int first) {
    group.outputs = outputs + first;
    group.ahead = ahead + first;
    group.weights = weights + CbowScratch::place(first);
    group.coef = s->coef.data() + CbowScratch::place(first);
    return std::min(kGroup, num_outputs - first);
  };
  if (num_outputs <= kGroup) {
    with_group_size(select(0), WholeCenter{group, &loss->block});
  } else {
    for (int first = 0; first < num_outputs; first += kGroup)
      with_group_size(select(first), ScoreOutputs{group, &loss->block});
    std::fill(group.delta, group.delta + padded, 0.0f);
    for (int first = 0; first < num_outputs; first += kGroup) with_group_size(select(first), UpdateOutputs{group});
  }
  loss->end_block();
  if (copies > 0) unite(copies, padded, s->copies, s->originals.data());
}

inline void train_cbow(const SgnsParams& p, int64_t begin, int64_t end, SgnsStats* stats) {
  const int64_t padded = (p.dim + kWidth - 1) / kWidth * kWidth;
  CbowScratch s(p, padded);
  const Batch& batch = s.batch;
  LossSum loss;
  SgnsStats sums;
  int64_t centers = 0;
  each_batch(p, begin, end, &s.batch, &sums, [&] {
    const int64_t count = static_cast<int64_t>(batch.blocks.size());
    for (int64_t b = 0; b < count; ++b) {
      const int64_t after = std::min(b + 2, count - 1);
      const Block& block = batch.blocks[b];
      float* const* rows = batch.in_rows.data() + block.low;
      float* rows_ahead[kBlock];
      find_rows_ahead(p, batch, batch.blocks[after], rows_ahead);
      s.windows.set(p, batch, block);
      gather_rows(s.windows, rows, block.high - block.low, padded);
      for (int g = 0; g < block.count; ++g) train_center(p, padded, &s, b, after, g, &loss);
      if (block.count < kBlock) std::fill(s.windows.delta[1], s.windows.delta[1] + padded, 0.0f);
      scatter_rows(s.windows, rows, block.high - block.low, padded, rows_ahead);
    }
    centers += batch.kept;
  });
  stats->loss += loss.total();
  stats->pairs += centers;
  stats->words += sums.words;
}
