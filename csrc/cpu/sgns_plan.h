// What comes before the arithmetic: subsampling, windows and negatives of a batch of sentences, cut into blocks. Whole
// sentences are planned ahead of training so that a block's rows can be prefetched while the one before is trained,
// across the ends of sentences as well.

constexpr int kBatch = 1024;  // kept words after which no further sentence is planned

// kBlock neighbouring centres (fewer at a sentence's end) and the K negatives that they share.
struct Block {
  int32_t first, count;  // the centres: kept words [first, first + count) of the batch
  int32_t low, high;     // the words in any of their windows: [low, high)
  float lr;
  uint64_t key;  // of its sentence's draws
  bool plain;    // all its outputs are different words, as far as a small hash table can tell
};

struct Batch {
  int64_t kept = 0;
  std::vector<int32_t> words, windows, places;  // of the kept words
  std::vector<float*> in_rows, out_rows;
  std::vector<Block> blocks;
  std::vector<uint64_t> draws;      // K per block, or for each of its centres
  std::vector<float*> negatives;    // rows of out, as many
  std::vector<uint32_t> last_seen;  // by a word's hash: the last block that had such a word among its outputs
  uint32_t serial = 0;

  Batch() : last_seen(1024) {}

  void clear() {
    kept = 0;
    blocks.clear();
    draws.clear();
  }

  void reserve(int64_t length) {
    if (length <= static_cast<int64_t>(words.size())) return;
    words.resize(length);
    windows.resize(length);
    places.resize(length);
    in_rows.resize(length);
    out_rows.resize(length);
  }

  W2V_INLINE bool seen_before(uint32_t word) {
    uint32_t& slot = last_seen[word % 1024];
    const bool seen = slot == serial;
    slot = serial;
    return seen;
  }
};

W2V_INLINE float* in_row(const SgnsParams& p, uint32_t word) {
  return (word < p.num_hot ? p.hot_in : p.in) + word * p.stride;
}

W2V_INLINE float* out_row(const SgnsParams& p, uint32_t word) {
  return (word < p.num_hot ? p.hot_out : p.out) + word * p.stride;
}

// The kept words of a sentence, behind those that the batch has.
inline int64_t subsample(const SgnsParams& p, const int32_t* ids, int64_t length, uint64_t key, Batch* batch) {
  int64_t kept = batch->kept;
  for (int64_t i = 0; i < length; ++i) {
    const int32_t word = ids[i];
    const uint64_t bits = draw(key, static_cast<uint64_t>(i) * (1 + p.negative));
    batch->words[kept] = word;
    batch->windows[kept] = 1 + static_cast<int32_t>(below(static_cast<uint32_t>(bits), p.window));
    batch->places[kept] = static_cast<int32_t>(i);
    kept += static_cast<uint32_t>(bits >> 32) <= p.keep[word];  // no branch: it would be mispredicted often
  }
  return kept;
}

// Appends the blocks of the sentence ids[0, length), which stands at `offset` in the corpus.
inline void plan_sentence(const SgnsParams& p, const int32_t* ids, int64_t length, int64_t offset, Batch* batch,
                          SgnsStats* stats) {
  const uint64_t key = sentence_key(p.seed, p.epoch, static_cast<uint64_t>(offset));
  batch->reserve(batch->kept + length);
  const int64_t begin = batch->kept, end = subsample(p, ids, length, key, batch);
  stats->words += end - begin;
  if (end - begin < 2) return;
  batch->kept = end;
  const auto lr = static_cast<float>(p.rate(offset));

  const int64_t old_blocks = static_cast<int64_t>(batch->blocks.size());
  for (int64_t j = begin; j < end; j += kBlock) {
    const int64_t stop = std::min<int64_t>(j + kBlock, end);
    int64_t low = j, high = j;
    for (int64_t i = j; i < stop; ++i) {
      const int64_t from = std::max(begin, i - batch->windows[i]), to = std::min(end, i + batch->windows[i] + 1);
      stats->pairs += to - from - 1;
      low = std::min(low, from);
      high = std::max(high, to);
      batch->in_rows[i] = in_row(p, batch->words[i]);
      batch->out_rows[i] = out_row(p, batch->words[i]);
    }
    batch->blocks.push_back({static_cast<int32_t>(j), static_cast<int32_t>(stop - j), static_cast<int32_t>(low),
                             static_cast<int32_t>(high), lr, key, true});
    for (int g = 0; g < p.negatives_of_block() / std::max(p.negative, 1); ++g) {
      const int64_t center = std::min(j + g, stop - 1);  // those of a missing centre weigh nothing
      const uint64_t first = static_cast<uint64_t>(batch->places[center]) * (1 + p.negative) + 1;
      for (int k = 0; k < p.negative; ++k) {
        const uint64_t bits = draw(key, first + k);
        batch->draws.push_back(bits);
        __builtin_prefetch(p.alias + below(static_cast<uint32_t>(bits >> 32), p.vocab_size));
      }
    }
  }
  const int64_t num_blocks = static_cast<int64_t>(batch->blocks.size());
  const int64_t count = p.negatives_of_block();
  batch->negatives.resize(num_blocks * count);
  for (int64_t b = old_blocks; b < num_blocks; ++b) {
    Block& block = batch->blocks[b];
    ++batch->serial;
    for (int g = 0; g < block.count; ++g) block.plain &= !batch->seen_before(batch->words[block.first + g]);
    for (int64_t k = b * count; k < (b + 1) * count; ++k) {
      const uint32_t word = sample_alias(p.alias, p.vocab_size, batch->draws[k]);
      batch->negatives[k] = out_row(p, word);
      block.plain &= !batch->seen_before(word);
    }
  }
}

// Calls train() with batch after batch of the sentences that start in ids[begin, end).
template <typename Train>
inline void each_batch(const SgnsParams& p, int64_t begin, int64_t end, Batch* batch, SgnsStats* stats,
                       const Train& train) {
  SgnsStats sums;  // on this thread's own stack: the threads' results share cache lines
  int64_t i = begin;
  if (i > 0)  // the sentence that runs into this stretch belongs to the one before
    while (i < end && p.ids[i - 1] >= 0) ++i;
  while (i < end) {
    batch->clear();
    while (i < end && batch->kept < kBatch) {
      int64_t stop = i;
      while (stop < p.num_ids && static_cast<uint32_t>(p.ids[stop]) < p.vocab_size) ++stop;
      if (stop < p.num_ids && p.ids[stop] >= 0)
        throw std::out_of_range("ids: word " + std::to_string(p.ids[stop]) + " at position " + std::to_string(stop) +
                                " is out of range for in_weight with " + std::to_string(p.vocab_size) + " rows");
      plan_sentence(p, p.ids + i, stop - i, i, batch, &sums);
      i = stop + 1;
    }
    train();
  }
  stats->pairs += sums.pairs;
  stats->words += sums.words;
}
