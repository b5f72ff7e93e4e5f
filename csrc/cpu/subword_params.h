// What the subword kernels take; see subword_kernel.h.
#pragma once
#include <cstdint>
#include <vector>

namespace w2v {

struct SgnsParams;

struct SubwordParams {
  const SgnsParams* epoch;  // its `in` has (V, D): row w is the sum of the rows that word w alone has
  float* ngrams;            // (C, D) of the same stride: sums of the rows that the same words have
  const int64_t* first;     // (V + 1,) word w has the sums entries[first[w]] to entries[first[w + 1]]:
  const int32_t* entries;   // e < V is row e of `in`, others row e - V of `ngrams`
  const float* word_rows;   // (V,) how many rows the mean of a word is of
  const float* group_rows;  // (V + C,) how many rows a sum is of
  bool cbow;
  bool others;  // threads that train at the same time
};

// The words of a stretch and their vectors, of one thread; kept between stretches for its memory.
struct StretchWords {
  std::vector<int32_t> slot;    // (V,) of a word; -1 where it has not been met
  std::vector<uint32_t> words;  // by slot
  std::vector<int32_t> seen;    // by slot: occurrences
  std::vector<float*> rows;     // by slot: the vector, and behind it what it was at first
  std::vector<float*> sums;     // the rows to add up or to add to, word by word
  int64_t listed_from = 0;      // `sums` has the rows of words [listed_from, listed)
  size_t listed = 0;
  std::vector<std::vector<float>> memory;
};

}  // namespace w2v
