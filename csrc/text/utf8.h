// UTF-8 and character classes. `decode` follows the Unicode standard's "maximal subpart" rule, so an invalid sequence
// becomes as many U+FFFD as Python's errors="replace" makes of it. It may look at the three bytes after the one it
// starts with: every buffer ends with padding that is not a continuation byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "unicode_tables.h"

namespace w2v::text {

inline constexpr uint32_t kReplacement = 0xFFFD;

struct Decoded {
  uint32_t value;   // U+FFFD where the bytes are not UTF-8
  uint32_t length;  // bytes used, at least 1
  bool valid;
};

inline bool is_continuation(uint8_t b) { return (b & 0xC0) == 0x80; }

inline Decoded decode(const uint8_t* p) {
  const uint32_t b = p[0];
  if (b < 0x80) return {b, 1, true};
  if (b < 0xC2 || b > 0xF4) return {kReplacement, 1, false};
  if (b < 0xE0) {
    if (!is_continuation(p[1])) return {kReplacement, 1, false};
    return {(b & 0x1F) << 6 | (p[1] & 0x3Fu), 2, true};
  }
  // The second byte's range leaves out overlong forms, surrogates and values past U+10FFFF.
  const uint8_t lo = b == 0xE0 ? 0xA0 : b == 0xF0 ? 0x90 : 0x80;
  const uint8_t hi = b == 0xED ? 0x9F : b == 0xF4 ? 0x8F : 0xBF;
  if (p[1] < lo || p[1] > hi) return {kReplacement, 1, false};
  if (!is_continuation(p[2])) return {kReplacement, 2, false};
  if (b < 0xF0) return {(b & 0x0F) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu), 3, true};
  if (!is_continuation(p[3])) return {kReplacement, 3, false};
  return {(b & 0x07) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu), 4, true};
}

// Writes 1 to 4 bytes and returns their number.
inline size_t encode(uint32_t c, uint8_t* out) {
  if (c < 0x80) return out[0] = static_cast<uint8_t>(c), 1;
  size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
  for (size_t i = n - 1; i > 0; --i, c >>= 6) out[i] = static_cast<uint8_t>(0x80 | (c & 0x3F));
  constexpr uint8_t kLead[] = {0, 0, 0xC0, 0xE0, 0xF0};
  out[0] = static_cast<uint8_t>(kLead[n] | c);
  return n;
}

// The end of the last character that lies wholly in [p, p + n).
inline size_t complete_characters(const uint8_t* p, size_t n) {
  for (size_t back = 1; back <= 3 && back <= n; ++back) {
    const uint8_t b = p[n - back];
    if (is_continuation(b)) continue;
    const size_t needs = b < 0xC0 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
    return needs > back ? n - back : n;
  }
  return n;
}

enum CharClass : uint8_t { kSpace = 1, kWord = 2, kMark = 4, kCjk = 8 };

// Flat tables: one load a character. 1.6 MB of address space, of which a text touches a few pages.
struct Unicode {
  static constexpr uint32_t kLowerEnd = 0x1E944;
  static constexpr uint32_t kDottedCapitalI = 0x130;  // the one character that lower-cases to two: i and U+0307
  uint8_t classes[0x110000] = {};
  int32_t lower_delta[kLowerEnd] = {};

  Unicode() {
    const auto mark = [this](const auto& ranges, CharClass bit) {
      for (const CodeRange& r : ranges)
        for (uint32_t c = r.first; c <= r.last; ++c) classes[c] |= bit;
    };
    mark(kSpaceRanges, kSpace);
    mark(kWordRanges, kWord);
    mark(kMarkRanges, kMark);
    mark(kCjkRanges, kCjk);
    for (const LowerRun& r : kLowerRuns)
      for (uint32_t c = r.first; c <= r.last && c < kLowerEnd; c += r.step) lower_delta[c] = r.delta;
  }

  uint32_t lower(uint32_t c) const { return c < kLowerEnd ? c + static_cast<uint32_t>(lower_delta[c]) : c; }
};

inline const Unicode& unicode() {
  static const auto tables = std::make_unique<const Unicode>();
  return *tables;
}

}  // namespace w2v::text
