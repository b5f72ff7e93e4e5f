// The second half of the builder: from the threads' tables and codes to the vocabulary and ids.bin. Sorting touches
// the kept words only; writing reads every code once, in order, through one 4-byte table look-up, while a second
// thread hands finished buffers to the file. The bound is the page cache's copy of 4 bytes a token.
#include <fcntl.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "builder.h"

namespace w2v::text {

uint64_t Builder::raw_words() const {
  uint64_t n = 0;
  for (const Encoded& e : encoded_) n += e.tokens;
  return n;
}

uint64_t Builder::replacements() const {
  uint64_t n = 0;
  for (const Worker& w : workers_) n += w.state.replacements;
  return n;
}

uint64_t Builder::dropped_tokens() const {
  uint64_t n = 0;
  for (const Worker& w : workers_) n += w.state.dropped_tokens;
  return n;
}

std::vector<uint64_t> Builder::source_words() const {
  std::vector<uint64_t> words(sources_.size());
  for (const Encoded& e : encoded_) words[e.source] += e.tokens;
  return words;
}

Vocabulary Builder::make_vocabulary(int64_t min_count, int64_t max_vocab, const std::vector<std::string>& specials) {
  take_failure();
  WordTable& all = workers_[0].state.table;
  std::vector<std::vector<uint64_t>> joined(workers_.size());  // id in a thread's table -> id in `all`
  for (size_t t = 1; t < workers_.size(); ++t) {
    const WordTable& table = workers_[t].state.table;
    joined[t].resize(table.size());
    for (const WordTable::Slot& s : table.slots())
      if (WordTable::used(s)) joined[t][s.id] = all.add_from(table, s);
  }
  distinct_words_ = all.size();

  Vocabulary vocabulary;
  std::vector<const WordTable::Slot*> kept;
  for (const WordTable::Slot& s : all.slots()) {
    if (!WordTable::used(s)) continue;
    if (std::find(specials.begin(), specials.end(), all.word(s)) != specials.end()) continue;
    vocabulary.largest_count = std::max(vocabulary.largest_count, static_cast<int64_t>(s.count));
    if (static_cast<int64_t>(s.count) >= min_count) kept.push_back(&s);
  }
  std::sort(kept.begin(), kept.end(), [&](const WordTable::Slot* a, const WordTable::Slot* b) {
    return a->count != b->count ? a->count > b->count : all.word(*a) < all.word(*b);
  });
  if (kept.size() > static_cast<size_t>(max_vocab)) kept.resize(static_cast<size_t>(max_vocab));

  std::vector<int32_t> final_id(all.size(), -1);
  for (size_t i = 0; i < specials.size(); ++i) {
    vocabulary.words.push_back(specials[i]);
    vocabulary.counts.push_back(0);
  }
  for (const WordTable::Slot* s : kept) {
    final_id[s->id] = static_cast<int32_t>(vocabulary.words.size());
    vocabulary.words.emplace_back(all.word(*s));
    vocabulary.counts.push_back(static_cast<int64_t>(s->count));
  }
  for (size_t t = 0; t < workers_.size(); ++t) {
    std::vector<int32_t>& by_code = workers_[t].final_id;
    const size_t n = t == 0 ? all.size() : joined[t].size();
    by_code.assign(n + 1, -1);  // a code is an id + 1
    for (size_t i = 0; i < n; ++i) by_code[i + 1] = final_id[t == 0 ? i : joined[t][i]];
    if (t > 0) workers_[t].state.table = WordTable();
  }
  return vocabulary;
}

const uint16_t* Builder::load(const Encoded& e, std::vector<uint16_t>& buffer) {
  if (e.codes) return e.codes.get();
  buffer.resize(e.count);
  spill_.read_at(buffer.data(), e.count * sizeof(uint16_t), e.offset);
  return buffer.data();
}

namespace {

// Writes buffers to a file in another thread; one is written while the next is filled.
class BackgroundWriter {
 public:
  explicit BackgroundWriter(const std::string& path) : file_(path, O_WRONLY | O_CREAT | O_TRUNC) {
    thread_ = std::thread([this] { run(); });
  }
  ~BackgroundWriter() { stop(); }

  // Takes the contents of `ids` and gives back an empty buffer.
  void write(std::vector<int32_t>& ids, size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return count_ == 0 || error_; });
    if (error_) std::rethrow_exception(error_);
    ids.swap(buffer_);
    count_ = count;
    changed_.notify_all();
  }

