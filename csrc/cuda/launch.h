// What every .cu file shares: launch(), through which every kernel is started, the division of work among threads, and
// the assertion that kernels check their indices with.
#pragma once
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "../checks.h"

namespace w2v {

constexpr int kWarp = 32;
constexpr int kThreads = 128;  // per block, of every kernel: 4 warps, so that a small batch still meets every SM
constexpr int kBlocks = 8;     // at once on an SM, at least: leaves 64 registers to a thread
constexpr int64_t kMaxBlocks = 1 << 24;

inline void check_cuda(const char* name, int device, cudaError_t error) {
  if (error == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // reported here: not once more, by the next kernel that PyTorch starts
  throw std::runtime_error(text("w2v_ext: CUDA: ", name, " on device ", device, ": ", cudaGetErrorString(error)));
}

// Starts kernel(args...) on the device of a tensor and that device's current stream. name is the kernel's, for the
// error of a launch that fails. shared_bytes of dynamic shared memory, up to what the device gives a block.
template <typename Kernel, typename... Args>
void launch_blocks(const char* name, const Tensor& on, int64_t blocks, int threads, int64_t shared_bytes, Kernel kernel,
                   const Args&... args) {
  const auto device = on.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  if (shared_bytes > 0) {  // more than 48 KB must be asked for; and shared memory comes first, before the L1 cache
    int most = 0;          // not shared_bytes: another thread may start the kernel with more at the same time
    check_cuda(name, device, cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    check_cuda(name, device, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
    check_cuda(
        name, device,
        cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared));
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  check_cuda(name, device, cudaLaunchKernelEx(&config, kernel, args...));
}

// Starts kernel(args...) with kPerItem threads (1, or kWarp) for each of items. Grids are capped: kernels loop from
// first_item() in steps of item_stride(). Nothing to do starts nothing.
template <int kPerItem, typename Kernel, typename... Args>
void launch(const char* name, const Tensor& on, int64_t items, Kernel kernel, const Args&... args) {
  static_assert(kPerItem == 1 || kPerItem == kWarp, "an item is the work of a thread or of a warp");
  if (items <= 0) return;
  constexpr int64_t kItems = kThreads / kPerItem;  // of one block
  launch_blocks(name, on, std::min((items - 1) / kItems + 1, kMaxBlocks), kThreads, 0, kernel, args...);
}

// The same with no more blocks than are at work at once, per_multiprocessor on each, for kernels whose warps fetch what
// the next item needs while they work on one.
template <int kPerItem, typename Kernel, typename... Args>
void launch_resident(const char* name, const Tensor& on, int64_t items, int per_multiprocessor, Kernel kernel,
                     const Args&... args) {
  if (items <= 0) return;
  constexpr int64_t kItems = kThreads / kPerItem;
  const auto device = on.get_device_index();
  int multiprocessors = 0;
  check_cuda(name, device, cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  const int64_t most = static_cast<int64_t>(multiprocessors) * per_multiprocessor;
  launch_blocks(name, on, std::min({(items - 1) / kItems + 1, most, kMaxBlocks}), kThreads, 0, kernel, args...);
}

template <int kPerItem>
__device__ inline int64_t first_item() {
  return (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kPerItem;
}

template <int kPerItem>
__device__ inline int64_t item_stride() {
  return static_cast<int64_t>(gridDim.x) * (kThreads / kPerItem);
}

__device__ inline int lane_of_warp() { return static_cast<int>(threadIdx.x) % kWarp; }

#ifdef __CUDACC__
__device__ __forceinline__ char* dynamic_shared() {
  extern __shared__ __align__(16) char bytes[];
  return bytes;
}
#else  // the tests, on the CPU
using cuda_on_cpu::dynamic_shared;
#endif

// The sum over a warp, the same bits in every lane.
template <typename A>
__device__ inline A warp_sum(A x) {
  for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, step);
  return x;
}

// Stops the kernel where an index is out of range, before it is used, and prints the rule. As with PyTorch's own index
// kernels the error then appears at the next call that waits for the device, and CUDA is lost to the process. On unless
// compiled with -DW2V_NO_DEVICE_ASSERT (then a bad index reads and writes anywhere). Not assert(), which -DNDEBUG, a
// default of Python's own build flags, would take out.
#ifdef W2V_NO_DEVICE_ASSERT
#define W2V_DEVICE_ASSERT(rule) static_cast<void>(0)
#else
#define W2V_DEVICE_ASSERT(rule) \
  ((rule) ? static_cast<void>(0) : __assert_fail(#rule, __FILE__, static_cast<unsigned>(__LINE__), __func__))
#endif

}  // namespace w2v
