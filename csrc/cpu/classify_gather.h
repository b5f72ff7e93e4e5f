// The rows of a line: those of its words and their subwords, then those of its word n-grams.

constexpr int32_t kNoRow = -1;

struct LineRows {
  std::vector<int32_t> rows;
  int64_t count = 0;   // of rows, those that are kNoRow not included
  int64_t inputs = 0;  // those included
};

[[noreturn]] inline void bad_index(const char* what, int64_t value, const char* of, int64_t size) {
  throw std::out_of_range(std::string(what) + ": " + std::to_string(value) + " is out of range for " + of + " with " +
                          std::to_string(size) + " rows");
}

inline void gather_rows(const ClassifyParams& p, int64_t line, LineRows* found) {
  const int64_t begin = line > 0 ? p.ends[line - 1] : 0, length = p.ends[line] - begin;
  const int64_t first_ngram = line > 0 ? p.ngram_ends[line - 1] : 0, num_ngrams = p.ngram_ends[line] - first_ngram;
  const int32_t *const tokens = p.tokens + begin, *const ngrams = p.ngrams + first_ngram;
  int64_t most = num_ngrams;
  for (int64_t i = 0; i < length; ++i) {
    const int64_t word = tokens[i];
    if (static_cast<uint64_t>(word) >= static_cast<uint64_t>(p.num_words))
      bad_index("tokens", word, "row_ends", p.num_words);
    most += p.row_ends[word] - (word > 0 ? p.row_ends[word - 1] : 0);
  }
  if (static_cast<int64_t>(found->rows.size()) < most + 1) found->rows.resize(2 * most + 1);
  int32_t* const rows = found->rows.data();
  int64_t count = 0;
  int32_t largest = 0, smallest = 0;
  const auto add = [&](int32_t row) __attribute__((always_inline)) {
    rows[count] = row;
    count += row != kNoRow;  // no branch
    largest = std::max(largest, row);
    smallest = std::min(smallest, row);
  };
  for (int64_t i = 0; i < length; ++i) {
    const int32_t word = tokens[i];
    for (int64_t r = word > 0 ? p.row_ends[word - 1] : 0; r < p.row_ends[word]; ++r) add(p.rows[r]);
  }
  for (int64_t i = 0; i < num_ngrams; ++i) add(ngrams[i]);
  if (count > 0 && (smallest < kNoRow || static_cast<uint32_t>(largest) >= p.num_in))
    bad_index("rows, ngrams", smallest < kNoRow ? smallest : largest, "in_weight", p.num_in);
  found->count = count;
  found->inputs = most;
}
