// Counting and joining pairs of neighbouring words: see bigrams.h.
#include "bigrams.h"

#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <mutex>

#include "cooccurrence.h"
#include "threads.h"
#include "word_table.h"

namespace w2v::text {

namespace {

constexpr size_t kStretch = size_t{1} << 20;  // ids between two looks at the clock

uint64_t key_of(int32_t first, int32_t second) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(first)) << 32 | static_cast<uint32_t>(second)) + 1;
}
uint64_t hash_of(uint64_t key) { return multiply_fold(key ^ 0xa0761d6478bd642f, 0xe7037ed1a0b428db); }

// The pairs whose hash is from `low` to `high` (inclusive), and what is put off because it did not fit.
class PairTable {
 public:
  struct Slot {
    uint64_t key, count;  // key 0: empty
  };
  struct Range {
    uint64_t low, high;
  };

  PairTable(Range range, size_t bytes)
      : range_(range), most_(std::bit_floor(std::max<size_t>(bytes / sizeof(Slot) * 2 / 3, 16))) {
    slots_.resize(std::min<size_t>(most_, size_t{1} << 12));
  }

  bool has(uint64_t hash) const { return hash >= range_.low && hash <= range_.high; }
  void prefetch(uint64_t hash) const { __builtin_prefetch(&slots_[place(hash)], 1); }

  void add(uint64_t key, uint64_t hash) {
    if (!has(hash)) return;  // put off since it was looked at
    for (size_t i = place(hash);; i = (i + 1) & (slots_.size() - 1)) {
      Slot& s = slots_[i];
      if (s.key == key) {
        ++s.count;
        return;
      }
      if (s.key == 0) {
        s = {key, 1};
        if (++size_ * 4 > slots_.size() * 3) make_room();
        return;
      }
    }
  }

  size_t size() const { return size_; }
  const std::vector<Slot>& slots() const { return slots_; }
  const std::vector<Range>& put_off() const { return put_off_; }

 private:
  // The middle bits: those at the top decide the range.
  size_t place(uint64_t hash) const { return hash * 0x9E3779B97F4A7C15u >> 20 & (slots_.size() - 1); }

  void make_room() {
    std::vector<Slot> old(slots_.size() < most_ ? 2 * slots_.size() : slots_.size());
    if (slots_.size() == most_ && range_.low < range_.high) {
      const uint64_t middle = range_.low + (range_.high - range_.low) / 2;
      put_off_.push_back({middle + 1, range_.high});
      range_.high = middle;
    }
    old.swap(slots_);
    size_ = 0;
    for (const Slot& s : old) {
      if (s.key == 0 || !has(hash_of(s.key))) continue;
      size_t i = place(hash_of(s.key));
      while (slots_[i].key != 0) i = (i + 1) & (slots_.size() - 1);
      slots_[i] = s;
      ++size_;
    }
  }

  Range range_;
  size_t most_, size_ = 0;
  std::vector<Slot> slots_;
  std::vector<Range> put_off_;
};

// Calls pair(key, hash) for the pairs of neighbours in a range, after the slot was asked for.
void count_range(std::span<const int32_t> ids, PairTable* table, const std::function<bool(uint64_t)>& keep_on) {
  constexpr size_t kAhead = 32;
  struct Pending {
    uint64_t key, hash;
  } pending[kAhead];
  size_t waiting = 0;
  const auto add_all = [&] {
    for (size_t i = 0; i < waiting; ++i) table->add(pending[i].key, pending[i].hash);
    waiting = 0;
  };
  for (size_t from = 0; from + 1 < ids.size(); from += kStretch) {
    const size_t to = std::min(from + kStretch, ids.size() - 1);
    for (size_t i = from; i < to; ++i) {
      if (ids[i] < 0 || ids[i + 1] < 0) continue;
      const uint64_t key = key_of(ids[i], ids[i + 1]), hash = hash_of(key);
      if (!table->has(hash)) continue;
      table->prefetch(hash);
      pending[waiting++] = {key, hash};
      if (waiting == kAhead) add_all();
    }
    if (!keep_on(to)) return;
  }
  add_all();
}

}  // namespace

