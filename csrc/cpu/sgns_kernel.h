// Skip-gram with negative sampling over a stretch of the corpus, updated in place (one thread; Hogwild between
// threads).
//
// A window is one small matrix product: its M contexts (rows of in) against N = 1 + K outputs (the centre's row of out
// and K negatives that all contexts share, as in pWord2Vec, Ji et al. 2016). Three passes over it:
//   scores    tiles of 4 (2) x 6 dot products in registers, then one shuffle tree per vector of scores
//   logistic  e^-|s| once, giving the coefficient lr (label - sigmoid(s)) and the loss
//   update    per vector of D: N outputs in registers, each context read, moved and written once, moving the outputs
// Arithmetic: 3 N D multiply-adds per pair; at K = 5 and D = 100 (112 with padding) 126 vectors of 16 lanes, which two
// units do in 63 cycles. Memory: a context's row stays in L1 for the 2 W windows that it is in; N rows of out per
// window come from L2 or beyond. They are prefetched kAhead windows early, line by line between the steps of the
// update: all at once they fill the miss buffers, and the core waits (measured: spread out, training is 1.1 times as
// fast at D = 100 and 1.3 times at D = 300).
//
// The coefficients of a window are taken at the weights before it; rows met twice in one window get both updates.

constexpr int kGroup = 6;  // outputs per register tile
constexpr int kAhead = 3;  // windows of prefetch

// The sums of kWidth vectors as one vector, lane i the sum of a[i].
#if W2V_WIDTH == 16
W2V_INLINE Vf fold_halves(Vf a, Vf b) {
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
         __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}
W2V_INLINE Vf fold_quarters(Vf a, Vf b) {
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
         __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}
W2V_INLINE Vf fold_eighths(Vf a, Vf b) {
  return __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
         __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
}
W2V_INLINE Vf fold_pairs(Vf a, Vf b) {
  return __builtin_shufflevector(a, b, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30) +
         __builtin_shufflevector(a, b, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
}
W2V_INLINE Vf fold_column(const Vf* a, int k) {
  return fold_quarters(fold_halves(a[k], a[4 + k]), fold_halves(a[8 + k], a[12 + k]));
}
#elif W2V_WIDTH == 8
W2V_INLINE Vf fold_halves(Vf a, Vf b) {
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
         __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
}
W2V_INLINE Vf fold_eighths(Vf a, Vf b) {
  return __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13) +
         __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
}
W2V_INLINE Vf fold_pairs(Vf a, Vf b) {
  return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) +
         __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
}
W2V_INLINE Vf fold_column(const Vf* a, int k) { return fold_halves(a[k], a[4 + k]); }
#else
W2V_INLINE Vf fold_eighths(Vf a, Vf b) {
  return __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
}
W2V_INLINE Vf fold_pairs(Vf a, Vf b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
}
W2V_INLINE Vf fold_column(const Vf* a, int k) { return a[k]; }
#endif

W2V_INLINE Vf fold(const Vf* a) {
  return fold_pairs(fold_eighths(fold_column(a, 0), fold_column(a, 1)),
                    fold_eighths(fold_column(a, 2), fold_column(a, 3)));
}

// The loss of many scores, kept in lanes: log(1 + e_1) + log(1 + e_2) + ... = log of a product, whose exponent is moved
// out into `exponents` before it can overflow, so that one logarithm per sentence is enough.
struct LossLanes {
  Vf product, linear;  // linear: sums of max(t, 0) over a window
  Vi exponents;
  Vd linear_low, linear_high;  // the same over the sentence

  W2V_INLINE void clear() {
    product = broadcast(1.0f);
    linear = Vf{};
    exponents = Vi{};
    linear_low = linear_high = Vd{};
  }

  W2V_INLINE void take_exponents(Vf* factors) {
    const Vi bits = reinterpret_cast<Vi>(*factors);
    exponents += (bits >> 23) - 127;
    *factors = reinterpret_cast<Vf>((bits & 0x007FFFFF) | 0x3F800000);
  }

  W2V_INLINE void end_window() {
    linear_low += widen_low(linear);
    linear_high += widen_high(linear);
    linear = Vf{};
  }

  W2V_INLINE double total() const {
    double sum = horizontal_sum<double>(linear_low) + horizontal_sum<double>(linear_high), log_product = 0;
    for (int i = 0; i < kWidth; ++i) {
      sum += 0.6931471805599453 * exponents[i];
      log_product += std::log(static_cast<double>(product[i]));
    }
    return sum + log_product;
  }
};

