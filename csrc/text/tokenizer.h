// From a block of UTF-8 to word ids: one pass that validates, splits, lower-cases, counts and encodes. The fast path
// takes a whole ASCII word of up to 15 bytes from one 16-byte load: the vector compare that finds the word's end also
// proves it ASCII, and the masked load is its key in the word table. Everything else (other characters, longer words,
// inner apostrophes) goes one character at a time through the class tables.
//
// Ids leave as 16-bit codes, which halves what is kept until the final vocabulary is known: 0 ends a line, an id i is
// i + 1 below 0x8000 and otherwise two codes, 0x8000 | high bits, then the low 16 bits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "simd16.h"
#include "utf8.h"
#include "word_table.h"

namespace w2v::text {

// kItems: only tab and newline separate; kAscii: ASCII's white space and NUL, as fastText reads
enum class Mode { kWhitespace, kWord, kChar, kItems, kAscii };

struct TokenizerOptions {
  Mode mode = Mode::kWhitespace;
  bool lowercase = false;
  bool replace_errors = false;     // false: stop at the first invalid byte or overlong token
  size_t max_token_bytes = 65536;  // at least 16: shorter words are never measured
};

// Text that `errors="strict"` refuses. `source` is filled in by the builder, which knows it.
struct InputError {
  enum Kind { kInvalidUtf8, kLongToken } kind;
  uint64_t offset;
  uint8_t byte;  // the offending one
};

enum class Kind : uint8_t { kNone, kRun, kIdeograph };  // what sort of token is being read

inline constexpr size_t kPadding = 64;  // tabs behind a block's last byte: a separator in every mode

struct Block {
  std::vector<uint8_t> bytes;  // `size` bytes of text, then at least kPadding more
  size_t size = 0;
  uint64_t sequence = 0;
  uint64_t offset = 0;  // of the first byte in its source
  uint32_t source = 0;
  Kind resumes = Kind::kNone;  // the block begins inside an overlong token of this kind, already counted as dropped
};

// What one thread collects over all its blocks.
struct WorkerState {
  WordTable table;
  std::vector<uint8_t> scratch;  // the token being put together: lower-cased, with replacements
  std::vector<uint16_t> codes;   // of the block at hand
  uint64_t replacements = 0, dropped_tokens = 0;
};

// The rules of what a token is, without doing anything about it.
template <Mode M>
struct Rules {
  // Flags (top bit) every byte that cannot go on an ASCII token; bytes >= 0x80 are always among them.
  static Bytes16 stops(Bytes16 x) {
    if constexpr (M == Mode::kWhitespace) {
      return x | (x.in_range(9, 13) | x.in_range(28, 32));
    } else if constexpr (M == Mode::kItems) {
      return x | x.in_range(9, 10);
    } else if constexpr (M == Mode::kAscii) {
      return x | (x.in_range(9, 13) | x.in_range(32, 32) | x.in_range(0, 0));
    } else {
      return ~((x | uint8_t{0x20}).in_range('a', 'z') | x.in_range('0', '9') | x.in_range('_', '_'));
    }
  }

  static bool is_separator_byte(uint8_t b) {  // whitespace that may be cut at without looking around it
    if constexpr (M == Mode::kAscii) return b == 0 || b == ' ' || (b >= 9 && b <= 13);
    return b == '\n' || b == '\t' || (M != Mode::kItems && ((b >= 11 && b <= 13) || (b >= 28 && b <= 32)));
  }

  static Kind first(uint32_t c) {
    if constexpr (M == Mode::kItems) return c == '\t' || c == '\n' ? Kind::kNone : Kind::kRun;
    if constexpr (M == Mode::kAscii) return c == 0 || c == ' ' || (c >= 9 && c <= 13) ? Kind::kNone : Kind::kRun;
    const uint8_t cls = unicode().classes[c];
    if constexpr (M == Mode::kWhitespace) return cls & kSpace ? Kind::kNone : Kind::kRun;
    if constexpr (M == Mode::kChar)
      if (cls & kCjk) return Kind::kIdeograph;
    return cls & kWord ? Kind::kRun : Kind::kNone;
  }

