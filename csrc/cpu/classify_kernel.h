// Linear classification of text (Joulin et al. 2017, fastText): the mean h of the n rows of a line, scores out h, then
// softmax over the labels (to one of the line's, drawn), one sigmoid per label (one against all), or one per inner node
// on the way to the drawn label (hierarchical softmax). One step of SGD: out += a h^T, and each of the rows gets
// out^T a / n, with a = lr (target - prediction) taken at the weights before the step.
//
// Bound: a row costs 2 D additions, 0.17 FLOP per byte of the 12 D bytes that are read for the mean, read again and
// written for the step. The second reading and the writing meet L2, where a line of 466 rows of 448 bytes (D = 100)
// has come to lie. So what counts is the way of the rows that L2 does not hold, those of most n-grams, from L3 or
// memory and back: 8 D bytes each. While a line is trained, the rows of the next one are prefetched, one at each row,
// so that they arrive while the core adds.

constexpr int kStripe = W2V_WIDTH == 4 ? 6 : 8;  // vectors of D that a loop over rows holds in registers

W2V_INLINE float* input_row(const ClassifyParams& p, int32_t row) {
  return (static_cast<uint32_t>(row) < p.num_hot ? p.hot_in : p.in) + row * p.stride;
}

// sum[d...] = sum of the rows' columns d to d + kVectors * kWidth.
template <int kVectors, typename Ahead>
W2V_INLINE void sum_stripe(const ClassifyParams& p, const LineRows& line, int64_t d, float* sum, const Ahead& ahead) {
  Vf acc[kVectors] = {};
  for (int64_t r = 0; r < line.count; ++r) {
    const float* const row = input_row(p, line.rows[r]) + d;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) acc[v] += load(row + v * kWidth);
    ahead();
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) store(sum + d + v * kWidth, acc[v]);
}

template <int kVectors, typename Ahead>
W2V_INLINE void add_stripe(const ClassifyParams& p, const LineRows& line, int64_t d, const float* step,
                           const Ahead& ahead) {
  Vf g[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) g[v] = load(step + d + v * kWidth);
  for (int64_t r = 0; r < line.count; ++r) {
    float* const row = input_row(p, line.rows[r]) + d;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) store(row + v * kWidth, load(row + v * kWidth) + g[v]);
    ahead();
  }
}

// Calls body.run<kVectors>(d) for stripes of kStripe vectors, and the last one for what is left.
template <int N = kStripe, typename Body>
W2V_INLINE void with_vectors(int64_t vectors, int64_t d, const Body& body) {
  if constexpr (N == 1) {
    body.template run<1>(d);
  } else {
    vectors >= N ? body.template run<N>(d) : with_vectors<N - 1>(vectors, d, body);
  }
}
template <typename Body>
W2V_INLINE void each_stripe(int64_t padded, const Body& body) {
  for (int64_t d = 0; d < padded; d += kStripe * kWidth) with_vectors((padded - d) / kWidth, d, body);
}

// Fetches the rows of a line to come, one at a call.
struct Fetcher {
  const ClassifyParams& p;
  const int32_t* row = nullptr;
  const int32_t* end = nullptr;

  W2V_INLINE void fetch() {
    if (row == end) return;
    const float* const at = input_row(p, *row++);
    for (int64_t d = 0; d < p.stride; d += 16) __builtin_prefetch(at + d, 0, 2);
  }
};

template <typename Ahead>
struct SumRows {
  const ClassifyParams& p;
  const LineRows& line;
  float* sum;
  const Ahead& ahead;
  template <int kVectors>
  W2V_INLINE void run(int64_t d) const {
    if (d == 0) {
      sum_stripe<kVectors>(p, line, d, sum, ahead);
    } else {
      sum_stripe<kVectors>(p, line, d, sum, []() __attribute__((always_inline)) {});
    }
  }
};

