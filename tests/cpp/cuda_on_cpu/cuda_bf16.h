// See cuda_runtime.h.
#pragma once
#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
  uint16_t bits;
  explicit operator float() const {
    const uint32_t whole = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &whole, 4);
    return value;
  }
};

struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

inline __nv_bfloat16 nearest_bfloat16(float value) {
  uint32_t whole;
  std::memcpy(&whole, &value, 4);
  return {static_cast<uint16_t>((whole + 0x7FFFu + (whole >> 16 & 1u)) >> 16)};
}

inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {nearest_bfloat16(x), nearest_bfloat16(y)}; }

inline __nv_bfloat162 atomicAdd(__nv_bfloat162* at, __nv_bfloat162 value) {
  const __nv_bfloat162 old = *at;
  *at = __floats2bfloat162_rn(static_cast<float>(old.x) + static_cast<float>(value.x),
                              static_cast<float>(old.y) + static_cast<float>(value.y));
  return old;
}
