// Rows in global memory that other warps add to at the same time: read past the L1 cache, which would keep what it once
// saw, and added to by atomics, 16 (bfloat16: 8) bytes at a time where the chip can (sm_90), number by number
// elsewhere.
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "../lanes.h"

namespace w2v {

#ifdef __CUDACC__
// The address is a multiple of 16 bytes for float, of 8 for bfloat16.
// Zeros where `here` does not hold: no branch, behind which a warp might go on in two halves.
__device__ __forceinline__ Vec4 load_shared_row(const float* at, bool here = true) {
  Vec4 v{0, 0, 0, 0};
  asm volatile(
      "{ .reg .pred here; setp.ne.s32 here, %5, 0; @here ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4]; }"
      : "+f"(v.x), "+f"(v.y), "+f"(v.z), "+f"(v.w)
      : "l"(__cvta_generic_to_global(at)), "r"(static_cast<int>(here))
      : "memory");
  return v;
}

__device__ __forceinline__ Vec4 load_shared_row(const __nv_bfloat16* at, bool here = true) {
  uint32_t low = 0, high = 0;
  asm volatile("{ .reg .pred here; setp.ne.s32 here, %3, 0; @here ld.relaxed.gpu.global.v2.b32 {%0, %1}, [%2]; }"
               : "+r"(low), "+r"(high)
               : "l"(__cvta_generic_to_global(at)), "r"(static_cast<int>(here))
               : "memory");
  return {__uint_as_float(low << 16), __uint_as_float(low & 0xFFFF0000u), __uint_as_float(high << 16),
          __uint_as_float(high & 0xFFFF0000u)};
}

__device__ __forceinline__ void prefetch_line(const char* line) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(line)));
}
#else  // the tests, on the CPU
template <typename T>
Vec4 load_shared_row(const T* at, bool here = true) {
  if (!here) return {0, 0, 0, 0};
  return {static_cast<float>(at[0]), static_cast<float>(at[1]), static_cast<float>(at[2]), static_cast<float>(at[3])};
}

inline void prefetch_line(const char*) {}
#endif

__device__ __forceinline__ void add_to_row(float* at, const Vec4& step, bool here = true) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{ .reg .pred here; setp.ne.s32 here, %5, 0; @here red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4}; }" ::
          "l"(__cvta_generic_to_global(at)),
      "f"(step.x), "f"(step.y), "f"(step.z), "f"(step.w), "r"(static_cast<int>(here))
      : "memory");
#else
  if (!here) return;
  atomicAdd(at, step.x);
  atomicAdd(at + 1, step.y);
  atomicAdd(at + 2, step.z);
  atomicAdd(at + 3, step.w);
#endif
}

__device__ __forceinline__ uint32_t pack_bfloat16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ __forceinline__ void add_to_row(__nv_bfloat16* at, const Vec4& step, bool here = true) {
  const uint32_t low = pack_bfloat16(step.x, step.y), high = pack_bfloat16(step.z, step.w);
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{ .reg .pred here; setp.ne.s32 here, %3, 0; @here red.relaxed.gpu.global.add.noftz.v2.bf16x2 [%0], {%1, %2}; "
      "}" ::"l"(__cvta_generic_to_global(at)),
      "r"(low), "r"(high), "r"(static_cast<int>(here))
      : "memory");
#else
  if (!here) return;
  atomicAdd(reinterpret_cast<__nv_bfloat162*>(at), *reinterpret_cast<const __nv_bfloat162*>(&low));
  atomicAdd(reinterpret_cast<__nv_bfloat162*>(at) + 1, *reinterpret_cast<const __nv_bfloat162*>(&high));
#endif
}

}  // namespace w2v
