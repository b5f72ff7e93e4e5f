// GloVe (Pennington et al. 2014, eq. 8) over a block of cells, with AdaGrad, updated in place by one thread.
//
// A cell (i, j) with i != j stands for two nonzeros, (i, j) and (j, i): w_i meets c_j, and w_j meets c_i. No number
// takes part in both, so they are computed side by side, and one's additions hide the other's latencies. For each,
//     diff = w . c + b_w + b_c - log x,   loss = f diff^2 / 2,   g = lr f diff,
// and every number z with partner p (1 for a bias) moves by t = g p: z -= t / sqrt(1 + G_z), then G_z += t^2. G
// starts at 0 and sums the squares of steps, learning rate included, as the GloVe program has it; the 1 is added late,
// for beside it float32 would lose the small ones.
//
// A word's row is [w | G_w | c | G_c], each D floats padded with zeros, and its biases [b_w, G, b_c, G].
// A cell reads and writes 8 padded D floats. Cells come in blocks of a tile of rows and a tile of columns whose tables
// fit L2 (see w2v_ext/methods/glove.py), so the bound is arithmetic: 33 vector operations per 16 numbers of a nonzero,
// two thirds of them the reciprocal square roots, which are three Newton steps from a guess by integer arithmetic, the
// same for every instruction set. Cells in random order would read and write 16 D bytes a nonzero from L3 or memory.

// 1 / sqrt(x) to 2 ulp, for x > 0 in the normal range.
W2V_INLINE Vf reciprocal_sqrt(Vf x) {
  const Vf half = 0.5f * x;
  Vf y = reinterpret_cast<Vf>(0x5F375A86 - (reinterpret_cast<Vi>(x) >> 1));
  y = y * (1.5f - half * y * y);
  y = y * (1.5f - half * y * y);
  return y * (1.5f - half * y * y);
}

W2V_INLINE void adagrad_vector(float* value, float* squares, Vf step) {
  const Vf sum = load(squares);
  store(value, load(value) - step * reciprocal_sqrt(1.0f + sum));
  store(squares, sum + step * step);
}

W2V_INLINE void adagrad_bias(float* bias, float step) {
  bias[0] -= step / std::sqrt(1.0f + bias[1]);
  bias[1] += step * step;
}

// Adds up the loss of the cells and moves what they meet.
inline void train_glove(const GloveParams& p, const GloveCell* cells, int64_t count, GloveStats* stats) {
  const int64_t d = p.padded;
  for (int64_t n = 0; n < count; ++n) {
    const GloveCell cell = cells[n];
    if (cell.row >= p.vocab_size || cell.column >= p.vocab_size)
      throw std::out_of_range("cells: word " + std::to_string(std::max(cell.row, cell.column)) +
                              " is out of range for a table of " + std::to_string(p.vocab_size) + " rows");
    float* const row = p.table + 4 * d * cell.row;
    float* const column = p.table + 4 * d * cell.column;
    float* const row_bias = p.bias + 4 * cell.row;
    float* const column_bias = p.bias + 4 * cell.column;
    const bool two = cell.row != cell.column;

    Vf sums[2] = {};  // w_row . c_column and w_column . c_row
    for (int64_t i = 0; i < d; i += kWidth) {
      sums[0] += load(row + i) * load(column + 2 * d + i);
      sums[1] += load(column + i) * load(row + 2 * d + i);
    }
    const Vf scores = fold<2>(sums);
    const float diff0 = scores[0] + row_bias[0] + column_bias[2] - cell.log_count;
    const float diff1 = scores[1] + column_bias[0] + row_bias[2] - cell.log_count;
    const float step0 = p.lr * cell.weight * diff0, step1 = p.lr * cell.weight * diff1;
    stats->loss += 0.5 * static_cast<double>(cell.weight * diff0) * static_cast<double>(diff0);
    for (int64_t i = 0; i < d; i += kWidth) {
      const Vf w = load(row + i), c = load(column + 2 * d + i);
      adagrad_vector(row + i, row + d + i, step0 * c);
      adagrad_vector(column + 2 * d + i, column + 3 * d + i, step0 * w);
      if (!two) continue;
      const Vf w1 = load(column + i), c1 = load(row + 2 * d + i);
      adagrad_vector(column + i, column + d + i, step1 * c1);
      adagrad_vector(row + 2 * d + i, row + 3 * d + i, step1 * w1);
    }
    adagrad_bias(row_bias, step0);
    adagrad_bias(column_bias + 2, step0);
    ++stats->nonzeros;
    if (!two) continue;
    adagrad_bias(column_bias, step1);
    adagrad_bias(row_bias + 2, step1);
    stats->loss += 0.5 * static_cast<double>(cell.weight * diff1) * static_cast<double>(diff1);
    ++stats->nonzeros;
  }
}
