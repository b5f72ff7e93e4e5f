// What a rank gives of its rows, and what it takes from all ranks, in one pass over the rows each (one thread's share).
//
// Giving reads a row and its base and writes the difference as bfloat16; taking reads everybody's differences, moves
// the base by their sum and the row by what the others moved. Row by row, so that what a sum needs twice (its length,
// where it may be too long) stays in L1. Bound by the memory: 10 bytes a number to give, 18 + 2 ranks to take.

W2V_INLINE float widen_half_word(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

// To the nearest, ties to even.
W2V_INLINE uint16_t to_half_word(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

inline void give_rows(const ExchangeRows& rows, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const float* row = rows.rows + r * rows.stride;
    const float* base = rows.base + r * rows.dim;
    uint16_t* given = rows.moves + rows.own * rows.rank_stride + r * rows.dim;
#pragma GCC ivdep
    for (int64_t d = 0; d < rows.dim; ++d) given[d] = to_half_word(row[d] - base[d]);
  }
}

inline void take_rows(const ExchangeRows& rows, int64_t begin, int64_t end) {
  std::vector<float> buffer(rows.dim);
  float* move = buffer.data();
  for (int64_t r = begin; r < end; ++r) {
    float* row = rows.rows + r * rows.stride;
    float* base = rows.base + r * rows.dim;
    const uint16_t* moves = rows.moves + r * rows.dim;
    const uint16_t* given = moves + rows.own * rows.rank_stride;
#pragma GCC ivdep
    for (int64_t d = 0; d < rows.dim; ++d) move[d] = widen_half_word(moves[d]);
    float squares = rows.overshoot > 0 ? sum_of_squares(move, rows.dim) : 0;
    for (int64_t rank = 1; rank < rows.ranks; ++rank) {
      const uint16_t* other = moves + rank * rows.rank_stride;
      float square = 0;
#pragma GCC ivdep
      for (int64_t d = 0; d < rows.dim; ++d) {
        const float x = widen_half_word(other[d]);
        move[d] += x;
        square += x * x;
      }
      squares += square;
    }
    if (rows.overshoot > 0) {
      const float square = sum_of_squares(move, rows.dim);
      if (rows.overshoot * squares < square) multiply(move, rows.overshoot * squares / square, rows.dim);
    }
#pragma GCC ivdep
    for (int64_t d = 0; d < rows.dim; ++d) {
      base[d] += move[d];
      row[d] += move[d] - widen_half_word(given[d]);
    }
  }
}