  static bool is_apostrophe(uint32_t c) { return c == '\'' || c == 0x2019; }

  // Feeds the characters of the token that goes on at p to visit(place, decoded); returns its end.
  template <class Visit>
  static const uint8_t* scan(const uint8_t* p, const uint8_t* end, Kind kind, Visit&& visit) {
    bool begun = false;
    while (p < end) {
      const Decoded d = decode(p);
      if (kind == Kind::kIdeograph) {  // one ideograph and the marks upon it
        if (begun && !(unicode().classes[d.value] & kMark)) break;
      } else if (first(d.value) != Kind::kRun) {
        if constexpr (M == Mode::kWhitespace || M == Mode::kItems || M == Mode::kAscii) break;
        if (!is_apostrophe(d.value) || p + d.length >= end || first(decode(p + d.length).value) != Kind::kRun) break;
      }
      visit(p, d);
      p += d.length;
      begun = true;
    }
    return p;
  }

  // The end of what is left of a token that began in an earlier block.
  template <class Visit>
  static const uint8_t* scan_rest(const uint8_t* p, const uint8_t* end, Kind kind, Visit&& visit) {
    if (kind == Kind::kIdeograph && p < end && !(unicode().classes[decode(p).value] & kMark)) return p;
    return scan(p, end, kind, visit);
  }
};

template <Mode M, bool Lower>
class Tokenizer {
  using R = Rules<M>;

 public:
  Tokenizer(const Block& block, WorkerState& state, const TokenizerOptions& options)
      : block_(block), state_(state), options_(options) {
    // At most two codes a byte; three bytes of scratch for each of a token's.
    if (state.codes.size() < 2 * block.size + 2) state.codes.resize(2 * block.size + 2);
    if (state.scratch.size() < 3 * options.max_token_bytes + 32) state.scratch.resize(3 * options.max_token_bytes + 32);
    out_ = state.codes.data();
  }

  // Leaves the codes in state.codes and returns their number; `tokens` gets the number of tokens.
  size_t run(uint64_t* tokens) {
    const uint8_t* p = block_.bytes.data();
    const uint8_t* const end = p + block_.size;
    if (block_.resumes != Kind::kNone) {
      p = R::scan_rest(p, end, block_.resumes, [this](const uint8_t* at, Decoded d) { check(at, d); });
    }
    while (p < end) {
      const Bytes16 x = Bytes16::load(p);
      const unsigned n = R::stops(x).first_flag();
      if (n == 0 && *p < 0x80) {  // a separator; an apostrophe without a word before it is one too
        if (*p == '\n') end_line();
        ++p;
      } else if (n - 1u < WordTable::kShort && p[n] < 0x80 && !(kInner && p[n] == '\'')) {
        if constexpr (Lower) {
          uint8_t lowered[16];
          x.lower_ascii().store(lowered);
          put(state_.table.add_short(lowered, n));
        } else {
          put(state_.table.add_short(p, n));
        }
        if (p[n] == '\n') end_line();
        p += n + 1;
      } else {
        p = any_token(p, end);
      }
    }
    *tokens = tokens_;
    return static_cast<size_t>(out_ - state_.codes.data());
  }

 private:
  static constexpr bool kInner = M == Mode::kWord || M == Mode::kChar;  // inner apostrophes belong to a word

  void end_line() { *out_++ = 0; }

  void put(uint64_t id) {
    ++tokens_;
    const uint64_t code = id + 1;
    if (code >= 0x8000) [[unlikely]]
      *out_++ = static_cast<uint16_t>(0x8000 | code >> 16);
    *out_++ = static_cast<uint16_t>(code);
  }

  uint64_t offset_of(const uint8_t* at) const {
    return block_.offset + static_cast<uint64_t>(at - block_.bytes.data());
  }