BigramCounts count_bigrams(std::span<const int32_t> ids, int64_t vocab_size, const BigramOptions& options,
                           const Tick& tick) {
  BigramCounts result;
  result.words.resize(static_cast<size_t>(vocab_size));
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < -1 || ids[i] >= vocab_size) throw BadId{ids[i], i};
    if (ids[i] >= 0) ++result.words[static_cast<size_t>(ids[i])];
  }

  const unsigned threads = options.threads;
  std::mutex mutex;
  std::vector<PairTable::Range> to_do;
  for (uint64_t t = 0; t < threads; ++t) {
    const uint64_t step = ~uint64_t{0} / threads;
    to_do.push_back({t * step + (t > 0), t + 1 == threads ? ~uint64_t{0} : (t + 1) * step});
  }
  std::atomic<bool> stopping{false};
  in_threads(threads, [&](unsigned t) {
    try {
      while (!stopping) {
        PairTable::Range range;
        {
          const std::lock_guard lock(mutex);
          if (to_do.empty()) return;  // what others put off, they count
          range = to_do.back();
          to_do.pop_back();
        }
        PairTable table(range, options.memory / threads);
        count_range(ids, &table, [&](uint64_t position) {
          if (t == 0) tick(position);
          return !stopping;
        });
        const std::lock_guard lock(mutex);
        to_do.insert(to_do.end(), table.put_off().begin(), table.put_off().end());
        result.distinct += table.size();
        ++result.readings;
        for (const PairTable::Slot& s : table.slots())
          if (s.key != 0 && static_cast<int64_t>(s.count) >= options.min_count)
            result.frequent.push_back({static_cast<int32_t>((s.key - 1) >> 32), static_cast<int32_t>(s.key - 1),
                                       static_cast<int64_t>(s.count)});
      }
    } catch (...) {
      stopping = true;
      throw;
    }
  });
  std::sort(result.frequent.begin(), result.frequent.end(), [](const Bigram& a, const Bigram& b) {
    return a.first != b.first ? a.first < b.first : a.second < b.second;
  });
  return result;
}

uint64_t join_bigrams(std::span<const int32_t> ids, int64_t vocab_size, const std::vector<Bigram>& bigrams,
                      const std::vector<int32_t>& joined, const std::string& path, const Tick& tick) {
  struct Slot {
    uint64_t key;
    int32_t word;
  };
  const size_t size = std::bit_ceil(2 * bigrams.size() + 2);
  std::vector<Slot> slots(size);
  std::vector<bool> begins(static_cast<size_t>(vocab_size));  // words that a bigram begins with
  const auto find = [&](uint64_t key) {
    size_t i = hash_of(key) & (size - 1);
    while (slots[i].key != 0 && slots[i].key != key) i = (i + 1) & (size - 1);
    return &slots[i];
  };
  for (size_t b = 0; b < bigrams.size(); ++b) {
    const uint64_t key = key_of(bigrams[b].first, bigrams[b].second);
    *find(key) = {key, joined[b]};
    begins[static_cast<size_t>(bigrams[b].first)] = true;
  }

  File out(path, O_WRONLY | O_CREAT | O_TRUNC);
  std::vector<int32_t> buffer;
  uint64_t written = 0;
  for (size_t i = 0; i < ids.size();) {
    const size_t stop = std::min(i + kStretch, ids.size());
    while (i < stop) {
      const Slot* found = nullptr;
      if (ids[i] >= 0 && begins[static_cast<size_t>(ids[i])] && i + 1 < ids.size() && ids[i + 1] >= 0) {
        found = find(key_of(ids[i], ids[i + 1]));
        if (found->key == 0) found = nullptr;
      }
      buffer.push_back(found != nullptr ? found->word : ids[i]);
      i += found != nullptr ? 2 : 1;
    }
    out.write_at(buffer.data(), buffer.size() * sizeof(int32_t), written * sizeof(int32_t));
    written += buffer.size();
    buffer.clear();
    tick(i);
  }
  out.close();
  return written;
}

void write_lines(std::span<const int32_t> ids, const std::vector<std::string>& words, const std::string& path,
                 const Tick& tick) {
  File out(path, O_WRONLY | O_CREAT | O_TRUNC);
  std::string buffer;
  uint64_t written = 0;
  bool within = false;  // a line
  for (size_t i = 0; i < ids.size();) {
    for (const size_t stop = std::min(i + kStretch, ids.size()); i < stop; ++i) {
      if (ids[i] < 0) {
        buffer += '\n';
      } else {
        if (within) buffer += ' ';
        buffer += words[static_cast<size_t>(ids[i])];
      }
      within = ids[i] >= 0;
    }
    out.write_at(buffer.data(), buffer.size(), written);
    written += buffer.size();
    buffer.clear();
    tick(i);
  }
  out.close();
}

}  // namespace w2v::text
