// From sorted cells to the blocks that GloVe trains on: see arrange_cells in cooccurrence.h. A row of blocks is a
// stretch of the sorted cells, and goes to the same places of the new file: it is read, counted by column tile,
// scattered, shuffled and written, by one thread; rows of blocks do not depend on each other.
#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>

#include "../rng.h"
#include "cooccurrence.h"
#include "threads.h"

namespace w2v::text {

namespace {

// The cells of rows [first, end), from the parts they lie in.
void read_rows(const std::vector<CellPart>& parts, const std::vector<std::unique_ptr<File>>& files, int64_t first,
               int64_t end, std::vector<Cell>* cells) {
  cells->clear();
  for (size_t p = 0; p < parts.size(); ++p) {
    const auto& starts = parts[p].row_starts;
    const int64_t rows = static_cast<int64_t>(starts.size()) - 1;
    const uint64_t from = starts[static_cast<size_t>(std::clamp<int64_t>(first - parts[p].first_row, 0, rows))];
    const uint64_t to = starts[static_cast<size_t>(std::clamp<int64_t>(end - parts[p].first_row, 0, rows))];
    const size_t held = cells->size();
    cells->resize(held + (to - from));
    files[p]->read_at(cells->data() + held, (to - from) * sizeof(Cell), from * sizeof(Cell));
  }
}

}  // namespace

std::vector<uint64_t> arrange_cells(const std::vector<CellPart>& parts, const ArrangeOptions& options,
                                    const Tick& tick) {
  const size_t tiles = options.tiles.size() - 1;
  const int64_t vocab_size = options.tiles.back();
  std::vector<uint32_t> tile_of(static_cast<size_t>(vocab_size));
  for (size_t t = 0; t < tiles; ++t)
    std::fill(tile_of.begin() + options.tiles[t], tile_of.begin() + options.tiles[t + 1], static_cast<uint32_t>(t));

  std::vector<std::unique_ptr<File>> files;
  std::vector<uint64_t> first_cell(tiles + 1);  // of each row of blocks
  for (const CellPart& part : parts) {
    files.push_back(std::make_unique<File>(part.path, O_RDONLY));
    const int64_t rows = static_cast<int64_t>(part.row_starts.size()) - 1;
    for (size_t t = 0; t <= tiles; ++t)
      first_cell[t] +=
          part.row_starts[static_cast<size_t>(std::clamp<int64_t>(options.tiles[t] - part.first_row, 0, rows))];
  }

  File out(options.path, O_WRONLY | O_CREAT | O_TRUNC);
  std::vector<uint64_t> block_sizes(tiles * (tiles + 1) / 2);
  std::atomic<size_t> next{0};
  std::atomic<uint64_t> written{0};
  std::atomic<bool> stopping{false};
  in_threads(options.threads, [&](unsigned thread) {
    std::vector<Cell> cells;
    std::vector<TrainingCell> arranged;
    std::vector<uint64_t> place;
    try {
      for (size_t t = next++; t < tiles && !stopping; t = next++) {
        read_rows(parts, files, options.tiles[t], options.tiles[t + 1], &cells);
        uint64_t* const sizes = block_sizes.data() + t * (t + 1) / 2;
        for (const Cell& c : cells) ++sizes[tile_of[static_cast<size_t>(c.column)]];
        place.assign(t + 1, 0);
        for (size_t b = 0; b < t; ++b) place[b + 1] = place[b] + sizes[b];
        arranged.resize(cells.size());
        for (const Cell& c : cells) {
          const double x = static_cast<double>(c.count);
          const double weight = x < options.x_max ? std::pow(x / options.x_max, options.alpha) : 1.0;
          arranged[place[tile_of[static_cast<size_t>(c.column)]]++] = {c.row, c.column, static_cast<float>(std::log(x)),
                                                                       static_cast<float>(weight)};
        }
        for (size_t b = 0; b <= t; ++b) {  // Fisher and Yates; place[b] is now the end of block b
          TrainingCell* const block = arranged.data() + (place[b] - sizes[b]);
          const uint64_t key = sentence_key(options.seed, 0x676C6F76u, t * (t + 1) / 2 + b);
          for (uint64_t i = sizes[b]; i > 1; --i) {
            __extension__ using uint128 = unsigned __int128;
            const uint64_t j = static_cast<uint64_t>((static_cast<uint128>(draw(key, i)) * i) >> 64);
            std::swap(block[i - 1], block[j]);
          }
        }
        out.write_at(arranged.data(), arranged.size() * sizeof(TrainingCell), first_cell[t] * sizeof(TrainingCell));
        written += arranged.size();
        if (thread == 0) tick(written);
      }
    } catch (...) {
      stopping = true;
      throw;
    }
  });
  out.close();
  return block_sizes;
}

}  // namespace w2v::text
