// fastText's models (Bojanowski et al. 2017) over a stretch of the corpus: the vector of a word is the mean of n rows,
// its own and those of its n-grams, and what a vector is moved by, each of its rows is moved by.
//
// N-grams that the same words have are always moved together, so only the sum of their rows is kept (see
// w2v_ext/subwords.py): row += step for each of m rows is sum += m * step. With n-grams of 3 to 6 characters, 49,000
// words have 215,000 n-grams, 264,000 rows with their own, in 123,000 sums.
//
// A stretch is trained in three steps:
//   compose   when a word is first met in the stretch, its vector, from the sums
//   train     on these vectors, as skip-gram trains rows of in_weight, but one (centre, context) after the other.
//             Continuous bag of words has the mean of a window predict the centre
//   scatter   at the stretch's end, what each vector was moved by, to the sums
// So a word of n rows costs n reads and n writes a stretch, not an occurrence, and words that share n-grams see of each
// other what was learnt before the stretch. Stretches are at fixed places of the corpus.
//
// Memory: of 1,024 ids of film reviews 510 are kept (sample 1e-4), of 458 words with 7,300 sums: 16 a word, each read
// and written, 448 bytes at D = 100, in random places of a table of 55 MB. They are prefetched some rows ahead.

constexpr int kRowsAhead = 6;
constexpr int kColumns = W2V_WIDTH == 16 ? 8 : 6;  // vectors of D that a pass over rows holds in registers

W2V_INLINE void prefetch_row(const float* row, int64_t padded) {
  for (int64_t d = 0; d < padded; d += 16) __builtin_prefetch(row + d, 1, 3);
}

// Calls step.run<N>() with how many of at most kColumns vectors there are.
template <int N = 1, typename Step>
W2V_INLINE void with_columns(int64_t count, const Step& step) {
  if constexpr (N == kColumns) {
    step.template run<N>();
  } else {
    count == N ? step.template run<N>() : with_columns<N + 1>(count, step);
  }
}

// Columns of the mean of some rows, twice: the vector, and behind it what it starts from.
struct ComposeColumns {
  float* const* rows;
  int64_t count, d;
  Vf scale;
  float *vector, *start;
  template <int N>
  W2V_INLINE void run() const {
    Vf sum[N] = {};
    for (int64_t r = 0; r < count; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < N; ++v) sum[v] += load(rows[r] + d + v * kWidth);
#pragma GCC unroll 8
    for (int v = 0; v < N; ++v) {
      store(vector + d + v * kWidth, sum[v] * scale);
      store(start + d + v * kWidth, sum[v] * scale);
    }
  }
};

// rows[r] += factors[entries[r]] * step, some columns: step is what the vector was moved by, less its overlap with what
// others have moved it by since it was composed (see HotRows).
struct ScatterColumns {
  float* const* rows;
  const int32_t* entries;
  const float* factors;
  int64_t count, d;
  float scale, overlap;
  const float *vector, *start;
  template <int N>
  W2V_INLINE void run() const {
    Vf step[N];
#pragma GCC unroll 8
    for (int v = 0; v < N; ++v) step[v] = load(vector + d + v * kWidth) - load(start + d + v * kWidth);
    if (overlap > 0) {
      Vf sum[N] = {};
      for (int64_t r = 0; r < count; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < N; ++v) sum[v] += load(rows[r] + d + v * kWidth);
#pragma GCC unroll 8
      for (int v = 0; v < N; ++v) step[v] -= overlap * (sum[v] * scale - load(start + d + v * kWidth));
    }
    for (int64_t r = 0; r < count; ++r) {
      const Vf factor = broadcast(factors[entries[r]]);
#pragma GCC unroll 8
      for (int v = 0; v < N; ++v) {
        float* at = rows[r] + d + v * kWidth;
        store(at, load(at) + factor * step[v]);
      }
    }
  }
};

template <typename Step>
W2V_INLINE void over_columns(int64_t padded, Step step) {
  for (step.d = 0; step.d < padded; step.d += kColumns * kWidth)
    with_columns(std::min<int64_t>((padded - step.d) / kWidth, kColumns), step);
}

// The sums of the words in slots [from, end), word by word, and kRowsAhead more to prefetch.
inline void list_sums(const SubwordParams& p, int64_t from, StretchWords* s) {
  const SgnsParams& e = *p.epoch;
  if (s->listed_from == from && s->listed == s->words.size()) return;
  s->listed_from = from;
  s->listed = s->words.size();
  s->sums.clear();
  for (size_t i = from; i < s->words.size(); ++i)
    for (int64_t k = p.first[s->words[i]]; k < p.first[s->words[i] + 1]; ++k) {
      const int64_t row = p.entries[k], vocab_size = e.vocab_size;
      s->sums.push_back((row < vocab_size ? e.in + row * e.stride : p.ngrams + (row - vocab_size) * e.stride));
    }
  if (!s->sums.empty()) s->sums.insert(s->sums.end(), kRowsAhead, s->sums.back());
}