template <typename Ahead>
struct AddToRows {
  const ClassifyParams& p;
  const LineRows& line;
  const float* step;
  const Ahead& ahead;
  template <int kVectors>
  W2V_INLINE void run(int64_t d) const {
    if (d == 0) {
      add_stripe<kVectors>(p, line, d, step, ahead);
    } else {
      add_stripe<kVectors>(p, line, d, step, []() __attribute__((always_inline)) {});
    }
  }
};

// step[d...] = sum of slope[n] outputs[n], and outputs[n] += slope[n] hidden.
struct UpdateOutputs {
  float* const* outputs;
  int64_t count;
  const float* slope;
  const float* hidden;
  float scale;
  float* step;
  template <int kVectors>
  W2V_INLINE void run(int64_t d) const {
    Vf h[kVectors], g[kVectors] = {};
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) h[v] = load(hidden + d + v * kWidth);
    for (int64_t n = 0; n < count; ++n) {
      float* const row = outputs[n] + d;
      const Vf a = broadcast(slope[n]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const Vf o = load(row + v * kWidth);
        g[v] += a * o;
        store(row + v * kWidth, o + a * h[v]);
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) store(step + d + v * kWidth, g[v] * scale);
  }
};

// Buffers of one thread.
struct ClassifyScratch {
  LineRows lines[2];
  std::vector<float> memory;
  std::vector<float*> all_outputs, path_outputs;
  float *hidden, *step;  // (D,) padded
  float* scores;         // of the labels, or of the nodes on a path, padded to whole vectors
  float* targets;
  int64_t padded;

  ClassifyScratch(const ClassifyParams& p, int64_t longest)
      : padded((p.dim + kWidth - 1) / kWidth * kWidth), path_outputs_size_(std::max<int64_t>(longest, 1)) {
    const int64_t outputs = (std::max<int64_t>(p.num_out, path_outputs_size_) + 15) / 16 * 16 + 16;
    memory.resize(2 * padded + 2 * outputs + 64);
    hidden = memory.data() + (-reinterpret_cast<uintptr_t>(memory.data()) / sizeof(float)) % 16;
    step = hidden + (padded + 15) / 16 * 16;
    scores = step + (padded + 15) / 16 * 16;
    targets = scores + outputs;
    if (p.loss == LabelLoss::kHierarchical) {
      path_outputs.resize(path_outputs_size_);
    } else {
      all_outputs.resize(p.num_out);
      for (int64_t n = 0; n < p.num_out; ++n) all_outputs[n] = p.out + n * p.stride;
    }
  }

 private:
  int64_t path_outputs_size_;
};

template <int N>
W2V_INLINE void score_outputs(float* const* outputs, int64_t count, const float* hidden, int64_t padded,
                              float* scores) {
  float* row[N];
  for (int n = 0; n < N; ++n) row[n] = outputs[std::min<int64_t>(n, count - 1)];
  Vf sums[N] = {};
  for (int64_t d = 0; d < padded; d += kWidth) {
    const Vf h = load(hidden + d);
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) sums[n] += load(row[n] + d) * h;
  }
  store(scores, fold<N>(sums));
}

// scores[n] = outputs[n] . hidden; lanes behind them are left with copies of others.
inline void score_all(float* const* outputs, int64_t count, const float* hidden, int64_t padded, float* scores) {
  constexpr int kFew = kWidth == 16 ? 4 : 2;
  int64_t n = 0;
  for (; count - n > kFew; n += kWidth)
    score_outputs<kWidth>(outputs + n, std::min<int64_t>(kWidth, count - n), hidden, padded, scores + n);
  if (n < count) score_outputs<kFew>(outputs + n, count - n, hidden, padded, scores + n);
}

