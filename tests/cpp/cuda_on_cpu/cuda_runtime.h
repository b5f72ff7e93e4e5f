// As much of CUDA as the kernels of csrc/cuda use, on the CPU: the threads of a warp are fibers that take turns, and
// switch where CUDA's would wait for each other. Stands before the toolkit's own header in the include path.
#pragma once
#include <csetjmp>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned n = 1) : x(n), y(1), z(1) {}
};
inline dim3 threadIdx(0), blockIdx(0), blockDim, gridDim;

using cudaError_t = int;
using cudaStream_t = void*;
constexpr cudaError_t cudaSuccess = 0;
constexpr int cudaFuncAttributeMaxDynamicSharedMemorySize = 0, cudaFuncAttributePreferredSharedMemoryCarveout = 1,
              cudaSharedmemCarveoutMaxShared = 100;
using cudaDeviceAttr = int;
constexpr cudaDeviceAttr cudaDevAttrMultiProcessorCount = 0, cudaDevAttrMaxSharedMemoryPerBlockOptin = 1,
                         cudaDevAttrL2CacheSize = 2;
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  constexpr int kValues[] = {3, 232448, 40000};  // few multiprocessors, so that blocks have several warps
  *value = kValues[which];
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "error"; }
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, int, int) {
  return cudaSuccess;
}

namespace cuda_on_cpu {

constexpr int kLanes = 32;
constexpr size_t kStack = 256 << 10;

struct Exchange {
  alignas(8) char value[2][kLanes][8];
  long step[kLanes];
};

inline Exchange exchange;
// A fiber begins as a context of its own; after that it and the scheduler jump to and fro, which unlike swapcontext()
// asks nothing of the kernel.
inline ucontext_t fibers[kLanes];
inline jmp_buf scheduler, places[kLanes];
inline std::vector<char> stacks;
inline bool begun[kLanes], finished[kLanes];
inline int lane;
inline const std::function<void()>* body;
inline bool failed, backwards;  // backwards: the last lane runs ahead, not the first

inline std::vector<char> shared_memory;
inline char* dynamic_shared() {
  return shared_memory.data() + (16 - reinterpret_cast<uintptr_t>(shared_memory.data()) % 16) % 16;
}

inline void enter() {
  (*body)();
  finished[lane] = true;
  _longjmp(scheduler, 1);
}

// Goes on with a lane until it waits for the others, or ends.
inline void resume(int l) {
  lane = l;
  if (_setjmp(scheduler) != 0) return;
  if (begun[l]) _longjmp(places[l], 1);
  begun[l] = true;
  setcontext(&fibers[l]);
}

inline void yield() {
  const int own = lane;
  const unsigned thread = threadIdx.x;
  if (_setjmp(places[own]) == 0) _longjmp(scheduler, 1);
  lane = own;
  threadIdx.x = thread;
}

// All lanes give a value and meet; then each may read any lane's.
template <typename T>
T meet(T value, int from) {
  static_assert(sizeof(T) <= 8);
  const int own = lane;
  const long step = exchange.step[own]++;
  std::memcpy(exchange.value[step & 1][own], &value, sizeof(T));
  yield();
  if (exchange.step[from] < step + 1 || exchange.step[from] > step + 2) failed = true;
  std::memcpy(&value, exchange.value[step & 1][from], sizeof(T));
  return value;
}

inline void run_warp(unsigned first_thread) {
  if (stacks.empty()) stacks.resize(kLanes * kStack);
  std::memset(&exchange, 0, sizeof(exchange));
  for (int l = 0; l < kLanes; ++l) {
    begun[l] = finished[l] = false;
    getcontext(&fibers[l]);
    fibers[l].uc_stack.ss_sp = stacks.data() + l * kStack;
    fibers[l].uc_stack.ss_size = kStack;
    fibers[l].uc_link = nullptr;  // enter() does not return
    makecontext(&fibers[l], enter, 0);
  }
  for (bool busy = true; busy;) {
    busy = false;
    for (int i = 0; i < kLanes; ++i) {
      const int l = backwards ? kLanes - 1 - i : i;
      if (finished[l]) continue;
      busy = true;
      threadIdx.x = first_thread + static_cast<unsigned>(l);
      resume(l);
    }
  }
  for (const long steps : exchange.step) failed |= steps != exchange.step[0];  // a lane did not come to a meeting
}

}  // namespace cuda_on_cpu

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

template <typename... Expected, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Expected...), const Args&... args) {
  const std::function<void()> call = [&] { kernel(args...); };
  cuda_on_cpu::body = &call;
  cuda_on_cpu::failed = false;
  cuda_on_cpu::backwards = std::getenv("CUDA_ON_CPU_BACKWARDS") != nullptr;
  cuda_on_cpu::shared_memory.assign(config->dynamicSmemBytes + 4096, '\xAB');
  gridDim = config->gridDim;
  blockDim = config->blockDim;
  for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x)
    for (unsigned thread = 0; thread < blockDim.x; thread += cuda_on_cpu::kLanes) cuda_on_cpu::run_warp(thread);
  const char* end = cuda_on_cpu::shared_memory.data() + cuda_on_cpu::shared_memory.size();
  for (const char* past = cuda_on_cpu::dynamic_shared() + config->dynamicSmemBytes; past < end; ++past)
    cuda_on_cpu::failed |= *past != '\xAB';  // written behind the end
  return cuda_on_cpu::failed ? 1 : cudaSuccess;
}

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return cuda_on_cpu::meet(value, cuda_on_cpu::lane ^ mask);
}
template <typename T>
T __shfl_sync(unsigned, T value, int from) {
  return cuda_on_cpu::meet(value, from);
}
inline void __syncwarp() { cuda_on_cpu::meet(0, cuda_on_cpu::lane); }

inline uint32_t __ballot_sync(unsigned, bool rule) {
  uint32_t bits = 0;
  const int own = cuda_on_cpu::lane;
  cuda_on_cpu::meet(rule, own);
  const long step = cuda_on_cpu::exchange.step[own] - 1;
  for (int lane = 0; lane < cuda_on_cpu::kLanes; ++lane)
    bits |= static_cast<uint32_t>(cuda_on_cpu::exchange.value[step & 1][lane][0]) << lane;
  return bits;
}

template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned by) {
  const int from = cuda_on_cpu::lane - static_cast<int>(by);
  return cuda_on_cpu::meet(value, from < 0 ? cuda_on_cpu::lane : from);
}

inline int __ffs(int bits) { return __builtin_ffs(bits); }

template <typename T>
T atomicMin(T* at, T value) {
  const T old = *at;
  *at = std::min(old, value);
  return old;
}

template <typename T>
T atomicCAS(T* at, T expected, T value) {
  const T old = *at;
  if (old == expected) *at = value;
  return old;
}

template <typename T>
T atomicAdd(T* at, T value) {
  const T old = *at;
  *at += value;
  return old;
}
