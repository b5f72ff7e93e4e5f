// Reading and tokenising: see builder.h. One thread (the caller's) reads and cuts, `threads` tokenise; with one thread
// the caller does both. The reader is the small part (it copies at memory speed); at most 2 * threads + 1 blocks exist.
#include "builder.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

namespace w2v::text {

File::File(const std::string& path, int flags) { open(path, flags); }

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

void File::open(const std::string& path, int flags) {
  path_ = path;
  fd_ = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
  if (fd_ < 0) throw FileError(errno, path);
}

void File::write_at(const void* data, size_t n, uint64_t offset) {
  const char* p = static_cast<const char*>(data);
  while (n > 0) {
    const ssize_t done = ::pwrite(fd_, p, n, static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) throw FileError(done < 0 ? errno : EIO, path_);
    p += done, n -= static_cast<size_t>(done), offset += static_cast<uint64_t>(done);
  }
}

void File::read_at(void* data, size_t n, uint64_t offset) {
  char* p = static_cast<char*>(data);
  while (n > 0) {
    const ssize_t done = ::pread(fd_, p, n, static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) throw FileError(done < 0 ? errno : EIO, path_);
    p += done, n -= static_cast<size_t>(done), offset += static_cast<uint64_t>(done);
  }
}

void File::close() {
  const int fd = fd_;
  fd_ = -1;
  if (::close(fd) != 0 && errno != EINTR) throw FileError(errno, path_);
}

Builder::Builder(BuilderOptions options) : options_(std::move(options)), workers_(options_.threads) {
  if (options_.threads == 1) return;
  for (unsigned i = 0; i < options_.threads; ++i) workers_[i].thread = std::thread([this, i] { work(i); });
}

Builder::~Builder() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    queue_.clear();
  }
  to_do_.notify_all();
  for (Worker& w : workers_)
    if (w.thread.joinable()) w.thread.join();
}

void Builder::begin_source(std::string name) {
  {
    const std::lock_guard lock(mutex_);  // a thread may be looking up the name of a source that has an error
    sources_.push_back(std::move(name));
  }
  current_ = new_block();
  target_ = options_.block_bytes;
  at_start_ = true;
}

std::unique_ptr<Block> Builder::new_block() {
  std::unique_ptr<Block> block;
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      block = std::move(free_.front());
      free_.pop_front();
    }
  }
  if (!block) block = std::make_unique<Block>();
  block->size = 0;
  block->offset = 0;
  block->resumes = Kind::kNone;
  block->source = static_cast<uint32_t>(sources_.size() - 1);
  return block;
}

uint8_t* Builder::room(size_t wanted) {
  std::vector<uint8_t>& bytes = current_->bytes;
  const size_t needed = current_->size + wanted + kPadding;
  if (bytes.size() < needed) bytes.resize(needed);
  return bytes.data() + current_->size;
}

void Builder::feed(std::span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    const size_t n = std::min(bytes.size(), target_ - current_->size);
    std::memcpy(room(n), bytes.data(), n);
    current_->size += n;
    bytes = bytes.subspan(n);
    cut_blocks();
  }
}

void Builder::read_fd(int fd, const Tick& tick) {
  using Clock = std::chrono::steady_clock;
  auto next_tick = Clock::now();
  uint64_t total = 0;
#ifdef POSIX_FADV_SEQUENTIAL
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
#endif
  for (;;) {
    const size_t n = target_ - current_->size;
    const ssize_t got = ::read(fd, room(n), n);
    if (got < 0 && errno != EINTR) throw FileError(errno, sources_.back());
    if (got > 0) {
      current_->size += static_cast<size_t>(got);
      total += static_cast<uint64_t>(got);
      cut_blocks();
    }
    if (got <= 0 || Clock::now() >= next_tick) {  // after an interrupted read too: a signal may be waiting
      tick(total);
      next_tick = Clock::now() + std::chrono::milliseconds(50);
    }
    if (got == 0) return;
  }
}

namespace {

Cut find_cut(const Block& block, const TokenizerOptions& options) {
  const auto cut = [&]<Mode M>() {
    return find_cut<M>(block.bytes.data(), block.size, block.resumes, options.max_token_bytes);
  };
  switch (options.mode) {
    case Mode::kWhitespace:
      return cut.operator()<Mode::kWhitespace>();
    case Mode::kWord:
      return cut.operator()<Mode::kWord>();
    case Mode::kChar:
      return cut.operator()<Mode::kChar>();
    case Mode::kAscii:
      return cut.operator()<Mode::kAscii>();
    case Mode::kItems:
      break;
  }
  return cut.operator()<Mode::kItems>();
}

}  // namespace

void Builder::cut_blocks() {
  if (at_start_ && current_->size >= 3) {
    at_start_ = false;
    uint8_t* p = current_->bytes.data();
    if (std::memcmp(p, "\xEF\xBB\xBF", 3) == 0) {
      current_->size -= 3;
      current_->offset = 3;
      std::memmove(p, p + 3, current_->size);
    }
  }
  if (current_->size < target_ || at_start_) return;
  const Cut cut = find_cut(*current_, options_.tokenizer);
  if (cut.at == 0) {
    target_ *= 2;  // ends soon: a token of more than max_token_bytes is cut
  } else {
    submit(cut.at, cut.open);
    target_ = std::max(options_.block_bytes, current_->size + 1);
  }
}