  void check(const uint8_t* at, Decoded d) {
    if (d.valid) return;
    if (!options_.replace_errors) throw InputError{InputError::kInvalidUtf8, offset_of(at), *at};
    ++state_.replacements;
  }

  // One token of any kind, or one separator of any kind, at p.
  const uint8_t* any_token(const uint8_t* p, const uint8_t* end) {
    const Decoded d = decode(p);
    const Kind kind = R::first(d.value);
    if (kind == Kind::kNone) {
      check(p, d);
      return p + d.length;
    }
    uint8_t* const word = state_.scratch.data();
    uint8_t* to = word;
    bool too_long = false;
    const uint8_t* const stop = R::scan(p, end, kind, [&](const uint8_t* at, Decoded c) {
      check(at, c);
      if (static_cast<size_t>(at - p) + c.length > options_.max_token_bytes) {
        if (!options_.replace_errors) throw InputError{InputError::kLongToken, offset_of(p), *p};
        too_long = true;
        return;
      }
      if (Lower && c.value == Unicode::kDottedCapitalI) {
        *to++ = 'i';
        to += encode(0x307, to);
      } else if (Lower) {
        to += encode(unicode().lower(c.value), to);
      } else if (c.valid) {
        std::memcpy(to, at, 4);  // the padding makes the extra bytes readable
        to += c.length;
      } else {
        to += encode(kReplacement, to);
      }
    });
    if (too_long) {
      ++state_.dropped_tokens;
    } else {
      put(state_.table.add(word, static_cast<size_t>(to - word)));
    }
    return stop;
  }

  const Block& block_;
  WorkerState& state_;
  const TokenizerOptions& options_;
  uint16_t* out_;
  uint64_t tokens_ = 0;
};

// Where a buffer can be cut without changing any token. A cut of 0 asks for more text. `open` says that no such place
// exists although more than max_token_bytes were seen: the cut then lies inside an overlong token of that kind.
struct Cut {
  size_t at = 0;
  Kind open = Kind::kNone;
};

template <Mode M>
Cut find_cut(const uint8_t* p, size_t n, Kind resumes, size_t max_token_bytes) {
  for (size_t i = n; i > 0; --i)
    if (Rules<M>::is_separator_byte(p[i - 1])) return {i, Kind::kNone};

  // No ASCII whitespace at all: walk over the tokens and cut behind the last that is known to have ended.
  const size_t limit = complete_characters(p, n);
  const uint8_t* const end = p + limit;
  const auto ignore = [](const uint8_t*, Decoded) {};
  const auto unfinished = [&](const uint8_t* stop) {
    if (stop >= end) return true;
    if constexpr (M == Mode::kWhitespace || M == Mode::kItems || M == Mode::kAscii) return false;
    const Decoded d = decode(stop);  // an apostrophe joins on if a letter follows: not seen yet
    return Rules<M>::is_apostrophe(d.value) && stop + d.length >= end;
  };
  const uint8_t* at = p;
  Kind kind = resumes;
  if (kind != Kind::kNone) {
    at = Rules<M>::scan_rest(p, end, kind, ignore);
    if (!unfinished(at)) kind = Kind::kNone;
  }
  size_t safe = kind == Kind::kNone ? static_cast<size_t>(at - p) : 0;
  while (kind == Kind::kNone && at < end) {
    const Decoded d = decode(at);
    const Kind found = Rules<M>::first(d.value);
    if (found == Kind::kNone) {
      at += d.length;
    } else {
      const uint8_t* const stop = Rules<M>::scan(at, end, found, ignore);
      at = stop;
      if (unfinished(stop)) {
        kind = found;
        break;
      }
    }
    safe = static_cast<size_t>(at - p);
  }
  if (safe > 0 || n <= max_token_bytes + 16) return {safe, Kind::kNone};
  return {static_cast<size_t>(at - p), kind};  // all of it is one token
}

}  // namespace w2v::text