// In: scores. Out: lr (label - sigmoid(score)). sign[i] is -1 where score i belongs to a positive, +1 for a negative:
// with t = sign * score the loss is max(t, 0) + log(1 + e^-|t|) and its slope in t is sigmoid(t).
W2V_INLINE void logistic(float* scores, const float* sign, int count, float lr, LossLanes* loss) {
  Vi lane;
  for (int i = 0; i < kWidth; ++i) lane[i] = i;
  Vf product = loss->product, linear = loss->linear;
  const Vf zero = Vf{}, one = broadcast(1.0f);
  for (int i = 0; i < count; i += kWidth) {
    const Vi inside = lane < count - i;
    const Vf s = load(sign + i);
    const Vf t = inside ? load(scores + i) * s : broadcast(-1e30f);
    const Vf e = exp_nonpositive(t < zero ? t : -t);
    const Vf one_plus = e + 1.0f;
    store(scores + i, (t < zero ? e : one) / one_plus * s * -lr);
    product *= inside ? one_plus : one;
    linear += t < zero ? zero : t;                                         // so a NaN gets into the loss
    if (i % (64 * kWidth) == 63 * kWidth) loss->take_exponents(&product);  // 64 factors of at most 2: far from 2^127
  }
  loss->take_exponents(&product);
  loss->product = product;
  loss->linear = linear;
}

// scores[m * N + n] = contexts[m] . outputs[n] for M x N rows; writes whole vectors, up to kWidth - 1 floats further.
template <int M, int N>
W2V_INLINE void score_tile(float* const* contexts, float* const* outputs, int64_t padded, float* scores) {
  constexpr int kVectors = (M * N + kWidth - 1) / kWidth;
  Vf sums[kVectors * kWidth] = {};
  for (int64_t d = 0; d < padded; d += kWidth) {
    Vf c[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) c[m] = load(contexts[m] + d);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const Vf o = load(outputs[n] + d);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) sums[m * N + n] += c[m] * o;
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) store(scores + v * kWidth, fold(sums + v * kWidth));
}

template <int N>
W2V_INLINE void score_rows(float* const* contexts, int num_contexts, float* const* outputs, int64_t padded,
                           float* scores) {
  constexpr int kTile = kWidth == 16 ? 4 : 2;  // 32 registers hold 24 sums, 16 hold 12
  int m = 0;
  for (; m + kTile <= num_contexts; m += kTile) score_tile<kTile, N>(contexts + m, outputs, padded, scores + m * N);
  if (kTile == 4 && m + 2 <= num_contexts) {
    score_tile<2, N>(contexts + m, outputs, padded, scores + m * N);
    m += 2;
  }
  if (m < num_contexts) score_tile<1, N>(contexts + m, outputs, padded, scores + m * N);
}

// One context after the other: contexts[m] += sum_n coef[m, n] outputs[n], outputs[n] += coef[m, n] contexts[m], so
// that a context is pulled to where the ones before it have moved the outputs. (Against updates from the old outputs:
// WS353 of 8 seeds better by 0.008 +- 0.003 on the IMDB corpus, at the same speed.) With more outputs than one group,
// the contexts' deltas are kept in `deltas` until the last group.
template <int N, bool kFirst, bool kLast>
W2V_INLINE void update_rows(float* const* contexts, int num_contexts, float* const* outputs, int64_t padded,
                            const float* coef, float* deltas, float* const* ahead) {
  for (int64_t d = 0; d < padded; d += kWidth) {
    if (d % 16 == 0) {
#pragma GCC unroll 8
      for (int n = 0; n < N + kLast; ++n) __builtin_prefetch(ahead[n] + d, 1, 3);
    }
    Vf o[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) o[n] = load(outputs[n] + d);
    for (int m = 0; m < num_contexts; ++m) {
      const Vf c = load(contexts[m] + d);
      Vf even = kFirst ? Vf{} : load(deltas + m * padded + d), odd = Vf{};
      if (kLast) even += c;
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        const float g = coef[m * N + n];
        (n % 2 ? odd : even) += g * o[n];
        o[n] += g * c;
      }
      store(kLast ? contexts[m] + d : deltas + m * padded + d, even + odd);
    }
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) o[n] -= load(outputs[n] + d);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) store(outputs[n] + d, load(outputs[n] + d) + o[n]);  // a row may occur twice
  }
}

