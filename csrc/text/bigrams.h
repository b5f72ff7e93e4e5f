// Pairs of neighbouring words: how often each occurs, and a corpus in which some are joined into one word.
//
// Counting is exact. Every thread reads all ids and counts the pairs whose hash lies in its range, in a table of its
// own; where the table reaches its share of the memory, the range is halved, what lies outside is forgotten, and
// counted by another reading later. So little memory costs readings of the ids, 4 bytes a word each, not precision, and
// neither threads nor memory change the result. Bound: a cache miss for each pair that is not frequent.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "builder.h"

namespace w2v::text {

struct Bigram {
  int32_t first, second;
  int64_t count;
};

struct BigramCounts {
  std::vector<int64_t> words;    // (V,) how often each word occurs
  std::vector<Bigram> frequent;  // at least min_count times, sorted by (first, second)
  uint64_t distinct = 0;         // pairs, the rare ones too
  uint64_t readings = 0;         // of the ids
};

struct BigramOptions {
  int64_t min_count = 5;
  unsigned threads = 1;
  size_t memory = size_t{1} << 30;  // bytes for the tables
};

// ids: sentences, each closed by -1. Throws BadId (cooccurrence.h) for one outside the vocabulary.
BigramCounts count_bigrams(std::span<const int32_t> ids, int64_t vocab_size, const BigramOptions& options,
                           const Tick& tick);

// Writes ids in which, from left to right, two neighbours that are bigrams[i] become the word joined[i]; a word is
// joined once only. Returns how many ids were written.
uint64_t join_bigrams(std::span<const int32_t> ids, int64_t vocab_size, const std::vector<Bigram>& bigrams,
                      const std::vector<int32_t>& joined, const std::string& path, const Tick& tick);

// Writes one line of words, with blanks between, for each sentence.
void write_lines(std::span<const int32_t> ids, const std::vector<std::string>& words, const std::string& path,
                 const Tick& tick);

}  // namespace w2v::text
