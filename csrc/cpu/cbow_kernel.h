// CBOW with negative sampling over a stretch of the corpus, updated in place (one thread; Hogwild between threads).
//
// A block is kBlock = 2 neighbouring centres and the K negatives that they share, as for skip-gram (sgns_kernel.h), and
// is planned by the same draws. What predicts a centre is h, the mean (or sum) of the rows of its contexts, so that the
// block's small matrix product has the two h in place of the M contexts:
//
//   gather_rows   each row in either window is read once and added to both h, with the weights 0 or 1 / contexts
//   score, update sgns_block.h, with M = 2; the h stay, what they would have moved goes to two deltas
//   scatter_rows  each row in either window is read and written once, and gets its share of both deltas
//
// Arithmetic: 4 M D + 6 N D multiply-adds a block; with W = 5, K = 5, D = 100 (112 with padding) and M = 8.8 it is 270
// vectors of 16 lanes per centre in two units, less than half of skip-gram's. Memory: as there, N rows of out and
// kBlock rows of in a block come from L2 or beyond, which weighs the more; they are prefetched two blocks early.
//
// Shared negatives against each centre's own (IMDB corpus, 5 epochs, 2 threads, means of 3 seeds, within the spread of
// seeds): WS353 .357 (.359), SimLex .236 (.241), analogies .256 (.259).
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

// One group of a block's outputs, of which the two h are the contexts.
struct CbowGroup {
  float* const* h;
  float* const* outputs;
  float* const* ahead;
  const float* weights;
  float *coef, *deltas;
  int64_t padded;
  float lr;

  // Where score (g, n) stands, and how many there are.
  template <int N>
  static constexpr int at(int g, int n) {
    return g / kTile<N> * kTileFloats<N> + g % kTile<N> * N + n;
  }
  template <int N>
  static constexpr int kFloats = (kBlock + kTile<N> - 1) / kTile<N> * kTileFloats<N>;

  template <int N>
  W2V_INLINE void score(Vf* loss) const {
    constexpr int kVectors = kTile<N> >= kBlock ? (kBlock * N + kWidth - 1) / kWidth : kFloats<N> / kWidth;
    score_rows<N, (kVectors < kTogether ? kVectors : kTogether)>(h, kBlock, outputs, padded, weights, coef,
                                                                 broadcast(-lr), loss);
  }
  template <int N, bool kFirst>
  W2V_INLINE void update() const {
    update_rows<N, kFirst, false>(h, kBlock, outputs, padded, coef, deltas, ahead);
  }
};

// What is done with a group whose size is a constant.
struct LayOutCbow {
  bool first, full;
  float* weights;
  template <int N>
  W2V_INLINE void run() const {
    for (int g = 0; g < kBlock; ++g)
      for (int n = 0; n < N; ++n) {
        const bool center = first && n < kBlock;
        const float weight = center ? -static_cast<float>(n == g) : 1.0f;
        weights[CbowGroup::at<N>(g, n)] = full || g == 0 ? weight : 0.0f;
      }
  }
};
struct DropCollision {
  const Collision& collision;
  int first;
  float* weights;
  template <int N>
  W2V_INLINE void run() const {
    weights[CbowGroup::at<N>(collision.center, collision.output - first)] = 0;
  }
};
struct WholeCbow {
  const CbowGroup& group;
  Vf* loss;
  template <int N>
  W2V_INLINE void run() const {
    Vf sum = *loss;
    group.score<N>(&sum);
    *loss = sum;
    group.update<N, true>();
  }
};
struct ScoreCbow {
  const CbowGroup& group;
  Vf* loss;
  template <int N>
  W2V_INLINE void run() const {
    Vf sum = *loss;
    group.score<N>(&sum);
    *loss = sum;
  }
};
struct UpdateLastCbow {
  const CbowGroup& group;
  template <int N>
  W2V_INLINE void run() const {
    group.update<N, false>();
  }
};

// Buffers of one thread.
struct CbowScratch {
  Batch batch;
  Windows windows;
  std::vector<float*> outputs, ahead, originals;
  std::vector<float> full, single, weights, coef;  // weights of a block of two centres, of one, and with collisions
  std::vector<float> spare;
  int64_t region;  // floats of weights, and of coef, for one group of outputs
  float* zeros;    // in spare: the row that stands for a missing centre
  float* copies;   // in spare: two aligned rows per output

