// The corpus builder: cuts a stream of bytes into blocks, has worker threads turn them into word ids, and at the end
// puts the threads' word tables together, sorts the vocabulary and writes the final ids. The text is read once. What
// is held meanwhile: a few blocks per thread, the tables (they grow with the distinct words only), and the ids as
// 16-bit codes, in memory up to `spill_after` bytes and from there on in a temporary file.
//
// Results do not depend on threads or block size: blocks are cut only between tokens, ids are kept in block order, and
// the vocabulary is sorted by (count descending, bytes ascending).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "tokenizer.h"

namespace w2v::text {

struct BuilderOptions {
  TokenizerOptions tokenizer;
  unsigned threads = 1;
  size_t block_bytes = size_t{1} << 20;
  std::string spill_path;  // created when it is needed and unlinked at once
  size_t spill_after = size_t{64} << 20;
};

struct FileError : std::runtime_error {
  FileError(int code, std::string file) : std::runtime_error(file), errno_code(code), path(std::move(file)) {}
  int errno_code;
  std::string path;
};

// A file descriptor that closes itself; writes all or throws.
class File {
 public:
  File() = default;
  File(const std::string& path, int flags);
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File();
  void open(const std::string& path, int flags);
  bool is_open() const { return fd_ >= 0; }
  void write_at(const void* data, size_t n, uint64_t offset);
  void read_at(void* data, size_t n, uint64_t offset);
  void close();  // reports what a delayed write had to say

 private:
  int fd_ = -1;
  std::string path_;
};

struct SourceError {
  std::string source;
  InputError what;
};

struct Vocabulary {
  std::vector<std::string> words;
  std::vector<int64_t> counts;
  int64_t largest_count = 0;
};

struct Written {
  uint64_t tokens = 0, sentences = 0, longest_sentence = 0;
};

// The lines of labelled text, in order, each word and label by its place in the lists: see lines.cpp.
struct LabelledLines {
  std::vector<std::string> words, labels;  // by (count descending, bytes ascending)
  std::vector<int64_t> word_counts, label_counts;
  std::vector<int32_t> tokens, line_labels;
  std::vector<int64_t> ends, label_ends;  // line i has tokens [ends[i-1], ends[i]), and likewise its labels
  std::vector<int64_t> source_lines;      // lines of each source
};

// Called now and then with the bytes read so far (or ids written); may throw to stop everything.
using Tick = std::function<void(uint64_t)>;

// Hands freed memory back to the system when it is destroyed: what reading took is not what training should pay for.
struct MemoryReturn {
  ~MemoryReturn() {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
  }
};

class Builder {
 public:
  explicit Builder(BuilderOptions options);
  ~Builder();

  void begin_source(std::string name);
  void feed(std::span<const uint8_t> bytes);
  void read_fd(int fd, const Tick& tick);
  void end_source();

  // After the last source: join the tables. Words that equal a special token are left out.
  Vocabulary make_vocabulary(int64_t min_count, int64_t max_vocab, const std::vector<std::string>& specials);
  LabelledLines labelled_lines(const std::string& label_prefix);
  Written write_ids(const std::string& path, uint64_t max_line_tokens, uint64_t split_tokens, const Tick& tick);

  uint64_t raw_words() const;
  uint64_t replacements() const;
  uint64_t dropped_tokens() const;
  uint64_t distinct_words() const { return distinct_words_; }
  std::vector<uint64_t> source_words() const;

 private:
  struct Worker {
    WorkerState state;
    std::vector<int32_t> final_id;  // by code; -1: not in the vocabulary
    std::thread thread;
  };
  MemoryReturn last_;  // the first member is destroyed after all others
  struct Encoded {     // a block's codes: in memory, or in the spill file from `offset` on
    std::unique_ptr<uint16_t[]> codes;
    uint64_t count = 0, offset = 0, tokens = 0;
    uint32_t worker = 0, source = 0;
  };

  uint8_t* room(size_t wanted);  // makes current_ take `wanted` more bytes
  void cut_blocks();
  void submit(size_t size, Kind open_after);
  void process(const Block& block, unsigned worker);
  void keep(const Block& block, unsigned worker, size_t codes, uint64_t tokens);
  void work(unsigned worker);
  void take_failure();
  void wait_until_idle();
  const uint16_t* load(const Encoded& e, std::vector<uint16_t>& buffer);
  std::unique_ptr<Block> new_block();

  BuilderOptions options_;
  std::vector<Worker> workers_;
  std::vector<std::string> sources_;
  std::unique_ptr<Block> current_;  // text that has not been handed out yet
  size_t target_ = 0;               // size of current_ at which to look for a cut
  uint64_t sequence_ = 0;
  bool at_start_ = false;  // of a source: a byte-order mark may follow

  std::mutex mutex_;
  std::condition_variable to_do_, done_;
  std::deque<std::unique_ptr<Block>> queue_, free_;
  size_t in_flight_ = 0;
  bool stopping_ = false;
  std::exception_ptr failure_;  // of the earliest failing block
  std::atomic<uint64_t> failed_sequence_{~uint64_t{0}};

  std::deque<Encoded> encoded_;  // by block sequence
  size_t held_bytes_ = 0;
  uint64_t spilled_bytes_ = 0;
  File spill_;
  uint64_t distinct_words_ = 0;
};

}  // namespace w2v::text
