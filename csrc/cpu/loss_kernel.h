// The negative-sampling loss of a batch, its gradients and its SGD step (one thread's share of each).
//
//   forward   scores, losses and coefficients d loss / d score, example by example
//   centers   example by example too, but grouped by centre: v is read once per centre, the gradient of v is summed
//   while
//             the rows u are in L1, and each target's occurrence (coefficient, centre) is written to its target's slots
//   targets   target by target: the rows v of a target's occurrences, weighted and summed in registers
//
// All of it is bound by reading rows, (P + K + 1) D numbers per example and pass, from wherever they are: the rows of
// frequent words from L1 and L2, the others from memory. They are prefetched one group of targets ahead.

constexpr int kRowGroup = kWidth;  // rows that are worked on together: a vector of scores
constexpr int kRowAhead = 16;      // slots from a row that is summed to the row that is prefetched
constexpr int kSegmentAhead = 4;   // segments from a row that is stepped to the row that is prefetched

template <typename A>
W2V_INLINE auto lane_numbers() {
  using I = std::conditional_t<sizeof(A) == 4, int32_t, int64_t>;
  typedef I Lanes __attribute__((vector_size(4 * W2V_WIDTH)));
  Lanes lanes{};
  for (int i = 0; i < kLanes<A>; ++i) lanes[i] = i;
  return lanes;
}

// The last columns of a row as the upper lanes of a whole vector that ends with the row, 0 below.
template <typename A>
W2V_INLINE Vec<A> load_tail(const A* row, int64_t dim) {
  return lane_numbers<A>() >= kLanes<A> - static_cast<int>(dim % kLanes<A>) ? load(row + dim - kLanes<A>) : Vec<A>{};
}

template <typename T>
W2V_INLINE void prefetch_row(const T* row, int64_t dim) {
  const char* bytes = reinterpret_cast<const char*>(row);
  for (int64_t i = 0; i < dim * static_cast<int64_t>(sizeof(T)); i += 64) __builtin_prefetch(bytes + i);
}

// Up to kRowGroup rows, as the type that sums are taken in.
template <typename T>
struct RowGroup {
  using A = Accumulator<T>;
  explicit RowGroup(int64_t width) : dim(width), buffer(std::is_same_v<T, A> ? 0 : kRowGroup * width) {}

  W2V_INLINE void set(int i, const T* row) {
    if constexpr (std::is_same_v<T, A>) {
      rows[i] = row;
    } else {
      A* copy = buffer.data() + i * dim;
      for (int64_t d = 0; d < dim; ++d) copy[d] = static_cast<float>(row[d]);
      rows[i] = copy;
    }
  }

  int64_t dim;
  std::vector<A> buffer;
  const A* rows[kRowGroup];
  A coef[kRowGroup];
};

template <typename T>
W2V_INLINE const Accumulator<T>* as_accumulator(const T* row, int64_t dim, Accumulator<T>* buffer) {
  if constexpr (std::is_same_v<T, Accumulator<T>>) {
    return row;
  } else {
    for (int64_t d = 0; d < dim; ++d) buffer[d] = static_cast<float>(row[d]);
    return buffer;
  }
}

// The dot products of v with N rows (of which the first n count).
template <int N, typename A>
W2V_INLINE void score_group(const A* v, const A* const* rows, int64_t dim, A* scores) {
  constexpr int kStep = kLanes<A>;
  Vec<A> sums[N] = {};
  int64_t d = 0;
  for (; d + kStep <= dim; d += kStep) {
    const Vec<A> c = load(v + d);
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) sums[n] += c * load(rows[n] + d);
  }
  if (d < dim && dim >= kStep) {
    const Vec<A> c = load_tail(v, dim);
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) sums[n] += c * load_tail(rows[n], dim);
    d = dim;
  }
  if constexpr (std::is_same_v<A, float>) {
    store(scores, fold<N>(sums));
  } else {
    for (int n = 0; n < N; ++n) scores[n] = horizontal_sum<A>(sums[n]);
  }
  for (; d < dim; ++d)
    for (int n = 0; n < N; ++n) scores[n] += v[d] * rows[n][d];
}

template <int N = 4, typename A>
W2V_INLINE void score_some(const A* v, const A** rows, int count, int64_t dim, A* scores) {
  if (N < kRowGroup && count > N) {
    if constexpr (N < kRowGroup) score_some<N + 4>(v, rows, count, dim, scores);
  } else {
    for (int n = count; n < N; ++n) rows[n] = rows[count - 1];
    score_group<N>(v, rows, dim, scores);
  }
}

