// Rows of vector files: a word and D numbers, as text (word2vec, GloVe, fastText .vec, TSV) or binary (word2vec).
// Plain functions from a buffer to a buffer; the caller (w2v_ext/formats/rows.py) reads blocks, cuts them between rows
// and has several parsed at once. What is allocated grows with the rows that are there, never with what a header says:
// a number is at least 2 bytes of text or 4 of binary.
//
// Numbers are read exactly: the float32 (float64) nearest to the decimal, ties to even. They are written with the
// fewest digits that read back as the same float32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace w2v::text {

enum class RowFault {
  kNone,
  kFields,     // the line has `detail` fields, not D + 1
  kNumber,     // `field` is not a number
  kNotFinite,  // number `detail` (from 1) of the row is not finite
  kNoWord,
  kPartial,  // binary: the data end inside a record
};

// The whole rows of a block, up to the first one that is wrong.
template <class T>
struct Rows {
  std::vector<std::string_view> words;  // into the block
  std::vector<T> values;                // (rows, D)
  size_t count = 0;
  size_t used = 0;  // bytes taken; with a fault: where the faulty row begins
  RowFault fault = RowFault::kNone;
  int64_t detail = 0;
  std::string field;
};

struct RowOptions {
  int64_t dim;           // D
  int64_t limit;         // at most so many rows
  bool has_word = true;  // false (text only): D numbers a line, and no word
};

// Lines of text; the block ends behind a line break or with the file. A word may contain spaces where that leaves no
// doubt: more than D + 1 fields, the last D of them numbers, and the one before these not.
template <class T>
Rows<T> parse_text_rows(std::string_view block, const RowOptions& options);

// Records of a word, a space and D little-endian float32; line breaks before the word are passed over.
Rows<float> parse_binary_rows(std::string_view block, const RowOptions& options);

// The D of a row without a header: how many numbers the line ends in, at most its fields less one.
int64_t count_numbers(std::string_view line);

// A line for each row: the word and its D numbers, with `separator` between. Without words, the numbers alone.
std::string format_text_rows(std::span<const std::string_view> words, const float* values, int64_t rows, int64_t dim,
                             char separator);

// Bytes that grow in place where the system can (mremap); what is not yet written takes no memory.
class GrowingBuffer {
 public:
  GrowingBuffer() = default;
  GrowingBuffer(const GrowingBuffer&) = delete;
  GrowingBuffer& operator=(const GrowingBuffer&) = delete;
  ~GrowingBuffer() { std::free(data_); }

  void append(const void* bytes, size_t n) {
    if (n == 0) return;
    if (n > room_ - size_) resize(n > room_ ? size_ + n : size_ + room_);
    std::memcpy(static_cast<char*>(data_) + size_, bytes, n);
    size_ += n;
  }
  size_t size() const { return size_; }
  // Hands the bytes over, to be freed by std::free.
  std::pair<void*, size_t> release() {
    if (size_ > 0 && size_ < room_) resize(size_);
    room_ = 0;
    return {std::exchange(data_, nullptr), std::exchange(size_, 0)};
  }

 private:
  void resize(size_t n) {
    void* grown = std::realloc(data_, n);
    if (grown == nullptr) throw std::bad_alloc();
    data_ = grown;
    room_ = n;
  }
  void* data_ = nullptr;
  size_t size_ = 0, room_ = 0;
};

}  // namespace w2v::text
