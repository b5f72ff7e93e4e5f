// The host's side of an epoch on the GPU: where a chunk of a corpus that streams through the device may end.
#include <torch/csrc/stable/library.h>

#include "../checks.h"
#include "../epoch_plan.h"

namespace w2v {
namespace {

int64_t chunk_end_op(const Tensor& ids, int64_t begin, int64_t limit) {
  W2V_CHECK(ids.dim() == 1 && ids.scalar_type() == ScalarType::Int && ids.is_contiguous(),
            "ids: expected a contiguous int32 tensor of shape (N,), got shape ", shape_of(ids));
  W2V_CHECK(begin >= 0 && begin <= ids.size(0), "begin: expected 0 <= begin <= ", ids.size(0), ", got ", begin);
  W2V_CHECK(limit >= 1, "limit: expected an integer >= 1, got ", limit);
  const int64_t end = chunk_end(ids.const_data_ptr<int32_t>(), ids.size(0), begin, limit);
  W2V_CHECK(end >= 0, "ids: expected sentences of fewer than ", limit, " words, got a longer one at position ", begin);
  return end;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CPU, m) { m.impl("chunk_end", TORCH_BOX(&chunk_end_op)); }

}  // namespace w2v