// From the scores of `count` targets to d loss / d score, in place; gives their loss. With t = -score for a positive
// and score for a negative, the loss is log(1 + e^t) = max(t, 0) + log(1 + e^-|t|) and its slope in t is sigmoid(t). In
// floats, e^-87 and less (2e-38) count as 0. A NaN stays one.
template <typename A>
W2V_INLINE A logistic_loss(A* scores, int64_t positives, int count) {
  if constexpr (std::is_same_v<A, float>) {
    const auto lane = lane_numbers<float>();
    const Vf zero = Vf{}, one = broadcast(1.0f);
    const Vf sign = lane < static_cast<int>(std::max<int64_t>(std::min<int64_t>(positives, kWidth), 0)) ? -one : one;
    const Vf t = sign * load(scores);
    const Vf size = -reinterpret_cast<Vf>(reinterpret_cast<Vi>(t) & INT32_MAX);
    Vf e[1] = {size}, l[1];
    exp_nonpositive(e);
    e[0] = size > -87.0f ? e[0] : size <= -87.0f ? zero : size;
    log1p_unit(e, l);
    store(scores, sign * (t < zero ? e[0] : one) / (one + e[0]));
    l[0] = lane < count ? (t < zero ? zero : t) + l[0] : zero;
    return fold<1>(l)[0];
  } else {
    A loss = 0;
    for (int i = 0; i < count; ++i) {
      const A sign = i < positives ? A(-1) : A(1), t = sign * scores[i], e = std::exp(-std::abs(t));
      loss += (t < 0 ? A(0) : t) + std::log1p(e);
      scores[i] = sign * (t < 0 ? e : A(1)) / (1 + e);
    }
    return loss;
  }
}

// sum += coef[n] * rows[n] for n < count, kVectors vectors of columns at a time in registers.
template <int kVectors, typename A>
W2V_INLINE void add_columns(A* sum, const A* const* rows, const A* coef, int count, int64_t d) {
  constexpr int kStep = kLanes<A>;
  Vec<A> s[kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) s[i] = load(sum + d + i * kStep);
  for (int n = 0; n < count; ++n) {
    const Vec<A> c = broadcast(coef[n]);
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) s[i] += c * load(rows[n] + d + i * kStep);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) store(sum + d + i * kStep, s[i]);
}

template <typename A>
W2V_INLINE void add_rows(A* sum, const A* const* rows, const A* coef, int count, int64_t dim) {
  constexpr int kStep = kLanes<A>;
  int64_t d = 0;
  for (; d + 8 * kStep <= dim; d += 8 * kStep) add_columns<8>(sum, rows, coef, count, d);
  for (; d + kStep <= dim; d += kStep) add_columns<1>(sum, rows, coef, count, d);
  if (d < dim && dim >= kStep) {
    Vec<A> s = load(sum + dim - kStep);
    for (int n = 0; n < count; ++n) s += broadcast(coef[n]) * load_tail(rows[n], dim);
    store(sum + dim - kStep, s);
    d = dim;
  }
  for (; d < dim; ++d)
    for (int n = 0; n < count; ++n) sum[d] += coef[n] * rows[n][d];
}

// The group of targets j to j + size of the example in row r of the batch's index; the group behind it is prefetched.
template <typename T>
W2V_INLINE int load_targets(const LossBatch<T>& batch, int64_t r, int64_t j, RowGroup<T>* group) {
  const int64_t at = r * batch.targets + j, last = batch.batch * batch.targets;
  const int size = static_cast<int>(std::min<int64_t>(batch.targets - j, kRowGroup));
  const int64_t ahead = std::min<int64_t>(at + size + std::min<int64_t>(batch.targets, kRowGroup), last);
  for (int64_t i = at + size; i < ahead; ++i) prefetch_row(batch.out + batch.index[i] * batch.out_stride, batch.dim);
  for (int i = 0; i < size; ++i) group->set(i, batch.out + batch.index[at + i] * batch.out_stride);
  return size;
}

template <typename T>
void loss_forward(const LossBatch<T>& batch, Accumulator<T>* loss, Accumulator<T>* coef, int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  std::vector<A> v_buffer(batch.dim);
  RowGroup<T> group(batch.dim);
  for (int64_t b = begin; b < end; ++b) {
    if (b + 1 < end) prefetch_row(batch.in + batch.center[b + 1] * batch.in_stride, batch.dim);
    const A* v = as_accumulator(batch.in + batch.center[b] * batch.in_stride, batch.dim, v_buffer.data());
    A total = 0;
    for (int64_t j = 0; j < batch.targets; j += kRowGroup) {
      const int size = load_targets(batch, b, j, &group);
      score_some(v, group.rows, size, batch.dim, group.coef);
      total += logistic_loss<A>(group.coef, batch.positives - j, size);
      std::copy(group.coef, group.coef + size, coef + b * batch.targets + j);
    }
    loss[b] = total;
  }
}

// Runs one(segment) for the segments that start in slots [begin, end).
template <typename One>
W2V_INLINE void for_segments(const Segments& segments, int64_t begin, int64_t end, const One& one) {
  int64_t s = std::lower_bound(segments.start, segments.start + segments.count, begin) - segments.start;
  for (; s < segments.count && segments.start[s] < end; ++s) one(s);
}