// Buffers of one thread, for windows of up to 2 W contexts and sentences of any length.
struct Scratch {
  std::vector<int32_t> kept, windows, places, negatives;
  std::vector<uint64_t> draws;
  std::vector<float*> contexts, outputs, ahead;
  std::vector<float> coef, sign, ones, deltas;

  Scratch(const SgnsParams& p, int64_t padded)
      : contexts(2 * p.window),
        outputs(1 + p.negative),
        ahead(2 + p.negative),
        coef(int64_t{2} * p.window * (1 + p.negative) + 4 * kWidth),
        sign(int64_t{2} * p.window * kGroup + kWidth, 1.0f),
        ones(int64_t{2} * p.window * kGroup + kWidth, 1.0f) {
    const int first = std::min(kGroup, 1 + p.negative);  // of the first group's scores, every first-th is a positive's
    for (size_t i = 0; i < sign.size(); i += first) sign[i] = -1.0f;
    if (1 + p.negative > kGroup) deltas.resize(2 * p.window * padded);
  }

  void reserve(int64_t length, int negative) {
    if (length <= static_cast<int64_t>(kept.size())) return;
    kept.resize(length);
    windows.resize(length);
    places.resize(length);
    negatives.resize(length * negative);
    draws.resize(length * negative);
  }
};

// Calls step.run<N>() with the group's size as a constant.
template <typename Step>
W2V_INLINE void with_group_size(int size, const Step& step) {
  switch (size) {
    case 1:
      return step.template run<1>();
    case 2:
      return step.template run<2>();
    case 3:
      return step.template run<3>();
    case 4:
      return step.template run<4>();
    case 5:
      return step.template run<5>();
    default:
      return step.template run<6>();
  }
}

struct ScoreGroup {
  float* const* contexts;
  int num_contexts;
  float* const* outputs;
  int64_t padded;
  float* scores;

  template <int N>
  W2V_INLINE void run() const {
    score_rows<N>(contexts, num_contexts, outputs, padded, scores);
  }
};

template <bool kFirst, bool kLast>
struct UpdateGroup {
  float* const* contexts;
  int num_contexts;
  float* const* outputs;
  int64_t padded;
  const float* coef;
  float* deltas;
  float* const* ahead;

  template <int N>
  W2V_INLINE void run() const {
    update_rows<N, kFirst, kLast>(contexts, num_contexts, outputs, padded, coef, deltas, ahead);
  }
};

inline void train_window(const SgnsParams& p, int64_t padded, Scratch* s, int num_contexts, float lr, LossLanes* loss) {
  float* const* contexts = s->contexts.data();
  float* const* outputs = s->outputs.data();
  float* const* ahead = s->ahead.data();
  const int num_outputs = 1 + p.negative;
  float* coef = s->coef.data();
  for (int g = 0; g < num_outputs; g += kGroup) {
    const int size = std::min(kGroup, num_outputs - g);
    float* group = coef + g * num_contexts;
    with_group_size(size, ScoreGroup{contexts, num_contexts, outputs + g, padded, group});
    logistic(group, g == 0 ? s->sign.data() : s->ones.data(), size * num_contexts, lr, loss);
  }
  loss->end_window();
  if (num_outputs <= kGroup) {
    with_group_size(num_outputs,
                    UpdateGroup<true, true>{contexts, num_contexts, outputs, padded, coef, nullptr, ahead});
    return;
  }
  float* deltas = s->deltas.data();
  for (int g = 0; g < num_outputs; g += kGroup) {
    const int size = std::min(kGroup, num_outputs - g);
    const float* part = coef + g * num_contexts;
    if (g == 0) {
      UpdateGroup<true, false>{contexts, num_contexts, outputs, padded, part, deltas, ahead}.template run<kGroup>();
    } else if (g + kGroup < num_outputs) {
      UpdateGroup<false, false>{contexts, num_contexts, outputs + g, padded, part, deltas, ahead + g}
          .template run<kGroup>();
    } else {
      with_group_size(size,
                      UpdateGroup<false, true>{contexts, num_contexts, outputs + g, padded, part, deltas, ahead + g});
    }
  }
}

W2V_INLINE float* in_row(const SgnsParams& p, int32_t word) {
  return (static_cast<uint32_t>(word) < p.num_hot ? p.hot_in : p.in) + word * p.stride;
}

W2V_INLINE float* out_row(const SgnsParams& p, int32_t word) {
  return (static_cast<uint32_t>(word) < p.num_hot ? p.hot_out : p.out) + word * p.stride;
}

