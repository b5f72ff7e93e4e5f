// The kernels compiled for portable: vectors of 4 floats. Standard headers come before the target switch, so that no
// inline function of theirs is compiled for a machine that may not have it.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels.h"

#define W2V_ISA portable
#define W2V_WIDTH 4
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
    "portable",
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