template <typename T>
W2V_INLINE void write_row(const Segments& segments, int64_t s, const Accumulator<T>* sum, int64_t dim,
                          const RowSink<T>& sink) {
  using A = Accumulator<T>;
  if (sink.how == RowSink<T>::How::kStep) {
    if (s + kSegmentAhead < segments.count)
      prefetch_row(sink.rows + segments.rows[s + kSegmentAhead] * sink.stride, dim);
    T* row = sink.rows + segments.rows[s] * sink.stride;
    const A step = static_cast<A>(sink.step);
    for (int64_t d = 0; d < dim; ++d) row[d] = static_cast<T>(static_cast<A>(row[d]) - step * sum[d]);
  } else {
    T* row = sink.rows + (sink.how == RowSink<T>::How::kRow ? int64_t{segments.rows[s]} : s) * sink.stride;
    for (int64_t d = 0; d < dim; ++d) row[d] = static_cast<T>(sum[d]);
  }
}

template <typename T>
void loss_centers(const LossBatch<T>& batch, const CenterPass<T>& pass, int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  std::vector<A> v_buffer(batch.dim), sum_buffer(batch.dim);
  RowGroup<T> group(batch.dim);
  const bool backward = pass.loss == nullptr;  // not by coef, which is null too where there are no targets
  for_segments(pass.centers, begin, end, [&](int64_t s) __attribute__((always_inline)) {
    const uint32_t row = pass.centers.rows[s];
    const A* v = as_accumulator(batch.in + row * batch.in_stride, batch.dim, v_buffer.data());
    if (s + 1 < pass.centers.count) prefetch_row(batch.in + pass.centers.rows[s + 1] * batch.in_stride, batch.dim);
    A* sum = pass.sums != nullptr ? pass.sums + s * batch.dim : sum_buffer.data();
    std::fill(sum, sum + batch.dim, A(0));
    for (int64_t r = pass.centers.start[s]; r < pass.centers.start[s + 1]; ++r) {
      const int64_t b = pass.centers.order[r];
      A total = 0;
      for (int64_t j = 0; j < batch.targets; j += kRowGroup) {
        const int size = load_targets(batch, r, j, &group);
        if (backward) {
          for (int i = 0; i < size; ++i) group.coef[i] = pass.grad_loss[b] * pass.coef[b * batch.targets + j + i];
        } else {
          score_some(v, group.rows, size, batch.dim, group.coef);
          total += logistic_loss<A>(group.coef, batch.positives - j, size);
        }
        add_rows<A>(sum, group.rows, group.coef, size, batch.dim);
        const uint32_t* slot = pass.slot + r * batch.targets + j;
        for (int i = 0; i < size; ++i) pass.occurrences[slot[i]] = {group.coef[i], row};
      }
      if (!backward) pass.loss[b] = total;
    }
    if (pass.sums == nullptr) write_row(pass.centers, s, sum, batch.dim, pass.sink);
  });
}

template <typename T>
void loss_targets(const LossBatch<T>& batch, const Segments& segments, const Occurrence<Accumulator<T>>* occurrences,
                  const RowSink<T>& sink, int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  const int64_t last = batch.batch * batch.targets;
  std::vector<A> sum(batch.dim);  // not the row: small steps would be rounded away one by one
  RowGroup<T> group(batch.dim);
  for_segments(segments, begin, end, [&](int64_t s) __attribute__((always_inline)) {
    std::fill(sum.begin(), sum.end(), A(0));
    const int64_t stop = segments.start[s + 1];
    for (int64_t o = segments.start[s]; o < stop; o += kRowGroup) {
      const int size = static_cast<int>(std::min<int64_t>(stop - o, kRowGroup));
      for (int64_t i = o + kRowAhead; i < std::min(o + kRowAhead + size, last); ++i)
        if (occurrences[i].row != occurrences[i - 1].row)
          prefetch_row(batch.in + occurrences[i].row * batch.in_stride, batch.dim);
      for (int i = 0; i < size; ++i) {
        group.set(i, batch.in + occurrences[o + i].row * batch.in_stride);
        group.coef[i] = occurrences[o + i].coef;
      }
      add_rows<A>(sum.data(), group.rows, group.coef, size, batch.dim);
    }
    write_row(segments, s, sum.data(), batch.dim, sink);
  });
}

template <typename T>
void loss_add(const Segments& segments, const Accumulator<T>* sums, int64_t dim, const RowSink<T>& sink, int64_t begin,
              int64_t end) {
  for (int64_t s = begin; s < end; ++s) write_row(segments, s, sums + s * dim, dim, sink);
}

template <typename T>
LossKernels<T> loss_kernels() {
  return {loss_forward<T>, loss_centers<T>, loss_targets<T>, loss_add<T>};
}
