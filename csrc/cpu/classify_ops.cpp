// The operators of text classification on the CPU: checks, threads, and the kernels of this machine.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <tuple>
#include <vector>

#include "../checks.h"
#include "../ngrams.h"
#include "hot_rows.h"
#include "kernels.h"
#include "threads.h"

namespace w2v {
namespace {

constexpr int64_t kStretch = 16;  // lines that all threads together train between two merges of their own rows
constexpr int64_t kHotWords = 256;
constexpr int64_t kHotNodes = 64;

const int32_t* check_int32(const Tensor& t, const char* name) {
  W2V_CHECK(t.dim() == 1 && t.scalar_type() == ScalarType::Int && t.is_contiguous(), name,
            ": expected a contiguous int32 tensor of one dimension, got shape ", shape_of(t));
  return t.const_data_ptr<int32_t>();
}

// Rising ends of parts of an array of `size` numbers.
const int64_t* check_ends(const Tensor& t, const char* name, const char* of, int64_t size) {
  W2V_CHECK(t.dim() == 1 && t.scalar_type() == ScalarType::Long && t.is_contiguous(), name,
            ": expected a contiguous int64 tensor of one dimension, got shape ", shape_of(t));
  const int64_t* ends = t.const_data_ptr<int64_t>();
  int64_t before = 0;
  for (int64_t i = 0; i < t.size(0); ++i) {
    W2V_CHECK(ends[i] >= before, name, ": expected rising numbers >= 0, got ", ends[i], " after ", before);
    before = ends[i];
  }
  W2V_CHECK(before <= size, name, ": expected ends within ", of, " with ", size, " numbers, got ", before);
  return ends;
}

void check_rows(const Tensor& weight, const char* name, int64_t dim) {
  W2V_CHECK(weight.dim() == 2 && weight.scalar_type() == ScalarType::Float && weight.size(1) == dim && dim > 0, name,
            ": expected float32 of shape (N, D) with the D of in_weight, got shape ", shape_of(weight));
  const int64_t padded = (dim + 15) / 16 * 16;
  int64_t storage_bytes = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(weight.get(), &storage_bytes));
  W2V_CHECK((dim == 1 || weight.stride(1) == 1) && weight.stride(0) == padded &&
                reinterpret_cast<uintptr_t>(weight.data_ptr()) % 64 == 0 &&
                4 * (weight.storage_offset() + weight.size(0) * padded) <= storage_bytes,
            name, ": expected 64-byte aligned rows, all padded with zeros to ", padded,
            " floats, got stride(0) = ", weight.stride(0));
  W2V_CHECK(weight.size(0) >= 1 && weight.size(0) < INT32_MAX, name, ": expected 1 to 2^31 - 2 rows, got ",
            weight.size(0));
}

LabelLoss loss_of(const std::string& name) {
  if (name == "softmax") return LabelLoss::kSoftmax;
  if (name == "hs") return LabelLoss::kHierarchical;
  W2V_CHECK(name == "ova", "loss: expected softmax, hs or ova, got ", name);
  return LabelLoss::kOneVsAll;
}

ClassifyParams check_lines(const Tensor& in_weight, const Tensor& out_weight, const Tensor& tokens, const Tensor& ends,
                           const Tensor& ngrams, const Tensor& ngram_ends, const Tensor& rows, const Tensor& row_ends,
                           const std::string& loss) {
  W2V_CHECK(in_weight.dim() == 2, "in_weight: expected shape (R, D), got ", shape_of(in_weight));
  check_rows(in_weight, "in_weight", in_weight.size(1));
  check_rows(out_weight, "out_weight", in_weight.size(1));
  W2V_CHECK(!share_memory(in_weight, out_weight), "out_weight: expected other memory than in_weight's");
  ClassifyParams p{};
  p.in = static_cast<float*>(in_weight.mutable_data_ptr());
  p.out = static_cast<float*>(out_weight.mutable_data_ptr());
  p.stride = in_weight.stride(0);
  p.dim = in_weight.size(1);
  p.num_in = static_cast<uint32_t>(in_weight.size(0));
  p.num_out = static_cast<uint32_t>(out_weight.size(0));
  p.loss = loss_of(loss);
  p.num_labels = p.num_out + (p.loss == LabelLoss::kHierarchical ? 1 : 0);
  p.tokens = check_int32(tokens, "tokens");
  p.ends = check_ends(ends, "ends", "tokens", tokens.size(0));
  p.num_lines = ends.size(0);
  p.ngrams = check_int32(ngrams, "ngrams");
  p.ngram_ends = check_ends(ngram_ends, "ngram_ends", "ngrams", ngrams.size(0));
  W2V_CHECK(ngram_ends.size(0) == p.num_lines, "ngram_ends: expected shape (N,) = (", p.num_lines,
            ",) to match ends, got ", shape_of(ngram_ends));
  p.rows = check_int32(rows, "rows");
  p.row_ends = check_ends(row_ends, "row_ends", "rows", rows.size(0));
  p.num_words = row_ends.size(0);
  return p;
}

// Runs work(thread, from, to) on stretches of [begin, end), handed out to the threads as they get free.
template <typename Work>
void in_stretches(int64_t begin, int64_t end, int64_t threads, const Work& work) {
  check_threads(threads);
  const int64_t stretch =
      threads == 1 ? std::max<int64_t>(end - begin, 1) : std::clamp<int64_t>(kStretch / threads, 2, kStretch);
  std::atomic<int64_t> next{begin};
  run_threads(std::clamp<int64_t>((end - begin + stretch - 1) / stretch, 1, threads), [&](int64_t thread) {
    for (int64_t at = next.fetch_add(stretch); at < end; at = next.fetch_add(stretch))
      work(thread, at, std::min(at + stretch, end));
  });
}

// The rows that all threads write all the time: those of the most frequent words (which come first), and the outputs:
// all of them, but of a large tree none.
int64_t num_hot_in(const ClassifyParams& p) { return std::min<int64_t>(kHotWords, p.num_in / 64); }
int64_t num_hot_out(const ClassifyParams& p) {
  return p.loss != LabelLoss::kHierarchical || p.num_out <= kHotNodes ? p.num_out : 0;
}

// A thread's own copies of them (see HotRows). A single thread needs none, and so has bit-identical results however the
// order is cut.
class OwnRows {
 public:
  OwnRows(const ClassifyParams& shared, HotRows::Locks* in_locks, HotRows::Locks* out_locks)
      : params_(shared),
        in_(shared.in, num_hot_in(shared), shared.stride, in_locks),
        out_(shared.out, num_hot_out(shared), shared.stride, out_locks) {
    params_.num_hot = static_cast<uint32_t>(num_hot_in(shared));
    params_.hot_in = in_.own();
    if (num_hot_out(shared) > 0) params_.out = out_.own();
  }

