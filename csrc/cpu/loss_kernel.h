// The negative-sampling loss of a batch, its gradients and its SGD step (one thread's share of each).
//
// Forward reads v and the P + K rows u of an example once, takes the dot products, and keeps only the coefficients
// d loss / d score. The gradients are sums of rows weighted by them, taken row by row of the result (see segments.h).
// All of it is bound by reading rows: (P + K + 1) D numbers per example forward, as many again for each gradient.

template <typename T>
W2V_INLINE const Accumulator<T>* as_accumulator(const T* row, int64_t dim, Accumulator<T>* buffer) {
  if constexpr (std::is_same_v<T, Accumulator<T>>) {
    return row;
  } else {
    for (int64_t d = 0; d < dim; ++d) buffer[d] = static_cast<float>(row[d]);
    return buffer;
  }
}

template <typename A>
W2V_INLINE A dot(const A* a, const A* b, int64_t dim) {
  constexpr int kStep = kLanes<A>;
  Vec<A> s0{}, s1{}, s2{}, s3{};
  int64_t d = 0;
  for (; d + 4 * kStep <= dim; d += 4 * kStep) {
    s0 += load(a + d) * load(b + d);
    s1 += load(a + d + kStep) * load(b + d + kStep);
    s2 += load(a + d + 2 * kStep) * load(b + d + 2 * kStep);
    s3 += load(a + d + 3 * kStep) * load(b + d + 3 * kStep);
  }
  for (; d + kStep <= dim; d += kStep) s0 += load(a + d) * load(b + d);
  A sum = horizontal_sum<A>((s0 + s1) + (s2 + s3));
  for (; d < dim; ++d) sum += a[d] * b[d];
  return sum;
}

template <typename A>
W2V_INLINE void add_scaled(A* sum, A scale, const A* row, int64_t dim) {
  constexpr int kStep = kLanes<A>;
  int64_t d = 0;
  for (; d + kStep <= dim; d += kStep) store(sum + d, load(sum + d) + broadcast(scale) * load(row + d));
  for (; d < dim; ++d) sum[d] += scale * row[d];
}

template <typename T>
void loss_forward(const Batch<T>& batch, Accumulator<T>* loss, Accumulator<T>* coef, Accumulator<T>* center_grad,
                  int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  std::vector<A> v_buffer(batch.dim), u_buffer(batch.dim);
  const int64_t last = batch.batch * batch.targets, ahead = batch.targets;
  for (int64_t b = begin; b < end; ++b) {
    const A* v = as_accumulator(batch.in + batch.center[b] * batch.in_stride, batch.dim, v_buffer.data());
    A total = 0;
    for (int64_t j = 0; j < batch.targets; ++j) {
      const int64_t at = b * batch.targets + j;
      if (at + ahead < last) __builtin_prefetch(batch.out + batch.index[at + ahead] * batch.out_stride);
      const A* u = as_accumulator(batch.out + batch.index[at] * batch.out_stride, batch.dim, u_buffer.data());
      const A score = dot<A>(v, u, batch.dim);
      const A sign = j < batch.positives ? A(-1) : A(1);
      const A t = sign * score;  // loss = log(1 + e^t) = max(t, 0) + log(1 + e^-|t|), slope sigmoid(t)
      const A e = std::exp(-std::abs(t));
      total += std::max(t, A(0)) + std::log1p(e);
      coef[at] = sign * (t < 0 ? e : A(1)) / (1 + e);
    }
    loss[b] = total;
    if (center_grad != nullptr) {
      A* grad = center_grad + b * batch.dim;
      std::fill(grad, grad + batch.dim, A(0));
      for (int64_t j = 0; j < batch.targets; ++j) {
        const int64_t at = b * batch.targets + j;
        const A* u = as_accumulator(batch.out + batch.index[at] * batch.out_stride, batch.dim, u_buffer.data());
        add_scaled<A>(grad, coef[at], u, batch.dim);
      }
    }
  }
}

// Runs one(segment, buffer) for the segments that start in occurrences [begin, end).
template <typename A, typename One>
W2V_INLINE void for_segments(const Segments& segments, int64_t begin, int64_t end, const One& one) {
  int64_t s = std::lower_bound(segments.start, segments.start + segments.count, begin) - segments.start;
  for (; s < segments.count && segments.start[s] < end; ++s) one(s);
}

