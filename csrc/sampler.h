// The noise distribution as an alias table (Walker 1977; built as Vose 1991): one column per word, 8 bytes each, so
// that 50,000 words take 400 KB and stay in L2, where word2vec.c's table of 10^8 entries misses the cache at every
// draw.
#pragma once
#include <cstdint>
#include <vector>

#include "rng.h"

namespace w2v {

constexpr int kBlock = 2;  // neighbouring centres that share their negatives

struct AliasColumn {
  uint32_t threshold;  // keep the column's own word if the coin is below this
  uint32_t alias;      // the other word
};

W2V_HOST_DEVICE inline uint32_t sample_alias(const AliasColumn* table, uint32_t vocab_size, uint64_t bits) {
  const uint32_t column = below(static_cast<uint32_t>(bits >> 32), vocab_size);
  const AliasColumn entry = table[column];
  return static_cast<uint32_t>(bits) < entry.threshold ? column : entry.alias;
}

// A draw that differs from `positive`: the bits are hashed again until it does. Where the noise is nearly all on the
// positive word, the 32nd attempt takes the first other word that has any weight, from a random place on.
W2V_HOST_DEVICE inline uint32_t sample_negative(const AliasColumn* table, uint32_t vocab_size, uint64_t bits,
                                                uint32_t positive) {
  uint32_t word = sample_alias(table, vocab_size, bits);
  for (int attempt = 1; word == positive; ++attempt) {
    bits = mix64(bits + 0x9E3779B97F4A7C15ull);
    if (attempt < 32) {
      word = sample_alias(table, vocab_size, bits);
      continue;
    }
    word = below(static_cast<uint32_t>(bits >> 32), vocab_size);
    for (uint32_t i = 0; i < vocab_size && (word == positive || table[word].threshold == 0); ++i)
      word = (word + 1) % vocab_size;
    if (word == positive || table[word].threshold == 0) return (positive + 1) % vocab_size;  // no other has any weight
  }
  return word;
}

// weights: n non-negative numbers with a positive, finite sum (checked by the caller). Words of weight 0 are never
// drawn.
inline void build_alias_table(const double* weights, int64_t n, AliasColumn* table) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) total += weights[i];
  std::vector<double> scaled(n);
  std::vector<uint32_t> small, large;
  for (int64_t i = 0; i < n; ++i) {
    scaled[i] = weights[i] / total * static_cast<double>(n);
    (scaled[i] < 1.0 ? small : large).push_back(static_cast<uint32_t>(i));
  }
  while (!small.empty() && !large.empty()) {
    const uint32_t s = small.back(), l = large.back();
    small.pop_back();
    const double threshold = scaled[s] * 4294967296.0;
    table[s] = {threshold >= 4294967295.0 ? 0xFFFFFFFFu : static_cast<uint32_t>(threshold), l};
    if (table[s].threshold == 0 && weights[s] > 0) table[s].threshold = 1;  // 0 means: no weight at all
    scaled[l] -= 1.0 - scaled[s];
    if (scaled[l] < 1.0) {
      large.pop_back();
      small.push_back(l);
    }
  }
  for (const uint32_t i : large) table[i] = {0xFFFFFFFFu, i};
  // What is left in `small` is there by rounding and weighs 1, except words of weight 0 when rounding emptied `large`.
  uint32_t heaviest = 0;
  for (int64_t i = 1; i < n; ++i)
    if (weights[i] > weights[heaviest]) heaviest = static_cast<uint32_t>(i);
  for (const uint32_t i : small) {
    if (weights[i] > 0) {
      table[i] = {0xFFFFFFFFu, i};
    } else {
      table[i] = {0, heaviest};
    }
  }
}

}  // namespace w2v