// scores -> probabilities, in place; gives log sum exp.
inline float softmax(float* scores, int64_t count) {
  float most = scores[0];
  for (int64_t n = 1; n < count; ++n) most = std::max(most, scores[n]);
  double sum = 0;
  for (int64_t n = 0; n < count; n += kWidth) {
    Vf e[1] = {load(scores + n) - most};
    exp_nonpositive(e);
    store(scores + n, e[0]);
    for (int64_t i = n; i < std::min<int64_t>(n + kWidth, count); ++i) sum += scores[i];
  }
  const float scale = static_cast<float>(1 / sum);
  for (int64_t n = 0; n < count; n += kWidth) store(scores + n, load(scores + n) * scale);
  return most + static_cast<float>(std::log(sum));
}

// scores -> sigmoids, in place; with targets (0 or 1), gives the sum of log(1 + e^-score) where 1, of
// log(1 + e^score) where 0.
inline double sigmoids(float* scores, const float* targets, int64_t count) {
  const Vf zero = Vf{}, one = broadcast(1.0f);
  double loss = 0;
  for (int64_t n = 0; n < count; n += kWidth) {
    const Vf s = load(scores + n);
    Vf e[1] = {reinterpret_cast<Vf>(reinterpret_cast<Vi>(s) | INT32_MIN)}, l[1];
    exp_nonpositive(e);
    store(scores + n, (s < zero ? e[0] : one) / (e[0] + 1.0f));
    if (targets == nullptr) continue;
    log1p_unit(e, l);
    const Vf t = load(targets + n) > zero ? -s : s;
    const Vf losses = (t < zero ? zero : t) + l[0];  // so a NaN gets into the loss
    for (int64_t i = n; i < std::min<int64_t>(n + kWidth, count); ++i) loss += losses[i - n];
  }
  return loss;
}

// What a line moves rows by, over their distance from where it would have them: the learning rate times the curvature
// of its loss, p (1 - p) for each output, along the output (times |h|^2) and along h (times |output|^2; what the rows
// of a line do together, a mean of n, counts as 1 / n).
inline void measure_steps(const ClassifyScratch& s, float* const* outputs, int64_t count, float lr, float scale,
                          ClassifyStats* stats) {
  const auto squared = [&](const float* row) {
    Vf sum = Vf{};
    for (int64_t d = 0; d < s.padded; d += kWidth) sum += load(row + d) * load(row + d);
    return horizontal_sum<float>(sum);
  };
  float most = 0, along_hidden = 0;
  for (int64_t n = 0; n < count; ++n) {
    const float slope = std::abs(s.scores[n]), curvature = slope * (1 - slope / lr);
    most = std::max(most, curvature);
    along_hidden += curvature * squared(outputs[n]);
  }
  stats->moved_out += most * squared(s.hidden);
  stats->moved_in += along_hidden * scale;
}