  CbowScratch(const SgnsParams& p, int64_t padded) : windows(p.window, padded) {
    const int num_outputs = kBlock + p.negative, groups = (num_outputs + kGroup - 1) / kGroup;
    outputs.resize(num_outputs);
    originals.resize(num_outputs);
    ahead.resize(num_outputs + kGroup + kBlock);
    region = kBlock * (kSums + 16) + kTogether * kWidth;
    for (std::vector<float>* v : {&full, &single, &weights, &coef}) v->resize(groups * region);
    for (int first = 0; first < num_outputs; first += kGroup)
      for (const bool two : {false, true})
        with_group_size(std::min(kGroup, num_outputs - first),
                        LayOutCbow{first == 0, two, (two ? full : single).data() + first / kGroup * region});
    spare.resize((2 * num_outputs + 1) * padded + 16);
    zeros = spare.data() + (-reinterpret_cast<uintptr_t>(spare.data()) / sizeof(float)) % 16;
    copies = zeros + padded;
  }
};

inline void train_cbow_block(const SgnsParams& p, int64_t padded, CbowScratch* s, int64_t index, LossSum* loss) {
  const Batch& batch = s->batch;
  const int64_t after = std::min<int64_t>(index + 2, batch.blocks.size() - 1);
  const Block &block = batch.blocks[index], &next = batch.blocks[after];
  const int num_outputs = kBlock + p.negative;
  float** outputs = s->outputs.data();
  float** ahead = s->ahead.data();
  for (int g = 0; g < kBlock; ++g) {
    outputs[g] = g < block.count ? batch.out_rows[block.first + g] : s->zeros;
    ahead[g] = batch.out_rows[next.first + std::min(g, next.count - 1)];
  }
  for (int k = 0; k < p.negative; ++k) {
    outputs[kBlock + k] = batch.negatives[index * p.negative + k];
    ahead[kBlock + k] = batch.negatives[after * p.negative + k];
  }
  float* rows_ahead[kBlock];
  find_rows_ahead(p, batch, next, rows_ahead);

  const std::vector<float>& plain = block.count == kBlock ? s->full : s->single;
  const float* weights = plain.data();
  int copies = 0;
  if (!block.plain) {
    s->weights = plain;
    weights = s->weights.data();
    for (int n = kBlock; n < num_outputs; ++n)
      for (int g = 0; g < block.count; ++g)
        if (outputs[n] == outputs[g]) {
          const int first = n / kGroup * kGroup;
          with_group_size(std::min(kGroup, num_outputs - first),
                          DropCollision{{n, g}, first, s->weights.data() + n / kGroup * s->region});
        }
    copies = separate(outputs, num_outputs, padded, s->copies, s->originals.data());
  }

  float* const* rows = batch.in_rows.data() + block.low;
  const int count = block.high - block.low;
  s->windows.set(p, batch, block);
  gather_rows(s->windows, rows, count, padded);
  CbowGroup group{s->windows.h, nullptr, nullptr, nullptr, nullptr, s->windows.delta[0], padded, block.lr};
  const auto select = [&](int first) {
    group.outputs = outputs + first;
    group.ahead = ahead + first;
    group.weights = weights + first / kGroup * s->region;
    group.coef = s->coef.data() + first / kGroup * s->region;
    return std::min(kGroup, num_outputs - first);
  };
  for (int first = 0; first < num_outputs; first += kGroup) {
    const int size = select(first);
    if (num_outputs <= kGroup) {
      with_group_size(size, WholeCbow{group, &loss->block});
    } else {
      with_group_size(size, ScoreCbow{group, &loss->block});
    }
  }
  loss->end_block();
  for (int first = 0; num_outputs > kGroup && first < num_outputs; first += kGroup) {
    const int size = select(first);
    if (first == 0) {
      group.update<kGroup, true>();
    } else {
      with_group_size(size, UpdateLastCbow{group});
    }
  }
  scatter_rows(s->windows, rows, count, padded, rows_ahead);
  if (copies > 0) unite(copies, padded, s->copies, s->originals.data());
}

inline void train_cbow(const SgnsParams& p, int64_t begin, int64_t end, SgnsStats* stats) {
  const int64_t padded = (p.dim + kWidth - 1) / kWidth * kWidth;
  CbowScratch scratch(p, padded);
  LossSum loss;
  SgnsStats sums;
  int64_t centers = 0;
  each_batch(p, begin, end, &scratch.batch, &sums, [&] {
    for (size_t b = 0; b < scratch.batch.blocks.size(); ++b) train_cbow_block(p, padded, &scratch, b, &loss);
    centers += scratch.batch.kept;
  });
  stats->loss += loss.total();
  stats->pairs += centers;
  stats->words += sums.words;
}
