// The arithmetic of one block: M contexts (rows of in) against N outputs (rows of out), of which score (m, n) has the
// weight weights[m * N + n]: -1 for a pair of the corpus, +c for a negative that stands for c windows, 0 for none.
//
//   score_rows   tiles of dot products in registers, folded to one vector of scores, and from it, still in registers,
//                the loss and the coefficients lr (label - sigmoid(score))
//   update_rows  per vector of D: N outputs in registers, each context read, moved and written once, moving the outputs

constexpr int kGroup = W2V_WIDTH == 16 ? 16 : 9;  // most outputs in registers at a time
constexpr int kSums = W2V_WIDTH == 16 ? 28 : 12;  // most sums of a tile

// log(1 + e) for 0 <= e <= 1, to 2e-7 of it.
template <int V>
W2V_INLINE void log1p_unit(const Vf (&e)[V], Vf (&p)[V]) {
  W2V_EACH(v) p[v] = e[v] * 0.00538405497f - 0.0301109385f;
  W2V_EACH(v) p[v] = p[v] * e[v] + 0.0792106986f;
  W2V_EACH(v) p[v] = p[v] * e[v] - 0.137466192f;
  W2V_EACH(v) p[v] = p[v] * e[v] + 0.191451147f;
  W2V_EACH(v) p[v] = p[v] * e[v] - 0.248529449f;
  W2V_EACH(v) p[v] = p[v] * e[v] + 0.333203435f;
  W2V_EACH(v) p[v] = p[v] * e[v] - 0.49999553f;
  W2V_EACH(v) p[v] = (p[v] * e[v] + 1.0f) * e[v];
}

// Of kGroup outputs or fewer, N are trained with kTile<N> contexts at a time; a tile's scores, and later its
// coefficients, fill whole vectors: score (m, n) stands at (m / kTile) * kTileFloats + (m % kTile) * N + n.
template <int N>
constexpr int kTile = N > kSums / 2   ? 1
                      : N > kSums / 3 ? 2
                      : N > kSums / 4 ? 3
                                      : 4;
template <int N>
constexpr int kTileFloats = (kTile<N> * N + kWidth - 1) / kWidth * kWidth;
constexpr int kTogether = 4;  // vectors of scores that go through `logistic` side by side, to hide its latency

// From scores to coefficients lr (label - sigmoid(score)), in place. With t = -score where it should be high (w < 0)
// and score where low, the loss is |w| (max(t, 0) + log(1 + e^-|t|)) and its slope in t |w| sigmoid(t).
template <int kAtOnce = kTogether>
W2V_INLINE void logistic(float* scores, const float* weights, int count, Vf minus_lr, Vf* loss) {
  const Vf zero = Vf{}, one = broadcast(1.0f);
  Vf sum = *loss;
  for (int i = 0; i < count; i += kAtOnce * kWidth) {
    Vf w[kAtOnce], t[kAtOnce], e[kAtOnce], l[kAtOnce];
#pragma GCC unroll 4
    for (int v = 0; v < kAtOnce; ++v) {
      w[v] = load(weights + i + v * kWidth);
      t[v] = reinterpret_cast<Vf>(reinterpret_cast<Vi>(load(scores + i + v * kWidth)) ^
                                  (reinterpret_cast<Vi>(w[v]) & INT32_MIN));
      e[v] = reinterpret_cast<Vf>(reinterpret_cast<Vi>(t[v]) | INT32_MIN);
    }
    exp_nonpositive(e);
#pragma GCC unroll 4
    for (int v = 0; v < kAtOnce; ++v)
      store(scores + i + v * kWidth, (t[v] < zero ? e[v] : one) / (e[v] + 1.0f) * (w[v] * minus_lr));
    log1p_unit(e, l);
#pragma GCC unroll 4
    for (int v = 0; v < kAtOnce; ++v) {
      const Vf size = reinterpret_cast<Vf>(reinterpret_cast<Vi>(w[v]) & INT32_MAX);
      sum += size * ((t[v] < zero ? zero : t[v]) + l[v]);  // so a NaN gets into the loss
    }
  }
  *loss = sum;
}

