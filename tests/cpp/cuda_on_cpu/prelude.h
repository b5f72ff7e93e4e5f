// Included before everything (-include): PyTorch's headers as they are, and then the names under which the CUDA
// operators become operators of CPU tensors in a namespace of their own, torch.ops.w2v_emulated.
#pragma once
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cuda_runtime.h>

namespace torch::stable::accelerator {
struct NoGuard {
  explicit NoGuard(int) {}
};
}  // namespace torch::stable::accelerator

#define DeviceGuard NoGuard
#define aoti_torch_get_current_cuda_stream(device, stream) (static_cast<void>(stream), 0)
#define CUDA CPU
#define w2v_ext w2v_emulated
