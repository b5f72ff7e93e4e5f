// Skip-gram with negative sampling over a stretch of the corpus, updated in place (one thread; Hogwild between
// threads).
//
// A window is one small matrix product: its M contexts (rows of in) against N = 1 + K outputs (the centre's row of out
// and K negatives that all contexts share, as in pWord2Vec, Ji et al. 2016). Three passes over it:
//   scores    tiles of kTile x 6 dot products in registers, then one shuffle tree per vector of scores
//   logistic  e^-|s| once, giving the coefficient lr (label - sigmoid(s)) and the loss
//   update    per vector of D: N outputs and N deltas in registers, each context read, moved and written once
// Arithmetic: 3 N D multiply-adds per pair, 18 D at K = 5, so 2 x 16 lanes need 57 cycles per pair at D = 100 (padded
// to 112 -> 63). Memory: each context row stays in L1 for the 2 W windows it is in; N rows of out per window come from
// L2 or beyond and are prefetched kAhead windows early.
//
// Within a window all gradients are taken at the scores' weights; rows met twice in one window get both updates.

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

// outputs[n] += sum_m coef[m, n] contexts[m]; contexts[m] += sum_n coef[m, n] outputs[n], both from the old values.
// With more outputs than one group, the contexts' deltas are kept in `deltas` until the last group.
template <int N>
W2V_INLINE void update_rows(float* const* contexts, int num_contexts, float* const* outputs, int64_t padded,
                            const float* coef, bool first, bool last, float* deltas) {
  for (int64_t d = 0; d < padded; d += kWidth) {
    Vf o[N], delta[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      o[n] = load(outputs[n] + d);
      delta[n] = Vf{};
    }
    for (int m = 0; m < num_contexts; ++m) {
      const Vf c = load(contexts[m] + d);
      Vf even = Vf{}, odd = Vf{};
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        const float g = coef[m * N + n];
        (n % 2 ? odd : even) += g * o[n];
        delta[n] += g * c;
      }
      Vf moved = even + odd;
      if (!first) moved += load(deltas + m * padded + d);
      if (last) {
        store(contexts[m] + d, c + moved);
      } else {
        store(deltas + m * padded + d, moved);
      }
    }
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) store(outputs[n] + d, load(outputs[n] + d) + delta[n]);  // a row may occur twice
  }
}

// The loss of many scores, kept in lanes: log(1 + e_1) + log(1 + e_2) + ... = log of a product, whose exponent is moved
// out into `exponents` before it can overflow, so that one logarithm per sentence is enough.
struct LossLanes {
  Vf product;
  Vi exponents;
  Vd linear_low, linear_high;  // sums of max(t, 0)

  W2V_INLINE void clear() {
    product = broadcast(1.0f);
    exponents = Vi{};
    linear_low = linear_high = Vd{};
  }

  W2V_INLINE void flush_window(Vf linear) {
    const Vi bits = reinterpret_cast<Vi>(product);
    exponents += (bits >> 23) - 127;
    product = reinterpret_cast<Vf>((bits & 0x007FFFFF) | 0x3F800000);
    for (int i = 0; i < kWidth / 2; ++i) {
      linear_low[i] += linear[i];
      linear_high[i] += linear[i + kWidth / 2];
    }
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
  Vf linear = Vf{};
  Vi lane;
  for (int i = 0; i < kWidth; ++i) lane[i] = i;
  for (int i = 0; i < count; i += kWidth) {
    const Vi inside = lane < count - i;
    const Vf s = load(sign + i);
    Vf t = load(scores + i) * s;
    t = inside ? t : broadcast(-1e30f);
    const Vf zero = Vf{};
    const Vf e = exp_nonpositive(t < zero ? t : -t);
    const Vf one_plus = e + 1.0f;
    const Vf slope = (t < zero ? e : broadcast(1.0f)) / one_plus;
    store(scores + i, slope * s * -lr);
    loss->product *= inside ? one_plus : broadcast(1.0f);
    linear += t < zero ? zero : t;  // so a NaN gets into the loss
    if ((i / kWidth) % 64 == 63) {  // 64 factors of at most 2 each: far from 2^127
      loss->flush_window(linear);
      linear = Vf{};
    }
  }
  loss->flush_window(linear);
}

// Buffers of one thread, for windows of up to 2 W contexts and sentences of any length.
struct Scratch {
  std::vector<int32_t> kept, windows, negatives;
  std::vector<float*> contexts, outputs;
  std::vector<float> scores, sign, deltas;