inline void compose(const SubwordParams& p, int64_t padded, int64_t from, StretchWords* s) {
  list_sums(p, from, s);
  float* const* rows = s->sums.data();
  for (size_t i = from; i < s->words.size(); ++i) {
    const uint32_t word = s->words[i];
    const int64_t count = p.first[word + 1] - p.first[word];
    for (int64_t r = 0; r < count; ++r) prefetch_row(rows[r + kRowsAhead], padded);
    over_columns(padded, ComposeColumns{rows, count, 0, broadcast(1.0f / p.word_rows[word]), s->rows[i],
                                        s->rows[i] + p.epoch->stride});
    rows += count;
  }
}

// The stretch began at this place of the corpus.
inline void scatter(const SubwordParams& p, int64_t padded, int64_t place, StretchWords* s) {
  const double moved = p.epoch->rate(place) * (p.cbow ? 1 : p.epoch->window + 1);  // by an occurrence of a word
  list_sums(p, 0, s);
  float* const* rows = s->sums.data();
  for (size_t i = 0; i < s->words.size(); ++i) {
    const uint32_t word = s->words[i];
    const int64_t count = p.first[word + 1] - p.first[word];
    for (int64_t r = 0; r < count; ++r) prefetch_row(rows[r + kRowsAhead], padded);
    // What occurs once is hardly in the others' stretches too, and is most words of natural text.
    const float overlap = p.others && s->seen[i] > 1 ? overlap_of(moved * s->seen[i]) : 0;
    over_columns(padded, ScatterColumns{rows, p.entries + p.first[word], p.group_rows, count, 0,
                                        1.0f / p.word_rows[word], overlap, s->rows[i], s->rows[i] + p.epoch->stride});
    rows += count;
    s->slot[word] = -1;
  }
  s->words.clear();
  s->listed = 0;
  s->seen.clear();
}

// The place of the vector of a word that has been met for the first time.
inline float* new_row(int64_t stride, StretchWords* s) {
  constexpr int64_t kRows = 256;
  const int64_t index = static_cast<int64_t>(s->words.size());
  if (index == static_cast<int64_t>(s->rows.size())) {
    s->memory.emplace_back(2 * kRows * stride + 16);
    float* memory = s->memory.back().data();
    memory += (-reinterpret_cast<uintptr_t>(memory) / sizeof(float)) % 16;
    for (int64_t i = 0; i < kRows; ++i) s->rows.push_back(memory + 2 * i * stride);
  }
  return s->rows[index];
}

// Points the batch's words to their vectors.
inline void meet_words(const SubwordParams& p, int64_t padded, Batch* batch, StretchWords* s) {
  const int64_t from = static_cast<int64_t>(s->words.size());
  for (int64_t i = 0; i < batch->kept; ++i) {
    const int32_t word = batch->words[i];
    int32_t& slot = s->slot[word];
    if (slot < 0) {
      new_row(p.epoch->stride, s);
      slot = static_cast<int32_t>(s->words.size());
      s->words.push_back(word);
      s->seen.push_back(0);
    }
    ++s->seen[slot];
    batch->in_rows[i] = s->rows[slot];
  }
  compose(p, padded, from, s);
}

// One row against the outputs of a block, as train_contexts, with no more arithmetic than one context needs.
struct OneContext {
  const Group& group;
  const std::vector<Collision>& collisions;
  Vf* loss;
  template <int N>
  W2V_INLINE void run() const {
    group.fill_weights<N>();
    for (const Collision& c : collisions) group.weights[c.output] -= static_cast<float>(*group.masks >> c.center & 1);
    Vf sum = *loss;
    score_rows<N, 1>(group.contexts, 1, group.outputs, group.padded, group.weights, group.coef, broadcast(-group.lr),
                     &sum);
    *loss = sum;
    group.update<N, true, true>();
  }
};

inline void train_context(const SgnsParams& p, int64_t padded, Scratch* s, float lr, float* const* context,
                          const int32_t* mask, LossSum* loss) {
  const int num_outputs = kBlock + p.negative;
  if (num_outputs > kGroup) return train_contexts(p, padded, s, lr, context, mask, 1, 1, loss);
  const Group group{context,
                    1,
                    1,
                    padded,
                    mask,
                    s->deltas.data(),
                    lr,
                    s->table[0],
                    s->outputs.data(),
                    s->ahead.data(),
                    s->weights.data(),
                    s->coef.data()};
  with_group_size(num_outputs, OneContext{group, s->collisions, &loss->block});
}

