// The n-grams of words, as fastText counts them (Joulin et al. 2017): those of words i..j are hashed from the 32-bit
// hashes of the words, sign-extended, as digits to the base 116049371, modulo 2^64 and then modulo the buckets. Plain
// C++, for CPU and CUDA alike.
#pragma once

#include <cstdint>

#include "rng.h"

namespace w2v {

W2V_HOST_DEVICE inline uint64_t ngram_start(int32_t word_hash) {
  return static_cast<uint64_t>(static_cast<int64_t>(word_hash));
}
W2V_HOST_DEVICE inline uint64_t ngram_next(uint64_t hash, int32_t word_hash) {
  return hash * 116049371u + static_cast<uint64_t>(static_cast<int64_t>(word_hash));
}

// Calls visit(bucket) for the n-grams, 2 <= n <= most, of tokens[0, length), numbers of words.
template <typename Visit>
inline void each_ngram(const int32_t* tokens, int64_t length, const int32_t* hashes, int most, uint64_t buckets,
                       const Visit& visit) {
  for (int64_t i = 0; i < length; ++i) {
    uint64_t hash = ngram_start(hashes[tokens[i]]);
    const int64_t end = length - i < most ? length : i + most;
    for (int64_t j = i + 1; j < end; ++j) {
      hash = ngram_next(hash, hashes[tokens[j]]);
      visit(hash % buckets);
    }
  }
}

}  // namespace w2v