// The scores of one tile; lanes behind them are left with copies of others.
template <int M, int N>
W2V_INLINE void score_tile(float* const* contexts, float* const* outputs, int64_t padded, float* scores) {
  constexpr int kCount = M * N, kFull = kCount / kWidth, kRest = kCount % kWidth;
  Vf sums[kCount] = {};
  for (int64_t d = 0; d < padded; d += kWidth) {
    Vf c[M];
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) c[m] = load(contexts[m] + d);
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      const Vf o = load(outputs[n] + d);
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) sums[m * N + n] += c[m] * o;
    }
  }
#pragma GCC unroll 16
  for (int v = 0; v < kFull; ++v) store(scores + v * kWidth, fold<kWidth>(sums + v * kWidth));
  if constexpr (kRest > 0) store(scores + kFull * kWidth, fold<kRest>(sums + kFull * kWidth));
}

template <int N, int kAtOnce = kTogether>
W2V_INLINE void score_rows(float* const* contexts, int num_contexts, float* const* outputs, int64_t padded,
                           const float* weights, float* coef, Vf minus_lr, Vf* loss) {
  constexpr int kStep = kTile<N>;
  float* at = coef;
  int m = 0;
  for (; m + kStep <= num_contexts; m += kStep, at += kTileFloats<N>)
    score_tile<kStep, N>(contexts + m, outputs, padded, at);
  if (kStep > 3 && num_contexts - m == 3) score_tile<3, N>(contexts + m, outputs, padded, at);
  if (kStep > 2 && num_contexts - m == 2) score_tile<2, N>(contexts + m, outputs, padded, at);
  if (kStep > 1 && num_contexts - m == 1) score_tile<1, N>(contexts + m, outputs, padded, at);
  const int last = ((num_contexts - m) * N + kWidth - 1) / kWidth * kWidth;
  logistic<kAtOnce>(coef, weights, static_cast<int>(at - coef) + last, minus_lr, loss);
}

// One context after the other: contexts[m] += sum_n coef[m, n] outputs[n], outputs[n] += coef[m, n] contexts[m], so
// that a context is pulled to where the ones before it have moved the outputs. (Against updates from the old outputs:
// WS353 of 8 seeds better by 0.008 +- 0.003 on the IMDB corpus, at the same speed.) With more outputs than one group,
// the contexts' deltas are kept in `deltas` until the last group. The rows `ahead` are prefetched on the way.
template <int N, int kVectors, bool kFirst, bool kLast>
W2V_INLINE void update_columns(float* const* contexts, int num_contexts, float* const* outputs, int64_t padded,
                               const float* coef, float* deltas, float* const* ahead, int64_t d) {
#pragma GCC unroll 4
  for (int64_t at = d; at < d + kVectors * kWidth; at += kWidth) {
    if (at % 16 == 0) {
#pragma GCC unroll 32
      for (int n = 0; n < N + (kLast ? kBlock : 0); ++n) __builtin_prefetch(ahead[n] + at, 1, 3);
    }
  }
  Vf o[N][kVectors];
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) o[n][v] = load(outputs[n] + d + v * kWidth);
  const auto one_context = [&](int m, const float* g) __attribute__((always_inline)) {
    float* target = kLast ? contexts[m] + d : deltas + m * padded + d;
    Vf c[kVectors], even[kVectors], odd[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      c[v] = load(contexts[m] + d + v * kWidth);
      even[v] = kFirst ? Vf{} : load(deltas + m * padded + d + v * kWidth);
      if (kLast) even[v] += c[v];
      odd[v] = Vf{};
    }
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      const Vf slope = broadcast(g[n]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        (n % 2 ? odd[v] : even[v]) += slope * o[n][v];
        o[n][v] += slope * c[v];
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(target + v * kWidth, even[v] + odd[v]);
  };
  constexpr int kStep = kTile<N>;
  const float* tile = coef;
  int m = 0;
  for (; m + kStep <= num_contexts; m += kStep, tile += kTileFloats<N>)
#pragma GCC unroll 4
    for (int i = 0; i < kStep; ++i) one_context(m + i, tile + i * N);
  for (int i = 0; m + i < num_contexts; ++i) one_context(m + i, tile + i * N);
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(outputs[n] + d + v * kWidth, o[n][v]);
}