inline void merge_rows(float* shared, float* own, float* base, int64_t count) {
  for (int64_t i = 0; i < count; i += kWidth) {
    const Vf sum = load(shared + i) + (load(own + i) - load(base + i));
    store(shared + i, sum);
    store(own + i, sum);
    store(base + i, sum);
  }
}

inline void train_sentence(const SgnsParams& p, const int32_t* ids, int64_t length, int64_t offset, Scratch* s,
                           int64_t padded, SgnsStats* stats) {
  const uint64_t key = sentence_key(p.seed, p.epoch, static_cast<uint64_t>(offset));
  const int slots = 1 + p.negative;
  s->reserve(length, p.negative);
  int64_t kept = 0;
  for (int64_t i = 0; i < length; ++i) {
    const int32_t word = ids[i];
    const uint64_t bits = draw(key, static_cast<uint64_t>(i) * slots);
    s->kept[kept] = word;
    s->windows[kept] = 1 + static_cast<int32_t>(below(static_cast<uint32_t>(bits), p.window));
    s->places[kept] = static_cast<int32_t>(i);
    kept += static_cast<uint32_t>(bits >> 32) <= p.keep[word];  // no branch: it would be mispredicted often
  }
  for (int64_t j = 0; j < kept; ++j) {
    const uint64_t first = static_cast<uint64_t>(s->places[j]) * slots + 1;
    for (int k = 0; k < p.negative; ++k) {
      const uint64_t bits = draw(key, first + k);
      s->draws[j * p.negative + k] = bits;
      __builtin_prefetch(p.alias + below(static_cast<uint32_t>(bits >> 32), p.vocab_size));
    }
  }
  for (int64_t j = 0; j < kept; ++j)
    for (int64_t k = j * p.negative; k < (j + 1) * p.negative; ++k)
      s->negatives[k] =
          static_cast<int32_t>(sample_negative(p.alias, p.vocab_size, s->draws[k], static_cast<uint32_t>(s->kept[j])));
  stats->words += kept;
  if (kept < 2) return;

  const double total = static_cast<double>(p.num_ids) * p.epochs;
  const double progress = (static_cast<double>(p.num_ids) * p.epoch + offset) / total;
  const float lr = static_cast<float>(p.lr * std::max(1.0 - progress, 1e-4));
  LossLanes loss;
  loss.clear();
  for (int64_t j = 0; j < kept; ++j) {
    const int64_t next = std::min(j + kAhead, kept - 1);
    s->ahead[0] = out_row(p, s->kept[next]);
    for (int k = 0; k < p.negative; ++k) s->ahead[1 + k] = out_row(p, s->negatives[next * p.negative + k]);
    s->ahead[1 + p.negative] = in_row(p, s->kept[std::min(next + p.window, kept - 1)]);
    const int64_t lo = std::max<int64_t>(0, j - s->windows[j]), hi = std::min(kept - 1, j + s->windows[j]);
    int num_contexts = 0;
    for (int64_t i = lo; i <= hi; ++i)
      if (i != j) s->contexts[num_contexts++] = in_row(p, s->kept[i]);
    s->outputs[0] = out_row(p, s->kept[j]);
    for (int k = 0; k < p.negative; ++k) s->outputs[1 + k] = out_row(p, s->negatives[j * p.negative + k]);
    train_window(p, padded, s, num_contexts, lr, &loss);
    stats->pairs += num_contexts;
  }
  stats->loss += loss.total();
}

inline void train_sgns(const SgnsParams& p, int64_t begin, int64_t end, SgnsStats* stats) {
  const int64_t padded = (p.dim + kWidth - 1) / kWidth * kWidth;
  Scratch scratch(p, padded);
  SgnsStats sums;  // on this thread's own stack: the threads' results share cache lines
  int64_t i = begin;
  if (i > 0)  // the sentence that runs into this stretch belongs to the one before
    while (i < end && p.ids[i - 1] >= 0) ++i;
  while (i < end) {
    int64_t stop = i;
    while (stop < p.num_ids && static_cast<uint32_t>(p.ids[stop]) < p.vocab_size) ++stop;
    if (stop < p.num_ids && p.ids[stop] >= 0)
      throw std::out_of_range("ids: word " + std::to_string(p.ids[stop]) + " at position " + std::to_string(stop) +
                              " is out of range for in_weight with " + std::to_string(p.vocab_size) + " rows");
    train_sentence(p, p.ids + i, stop - i, i, &scratch, padded, &sums);
    i = stop + 1;
  }
  stats->loss += sums.loss;
  stats->pairs += sums.pairs;
  stats->words += sums.words;
}