  void finish() {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return count_ == 0 || error_; });
      if (error_) std::rethrow_exception(error_);
    }
    stop();
    file_.close();
  }

 private:
  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return count_ > 0 || stopping_; });
      if (count_ == 0) return;
      const size_t bytes = count_ * sizeof(int32_t);
      lock.unlock();
      std::exception_ptr error;
      try {
        file_.write_at(buffer_.data(), bytes, offset_);
      } catch (...) {
        error = std::current_exception();
      }
      offset_ += bytes;
      lock.lock();
      count_ = 0;
      error_ = error;
      changed_.notify_all();
      if (error_) return;
    }
  }

  File file_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int32_t> buffer_;
  size_t count_ = 0;  // > 0: buffer_ belongs to the writing thread
  uint64_t offset_ = 0;
  bool stopping_ = false;
  std::exception_ptr error_;
  std::thread thread_;
};

// Ids with -1 behind every sentence. A line of more than max_line tokens is unbroken text and becomes sentences of
// `split` tokens, from its beginning: so an open line is held back until it has ended or is known to be long.
class SentenceWriter {
 public:
  SentenceWriter(const std::string& path, uint64_t max_line, uint64_t split)
      : writer_(path), max_line_(max_line), split_(split), close_at_(max_line + 1) {}

  void add_codes(const uint16_t* code, size_t count, const int32_t* final_id) {
    const size_t needed = 2 * (size_ + count) + 16;  // no sentence is empty: at most a marker for every token
    if (ids_.size() < needed) ids_.resize(std::max(needed, kChunk + kChunk / 2));
    int32_t* const ids = ids_.data();
    size_t n = size_;
    for (const uint16_t* const end = code + count; code < end;) {
      uint32_t c = *code++;
      if (c == 0) {
        if (n > begin_) n = close(n);
        long_ = false;
        close_at_ = max_line_ + 1;
        continue;
      }
      if (c & 0x8000) [[unlikely]]
        c = (c & 0x7FFF) << 16 | *code++;
      const int32_t id = final_id[c];
      ids[n] = id;
      n += id >= 0;
      if (n - begin_ >= close_at_) [[unlikely]]
        n = long_ ? close(n) : split_up(n);
    }
    size_ = n;
    if (begin_ >= kChunk) flush();
  }

  Written finish() {
    flush();
    writer_.finish();
    return written_;
  }

 private:
  static constexpr size_t kChunk = size_t{1} << 18;

  size_t close(size_t n) {
    written_.tokens += n - begin_;
    written_.sentences += 1;
    written_.longest_sentence = std::max<uint64_t>(written_.longest_sentence, n - begin_);
    ids_[n] = -1;
    return begin_ = n + 1;
  }

  size_t split_up(size_t n) {
    const std::vector<int32_t> line(ids_.begin() + static_cast<ptrdiff_t>(begin_),
                                    ids_.begin() + static_cast<ptrdiff_t>(n));
    long_ = true;
    close_at_ = split_;
    n = begin_;
    for (const int32_t id : line) {
      ids_[n++] = id;
      if (n - begin_ >= split_) n = close(n);
    }
    return n;
  }

  void flush() {
    const size_t whole = begin_;
    if (whole == 0) return;
    const std::vector<int32_t> open(ids_.begin() + static_cast<ptrdiff_t>(whole),
                                    ids_.begin() + static_cast<ptrdiff_t>(size_));
    writer_.write(ids_, whole);
    if (ids_.size() < open.size()) ids_.resize(open.size());
    std::copy(open.begin(), open.end(), ids_.begin());
    begin_ = 0;
    size_ = open.size();
  }

  BackgroundWriter writer_;
  std::vector<int32_t> ids_;
  size_t begin_ = 0, size_ = 0;  // the open sentence is ids_[begin_, size_)
  const uint64_t max_line_, split_;
  uint64_t close_at_;
  bool long_ = false;
  Written written_;
};

}  // namespace

Written Builder::write_ids(const std::string& path, uint64_t max_line_tokens, uint64_t split_tokens, const Tick& tick) {
  SentenceWriter out(path, max_line_tokens, split_tokens);
  std::vector<uint16_t> buffer;
  uint64_t codes = 0, next_tick = 0;
  for (Encoded& e : encoded_) {
    const uint16_t* const from = load(e, buffer);
    out.add_codes(from, e.count, workers_[e.worker].final_id.data());
    e.codes.reset();
    codes += e.count;
    if (codes >= next_tick) {
      tick(codes);
      next_tick = codes + (uint64_t{4} << 20);
    }
  }
  return out.finish();
}

}  // namespace w2v::text