// The pairs of a centre with the words in its window, and the negatives of each: those of the m-th pair of the centre
// at place i of a sentence are draws 2^64 - 1 - n K - k, n = 2 W i + m, which no other use comes near.
struct CenterPairs {
  int32_t center = 0, from = 0, to = 0;  // kept words of the batch
  float lr = 0;
  std::vector<uint64_t> draws;    // the negatives, pair by pair, and
  std::vector<float*> negatives;  // the rows that they are

  int64_t count() const { return to - from - 1; }

  void draw_negatives(const SgnsParams& p, const Batch& batch, const Block& block, int g) {
    center = block.first + g;
    lr = block.lr;
    const int32_t window = batch.windows[center];
    from = std::max(block.low, center - window);
    to = std::min(block.high, center + window + 1);
    draws.resize(count() * p.negative);
    const uint64_t first = static_cast<uint64_t>(batch.places[center]) * 2 * p.window * p.negative;
    for (size_t i = 0; i < draws.size(); ++i) {
      draws[i] = draw(block.key, ~(first + i));
      __builtin_prefetch(p.alias + below(static_cast<uint32_t>(draws[i] >> 32), p.vocab_size));
    }
  }

  void find_negatives(const SgnsParams& p) {
    negatives.resize(draws.size());
    for (size_t i = 0; i < draws.size(); ++i) negatives[i] = out_row(p, sample_alias(p.alias, p.vocab_size, draws[i]));
  }
};

// The negatives of a pair some pairs later, this centre's or the next one's.
inline float* const* negatives_ahead(const SgnsParams& p, const CenterPairs& pairs, const CenterPairs& next,
                                     int64_t pair) {
  constexpr int64_t kPairsAhead = 3;
  const int64_t later = pair + kPairsAhead - pairs.count();
  const CenterPairs& of = later < 0 || next.count() == 0 ? pairs : next;
  return of.negatives.data() + std::min(later < 0 ? pair + kPairsAhead : later, of.count() - 1) * p.negative;
}

// The rows of a pair's outputs, the context's first, the negatives from output `first` on (zeros before), and
// `entering` and the negatives `later`, to be prefetched. Gives how many outputs are copies.
inline int find_pair(const SgnsParams& p, int64_t padded, Scratch* s, float* context, float* const* negatives,
                     float* const* later, int first, float* entering) {
  const int num_outputs = first + p.negative;
  float **outputs = s->outputs.data(), **ahead = s->ahead.data();
  outputs[0] = context;
  std::fill(outputs + 1, outputs + first, s->zeros);
  std::copy(negatives, negatives + p.negative, outputs + first);
  std::fill(ahead, ahead + first, entering);
  std::copy(later, later + p.negative, ahead + first);
  std::fill(ahead + num_outputs, ahead + num_outputs + kBlock, entering);
  s->collisions.clear();
  for (int n = first; n < num_outputs; ++n)
    if (outputs[n] == context) s->collisions.push_back({n, 0});
  return separate(outputs, num_outputs, padded, s->copies, s->originals.data());
}

// A vector against the outputs that were found, at most kGroup.
struct OnePair {
  Scratch* s;
  float* const* vector;
  int64_t padded;
  float lr;
  Vf* loss;
  template <int N>
  W2V_INLINE void run() const {
    float* const weights = s->weights.data();
    Vf lane;
    for (int i = 0; i < kWidth; ++i) lane[i] = static_cast<float>(i);
#pragma GCC unroll 4
    for (int n = 0; n < N; n += kWidth) {
      const Vf here = lane + static_cast<float>(n);
      store(weights + n, here < 1.0f ? broadcast(-1.0f) : here < static_cast<float>(N) ? broadcast(1.0f) : Vf{});
    }
    for (const Collision& c : s->collisions) weights[c.output] = 0;
    Vf sum = *loss;
    score_rows<N, 1>(vector, 1, s->outputs.data(), padded, weights, s->coef.data(), broadcast(-lr), &sum);
    *loss = sum;
    update_rows<N, true, true>(vector, 1, s->outputs.data(), padded, s->coef.data(), s->deltas.data(), s->ahead.data());
  }
};

