// Skip-gram with negative sampling over a stretch of the corpus, updated in place (one thread; Hogwild between
// threads).
//
// A block is kBlock = 2 neighbouring centres of a sentence and the K negatives that they share (pWord2Vec, Ji et al.
// 2016, shares them within one window). It is one small matrix product: the M words in either window (rows of in)
// against N = kBlock + K outputs (the centres' rows of out, and the negatives'). A pair that is in no window has weight
// 0; a negative has, for each context, the weight of as many windows as the context is in.
//
// Arithmetic: 3 M N D multiply-adds a block. With W = 5, K = 5 and D = 100 (112 with padding), M is 8.8 on average and
// N is 7: 323 vectors of 16 lanes per centre in two units, where windows one by one take 378 and twice as many rows,
// folds and latencies. Memory: N rows of out and kBlock rows of in a block come from L2 or beyond. They are prefetched
// two blocks early, line by line between the steps of the update: all at once they fill the miss buffers, and the core
// waits.
//
// kBlock against windows one by one (IMDB corpus, 5 epochs, 2 threads, mean of 10 seeds, standard errors 0.003 for
// WS353 and 0.002 for the others): 1.6 times the speed at WS353 .503 (.508), SimLex .314 (.316), analogies .290 (.295),
// where gensim has .500, .315 and .289. 3 and 4 centres are 1.1 and 1.25 times as fast again, but analogies fall to
// .282 and .274.
//
// The coefficients of a block are taken at the weights before it. A negative that is one of the centres counts for the
// other window only; a row met twice gets both updates.

// A sum of many small losses: floats over a block, doubles over all.
struct LossSum {
  Vf block = {};
  Vd low = {}, high = {};

  W2V_INLINE void end_block() {
    low += widen_low(block);
    high += widen_high(block);
    block = Vf{};
  }
  W2V_INLINE double total() const { return horizontal_sum<double>(low) + horizontal_sum<double>(high); }
};

// Buffers of one thread, for windows of up to 2 W + kBlock contexts.
struct Scratch {
  Batch batch;
  std::vector<float*> outputs, ahead, originals;
  std::vector<Collision> collisions;
  std::vector<int32_t> masks;  // bit g of masks[m]: context m is in the window of centre g
  std::vector<float> weights, coef, deltas, spare;
  int64_t region;                               // floats of weights, and of coef, for one group of outputs
  float* copies;                                // in spare: two aligned rows per output
  float* zeros;                                 // in spare: the row that stands for a missing centre
  alignas(64) float table[2][1 << kBlock][16];  // weights of a context by its mask, in the first group and the others

  Scratch(const SgnsParams& p, int64_t padded) {
    const int num_outputs = kBlock + p.negative;
    const int64_t most = 2 * p.window + kBlock;
    outputs.resize(num_outputs);
    ahead.resize(num_outputs + kBlock);
    originals.resize(num_outputs);
    masks.resize(most + kWidth);
    region = 16 * most + 2 * 16 + kTogether * kWidth;
    weights.resize((num_outputs + kGroup - 1) / kGroup * region);
    coef.resize(weights.size());
    if (num_outputs > kGroup) deltas.resize(most * padded);
    spare.resize((2 * num_outputs + 1) * padded + 16);
    zeros = spare.data() + (-reinterpret_cast<uintptr_t>(spare.data()) / sizeof(float)) % 16;
    copies = zeros + padded;
    for (int mask = 0; mask < 1 << kBlock; ++mask)
      for (int n = 0; n < 16; ++n) {
        table[1][mask][n] = static_cast<float>(__builtin_popcount(mask));
        table[0][mask][n] = n < kBlock ? -static_cast<float>(mask >> n & 1) : table[1][mask][n];
      }
  }
};

// See HotRows.
inline void merge_row(float* shared, float* own, float* base, int64_t count, float overlap) {
  for (int64_t i = 0; i < count; i += kWidth) {
    const Vf sum = load(own + i) + (1.0f - overlap) * (load(shared + i) - load(base + i));
    store(shared + i, sum);
    store(own + i, sum);
    store(base + i, sum);
  }
}

// masks[m]: in the windows of which of the block's centres the context low + m is.
inline void find_masks(const Block& block, const int32_t* windows, int most, int32_t* masks) {
  Vi lane;
  for (int i = 0; i < kWidth; ++i) lane[i] = i;
  for (int32_t at = block.low; at < block.low + most; at += kWidth) {
    Vi mask = Vi{};
    for (int g = 0; g < block.count; ++g) {
      const int32_t center = block.first + g, window = windows[center];
      const Vi distance = lane + (at - center);
      mask |= ((distance <= window) & (distance >= -window) & (distance != 0)) & (1 << g);
    }
    mask &= lane < block.high - at;
    store(masks + (at - block.low), mask);
  }
}

