// Hierarchical softmax (Morin and Bengio 2005; Mikolov et al. 2013) for skip-gram and CBOW, updated in place (one
// thread; Hogwild between threads).
//
// A word's probability is a product over the inner nodes on its path from the root of a Huffman tree: sigmoid(u . v)
// where the path turns to code 0, sigmoid(-u . v) where it turns to code 1. As in word2vec.c a centre's path is what
// its contexts have to find, so for skip-gram a window is one small matrix product, the M contexts against the N nodes
// of the path, all pairs of it wanted; and CBOW has one row, the mean or sum of the contexts, in place of the M.
//
// The arithmetic of skip-gram is that of sgns_block.h: tiles of scores in registers, then one pass over D with the
// nodes in registers. Paths of more than kGroup nodes go in parts of nearly equal length; all scores are taken before
// the first part is updated. With CBOW's one row there is nothing to keep in registers.
//
// Arithmetic: 3 M N D multiply-adds a centre; on the IMDB corpus at sample 1e-3 a path has 11.2 nodes on average and a
// window 6 contexts, 1,410 vectors of 16 lanes at D = 100 in two units: 4.4 times skip-gram's with 5 shared negatives.
// Memory: nodes are numbered from the root by falling count, so that the top of the tree is what HotRows copies for
// each thread and what stays in L1; the lower nodes of the path after the next are prefetched.

// A path in parts.
struct PathParts {
  int count, size;
  explicit PathParts(int nodes) : count((nodes + kGroup - 1) / kGroup), size((nodes + count - 1) / count) {}
};

// Some nodes of one path, and the rows that have to find them.
struct PathGroup {
  float* const* contexts;
  int num_contexts;
  float* const* nodes;
  float* const* ahead;
  const int32_t* path;  // node << 1 | code
  float *weights, *coef, *deltas;
  int64_t padded;
  float lr;

  // Weights as sgns_block.h wants them: -1 where the score should be high (code 0), 1 where it should be low.
  template <int N>
  W2V_INLINE void fill_weights() const {
    constexpr int kStep = kTile<N>;
    const int tiles = (num_contexts + kStep - 1) / kStep;
    for (int i = 0; i < tiles * kTileFloats<N> + kTogether * kWidth; i += kWidth) store(weights + i, Vf{});
    alignas(64) float row[(N + kWidth - 1) / kWidth * kWidth] = {};
    for (int n = 0; n < N; ++n) row[n] = static_cast<float>(2 * (path[n] & 1) - 1);
    for (int m = 0; m < num_contexts; ++m) {
      float* target = weights + m / kStep * kTileFloats<N> + m % kStep * N;
#pragma GCC unroll 4
      for (int n = 0; n < N; n += kWidth) store(target + n, load(row + n));
    }
  }

  template <int N, int kAtOnce>
  W2V_INLINE void score(Vf* loss) const {
    fill_weights<N>();
    score_rows<N, kAtOnce>(contexts, num_contexts, nodes, padded, weights, coef, broadcast(-lr), loss);
  }
  template <int N, bool kFirst, bool kLast>
  W2V_INLINE void update() const {
    update_rows<N, kFirst, kLast>(contexts, num_contexts, nodes, padded, coef, deltas, ahead);
  }
};

// What is done with a part whose size is a constant.
struct WholePath {
  const PathGroup& group;
  Vf* loss;
  template <int N>
  W2V_INLINE void run() const {
    Vf sum = *loss;
    group.score<N, kTogether>(&sum);
    *loss = sum;
    group.update<N, true, true>();
  }
};
struct ScorePart {
  const PathGroup& group;
  Vf* loss;
  template <int N>
  W2V_INLINE void run() const {
    Vf sum = *loss;
    group.score<N, 1>(&sum);
    *loss = sum;
  }
};
struct UpdatePart {  // on top of what is in deltas
  const PathGroup& group;
  template <int N>
  W2V_INLINE void run() const {
    group.update<N, false, false>();
  }
};

constexpr int kScoreTile = 8;   // nodes whose scores are taken together
constexpr int kPathLanes = 16;  // scores that go through `logistic` together

// Columns d to d + V kWidth of a path's nodes and of the row h that has to find them: nodes[n] += coef[n] h, and
// delta = sum_n coef[n] nodes[n]. The rows `ahead`, as many, are prefetched on the way.
template <int V>
W2V_INLINE void update_path_columns(const float* h, float* const* nodes, int num_nodes, const float* coef, float* delta,
                                    float* const* ahead, int64_t d) {
  Vf row[V], sum[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    row[v] = load(h + d + v * kWidth);
    sum[v] = Vf{};
  }
  for (int n = 0; n < num_nodes; ++n) {
    const Vf slope = broadcast(coef[n]);
    float* node = nodes[n] + d;
#pragma GCC unroll 4
    for (int v = 0; v < V * kWidth; v += 16) __builtin_prefetch(ahead[n] + d + v, 1, 3);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const Vf old = load(node + v * kWidth);
      sum[v] += slope * old;
      store(node + v * kWidth, old + slope * row[v]);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) store(delta + d + v * kWidth, sum[v]);
}