// Centre by centre, its vector against the output vectors of its contexts, one after the other, each with negatives of
// its own, as fastText does it. (Negatives that the contexts share are cheaper and cost analogies.) Coefficients taken
// for a whole block at once, as plain skip-gram does, diverge here at fastText's learning rate: words with n-grams in
// common add to each other's steps.
inline void train_pairs(const SgnsParams& p, int64_t padded, Scratch* s, CenterPairs (&ring)[3], LossSum* loss) {
  const Batch& batch = s->batch;
  const int64_t num_blocks = static_cast<int64_t>(batch.blocks.size());
  const int32_t mask = 1;
  const int first = 1 + p.negative <= kGroup ? 1 : kBlock;  // what train_context can do has kBlock centres
  int64_t block = 0, drawn = 0;
  int g = 0;
  const auto draw_next = [&] {
    if (block == num_blocks) return;
    ring[drawn++ % 3].draw_negatives(p, batch, batch.blocks[block], g);
    if (++g == batch.blocks[block].count) g = 0, ++block;
  };
  draw_next();
  if (drawn > 0) ring[0].find_negatives(p);
  draw_next();
  for (int64_t c = 0; c < drawn; ++c) {  // the next centre's negatives are found, those of the one after it drawn
    if (c + 1 < drawn) ring[(c + 1) % 3].find_negatives(p);
    const CenterPairs &pairs = ring[c % 3], &next = ring[(c + 1 < drawn ? c + 1 : c) % 3];
    draw_next();
    float* const* const vector = batch.in_rows.data() + pairs.center;
    float* const entering = batch.out_rows[std::min<int64_t>(pairs.center + p.window + 1, batch.kept - 1)];
    int64_t pair = 0;
    for (int32_t i = pairs.from; i < pairs.to; ++i) {
      if (i == pairs.center) continue;
      const int copies = find_pair(p, padded, s, batch.out_rows[i], pairs.negatives.data() + pair * p.negative,
                                   negatives_ahead(p, pairs, next, pair), first, entering);
      if (first == 1) {
        with_group_size(1 + p.negative, OnePair{s, vector, padded, pairs.lr, &loss->block});
      } else {
        train_context(p, padded, s, pairs.lr, vector, &mask, loss);
      }
      if (copies > 0) unite(copies, padded, s->copies, s->originals.data());
      ++pair;
    }
    loss->end_block();
  }
}

// The mean of a window, in the place of a context, and behind it what it starts from.
struct Bag {
  std::vector<float> memory;
  float *mean, *start;

  explicit Bag(int64_t padded) : memory(2 * padded + 16) {
    mean = memory.data() + (-reinterpret_cast<uintptr_t>(memory.data()) / sizeof(float)) % 16;
    start = mean + padded;
  }
};

// Continuous bag of words: for each centre the mean of all rows of its window's words (so a word counts as many times
// as it has rows) is trained as a context, and what it is moved by, each of the words is.
inline void train_bags(const SubwordParams& p, int64_t padded, Scratch* s, int64_t index, Bag* bag, LossSum* loss) {
  const Batch& batch = s->batch;
  const Block& block = batch.blocks[index];
  for (int g = 0; g < block.count; ++g) {
    const int copies = find_outputs(*p.epoch, padded, s, index, g);
    const int32_t center = block.first + g, window = batch.windows[center], mask = 1 << g;
    const int32_t from = std::max(block.low, center - window), to = std::min(block.high, center + window + 1);
    float total = 0, *mean = bag->mean, *start = bag->start;
    std::fill(mean, mean + padded, 0.0f);
    for (int32_t i = from; i < to; ++i) {
      if (i == center) continue;
      const float rows = p.word_rows[batch.words[i]];
      total += rows;
      for (int64_t d = 0; d < padded; d += kWidth) store(mean + d, load(mean + d) + rows * load(batch.in_rows[i] + d));
    }
    for (int64_t d = 0; d < padded; d += kWidth) {
      store(mean + d, load(mean + d) * (1.0f / total));
      store(start + d, load(mean + d));
    }
    train_context(*p.epoch, padded, s, block.lr, &bag->mean, &mask, loss);
    for (int64_t d = 0; d < padded; d += kWidth) {
      const Vf step = load(mean + d) - load(start + d);
      for (int32_t i = from; i < to; ++i)
        if (i != center) store(batch.in_rows[i] + d, load(batch.in_rows[i] + d) + step);
    }
    if (copies > 0) unite(copies, padded, s->copies, s->originals.data());
  }
  loss->end_block();
}

inline void train_subwords(const SubwordParams& p, int64_t begin, int64_t end, StretchWords* words, SgnsStats* stats) {
  const SgnsParams& e = *p.epoch;
  const int64_t padded = (e.dim + kWidth - 1) / kWidth * kWidth, pairs = stats->pairs;
  Scratch scratch(e, padded);
  Bag bag(padded);
  CenterPairs ring[3];
  LossSum loss;
  int64_t centers = 0;
  words->slot.resize(e.vocab_size, -1);
  each_batch(e, begin, end, &scratch.batch, stats, [&] {
    meet_words(p, padded, &scratch.batch, words);
    if (!p.cbow) return train_pairs(e, padded, &scratch, ring, &loss);
    const int64_t num_blocks = static_cast<int64_t>(scratch.batch.blocks.size());
    for (int64_t b = 0; b < num_blocks; ++b) {
      train_bags(p, padded, &scratch, b, &bag, &loss);
      centers += scratch.batch.blocks[b].count;
    }
  });
  scatter(p, padded, begin, words);
  stats->loss += loss.total();
  if (p.cbow) stats->pairs = pairs + centers;
}