// Gives the second and later outputs that are the same row a copy each; behind it goes another, to compare with.
inline int separate(float** outputs, int num_outputs, int64_t padded, float* copies, float** originals) {
  int count = 0;
  for (int n = 1; n < num_outputs; ++n) {
    if (std::find(outputs, outputs + n, outputs[n]) == outputs + n) continue;
    float* copy = copies + 2 * count * padded;
    std::copy(outputs[n], outputs[n] + padded, copy);
    std::copy(outputs[n], outputs[n] + padded, copy + padded);
    originals[count++] = outputs[n];
    outputs[n] = copy;
  }
  return count;
}

inline void unite(int count, int64_t padded, const float* copies, float* const* originals) {
  for (int i = 0; i < count; ++i)
    for (int64_t d = 0; d < padded; ++d)
      originals[i][d] += copies[2 * i * padded + d] - copies[(2 * i + 1) * padded + d];
}

// The rows of a block's outputs, those that are to be prefetched, and which negatives are centres. Gives how many
// outputs are copies, to be united when the block is trained.
// (Where each centre has negatives of its own, those of centre `own`.)
inline int find_outputs(const SgnsParams& p, int64_t padded, Scratch* s, int64_t index, int own = 0) {
  const Batch& batch = s->batch;
  const int64_t after = std::min<int64_t>(index + 2, batch.blocks.size() - 1);
  const Block &block = batch.blocks[index], &next = batch.blocks[after];
  const int num_outputs = kBlock + p.negative;
  float** outputs = s->outputs.data();
  float** ahead = s->ahead.data();
  for (int g = 0; g < kBlock; ++g) {
    outputs[g] = g < block.count ? batch.out_rows[block.first + g] : s->zeros;
    ahead[g] = batch.out_rows[next.first + std::min(g, next.count - 1)];
    ahead[num_outputs + g] = batch.in_rows[std::min<int64_t>(next.first + p.window + g, batch.kept - 1)];
  }
  for (int k = 0; k < p.negative; ++k) {
    outputs[kBlock + k] = batch.negatives[index * p.negatives_of_block() + own * p.negative + k];
    ahead[kBlock + k] = batch.negatives[after * p.negatives_of_block() + own * p.negative + k];
  }
  s->collisions.clear();
  if (block.plain) return 0;
  for (int n = kBlock; n < num_outputs; ++n)
    for (int g = 0; g < block.count; ++g)
      if (outputs[n] == outputs[g]) s->collisions.push_back({n, g});
  return separate(outputs, num_outputs, padded, s->copies, s->originals.data());
}

// Trains contexts against the outputs that were found: num_contexts of them, never more than `most`, in the windows
// that their masks say. Masks behind them are 0.
inline void train_contexts(const SgnsParams& p, int64_t padded, Scratch* s, float lr, float* const* contexts,
                           const int32_t* masks, int num_contexts, int most, LossSum* loss) {
  const int num_outputs = kBlock + p.negative;
  Group group{contexts, num_contexts, most, padded, masks, s->deltas.data(), lr};
  const auto select = [&](int first) {
    group.table = s->table[first > 0];
    group.outputs = s->outputs.data() + first;
    group.ahead = s->ahead.data() + first;
    group.weights = s->weights.data() + first / kGroup * s->region;
    group.coef = s->coef.data() + first / kGroup * s->region;
    return std::min(kGroup, num_outputs - first);
  };
  for (int first = 0; first < num_outputs; first += kGroup) {
    const int size = select(first);
    if (num_outputs <= kGroup) {
      with_group_size(size, WholeBlock{group, s->collisions, &loss->block});
    } else {
      with_group_size(size, ScoreGroup{group, s->collisions, first, &loss->block});
    }
  }
  loss->end_block();
  for (int first = 0; num_outputs > kGroup && first < num_outputs; first += kGroup) {
    const int size = select(first);
    if (first == 0) {
      group.update<kGroup, true, false>();
    } else if (first + size < num_outputs) {
      group.update<kGroup, false, false>();
    } else {
      with_group_size(size, UpdateLastGroup{group});
    }
  }
}

inline void train_block(const SgnsParams& p, int64_t padded, Scratch* s, int64_t index, LossSum* loss) {
  const Block& block = s->batch.blocks[index];
  const int most = 2 * p.window + kBlock;
  find_masks(block, s->batch.windows.data(), most, s->masks.data());
  const int copies = find_outputs(p, padded, s, index);
  train_contexts(p, padded, s, block.lr, s->batch.in_rows.data() + block.low, s->masks.data(), block.high - block.low,
                 most, loss);
  if (copies > 0) unite(copies, padded, s->copies, s->originals.data());
}

inline void train_sgns(const SgnsParams& p, int64_t begin, int64_t end, SgnsStats* stats) {
  const int64_t padded = (p.dim + kWidth - 1) / kWidth * kWidth;
  Scratch scratch(p, padded);
  LossSum loss;
  each_batch(p, begin, end, &scratch.batch, stats, [&] {
    for (size_t b = 0; b < scratch.batch.blocks.size(); ++b) train_block(p, padded, &scratch, b, &loss);
  });
  stats->loss += loss.total();
}
