// fastText's models on the CPU: train_subwords_ hands stretches of the corpus to threads, which share the tables
// without locks; compose_subwords gives the vectors of the words.
#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "../checks.h"
#include "epoch_arguments.h"
#include "hogwild.h"
#include "kernels.h"

namespace w2v {
namespace {

// Which sums each word has; see SubwordParams.
SubwordParams check_subwords(const Tensor& in_weight, const Tensor& ngram_weight, const Tensor& first,
                             const Tensor& entries, const Tensor& word_rows, const Tensor& group_rows) {
  const int64_t vocab_size = in_weight.size(0), groups = vocab_size + ngram_weight.size(0);
  check_weight(ngram_weight, "ngram_weight", ngram_weight);
  W2V_CHECK(ngram_weight.size(1) == in_weight.size(1),
            "ngram_weight: expected shape (C, D) with D = ", in_weight.size(1), " to match in_weight, got ",
            shape_of(ngram_weight));
  W2V_CHECK(first.dim() == 1 && first.size(0) == vocab_size + 1 && first.scalar_type() == ScalarType::Long &&
                first.is_contiguous(),
            "first: expected a contiguous int64 tensor of shape (V + 1,) = (", vocab_size + 1, ",), got ",
            shape_of(first));
  W2V_CHECK(entries.dim() == 1 && entries.scalar_type() == ScalarType::Int && entries.is_contiguous(),
            "entries: expected a contiguous int32 tensor of shape (E,), got shape ", shape_of(entries));
  W2V_CHECK(word_rows.dim() == 1 && word_rows.size(0) == vocab_size && word_rows.scalar_type() == ScalarType::Float &&
                word_rows.is_contiguous(),
            "word_rows: expected a contiguous float32 tensor of shape (V,) = (", vocab_size, ",), got ",
            shape_of(word_rows));
  W2V_CHECK(group_rows.dim() == 1 && group_rows.size(0) == groups && group_rows.scalar_type() == ScalarType::Float &&
                group_rows.is_contiguous(),
            "group_rows: expected a contiguous float32 tensor of shape (V + C,) = (", groups, ",), got ",
            shape_of(group_rows));
  const int64_t* starts = first.const_data_ptr<int64_t>();
  for (int64_t w = 0; w < vocab_size; ++w)
    W2V_CHECK(starts[w] >= 0 && starts[w] < starts[w + 1] && starts[w + 1] <= entries.size(0),
              "first: expected rising places of entries with (", entries.size(0), ",), got ", starts[w], " and ",
              starts[w + 1], " for word ", w);
  const int32_t* rows = entries.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < entries.size(0); ++i)
    W2V_CHECK(rows[i] >= 0 && rows[i] < groups, "entries: expected rows from 0 to ", groups - 1, ", got ", rows[i],
              " at position ", i);
  return {nullptr,
          static_cast<float*>(ngram_weight.mutable_data_ptr()),
          starts,
          rows,
          word_rows.const_data_ptr<float>(),
          group_rows.const_data_ptr<float>(),
          false,
          false};
}

Tensor train_subwords(const Tensor& in_weight, const Tensor& ngram_weight, const Tensor& out_weight,
                      const Tensor& first, const Tensor& entries, const Tensor& word_rows, const Tensor& group_rows,
                      const Tensor& ids, const Tensor& alias, const Tensor& keep, bool cbow, int64_t window,
                      int64_t negative, int64_t seed, int64_t epoch, int64_t epochs, double lr, int64_t begin,
                      int64_t end, int64_t stretch, int64_t threads) {
  SgnsParams params = check_epoch(in_weight, out_weight, ids, keep, window, seed, epoch, epochs, lr, begin, end);
  params.alias = check_noise(alias, in_weight.size(0), negative);
  params.negative = static_cast<int>(negative);
  SubwordParams subwords = check_subwords(in_weight, ngram_weight, first, entries, word_rows, group_rows);
  check_in_place(in_weight, ngram_weight);
  check_in_place(ngram_weight, out_weight);
  params.own_negatives = cbow;
  params.no_negatives = !cbow;
  subwords.cbow = cbow;
  subwords.others = threads > 1;
  W2V_CHECK(stretch >= 1, "stretch: expected an integer >= 1, got ", stretch);

  // Whole stretches, at fixed places: those that begin in [begin, end).
  const int64_t first_stretch = (begin + stretch - 1) / stretch * stretch;
  const int64_t stop = end == ids.size(0) ? end : std::min((end + stretch - 1) / stretch * stretch, ids.size(0));
  const auto train = [subwords, words = StretchWords()](const SgnsParams& own, int64_t from, int64_t to,
                                                        SgnsStats* stats) mutable {
    subwords.epoch = &own;
    kernels().train_subwords(subwords, from, to, &words, stats);
  };
  return train_in_threads(params, in_weight, first_stretch, stop, threads, train, {stretch, cbow, true});
}

Tensor compose_subwords(const Tensor& in_weight, const Tensor& ngram_weight, const Tensor& first, const Tensor& entries,
                        const Tensor& word_rows, const Tensor& group_rows) {
  check_weight(in_weight, "in_weight", in_weight);
  const SubwordParams p = check_subwords(in_weight, ngram_weight, first, entries, word_rows, group_rows);
  const int64_t vocab_size = in_weight.size(0), dim = in_weight.size(1), stride = in_weight.stride(0);
  Tensor result = torch::stable::new_empty(in_weight, {vocab_size, dim});
  const float* in = static_cast<const float*>(in_weight.const_data_ptr());
  float* vectors = result.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, vocab_size, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t w = begin; w < end; ++w) {
      float* vector = vectors + w * dim;
      std::fill(vector, vector + dim, 0.0f);
      for (int64_t k = p.first[w]; k < p.first[w + 1]; ++k) {
        const int64_t e = p.entries[k];
        const float* row = e < vocab_size ? in + e * stride : p.ngrams + (e - vocab_size) * stride;
        for (int64_t d = 0; d < dim; ++d) vector[d] += row[d];
      }
      const float scale = 1.0f / p.word_rows[w];
      for (int64_t d = 0; d < dim; ++d) vector[d] *= scale;
    }
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CPU, m) {
  m.impl("train_subwords_", TORCH_BOX(&train_subwords));
  m.impl("compose_subwords", TORCH_BOX(&compose_subwords));
}

}  // namespace w2v
