// Stochastic rounding to bfloat16, the same on the CPU and the GPU: up or down with the probabilities that keep the
// mean, so that steps smaller than half the distance between two bfloat16 numbers are not lost (Gupta et al., ICML
// 2015).
#pragma once
#include <cstdint>
#include <cstring>

#include "rng.h"

namespace w2v {

// A float that is a bfloat16 number; bits are 16 random ones. Infinities and NaN stay what they are.
W2V_HOST_DEVICE inline float stochastic_round(float number, uint32_t bits) {
#ifdef __CUDA_ARCH__
  uint32_t whole = __float_as_uint(number);
#else
  uint32_t whole;
  std::memcpy(&whole, &number, sizeof(whole));
#endif
  if ((whole & 0x7F800000u) != 0x7F800000u) whole += bits;
  whole &= (whole & 0x7FFFFFFFu) > 0x7F800000u ? 0xFFFFFFFFu : 0xFFFF0000u;
#ifdef __CUDA_ARCH__
  return __uint_as_float(whole);
#else
  std::memcpy(&number, &whole, sizeof(whole));
  return number;
#endif
}

}  // namespace w2v
