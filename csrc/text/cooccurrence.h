// How often words stand near each other: X[i][j] is the sum of 1 / distance over all places where word i stands at most
// `window` words from word j in the same sentence, in either direction (Pennington et al. 2014, section 4.2). X is
// symmetric; the half with row >= column is counted and kept.
//
// Sums are integers in units of 1 / lcm(1..window) (up to window 22; beyond, of 2^-32), so no order of additions
// matters: one thread or many, in memory or spilled, give the same counts, exact and rounded once, to float32.
//
// Ids are sorted by frequency. A place is counted at the rarer of its two words, its row, and columns are the frequent
// words: so most additions of a row fall into its first cache lines. Every thread has a stretch of rows, of about equal
// work, and reads all ids: no cell is shared, nothing is locked. A cell that is expected to be met at least once lies
// in a table of its row (`dense`: columns below a limit per row); the others are logged, (column, distance) by row,
// until the memory is full, then summed row by row and spilled as a sorted run. At the end each row is put together
// from its table, its log and its runs, in ascending order.
//
// Bound: a token costs reading 4 bytes in each thread, 2 * window comparisons and about window additions, each a read
// and a write of 8 bytes mostly in cache; what misses is the row's table, once a token.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "builder.h"

namespace w2v::text {

struct Cell {
  int32_t row, column;  // row >= column
  float count;
};

struct CountOptions {
  int window = 10;
  unsigned threads = 1;
  size_t memory = size_t{1} << 30;  // bytes for tables and logs; beside them go 16 bytes a word, and 9 a thread
  std::string directory;            // exists; receives the parts, and while counting the runs
};

// A file of cells, sorted by (row, column): those of row first_row + r are cells row_starts[r] to row_starts[r + 1].
struct CellPart {
  std::string path;
  int64_t first_row = 0;
  std::vector<uint64_t> row_starts;
};

struct CellCounts {
  std::vector<CellPart> parts;  // by rows; together they have every row
  uint64_t cells = 0, diagonal = 0, runs = 0, spilled_bytes = 0;
};

// Thrown for an id outside the vocabulary, with its position.
struct BadId {
  int64_t id;
  uint64_t position;
};

// ids: sentences, each closed by -1. tick is called with the ids read by the calling thread.
CellCounts count_cooccurrences(std::span<const int32_t> ids, int64_t vocab_size, const CountOptions& options,
                               const Tick& tick);

// What the GloVe kernels read, laid out as blocks: see arrange_cells.
struct TrainingCell {
  int32_t row, column;
  float log_count, weight;  // weight = min(1, (count / x_max)^alpha)
};

struct ArrangeOptions {
  std::vector<int64_t> tiles;  // ascending from 0 to vocab_size: words tiles[t] to tiles[t + 1] are tile t
  double x_max = 100, alpha = 0.75;
  uint64_t seed = 1;
  unsigned threads = 1;
  std::string path;
};

// Writes the cells block by block, (row tile R, column tile C <= R) in the order (0, 0), (1, 0), (1, 1), (2, 0), ...,
// each block shuffled by (seed, block) alone. Returns the cells of each block. Holds one row of blocks per thread.
std::vector<uint64_t> arrange_cells(const std::vector<CellPart>& parts, const ArrangeOptions& options,
                                    const Tick& tick);

}  // namespace w2v::text
