// Sixteen bytes at a time: just what finding the end of a word needs, for SSE2, NEON and plain C++. All three give the
// same answers; a "flag" is a byte whose top bit is set. No other instruction set is needed: the loop that uses this
// waits for table look-ups, not for wider vectors.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace w2v::text {

// Word keys are built from bytes in memory order, and ids.bin is little-endian by definition.
static_assert(std::endian::native == std::endian::little, "w2v_ext supports little-endian machines only");

struct Bytes16 {
#if defined(__SSE2__)
  __m128i v;
  static Bytes16 load(const void* p) { return {_mm_loadu_si128(static_cast<const __m128i*>(p))}; }
  void store(void* p) const { _mm_storeu_si128(static_cast<__m128i*>(p), v); }
  // Flags the bytes between lo and hi, both included.
  Bytes16 in_range(uint8_t lo, uint8_t hi) const {
    const __m128i x = _mm_sub_epi8(v, _mm_set1_epi8(static_cast<char>(lo)));
    return {_mm_cmpeq_epi8(_mm_min_epu8(x, _mm_set1_epi8(static_cast<char>(hi - lo))), x)};
  }
  Bytes16 operator|(Bytes16 o) const { return {_mm_or_si128(v, o.v)}; }
  Bytes16 operator&(uint8_t bits) const { return {_mm_and_si128(v, _mm_set1_epi8(static_cast<char>(bits)))}; }
  Bytes16 operator|(uint8_t bits) const { return {_mm_or_si128(v, _mm_set1_epi8(static_cast<char>(bits)))}; }
  Bytes16 operator~() const { return {_mm_xor_si128(v, _mm_set1_epi8(-1))}; }
  // The place of the first flag, 16 without one.
  unsigned first_flag() const { return std::countr_zero(static_cast<unsigned>(_mm_movemask_epi8(v)) | 0x10000u); }
#elif defined(__aarch64__)
  uint8x16_t v;
  static Bytes16 load(const void* p) { return {vld1q_u8(static_cast<const uint8_t*>(p))}; }
  void store(void* p) const { vst1q_u8(static_cast<uint8_t*>(p), v); }
  Bytes16 in_range(uint8_t lo, uint8_t hi) const {
    return {vcleq_u8(vsubq_u8(v, vdupq_n_u8(lo)), vdupq_n_u8(static_cast<uint8_t>(hi - lo)))};
  }
  Bytes16 operator|(Bytes16 o) const { return {vorrq_u8(v, o.v)}; }
  Bytes16 operator&(uint8_t bits) const { return {vandq_u8(v, vdupq_n_u8(bits))}; }
  Bytes16 operator|(uint8_t bits) const { return {vorrq_u8(v, vdupq_n_u8(bits))}; }
  Bytes16 operator~() const { return {vmvnq_u8(v)}; }
  unsigned first_flag() const {  // NEON has no movemask: narrowing by 4 bits leaves a nibble a byte
    const uint8x16_t flags = vreinterpretq_u8_s8(vshrq_n_s8(vreinterpretq_s8_u8(v), 7));
    const uint8x8_t nibbles = vshrn_n_u16(vreinterpretq_u16_u8(flags), 4);
    return static_cast<unsigned>(std::countr_zero(vget_lane_u64(vreinterpret_u64_u8(nibbles), 0))) / 4;
  }
#else
  uint8_t v[16];
  static Bytes16 load(const void* p) {
    Bytes16 x;
    std::memcpy(x.v, p, 16);
    return x;
  }
  void store(void* p) const { std::memcpy(p, v, 16); }
  template <class F>
  Bytes16 map(F f) const {
    Bytes16 x;
    for (int i = 0; i < 16; ++i) x.v[i] = static_cast<uint8_t>(f(v[i], i));
    return x;
  }
  Bytes16 in_range(uint8_t lo, uint8_t hi) const {
    return map([=](uint8_t b, int) { return static_cast<uint8_t>(b - lo) <= hi - lo ? 0xFF : 0; });
  }
  Bytes16 operator|(Bytes16 o) const {
    return map([&](uint8_t b, int i) { return b | o.v[i]; });
  }
  Bytes16 operator&(uint8_t bits) const {
    return map([=](uint8_t b, int) { return b & bits; });
  }
  Bytes16 operator|(uint8_t bits) const {
    return map([=](uint8_t b, int) { return b | bits; });
  }
  Bytes16 operator~() const {
    return map([](uint8_t b, int) { return ~b; });
  }
  unsigned first_flag() const {
    for (unsigned i = 0; i < 16; ++i)
      if (v[i] & 0x80) return i;
    return 16;
  }
#endif

  Bytes16 lower_ascii() const {
    const Bytes16 upper = in_range('A', 'Z') & uint8_t{0x20};
    return *this | upper;
  }
};

}  // namespace w2v::text