template <int N, bool kFirst, bool kLast>
W2V_INLINE void update_rows(float* const* contexts, int num_contexts, float* const* outputs, int64_t padded,
                            const float* coef, float* deltas, float* const* ahead) {
  constexpr int kVectors = kWidth == 16 && N <= 8 ? 2 : 1;
  int64_t d = 0;
  for (; d + kVectors * kWidth <= padded; d += kVectors * kWidth)
    update_columns<N, kVectors, kFirst, kLast>(contexts, num_contexts, outputs, padded, coef, deltas, ahead, d);
  if (kVectors > 1 && d < padded)
    update_columns<N, 1, kFirst, kLast>(contexts, num_contexts, outputs, padded, coef, deltas, ahead, d);
}

// Calls step.run<N>() with the group's size, 1 to kGroup, as a constant.
template <int N = 1, typename Step>
W2V_INLINE void with_group_size(int size, const Step& step) {
  if constexpr (N == kGroup) {
    step.template run<N>();
  } else {
    size == N ? step.template run<N>() : with_group_size<N + 1>(size, step);
  }
}

struct Collision {
  int output, center;  // this output, a negative, is the same row as this centre
};

// One group of a block's outputs.
struct Group {
  float* const* contexts;
  int num_contexts, most_contexts;
  int64_t padded;
  const int32_t* masks;
  float* deltas;
  float lr;
  const float (*table)[16] = nullptr;
  float* const* outputs = nullptr;
  float* const* ahead = nullptr;
  float* weights = nullptr;
  float* coef = nullptr;

  // Lays out the rows of the table that belong to the contexts' masks. Always to the most contexts that there can be: a
  // loop that ends at the same place each time. Masks behind the last context are 0, and so are the weights.
  template <int N>
  W2V_INLINE void fill_weights() const {
    constexpr int kStep = kTile<N>;
    Vi lane;
    for (int i = 0; i < kWidth; ++i) lane[i] = i;
    for (int m = 0; m < most_contexts; ++m) {
      float* row = weights + m / kStep * kTileFloats<N> + m % kStep * N;
#pragma GCC unroll 4
      for (int n = 0; n < N; n += kWidth) store(row + n, lane < N - n ? load(table[masks[m]] + n) : Vf{});
    }
  }

  template <int N>
  void score(const std::vector<Collision>& collisions, int first, Vf* loss) const {
    fill_weights<N>();
    for (const Collision& c : collisions)
      if (c.output >= first && c.output < first + N)
        for (int m = 0; m < num_contexts; ++m)
          weights[m / kTile<N> * kTileFloats<N> + m % kTile<N> * N + c.output - first] -=
              static_cast<float>(masks[m] >> c.center & 1);
    Vf sum = *loss;
    score_rows<N>(contexts, num_contexts, outputs, padded, weights, coef, broadcast(-lr), &sum);
    *loss = sum;
  }
  template <int N, bool kFirst, bool kLast>
  void update() const {
    update_rows<N, kFirst, kLast>(contexts, num_contexts, outputs, padded, coef, deltas, ahead);
  }
};

struct WholeBlock {
  const Group& group;
  const std::vector<Collision>& collisions;
  Vf* loss;
  template <int N>
  W2V_INLINE void run() const {
    group.score<N>(collisions, 0, loss);
    group.update<N, true, true>();
  }
};

struct ScoreGroup {
  const Group& group;
  const std::vector<Collision>& collisions;
  int first;
  Vf* loss;
  template <int N>
  W2V_INLINE void run() const {
    group.score<N>(collisions, first, loss);
  }
};

struct UpdateLastGroup {
  const Group& group;
  template <int N>
  W2V_INLINE void run() const {
    group.update<N, false, true>();
  }
};