  Scratch(const SgnsParams& p, int64_t padded)
      : contexts(2 * p.window), outputs(1 + p.negative), scores(2 * p.window * (1 + p.negative) + 4 * kWidth) {
    const int groups = (p.negative + kGroup) / kGroup, first = std::min(kGroup, 1 + p.negative);
    sign.assign(2 * p.window * kGroup + kWidth, 1.0f);
    for (int m = 0; m < 2 * p.window; ++m) sign[m * first] = -1.0f;
    if (groups > 1) deltas.resize(2 * p.window * padded);
  }
};

W2V_INLINE void prefetch_row(const float* row, int64_t dim) {
  for (int64_t d = 0; d < dim; d += 16) __builtin_prefetch(row + d, 1, 3);
}

#define W2V_FOR_GROUP(size, call) \
  switch (size) {                 \
    case 1:                       \
      call(1) break;              \
    case 2:                       \
      call(2) break;              \
    case 3:                       \
      call(3) break;              \
    case 4:                       \
      call(4) break;              \
    case 5:                       \
      call(5) break;              \
    default:                      \
      call(6) break;              \
  }

inline void train_window(const SgnsParams& p, int64_t padded, Scratch* s, int num_contexts, const float* ones, float lr,
                         LossLanes* loss) {
  float* const* contexts = s->contexts.data();
  float* const* outputs = s->outputs.data();
  const int num_outputs = 1 + p.negative;
  float* scores = s->scores.data();
  for (int g = 0; g < num_outputs; g += kGroup) {
    const int size = std::min(kGroup, num_outputs - g);
    float* group = scores + g * num_contexts;
#define W2V_SCORE(N) score_rows<N>(contexts, num_contexts, outputs + g, padded, group);
    W2V_FOR_GROUP(size, W2V_SCORE)
#undef W2V_SCORE
    logistic(group, g == 0 ? s->sign.data() : ones, size * num_contexts, lr, loss);
  }
  for (int g = 0; g < num_outputs; g += kGroup) {
    const int size = std::min(kGroup, num_outputs - g);
    const float* coef = scores + g * num_contexts;
    const bool last = g + kGroup >= num_outputs;
#define W2V_UPDATE(N) update_rows<N>(contexts, num_contexts, outputs + g, padded, coef, g == 0, last, s->deltas.data());
    W2V_FOR_GROUP(size, W2V_UPDATE)
#undef W2V_UPDATE
  }
}

inline void train_sentence(const SgnsParams& p, const int32_t* ids, int64_t length, int64_t offset, Scratch* s,
                           const float* ones, int64_t padded, SgnsStats* stats) {
  const uint64_t key = sentence_key(p.seed, p.epoch, static_cast<uint64_t>(offset));
  const int slots = 1 + p.negative;
  s->kept.clear();
  s->windows.clear();
  s->negatives.clear();
  for (int64_t i = 0; i < length; ++i) {
    const int32_t word = ids[i];
    const uint64_t bits = draw(key, static_cast<uint64_t>(i) * slots);
    if (static_cast<uint32_t>(bits >> 32) > p.keep[word]) continue;
    s->kept.push_back(word);
    s->windows.push_back(1 + static_cast<int32_t>(below(static_cast<uint32_t>(bits), p.window)));
    for (int k = 1; k < slots; ++k) {
      const uint64_t noise = draw(key, static_cast<uint64_t>(i) * slots + k);
      s->negatives.push_back(static_cast<int32_t>(sample_negative(p.alias, p.vocab_size, noise, word)));
    }
  }
  const int64_t kept = static_cast<int64_t>(s->kept.size());
  stats->words += kept;
  if (kept < 2) return;

  const double total = static_cast<double>(p.num_ids) * p.epochs;
  const double progress = (static_cast<double>(p.num_ids) * p.epoch + offset) / total;
  const float lr = static_cast<float>(p.lr * std::max(1.0 - progress, 1e-4));
  LossLanes loss;
  loss.clear();
  for (int64_t j = 0; j < kept; ++j) {
    if (j + kAhead < kept) {
      for (int k = 0; k < p.negative; ++k)
        prefetch_row(p.out + s->negatives[(j + kAhead) * p.negative + k] * p.stride, p.dim);
      prefetch_row(p.out + s->kept[j + kAhead] * p.stride, p.dim);
    }
    if (j + kAhead + p.window < kept) prefetch_row(p.in + s->kept[j + kAhead + p.window] * p.stride, p.dim);
    const int64_t lo = std::max<int64_t>(0, j - s->windows[j]), hi = std::min(kept - 1, j + s->windows[j]);
    int num_contexts = 0;
    for (int64_t i = lo; i <= hi; ++i)
      if (i != j) s->contexts[num_contexts++] = p.in + s->kept[i] * p.stride;
    s->outputs[0] = p.out + s->kept[j] * p.stride;
    for (int k = 0; k < p.negative; ++k) s->outputs[1 + k] = p.out + s->negatives[j * p.negative + k] * p.stride;
    train_window(p, padded, s, num_contexts, ones, lr, &loss);
    stats->pairs += num_contexts;
  }
  stats->loss += loss.total();
}

inline void train_sgns(const SgnsParams& p, int64_t begin, int64_t end, SgnsStats* stats) {
  const int64_t padded = (p.dim + kWidth - 1) / kWidth * kWidth;
  Scratch scratch(p, padded);
  const std::vector<float> ones(2 * p.window * kGroup + kWidth, 1.0f);
  int64_t i = begin;
  if (i > 0)  // the sentence that runs into this stretch belongs to the one before
    while (i < end && p.ids[i - 1] >= 0) ++i;
  while (i < end) {
    int64_t stop = i;
    while (stop < p.num_ids && static_cast<uint32_t>(p.ids[stop]) < p.vocab_size) ++stop;
    if (stop < p.num_ids && p.ids[stop] >= 0)
      throw std::out_of_range("ids: word " + std::to_string(p.ids[stop]) + " at position " + std::to_string(stop) +
                              " is out of range for in_weight with " + std::to_string(p.vocab_size) + " rows");
    train_sentence(p, p.ids + i, stop - i, i, &scratch, ones.data(), padded, stats);
    i = stop + 1;
  }
}