template <typename T>
W2V_INLINE void write_row(T* dst, const Accumulator<T>* sum, int64_t dim) {
  for (int64_t d = 0; d < dim; ++d) dst[d] = static_cast<T>(sum[d]);
}

template <typename T>
void loss_center_rows(const Batch<T>& batch, const Accumulator<T>* grad_loss, const Accumulator<T>* coef,
                      const Segments& segments, bool dense, T* dst, int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  std::vector<A> sum(batch.dim), buffer(batch.dim);
  for_segments<A>(segments, begin, end, [&](int64_t s) __attribute__((always_inline)) {
    std::fill(sum.begin(), sum.end(), A(0));
    for (int64_t o = segments.start[s]; o < segments.start[s + 1]; ++o) {
      const int64_t b = segments.order[o];
      for (int64_t at = b * batch.targets; at < (b + 1) * batch.targets; ++at) {
        const A* u = as_accumulator(batch.out + batch.index[at] * batch.out_stride, batch.dim, buffer.data());
        add_scaled<A>(sum.data(), grad_loss[b] * coef[at], u, batch.dim);
      }
    }
    write_row(dst + (dense ? int64_t{segments.rows[s]} : s) * batch.dim, sum.data(), batch.dim);
  });
}

template <typename T>
void loss_target_rows(const Batch<T>& batch, const Accumulator<T>* grad_loss, const Accumulator<T>* coef,
                      const Segments& segments, bool dense, T* dst, int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  std::vector<A> sum(batch.dim), buffer(batch.dim);
  for_segments<A>(segments, begin, end, [&](int64_t s) __attribute__((always_inline)) {
    std::fill(sum.begin(), sum.end(), A(0));
    for (int64_t o = segments.start[s]; o < segments.start[s + 1]; ++o) {
      const int64_t at = segments.order[o], b = at / batch.targets;
      const A* v = as_accumulator(batch.in + batch.center[b] * batch.in_stride, batch.dim, buffer.data());
      add_scaled<A>(sum.data(), grad_loss[b] * coef[at], v, batch.dim);
    }
    write_row(dst + (dense ? int64_t{segments.rows[s]} : s) * batch.dim, sum.data(), batch.dim);
  });
}

template <typename T>
void loss_step_targets(const Batch<T>& batch, const Accumulator<T>* coef, const Segments& segments, double scale,
                       T* out, int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  std::vector<A> sum(batch.dim), buffer(batch.dim);
  for_segments<A>(segments, begin, end, [&](int64_t s) __attribute__((always_inline)) {
    T* row = out + segments.rows[s] * batch.out_stride;
    std::fill(sum.begin(), sum.end(), A(0));  // not the row: small steps would be rounded away one by one
    for (int64_t o = segments.start[s]; o < segments.start[s + 1]; ++o) {
      const int64_t at = segments.order[o], b = at / batch.targets;
      const A* v = as_accumulator(batch.in + batch.center[b] * batch.in_stride, batch.dim, buffer.data());
      add_scaled<A>(sum.data(), static_cast<A>(-scale) * coef[at], v, batch.dim);
    }
    for (int64_t d = 0; d < batch.dim; ++d) row[d] = static_cast<T>(static_cast<A>(row[d]) + sum[d]);
  });
}

template <typename T>
void loss_step_centers(const Batch<T>& batch, const Accumulator<T>* center_grad, const Segments& segments, double scale,
                       T* in, int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  std::vector<A> sum(batch.dim);
  for_segments<A>(segments, begin, end, [&](int64_t s) __attribute__((always_inline)) {
    T* row = in + segments.rows[s] * batch.in_stride;
    std::fill(sum.begin(), sum.end(), A(0));  // not the row: small steps would be rounded away one by one
    for (int64_t o = segments.start[s]; o < segments.start[s + 1]; ++o)
      add_scaled<A>(sum.data(), static_cast<A>(-scale), center_grad + segments.order[o] * batch.dim, batch.dim);
    for (int64_t d = 0; d < batch.dim; ++d) row[d] = static_cast<T>(static_cast<A>(row[d]) + sum[d]);
  });
}

template <typename T>
LossKernels<T> loss_kernels() {
  return {loss_forward<T>, loss_center_rows<T>, loss_target_rows<T>, loss_step_targets<T>, loss_step_centers<T>};
}
