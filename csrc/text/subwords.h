// The subwords of a word, as fastText counts them (Bojanowski et al. 2017): all stretches of min_n to max_n characters
// of "<word>", hashed into buckets whose rows stand behind those of the words. A single "<" or ">" is none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace w2v::text {

inline constexpr std::string_view kEndOfSentence = "</s>";  // the one word that fastText gives no subwords

struct SubwordOptions {
  int32_t min_n, max_n;  // characters; max_n 0: no subwords
  uint32_t buckets;      // 0: no subwords
};

// FNV-1a over *signed* bytes: an accident of fastText that its files keep.
inline constexpr uint32_t kHashStart = 2166136261u;
inline uint32_t hash_byte(uint32_t h, char c) {
  return (h ^ static_cast<uint32_t>(static_cast<int8_t>(c))) * 16777619u;
}

// Appends the bucket of every subword to `out`. `padded` is "<word>".
inline void append_subwords(std::string_view padded, const SubwordOptions& options, std::vector<int64_t>& out) {
  if (options.buckets == 0) return;
  const auto continues = [&](size_t i) { return (static_cast<uint8_t>(padded[i]) & 0xC0) == 0x80; };
  for (size_t i = 0; i < padded.size(); ++i) {
    if (continues(i)) continue;
    size_t j = i;
    uint32_t hash = kHashStart;
    for (int32_t n = 1; n <= options.max_n && j < padded.size(); ++n) {
      do {
        hash = hash_byte(hash, padded[j++]);
      } while (j < padded.size() && continues(j));
      if (n < options.min_n || (n == 1 && (i == 0 || j == padded.size()))) continue;
      out.push_back(hash % options.buckets);
    }
  }
}

}  // namespace w2v::text
