// The kernels compiled for avx512: vectors of 16 floats. Standard headers come before the target switch, so that no
// inline function of theirs is compiled for a machine that may not have it.
#if defined(__x86_64__) || defined(_M_X64)
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi2,prfchw"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi2,prfchw")
#endif
#define W2V_ISA avx512
#define W2V_WIDTH 16
namespace w2v::W2V_ISA {
#include "simd.h"
#include "fold.h"
#include "sgns_plan.h"
#include "sgns_block.h"
#include "sgns_kernel.h"
#include "cbow_kernel.h"
#include "hs_kernel.h"
#include "subword_kernel.h"
#include "classify_gather.h"
#include "classify_kernel.h"
#include "glove_kernel.h"
#include "loss_kernel.h"
#include "optim_kernel.h"
#include "exchange_kernel.h"

extern const KernelTable table;
const KernelTable table = {
    "avx512",
    train_sgns,
    train_cbow,
    train_skipgram_hs,
    train_cbow_hs,
    train_subwords,
    merge_row,
    train_lines,
    answer_lines,
    train_glove,
    give_rows,
    take_rows,
    loss_kernels<float>(),
    loss_kernels<double>(),
    loss_kernels<torch::headeronly::BFloat16>(),
    loss_kernels<torch::headeronly::Half>(),
    optim_kernels<float>(),
    optim_kernels<double>(),
    optim_kernels<torch::headeronly::BFloat16>(),
    optim_kernels<torch::headeronly::Half>(),
};
}  // namespace w2v::W2V_ISA
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
