// One step of an optimiser on the rows that a gradient touched (one thread's share).
//
// Row by row: the gradient's values are summed into a buffer in L1 (or, where the row has one value, taken as they
// are), scaled and shortened there; then weight and state are read, stepped and written in one pass. Bound by reading
// the values once and reading and writing each touched row of weight and state once: (1 + 2 (1 + states)) D numbers a
// row, from wherever they are. Rows are prefetched a few ahead, as the next row of a random access cannot be foreseen.

constexpr int kStepAhead = 4;

// To be written: the line is wanted for itself.
template <typename T>
W2V_INLINE void prefetch_row_to_write(const T* row, int64_t dim) {
  const char* bytes = reinterpret_cast<const char*>(row);
  for (int64_t i = 0; i < dim * static_cast<int64_t>(sizeof(T)); i += 64) __builtin_prefetch(bytes + i, 1);
}

template <typename A>
W2V_INLINE A sum_of_squares(const A* x, int64_t dim) {
  Vec<A> sums{};
  int64_t d = 0;
  for (; d + kLanes<A> <= dim; d += kLanes<A>) sums += load(x + d) * load(x + d);
  A sum = horizontal_sum<A>(sums);
  for (; d < dim; ++d) sum += x[d] * x[d];
  return sum;
}

template <typename A>
W2V_INLINE void multiply(A* x, A factor, int64_t dim) {
  for (int64_t d = 0; d < dim; ++d) x[d] *= factor;
}

template <typename T>
W2V_INLINE uint32_t row_of(const RowGradient<T>& gradient, int64_t s) {
  return gradient.segments.rows == nullptr ? static_cast<uint32_t>(s) : gradient.segments.rows[s];
}

// The gradient of segment s, summed and scaled, in g (D,).
template <typename T>
W2V_INLINE void sum_gradient(const RowGradient<T>& gradient, int64_t s, Accumulator<T> scale, Accumulator<T>* g) {
  using A = Accumulator<T>;
  const Segments& segments = gradient.segments;
  const int64_t dim = gradient.dim, stride = gradient.stride;
  if (segments.start == nullptr) {
    const T* values = gradient.values + s * stride;
    for (int64_t d = 0; d < dim; ++d) g[d] = scale * static_cast<A>(values[d]);
    return;
  }
  std::fill(g, g + dim, A(0));
  const int64_t stop = segments.start[s + 1], last = segments.start[segments.count];
  for (int64_t i = segments.start[s]; i < stop; ++i) {
    if (i + kRowAhead < last) prefetch_row(gradient.values + segments.order[i + kRowAhead] * stride, dim);
    const T* values = gradient.values + segments.order[i] * stride;
    for (int64_t d = 0; d < dim; ++d) g[d] += static_cast<A>(values[d]);
  }
  if (scale != 1) multiply(g, scale, dim);
}

template <typename T, typename One>
W2V_INLINE void for_gradient_rows(const RowGradient<T>& gradient, int64_t begin, int64_t end, const One& one) {
  if (gradient.segments.start != nullptr) return for_segments(gradient.segments, begin, end, one);
  for (int64_t s = begin; s < end; ++s) one(s);
}

template <typename T>
W2V_INLINE void store_row(T* row, const Accumulator<T>* w, int64_t dim, const StepOptions& options, uint64_t number) {
  if constexpr (std::is_same_v<T, torch::headeronly::BFloat16>) {
    if (options.stochastic) {
      for (int64_t d = 0; d < dim; ++d) {
        const uint32_t bits = static_cast<uint32_t>(draw(options.seed, number * static_cast<uint64_t>(dim) + d));
        row[d] = static_cast<T>(stochastic_round(w[d], bits & 0xFFFFu));
      }
      return;
    }
  }
  for (int64_t d = 0; d < dim; ++d) row[d] = static_cast<T>(w[d]);
}

template <typename T, typename Rule>
void step_rows(const RowGradient<T>& gradient, const WeightRows<T>& weight, const StepOptions& options,
               const Rule& all_rows, int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  const int64_t dim = gradient.dim;
  const A scale = static_cast<A>(gradient.scale), decay = static_cast<A>(options.weight_decay);
  const A shrink = static_cast<A>(1 - options.lr * options.weight_decay);
  const A clip = static_cast<A>(options.clip_row_norm), max_norm = static_cast<A>(options.max_norm);
  std::vector<A> g_buffer(dim), w_buffer(std::is_same_v<T, A> ? 0 : dim);
  for_gradient_rows(gradient, begin, end, [&](int64_t s) __attribute__((always_inline)) {
    if (s + kStepAhead < gradient.segments.count) {
      const int64_t ahead = row_of(gradient, s + kStepAhead);
      prefetch_row_to_write(weight.data + ahead * weight.stride, dim);
      all_rows.each_state([&](const A* state) { prefetch_row_to_write(state + ahead * dim, dim); });
    }
    const int64_t row = row_of(gradient, s);
    A* g = g_buffer.data();
    sum_gradient(gradient, s, clip > 0 ? A(1) : scale, g);
    if (clip > 0) {
      const A norm = std::sqrt(sum_of_squares(g, dim));
      multiply(g, norm > clip ? scale * clip / norm : scale, dim);
    }
    T* stored = weight.data + row * weight.stride;
    A* w;
    if constexpr (std::is_same_v<T, A>) {
      w = stored;
    } else {
      w = w_buffer.data();
      for (int64_t d = 0; d < dim; ++d) w[d] = static_cast<A>(stored[d]);
    }
    if (decay != 0 && options.decoupled) multiply(w, shrink, dim);
    if (decay != 0 && !options.decoupled)
      for (int64_t d = 0; d < dim; ++d) g[d] += decay * w[d];
    Rule rule = all_rows.at(row, dim);
    rule.begin(Rule::kNeedsMeanSquare ? sum_of_squares(g, dim) / static_cast<A>(dim) : A(0));
#pragma GCC ivdep
    for (int64_t d = 0; d < dim; ++d) {
      auto numbers = rule.load(d);
      w[d] -= rule.step(&numbers, g[d]);
      rule.store(d, numbers);
    }
    rule.finish();
    if (max_norm > 0) {
      const A norm = std::sqrt(sum_of_squares(w, dim));
      if (norm > max_norm) multiply(w, max_norm / norm, dim);
    }
    if constexpr (!std::is_same_v<T, A>) store_row(stored, w, dim, options, static_cast<uint64_t>(row));
  });
}

template <typename T>
void square_norms(const RowGradient<T>& gradient, double longest, Accumulator<T>* squares, int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  std::vector<A> g(gradient.dim);
  for_gradient_rows(gradient, begin, end, [&](int64_t s) __attribute__((always_inline)) {
    sum_gradient(gradient, s, A(1), g.data());
    const A square = sum_of_squares(g.data(), gradient.dim);
    squares[s] = longest > 0 ? std::min(square, static_cast<A>(longest * longest)) : square;
  });
}

template <typename T>
OptimKernels<T> optim_kernels() {
  using A = Accumulator<T>;
  return {step_rows<T, SgdRule<A>>,     step_rows<T, MomentumRule<A>>,
          step_rows<T, AdagradRule<A>>, step_rows<T, RowwiseAdagradRule<A>>,
          step_rows<T, AdamRule<A>>,    square_norms<T>};
}