struct PathScratch {
  Batch batch;
  Windows windows;
  std::vector<float*> contexts, nodes, ahead;
  std::vector<float> weights, coef, deltas;
  int64_t region;  // floats of weights, and of coef, for one part of a path

  PathScratch(const SgnsParams& p, int64_t padded) : windows(p.window, padded) {
    const int64_t most = 2 * p.window;
    contexts.resize(most + 1);
    int64_t longest = 0;
    for (uint32_t w = 0; w < p.vocab_size; ++w) longest = std::max(longest, p.path_start[w + 1] - p.path_start[w]);
    nodes.resize(longest + kScoreTile);
    ahead.resize(longest + kBlock);
    region = (most + 4) * 16 + 2 * kTogether * kWidth + 16;
    weights.resize((longest + kGroup - 1) / kGroup * region + kPathLanes + kWidth);
    coef.resize(weights.size());
    deltas.resize(most * padded + 16);
  }
};

// The list of nodes of a word to come, and before it where that begins: both tables are larger than the L1 cache.
W2V_INLINE void prefetch_path(const SgnsParams& p, const Batch& batch, int64_t center) {
  const int64_t last = batch.kept - 1;
  __builtin_prefetch(p.path_start + batch.words[std::min(center + 4 * kBlock, last)]);
  const int32_t* path = p.path + p.path_start[batch.words[std::min(center, last)]];
  __builtin_prefetch(path);
  __builtin_prefetch(path + 15);
}

// Trains a word's path with one row, CBOW's h, which itself is not moved: that goes to `delta`. Nothing is kept in
// registers from one context to the next, so the path need not be cut, and one loop serves any number of nodes.
W2V_INLINE void train_path(const SgnsParams& p, int64_t padded, PathScratch* s, int32_t word, int32_t later, float* h,
                           float lr, float* delta, LossSum* loss) {
  const int32_t* path = p.path + p.path_start[word];
  const int num_nodes = static_cast<int>(p.path_start[word + 1] - p.path_start[word]);
  float** nodes = s->nodes.data();
  float *weights = s->weights.data(), *coef = s->coef.data();
  for (int n = 0; n < num_nodes; ++n) {
    nodes[n] = out_row(p, static_cast<uint32_t>(path[n]) >> 1);
    weights[n] = static_cast<float>(2 * (path[n] & 1) - 1);  // as sgns_block.h wants them
  }
  for (int n = num_nodes; n < num_nodes + kScoreTile; ++n) nodes[n] = nodes[num_nodes - 1];
  for (int n = 0; n < kPathLanes; n += kWidth) store(weights + num_nodes + n, Vf{});
  int n = 0;
  for (; n + kScoreTile / 2 < num_nodes; n += kScoreTile) score_tile<1, kScoreTile>(&h, nodes + n, padded, coef + n);
  if (n < num_nodes) score_tile<1, kScoreTile / 2>(&h, nodes + n, padded, coef + n);
  for (n = 0; n < kPathLanes; n += kWidth) store(coef + num_nodes + n, Vf{});
  logistic<kPathLanes / kWidth>(coef, weights, num_nodes, broadcast(-lr), &loss->block);
  loss->end_block();

  // The later path's rows from its end, where it leaves the hot ones, as many as are updated.
  const int32_t* end = p.path + p.path_start[later + 1];
  const int64_t length = end - (p.path + p.path_start[later]);
  float** ahead = s->ahead.data();
  for (n = 0; n < num_nodes; ++n)
    ahead[n] = n < length ? out_row(p, static_cast<uint32_t>(end[-1 - n]) >> 1) : nodes[n];
  constexpr int kVectors = 4;
  int64_t d = 0;
  for (; d + kVectors * kWidth <= padded; d += kVectors * kWidth)
    update_path_columns<kVectors>(h, nodes, num_nodes, coef, delta, ahead, d);
  const int64_t rest = (padded - d) / kWidth;
  if (rest == 3) update_path_columns<3>(h, nodes, num_nodes, coef, delta, ahead, d);
  if (rest == 2) update_path_columns<2>(h, nodes, num_nodes, coef, delta, ahead, d);
  if (rest == 1) update_path_columns<1>(h, nodes, num_nodes, coef, delta, ahead, d);
}

