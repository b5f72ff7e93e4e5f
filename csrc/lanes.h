// What a lane computes with: 4 columns of a row, and the bits of a ballot. Plain C++ without nvcc.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define W2V_DEVICE __device__ __forceinline__
#define W2V_UNROLL _Pragma("unroll")
#else
#define W2V_DEVICE inline
#define W2V_UNROLL
#endif

namespace w2v {

struct alignas(16) Vec4 {
  float x, y, z, w;
};

W2V_DEVICE float dot(float sum, const Vec4& a, const Vec4& b) {
  return sum + a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
}

W2V_DEVICE void add_scaled(Vec4* sum, float scale, const Vec4& a) {
  sum->x += scale * a.x;
  sum->y += scale * a.y;
  sum->z += scale * a.z;
  sum->w += scale * a.w;
}

W2V_DEVICE int lowest_bit(uint32_t bits) {
#ifdef __CUDACC__
  return __ffs(static_cast<int>(bits)) - 1;
#else
  return __builtin_ctz(bits);
#endif
}

W2V_DEVICE int count_bits(uint32_t bits) {
#ifdef __CUDACC__
  return __popc(bits);
#else
  return __builtin_popcount(bits);
#endif
}

}  // namespace w2v
