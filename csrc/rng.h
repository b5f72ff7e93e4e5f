// Keyed random numbers, the same on the CPU and the GPU.
//
// (seed, epoch, sentence) determines every draw of a sentence: Philox4x32-10 (Salmon et al., SC 2011) turns the three
// into a 64-bit key once per sentence, and SplitMix64 (Steele et al., OOPSLA 2014) expands the key: draw i is a hash of
// key + i * golden ratio, so that any draw can be computed by any thread, in any order, on any device.
// A sentence's draws are numbered position * (1 + negative) + slot; slot 0 serves subsampling (upper 32 bits) and the
// window (lower 32 bits), slot 1 + k the k-th negative (upper half: alias column, lower half: coin).
// Cost: 2 multiplications and 3 shift-xors per 64 bits.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define W2V_HOST_DEVICE __host__ __device__
#else
#define W2V_HOST_DEVICE
#endif

namespace w2v {

W2V_HOST_DEVICE inline uint64_t sentence_key(uint64_t seed, uint32_t epoch, uint64_t sentence) {
  uint32_t c0 = static_cast<uint32_t>(sentence), c1 = static_cast<uint32_t>(sentence >> 32), c2 = epoch, c3 = 0;
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return (static_cast<uint64_t>(c1) << 32) | c0;
}

W2V_HOST_DEVICE inline uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

W2V_HOST_DEVICE inline uint64_t draw(uint64_t key, uint64_t i) { return mix64(key + (i + 1) * 0x9E3779B97F4A7C15ull); }

// An integer in [0, n) from 32 random bits (Lemire's multiply-shift; bias below n / 2^32).
W2V_HOST_DEVICE inline uint32_t below(uint32_t bits, uint32_t n) {
  return static_cast<uint32_t>((static_cast<uint64_t>(bits) * n) >> 32);
}

}  // namespace w2v
