// Words to ids, for one thread. Open addressing over 32-byte slots that hold the word itself when it is short (up to
// 15 bytes: nearly every token of most languages), its count and its id, so that the usual look-up reads one cache
// line and follows no pointer. The bound is the miss on that line: the slots of frequent words stay in L2, rare words
// go to L3 or memory. Longer words lie in an arena and are found by their 64-bit hash first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace w2v::text {

// 16 bytes of ones followed by 16 of zeros: loading at 16 - n gives a mask for the first n bytes.
alignas(32) inline constexpr uint8_t kPrefixMask[32] = {
    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
};

inline uint64_t load64(const void* p) {
  uint64_t x;
  std::memcpy(&x, p, 8);
  return x;
}

inline uint64_t multiply_fold(uint64_t a, uint64_t b) {
  __extension__ using uint128 = unsigned __int128;
  const uint128 product = static_cast<uint128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

class WordTable {
 public:
  static constexpr size_t kShort = 15;  // longest word kept in its slot

  // A short word: its bytes, zeros, and its length in the last byte. A long one: hash, then kLongTag over its arena
  // offset. An empty slot has key[1] == 0.
  struct Slot {
    uint64_t key[2];
    uint64_t count;
    uint64_t id;
  };

  WordTable() : slots_(size_t{1} << 15), mask_(slots_.size() - 1) {}

  size_t size() const { return size_; }
  const std::vector<Slot>& slots() const { return slots_; }  // in no meaningful order; empty ones included
  static bool used(const Slot& s) { return s.key[1] != 0; }

  std::string_view word(const Slot& s) const {
    if (is_long(s)) {
      const char* at = arena_.data() + (s.key[1] & kOffsetMask);
      return {at + 8, load64(at)};
    }
    return {reinterpret_cast<const char*>(s.key), static_cast<size_t>(s.key[1] >> 56)};
  }

  // Count one more of the word of n <= 15 bytes at `bytes`, of which 16 are readable. Returns its id.
  uint64_t add_short(const uint8_t* bytes, size_t n) {
    const uint8_t* mask = kPrefixMask + 16 - n;
    const uint64_t k0 = load64(bytes) & load64(mask);
    const uint64_t k1 = (load64(bytes + 8) & load64(mask + 8)) | static_cast<uint64_t>(n) << 56;
    return add_key(k0, k1, 1);
  }

  // The same for any length.
  uint64_t add(const uint8_t* bytes, size_t n) { return n <= kShort ? add_short(bytes, n) : add_long(bytes, n, 1); }

  // Take over a word of another table with its count.
  uint64_t add_from(const WordTable& other, const Slot& s) {
    if (!is_long(s)) return add_key(s.key[0], s.key[1], s.count);
    const std::string_view w = other.word(s);
    return add_long(reinterpret_cast<const uint8_t*>(w.data()), w.size(), s.count);
  }

 private:
  static constexpr uint64_t kLongTag = uint64_t{0xFF} << 56;
  static constexpr uint64_t kOffsetMask = ~kLongTag;

  static bool is_long(const Slot& s) { return (s.key[1] & kLongTag) == kLongTag; }
  static uint64_t hash_short(uint64_t k0, uint64_t k1) {
    return multiply_fold(k0 ^ 0xa0761d6478bd642f, k1 ^ 0xe7037ed1a0b428db);
  }
  static uint64_t hash_long(const uint8_t* p, size_t n) {
    uint64_t h = n ^ 0x8ebc6af09c88c6e3;
    for (; n >= 8; p += 8, n -= 8) h = multiply_fold(h ^ load64(p), 0x589965cc75374cc3);
    uint64_t tail = 0;
    std::memcpy(&tail, p, n);
    return multiply_fold(h ^ tail, 0x1d8e4e27c47d124f);
  }

  uint64_t add_key(uint64_t k0, uint64_t k1, uint64_t count) {
    for (size_t i = hash_short(k0, k1) & mask_;; i = (i + 1) & mask_) {
      Slot& s = slots_[i];
      if (s.key[0] == k0 && s.key[1] == k1) {
        s.count += count;
        return s.id;
      }
      if (!used(s)) return insert(i, k0, k1, count);
    }
  }

  uint64_t add_long(const uint8_t* bytes, size_t n, uint64_t count) {
    const uint64_t h = hash_long(bytes, n);
    for (size_t i = h & mask_;; i = (i + 1) & mask_) {
      Slot& s = slots_[i];
      if (!used(s)) {
        const uint64_t offset = arena_.size();
        const uint64_t length = n;
        arena_.insert(arena_.end(), reinterpret_cast<const char*>(&length), reinterpret_cast<const char*>(&length) + 8);
        arena_.insert(arena_.end(), bytes, bytes + n);
        return insert(i, h, kLongTag | offset, count);
      }
      if (s.key[0] == h && is_long(s)) {
        const std::string_view w = word(s);
        if (w.size() == n && std::memcmp(w.data(), bytes, n) == 0) {
          s.count += count;
          return s.id;
        }
      }
    }
  }

  // Kept out of line: a new word is rare, and inlining it costs the look-up its registers.
  [[gnu::noinline]] uint64_t insert(size_t at, uint64_t k0, uint64_t k1, uint64_t count) {
    const uint64_t id = size_++;
    slots_[at] = {{k0, k1}, count, id};
    if (size_ * 2 > slots_.size()) grow();
    return id;
  }

  void grow() {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    mask_ = slots_.size() - 1;
    for (const Slot& s : old) {
      if (!used(s)) continue;
      size_t i = (is_long(s) ? s.key[0] : hash_short(s.key[0], s.key[1])) & mask_;
      while (used(slots_[i])) i = (i + 1) & mask_;
      slots_[i] = s;
    }
  }

  std::vector<Slot> slots_;
  std::vector<char> arena_;  // [8 bytes: length][word]...
  size_t mask_;
  size_t size_ = 0;
};

}  // namespace w2v::text