// Trains a word's path with M rows.
W2V_INLINE void train_path(const SgnsParams& p, int64_t padded, PathScratch* s, int32_t word, int32_t later,
                           float* row_ahead, float* const* contexts, int num_contexts, float lr, LossSum* loss) {
  const int32_t* path = p.path + p.path_start[word];
  const int num_nodes = static_cast<int>(p.path_start[word + 1] - p.path_start[word]);
  float** nodes = s->nodes.data();
  for (int n = 0; n < num_nodes; ++n) nodes[n] = out_row(p, static_cast<uint32_t>(path[n]) >> 1);
  // Prefetched are as many rows as are updated: the later path's from its end, where it leaves the hot ones.
  const int32_t* end = p.path + p.path_start[later + 1];
  const int64_t length = end - (p.path + p.path_start[later]);
  float** ahead = s->ahead.data();
  for (int n = 0; n < num_nodes + kBlock; ++n)
    ahead[n] = n < length && n < num_nodes ? out_row(p, static_cast<uint32_t>(end[-1 - n]) >> 1) : row_ahead;

  PathGroup group{contexts,       num_contexts,     nodes,  ahead, path, s->weights.data(),
                  s->coef.data(), s->deltas.data(), padded, lr};
  const PathParts parts(num_nodes);
  if (parts.count == 1) {
    with_group_size(num_nodes, WholePath{group, &loss->block});
    loss->end_block();
    return;
  }
  const auto each_part = [&](const auto& body) {
    for (int i = 0; i < parts.count; ++i) {
      const int first = i * parts.size;
      group.nodes = nodes + first;
      group.ahead = ahead + first;
      group.path = path + first;
      group.weights = s->weights.data() + i * s->region;
      group.coef = s->coef.data() + i * s->region;
      body(std::min(parts.size, num_nodes - first));
    }
  };
  each_part([&](int size) { with_group_size(size, ScorePart{group, &loss->block}); });
  loss->end_block();
  for (int64_t i = 0; i < num_contexts * padded; i += kWidth) store(group.deltas + i, Vf{});
  each_part([&](int size) { with_group_size(size, UpdatePart{group}); });
  for (int m = 0; m < num_contexts; ++m)
    for (int64_t d = 0; d < padded; d += kWidth)
      store(contexts[m] + d, load(contexts[m] + d) + load(group.deltas + m * padded + d));
}

inline void train_skipgram_hs(const SgnsParams& p, int64_t begin, int64_t end, SgnsStats* stats) {
  const int64_t padded = (p.dim + kWidth - 1) / kWidth * kWidth;
  PathScratch s(p, padded);
  Batch& batch = s.batch;
  LossSum loss;
  each_batch(p, begin, end, &batch, stats, [&] {
    for (const Block& block : batch.blocks)
      for (int32_t i = block.first; i < block.first + block.count; ++i) {
        const int32_t low = std::max(block.low, i - batch.windows[i]);
        const int32_t high = std::min(block.high, i + batch.windows[i] + 1);
        float** contexts = s.contexts.data();
        for (int32_t c = low; c < i; ++c) *contexts++ = batch.in_rows[c];
        for (int32_t c = i + 1; c < high; ++c) *contexts++ = batch.in_rows[c];
        const int64_t last = batch.kept - 1, later = std::min<int64_t>(i + 2, last);
        float* row_ahead = batch.in_rows[std::min<int64_t>(later + p.window, last)];
        prefetch_path(p, batch, later + kBlock);
        train_path(p, padded, &s, batch.words[i], batch.words[later], row_ahead, s.contexts.data(), high - low - 1,
                   block.lr, &loss);
      }
  });
  stats->loss += loss.total();
}

// Two neighbouring centres at a time, whose windows overlap (cbow_kernel.h); first the one's path, then the other's.
inline void train_cbow_hs(const SgnsParams& p, int64_t begin, int64_t end, SgnsStats* stats) {
  const int64_t padded = (p.dim + kWidth - 1) / kWidth * kWidth;
  PathScratch s(p, padded);
  Batch& batch = s.batch;
  LossSum loss;
  SgnsStats sums;
  int64_t centers = 0;
  each_batch(p, begin, end, &batch, &sums, [&] {
    for (size_t b = 0; b < batch.blocks.size(); ++b) {
      const Block &block = batch.blocks[b], &next = batch.blocks[std::min(b + 2, batch.blocks.size() - 1)];
      float* const* rows = batch.in_rows.data() + block.low;
      float* rows_ahead[kBlock];
      find_rows_ahead(p, batch, next, rows_ahead);
      s.windows.set(p, batch, block);
      gather_rows(s.windows, rows, block.high - block.low, padded);
      for (int g = 0; g < kBlock; ++g) {
        if (g < block.count) {
          const int32_t later = next.first + std::min(g, next.count - 1);
          prefetch_path(p, batch, later + 2 * kBlock);
          train_path(p, padded, &s, batch.words[block.first + g], batch.words[later], s.windows.h[g], block.lr,
                     s.windows.delta[g], &loss);
        } else {
          std::fill(s.windows.delta[g], s.windows.delta[g] + padded, 0.0f);
        }
      }
      scatter_rows(s.windows, rows, block.high - block.low, padded, rows_ahead);
    }
    centers += batch.kept;
  });
  stats->loss += loss.total();
  stats->pairs += centers;
  stats->words += sums.words;
}