  const ClassifyParams& params() const { return params_; }

  // After a stretch with these sums. They are averages, and what counts is the most: with twice as much, 4 and 16
  // threads in step have on film reviews the accuracy of one, to 0.005. (With plain sums 0.03 less, or they diverge;
  // with more, threads need more epochs on a thousand lines.)
  void merge(int64_t thread, ClassifyStats* sums) {
    const float in = overlap_of(kPull * sums->moved_in), out = overlap_of(kPull * sums->moved_out);
    sums->moved_in = sums->moved_out = 0;
    in_.merge(thread, [in](int64_t) { return in; });
    out_.merge(thread, [out](int64_t) { return out; });
  }

 private:
  static constexpr double kPull = 2;

  ClassifyParams params_;
  HotRows in_, out_;
};

Tensor train_classifier(const Tensor& in_weight, const Tensor& out_weight, const Tensor& tokens, const Tensor& ends,
                        const Tensor& ngrams, const Tensor& ngram_ends, const Tensor& rows, const Tensor& row_ends,
                        const std::string& loss, const Tensor& labels, const Tensor& label_ends, const Tensor& path,
                        const Tensor& path_ends, const Tensor& order, double lr, int64_t seed, int64_t epoch,
                        int64_t epochs, int64_t begin, int64_t end, int64_t threads) {
  const ClassifyParams p = check_lines(in_weight, out_weight, tokens, ends, ngrams, ngram_ends, rows, row_ends, loss);
  ClassifyTraining t{};
  t.order = check_int32(order, "order");
  t.num_examples = order.size(0);
  t.labels = check_int32(labels, "labels");
  t.label_ends = check_ends(label_ends, "label_ends", "labels", labels.size(0));
  W2V_CHECK(label_ends.size(0) == p.num_lines, "label_ends: expected shape (N,) = (", p.num_lines,
            ",) to match ends, got ", shape_of(label_ends));
  t.path = check_int32(path, "path");
  t.path_ends = check_ends(path_ends, "path_ends", "path", path.size(0));
  if (p.loss == LabelLoss::kHierarchical)
    W2V_CHECK(path_ends.size(0) == p.num_labels, "path_ends: expected shape (L,) = (", p.num_labels, ",), got ",
              shape_of(path_ends));
  W2V_CHECK(lr > 0 && std::isfinite(lr), "lr: expected a positive number, got ", lr);
  W2V_CHECK(epochs >= 1 && epoch >= 0 && epoch < epochs, "epoch: expected 0 <= epoch < epochs, got ", epoch, " of ",
            epochs);
  W2V_CHECK(begin >= 0 && begin <= end && end <= t.num_examples,
            "begin, end: expected 0 <= begin <= end <= ", t.num_examples, ", got ", begin, " and ", end);
  t.seed = static_cast<uint64_t>(seed);
  t.epoch = static_cast<uint32_t>(epoch);
  t.epochs = static_cast<uint32_t>(epochs);
  t.lr = lr;
  t.measure = threads > 1;
  check_threads(threads);
  const auto kernel = kernels().train_lines;
  std::vector<ClassifyStats> stats(threads);
  std::vector<std::unique_ptr<OwnRows>> own(threads);
  HotRows::Locks in_locks(HotRows::num_locks(num_hot_in(p))), out_locks(HotRows::num_locks(num_hot_out(p)));
  in_stretches(begin, end, threads, [&](int64_t thread, int64_t from, int64_t to) {
    if (threads == 1) return kernel(p, t, from, to, &stats[thread]);
    if (!own[thread]) own[thread] = std::make_unique<OwnRows>(p, &in_locks, &out_locks);
    kernel(own[thread]->params(), t, from, to, &stats[thread]);
    own[thread]->merge(thread, &stats[thread]);
  });
  ClassifyStats sum;
  for (const ClassifyStats& s : stats) {
    sum.loss += s.loss;
    sum.examples += s.examples;
  }
  return float64_tensor(in_weight, {sum.loss, static_cast<double>(sum.examples)});
}

std::tuple<Tensor, Tensor> classify(const Tensor& in_weight, const Tensor& out_weight, const Tensor& tokens,
                                    const Tensor& ends, const Tensor& ngrams, const Tensor& ngram_ends,
                                    const Tensor& rows, const Tensor& row_ends, const std::string& loss,
                                    const Tensor& children, int64_t k, double threshold, int64_t threads) {
  const ClassifyParams p = check_lines(in_weight, out_weight, tokens, ends, ngrams, ngram_ends, rows, row_ends, loss);
  W2V_CHECK(k >= 1 && k <= p.num_labels, "k: expected an integer from 1 to ", p.num_labels, " (the labels), got ", k);
  W2V_CHECK(!std::isnan(threshold), "threshold: expected a number, got ", threshold);
  ClassifyAnswer a{};
  a.k = k;
  a.threshold = static_cast<float>(threshold);
  a.children = check_int32(children, "children");
  if (p.loss == LabelLoss::kHierarchical) {
    W2V_CHECK(children.size(0) == 2 * int64_t{p.num_out}, "children: expected shape (2 (L - 1),) = (",
              2 * int64_t{p.num_out}, ",), got ", shape_of(children));
    for (int64_t n = 0; n < 2 * int64_t{p.num_out}; ++n)  // a node is below those with higher numbers: no circles
      W2V_CHECK(a.children[n] >= 0 && a.children[n] < p.num_labels + n / 2, "children: expected nodes below ",
                p.num_labels + n / 2, ", got ", a.children[n], " in place ", n);
  }
  Tensor labels = torch::stable::new_empty(tokens, {p.num_lines, k}, ScalarType::Int);
  Tensor probabilities = torch::stable::new_empty(in_weight, {p.num_lines, k}, ScalarType::Float);
  a.labels = labels.mutable_data_ptr<int32_t>();
  a.probabilities = probabilities.mutable_data_ptr<float>();
  const auto kernel = kernels().answer_lines;
  in_stretches(0, p.num_lines, threads, [&](int64_t, int64_t from, int64_t to) { kernel(p, a, from, to); });
  return {labels, probabilities};
}

// The n-grams of a line of so many words: those of each word reach word_ngrams - 1 further, or to the end.
int64_t count_ngrams(int64_t words, int64_t word_ngrams) {
  const int64_t reach = std::max<int64_t>(0, std::min(word_ngrams, words) - 1);
  return reach * words - reach * (reach + 1) / 2;
}

// The rows of the lines' n-grams, by fastText's hash. With first >= 0, buckets that have no row get one, in the order
// in which they are met: those of n-grams that no other line has lie side by side, and are read as one stretch.
std::tuple<Tensor, Tensor, int64_t> ngram_rows(const Tensor& bucket_rows, const Tensor& tokens, const Tensor& ends,
                                               const Tensor& hashes, const Tensor& lines, int64_t word_ngrams,
                                               int64_t first, int64_t threads) {
  check_int32(bucket_rows, "bucket_rows");
  const int32_t* token = check_int32(tokens, "tokens");
  const int64_t* end = check_ends(ends, "ends", "tokens", tokens.size(0));
  const int32_t* hash = check_int32(hashes, "hashes");
  const int32_t* line = check_int32(lines, "lines");
  const auto buckets = static_cast<uint64_t>(bucket_rows.size(0));
  const int64_t num_lines = ends.size(0), num_used = lines.size(0);
  W2V_CHECK(word_ngrams >= 1 && word_ngrams <= 100, "word_ngrams: expected an integer from 1 to 100, got ",
            word_ngrams);
  W2V_CHECK(word_ngrams == 1 || buckets > 0, "bucket_rows: expected at least one bucket for n-grams, got none");
  W2V_CHECK(first < INT32_MAX - bucket_rows.size(0), "first: expected a row below 2^31, got ", first);
  for (int64_t i = 0; i < tokens.size(0); ++i)
    W2V_CHECK(token[i] >= 0 && token[i] < hashes.size(0), "tokens: expected numbers below ", hashes.size(0), ", got ",
              token[i]);
  Tensor result_ends = torch::stable::new_empty(ends, {num_lines});
  int64_t* const ngram_ends = result_ends.mutable_data_ptr<int64_t>();
  std::fill(ngram_ends, ngram_ends + num_lines, 0);
  for (int64_t i = 0; i < num_used; ++i) {
    W2V_CHECK(line[i] >= 0 && line[i] < num_lines && (i == 0 || line[i] > line[i - 1]),
              "lines: expected rising numbers below ", num_lines, ", got ", line[i]);
    ngram_ends[line[i]] = count_ngrams(end[line[i]] - (line[i] > 0 ? end[line[i] - 1] : 0), word_ngrams);
  }
  for (int64_t i = 1; i < num_lines; ++i) ngram_ends[i] += ngram_ends[i - 1];
  const int64_t total = num_lines > 0 ? ngram_ends[num_lines - 1] : 0;
  Tensor result = torch::stable::new_empty(tokens, {total});
  int32_t* const rows = result.mutable_data_ptr<int32_t>();
  int32_t* const row = bucket_rows.mutable_data_ptr<int32_t>();
  auto next = static_cast<int32_t>(first);
  const auto fill = [&](int64_t, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const int64_t at = line[i], begin = at > 0 ? end[at - 1] : 0;
      int32_t* out = rows + (at > 0 ? ngram_ends[at - 1] : 0);
      each_ngram(token + begin, end[at] - begin, hash, static_cast<int>(word_ngrams), buckets, [&](uint64_t bucket) {
        if (first >= 0 && row[bucket] < 0) row[bucket] = next++;
        *out++ = row[bucket];
      });
    }
  };
  if (word_ngrams > 1) in_stretches(0, num_used, first >= 0 ? 1 : threads, fill);
  return {result, result_ends, next};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CPU, m) {
  m.impl("train_classifier_", TORCH_BOX(&train_classifier));
  m.impl("classify", TORCH_BOX(&classify));
  m.impl("ngram_rows_", TORCH_BOX(&ngram_rows));
}

}  // namespace w2v