// From hidden to the step of the rows; the outputs are moved. Gives the loss.
inline double train_outputs(const ClassifyParams& p, const ClassifyTraining& t, int64_t line, float lr, float scale,
                            ClassifyScratch* s, ClassifyStats* stats) {
  const int64_t first = line > 0 ? t.label_ends[line - 1] : 0;
  const auto num_labels = static_cast<uint32_t>(t.label_ends[line] - first);
  const int32_t* const labels = t.labels + first;
  if (num_labels == 0) bad_index("order", line, "lines that have a label, which are", 0);
  for (uint32_t i = 0; i < num_labels; ++i)
    if (static_cast<uint32_t>(labels[i]) >= p.num_labels) bad_index("labels", labels[i], "the labels", p.num_labels);
  const uint64_t key = sentence_key(t.seed, t.epoch, static_cast<uint64_t>(line));
  const int32_t label = labels[num_labels > 1 ? below(static_cast<uint32_t>(draw(key, 0) >> 32), num_labels) : 0];

  float* const* outputs = s->all_outputs.data();
  int64_t count = p.num_out;
  double loss = 0;
  if (p.loss == LabelLoss::kSoftmax) {
    score_all(outputs, count, s->hidden, s->padded, s->scores);
    const float wanted = s->scores[label];
    loss = softmax(s->scores, count) - wanted;
    for (int64_t n = 0; n < count; ++n) s->scores[n] = -lr * s->scores[n];
    s->scores[label] += lr;
  } else {
    if (p.loss == LabelLoss::kOneVsAll) {
      std::fill(s->targets, s->targets + count, 0.0f);
      for (uint32_t i = 0; i < num_labels; ++i) s->targets[labels[i]] = 1.0f;
    } else {
      const int64_t begin = label > 0 ? t.path_ends[label - 1] : 0;
      count = t.path_ends[label] - begin;
      for (int64_t n = 0; n < count; ++n) {
        const int32_t node = t.path[begin + n] >> 1;
        if (static_cast<uint32_t>(node) >= p.num_out) bad_index("path", node, "out_weight", p.num_out);
        s->path_outputs[n] = p.out + node * p.stride;
        s->targets[n] = static_cast<float>(t.path[begin + n] & 1);
      }
      outputs = s->path_outputs.data();
    }
    score_all(outputs, count, s->hidden, s->padded, s->scores);
    loss = sigmoids(s->scores, s->targets, count);
    for (int64_t n = 0; n < count; ++n) s->scores[n] = lr * (s->targets[n] - s->scores[n]);
  }
  if (t.measure) measure_steps(*s, outputs, count, lr, scale, stats);
  each_stripe(s->padded, UpdateOutputs{outputs, count, s->scores, s->hidden, scale, s->step});
  return loss;
}

inline void mean_of_rows(const ClassifyParams& p, const LineRows& line, ClassifyScratch* s) {
  const float scale = 1.0f / static_cast<float>(line.inputs);
  for (int64_t d = 0; d < s->padded; ++d) s->hidden[d] *= scale;
}

inline void train_lines(const ClassifyParams& p, const ClassifyTraining& t, int64_t begin, int64_t end,
                        ClassifyStats* stats) {
  int64_t longest = 0;
  if (p.loss == LabelLoss::kHierarchical)
    for (int64_t l = 0; l < p.num_labels; ++l)
      longest = std::max(longest, t.path_ends[l] - (l > 0 ? t.path_ends[l - 1] : 0));
  ClassifyScratch s(p, longest);
  ClassifyStats sums;  // on this thread's own stack: the threads' results share cache lines
  const auto gather = [&](int64_t i) {
    const int64_t line = t.order[i];
    if (static_cast<uint64_t>(line) >= static_cast<uint64_t>(p.num_lines))
      bad_index("order", line, "ends", p.num_lines);
    gather_rows(p, line, &s.lines[i % 2]);
  };
  if (begin < end) gather(begin);
  for (int64_t i = begin; i < end; ++i) {
    const LineRows& line = s.lines[i % 2];
    Fetcher fetcher{p};
    if (i + 1 < end) {
      gather(i + 1);
      const LineRows& next = s.lines[(i + 1) % 2];
      fetcher.row = next.rows.data();
      fetcher.end = fetcher.row + next.count;
    }
    if (line.count == 0) continue;
    const auto ahead = [&]() __attribute__((always_inline)) { fetcher.fetch(); };
    each_stripe(s.padded, SumRows<decltype(ahead)>{p, line, s.hidden, ahead});
    mean_of_rows(p, line, &s);
    const double done = static_cast<double>(i) / static_cast<double>(t.num_examples);
    const double progress = (static_cast<double>(t.epoch) + done) / t.epochs;
    const auto lr = static_cast<float>(t.lr * (1.0 - progress));
    sums.loss += train_outputs(p, t, t.order[i], lr, 1.0f / static_cast<float>(line.inputs), &s, &sums);
    sums.examples += 1;
    each_stripe(s.padded, AddToRows<decltype(ahead)>{p, line, s.step, ahead});
    while (fetcher.row < fetcher.end) fetcher.fetch();
  }
  stats->loss += sums.loss;
  stats->examples += sums.examples;
  stats->moved_in += sums.moved_in;
  stats->moved_out += sums.moved_out;
}