void Builder::end_source() {
  at_start_ = false;  // a text shorter than a byte-order mark has none
  *room(1) = '\n';    // ends the last line where the text does not
  ++current_->size;
  submit(current_->size, Kind::kNone);
  current_.reset();
}

void Builder::submit(size_t size, Kind open_after) {
  if (failed_sequence_ != ~uint64_t{0}) take_failure();
  {
    std::unique_lock lock(mutex_);  // before the next block is made, so that their number is bounded
    done_.wait(lock, [this] { return in_flight_ < 2 * workers_.size(); });
  }
  std::unique_ptr<Block> rest = new_block();
  const size_t left = current_->size - size;
  if (rest->bytes.size() < left + kPadding) rest->bytes.resize(std::max(left, options_.block_bytes) + kPadding);
  std::memcpy(rest->bytes.data(), current_->bytes.data() + size, left);
  rest->size = left;
  rest->offset = current_->offset + size;
  rest->resumes = open_after;

  current_->size = size;
  std::memset(current_->bytes.data() + size, '\t', kPadding);
  current_->sequence = sequence_++;
  current_.swap(rest);
  if (workers_.size() == 1) {
    {
      const std::lock_guard lock(mutex_);
      encoded_.emplace_back();
    }
    process(*rest, 0);
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(rest));
    if (failure_) std::rethrow_exception(failure_);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    encoded_.emplace_back();
    ++in_flight_;
    queue_.push_back(std::move(rest));
  }
  to_do_.notify_one();
}

void Builder::work(unsigned worker) {
  for (;;) {
    std::unique_ptr<Block> block;
    {
      std::unique_lock lock(mutex_);
      to_do_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (stopping_) return;
      block = std::move(queue_.front());
      queue_.pop_front();
    }
    if (block->sequence < failed_sequence_) process(*block, worker);
    {
      const std::lock_guard lock(mutex_);
      --in_flight_;
      free_.push_back(std::move(block));
    }
    done_.notify_all();
  }
}

void Builder::process(const Block& block, unsigned worker) {
  WorkerState& state = workers_[worker].state;
  const TokenizerOptions& options = options_.tokenizer;
  uint64_t tokens = 0;
  const auto run = [&]<Mode M>() {
    return options.lowercase ? Tokenizer<M, true>(block, state, options).run(&tokens)
                             : Tokenizer<M, false>(block, state, options).run(&tokens);
  };
  std::exception_ptr failure;
  try {
    size_t codes = 0;
    switch (options.mode) {
      case Mode::kWhitespace:
        codes = run.operator()<Mode::kWhitespace>();
        break;
      case Mode::kWord:
        codes = run.operator()<Mode::kWord>();
        break;
      case Mode::kChar:
        codes = run.operator()<Mode::kChar>();
        break;
      case Mode::kItems:
        codes = run.operator()<Mode::kItems>();
        break;
      case Mode::kAscii:
        codes = run.operator()<Mode::kAscii>();
        break;
    }
    keep(block, worker, codes, tokens);
    return;
  } catch (const InputError& e) {
    const std::lock_guard lock(mutex_);
    failure = std::make_exception_ptr(SourceError{sources_[block.source], e});
  } catch (...) {
    failure = std::current_exception();
  }
  const std::lock_guard lock(mutex_);
  if (block.sequence < failed_sequence_) {  // whichever thread comes first, the first place in the text is reported
    failed_sequence_ = block.sequence;
    failure_ = failure;
  }
}

void Builder::keep(const Block& block, unsigned worker, size_t codes, uint64_t tokens) {
  const size_t bytes = codes * sizeof(uint16_t);
  const uint16_t* from = workers_[worker].state.codes.data();
  Encoded e;
  e.count = codes, e.tokens = tokens, e.worker = worker, e.source = block.source;
  bool spill;
  {
    const std::lock_guard lock(mutex_);
    spill = held_bytes_ + bytes > options_.spill_after;
    if (spill) {
      if (!spill_.is_open()) {
        spill_.open(options_.spill_path, O_RDWR | O_CREAT | O_EXCL);
        ::unlink(options_.spill_path.c_str());
      }
      e.offset = spilled_bytes_;
      spilled_bytes_ += bytes;
    } else {
      held_bytes_ += bytes;
    }
  }
  if (spill) {
    spill_.write_at(from, bytes, e.offset);
  } else {
    e.codes = std::make_unique_for_overwrite<uint16_t[]>(codes);
    std::memcpy(e.codes.get(), from, bytes);
  }
  const std::lock_guard lock(mutex_);
  encoded_[block.sequence] = std::move(e);
}

void Builder::wait_until_idle() {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return in_flight_ == 0; });
}

void Builder::take_failure() {
  wait_until_idle();  // an earlier block may still be at work and fail as well
  if (failure_) std::rethrow_exception(failure_);
}

}  // namespace w2v::text