// ---- answers ------------------------------------------------------------------------------------------------------

struct Guess {
  float probability;
  int32_t label;
  // Whether this one comes first; equally probable labels in their order.
  bool operator<(const Guess& o) const {
    return probability != o.probability ? probability > o.probability : label < o.label;
  }
};

// The k best of the guesses so far: the worst of them on top of a heap.
struct Best {
  std::vector<Guess> guesses;
  int64_t k;
  float threshold;

  bool could_hold(float probability) const {
    return probability >= threshold &&
           (static_cast<int64_t>(guesses.size()) < k || probability >= guesses.front().probability);
  }
  void add(Guess guess) {
    if (static_cast<int64_t>(guesses.size()) == k) {
      if (!(guess < guesses.front())) return;
      std::pop_heap(guesses.begin(), guesses.end());
      guesses.pop_back();
    }
    guesses.push_back(guess);
    std::push_heap(guesses.begin(), guesses.end());
  }
};

// Walks the tree from the root, the more probable child first; a node below which no leaf can be among the best is
// left.
inline void walk_tree(const ClassifyParams& p, const ClassifyAnswer& a, ClassifyScratch* s, Best* best) {
  std::vector<std::pair<float, int32_t>> open{{1.0f, static_cast<int32_t>(2 * p.num_labels - 2)}};
  while (!open.empty()) {
    const auto [probability, node] = open.back();
    open.pop_back();
    if (!best->could_hold(probability)) continue;
    if (node < static_cast<int32_t>(p.num_labels)) {
      best->add({probability, node});
      continue;
    }
    const int64_t inner = node - static_cast<int64_t>(p.num_labels);
    float* output = p.out + inner * p.stride;
    score_all(&output, 1, s->hidden, s->padded, s->scores);
    sigmoids(s->scores, nullptr, 1);
    const float right = probability * s->scores[0], left = probability * (1.0f - s->scores[0]);
    const int32_t* const child = a.children + 2 * inner;
    if (left > right) {
      open.push_back({right, child[1]});
      open.push_back({left, child[0]});
    } else {
      open.push_back({left, child[0]});
      open.push_back({right, child[1]});
    }
  }
}

inline void answer_lines(const ClassifyParams& p, const ClassifyAnswer& a, int64_t begin, int64_t end) {
  ClassifyScratch s(p, 1);
  Best best{{}, a.k, a.threshold};
  const auto nothing = []() __attribute__((always_inline)) {};
  for (int64_t i = begin; i < end; ++i) {
    LineRows& line = s.lines[0];
    gather_rows(p, i, &line);
    best.guesses.clear();
    if (line.count > 0) {
      each_stripe(s.padded, SumRows<decltype(nothing)>{p, line, s.hidden, nothing});
      mean_of_rows(p, line, &s);
      if (p.loss == LabelLoss::kHierarchical) {
        walk_tree(p, a, &s, &best);
      } else {
        score_all(s.all_outputs.data(), p.num_out, s.hidden, s.padded, s.scores);
        if (p.loss == LabelLoss::kSoftmax) {
          softmax(s.scores, p.num_out);
        } else {
          sigmoids(s.scores, nullptr, p.num_out);
        }
        for (int32_t l = 0; l < static_cast<int32_t>(p.num_out); ++l)
          if (best.could_hold(s.scores[l])) best.add({s.scores[l], l});
      }
    }
    std::sort_heap(best.guesses.begin(), best.guesses.end());
    for (int64_t j = 0; j < a.k; ++j) {
      const bool there = j < static_cast<int64_t>(best.guesses.size());
      a.labels[i * a.k + j] = there ? best.guesses[j].label : -1;
      a.probabilities[i * a.k + j] = there ? best.guesses[j].probability : 0.0f;
    }
  }
}
