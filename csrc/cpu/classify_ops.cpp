// The operators of text classification on the CPU: checks, threads, and the kernels of this machine.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <system_error>
#include <thread>
#include <tuple>
#include <vector>

#include "../checks.h"
#include "../ngrams.h"
#include "kernels.h"

namespace w2v {
namespace {

// Lines handed to a thread at a time, once there are some for all.
constexpr int64_t kStretch = 32;

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
                           const Tensor& rows, const Tensor& row_ends, const Tensor& hashes, const Tensor& bucket_rows,
                           int64_t word_ngrams, const std::string& loss) {
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
  p.rows = check_int32(rows, "rows");
  p.row_ends = check_ends(row_ends, "row_ends", "rows", rows.size(0));
  p.num_words = row_ends.size(0);
  p.hashes = check_int32(hashes, "hashes");
  W2V_CHECK(hashes.size(0) == p.num_words, "hashes: expected shape (K,) = (", p.num_words, ",) to match row_ends, got ",
            shape_of(hashes));
  p.bucket_rows = check_int32(bucket_rows, "bucket_rows");
  p.buckets = static_cast<uint64_t>(bucket_rows.size(0));
  W2V_CHECK(word_ngrams >= 1 && word_ngrams <= 100, "word_ngrams: expected an integer from 1 to 100, got ",
            word_ngrams);
  W2V_CHECK(word_ngrams == 1 || p.buckets > 0, "bucket_rows: expected at least one bucket for n-grams, got none");
  p.word_ngrams = static_cast<int>(word_ngrams);
  return p;
}

// Runs work(begin, end) on stretches of [begin, end), handed out to the threads as they get free.
template <typename Work>
void in_stretches(int64_t begin, int64_t end, int64_t threads, const Work& work) {
  W2V_CHECK(threads >= 1 && threads <= 4096, "threads: expected an integer from 1 to 4096, got ", threads);
  const int64_t stretch = threads == 1 ? std::max<int64_t>(end - begin, 1)
                                       : std::clamp<int64_t>((end - begin) / (4 * threads), 1, kStretch);
  std::atomic<int64_t> next{begin};
  std::vector<std::exception_ptr> failures(threads);
  const auto run = [&](int64_t thread) {
    try {
      for (int64_t at = next.fetch_add(stretch); at < end; at = next.fetch_add(stretch))
        work(thread, at, std::min(at + stretch, end));
    } catch (...) {
      failures[thread] = std::current_exception();
    }
  };
  std::vector<std::thread> pool;
  try {
    for (int64_t t = 1; t < threads && begin + t * stretch < end; ++t) pool.emplace_back(run, t);
  } catch (const std::system_error&) {
    // The system gives no more threads: those that run share the work.
  }
  run(0);
  for (std::thread& thread : pool) thread.join();
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

Tensor train_classifier(const Tensor& in_weight, const Tensor& out_weight, const Tensor& tokens, const Tensor& ends,
                        const Tensor& rows, const Tensor& row_ends, const Tensor& hashes, const Tensor& bucket_rows,
                        int64_t word_ngrams, const std::string& loss, const Tensor& labels, const Tensor& label_ends,
                        const Tensor& path, const Tensor& path_ends, const Tensor& order, double lr, int64_t seed,
                        int64_t epoch, int64_t epochs, int64_t begin, int64_t end, int64_t threads) {
  const ClassifyParams p = check_lines(in_weight, out_weight, tokens, ends, rows, row_ends, hashes, bucket_rows,
                                       word_ngrams, loss);
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
  W2V_CHECK(begin >= 0 && begin <= end && end <= t.num_examples, "begin, end: expected 0 <= begin <= end <= ",
            t.num_examples, ", got ", begin, " and ", end);
  t.seed = static_cast<uint64_t>(seed);
  t.epoch = static_cast<uint32_t>(epoch);
  t.epochs = static_cast<uint32_t>(epochs);
  t.lr = lr;
  W2V_CHECK(threads >= 1 && threads <= 4096, "threads: expected an integer from 1 to 4096, got ", threads);
  const auto kernel = kernels().train_lines;
  std::vector<ClassifyStats> stats(threads);
  in_stretches(begin, end, threads,
               [&](int64_t thread, int64_t from, int64_t to) { kernel(p, t, from, to, &stats[thread]); });
  Tensor result = torch::stable::new_empty(in_weight, {2}, ScalarType::Double);
  double* sums = result.mutable_data_ptr<double>();
  sums[0] = sums[1] = 0;
  for (const ClassifyStats& s : stats) {
    sums[0] += s.loss;
    sums[1] += static_cast<double>(s.examples);
  }
  return result;
}

std::tuple<Tensor, Tensor> classify(const Tensor& in_weight, const Tensor& out_weight, const Tensor& tokens,
                                    const Tensor& ends, const Tensor& rows, const Tensor& row_ends,
                                    const Tensor& hashes, const Tensor& bucket_rows, int64_t word_ngrams,
                                    const std::string& loss, const Tensor& children, int64_t k, double threshold,
                                    int64_t threads) {
  const ClassifyParams p = check_lines(in_weight, out_weight, tokens, ends, rows, row_ends, hashes, bucket_rows,
                                       word_ngrams, loss);
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

// Gives each bucket that the lines' n-grams meet a row, in the order in which they are met: those of a line that no
// other line has lie side by side, and are read as one stretch of memory.
int64_t number_ngrams(const Tensor& bucket_rows, const Tensor& tokens, const Tensor& ends, const Tensor& hashes,
                      const Tensor& lines, int64_t word_ngrams, int64_t first) {
  check_int32(bucket_rows, "bucket_rows");
  const int32_t* token = check_int32(tokens, "tokens");
  const int64_t* end = check_ends(ends, "ends", "tokens", tokens.size(0));
  const int32_t* hash = check_int32(hashes, "hashes");
  const int32_t* line = check_int32(lines, "lines");
  const auto buckets = static_cast<uint64_t>(bucket_rows.size(0));
  W2V_CHECK(buckets > 0, "bucket_rows: expected at least one bucket, got none");
  W2V_CHECK(word_ngrams >= 2 && word_ngrams <= 100, "word_ngrams: expected an integer from 2 to 100, got ",
            word_ngrams);
  W2V_CHECK(first >= 0 && first < INT32_MAX - bucket_rows.size(0), "first: expected a row below 2^31, got ", first);
  for (int64_t i = 0; i < tokens.size(0); ++i)
    W2V_CHECK(token[i] >= 0 && token[i] < hashes.size(0), "tokens: expected numbers below ", hashes.size(0), ", got ",
              token[i]);
  int32_t* const row = bucket_rows.mutable_data_ptr<int32_t>();
  auto next = static_cast<int32_t>(first);
  for (int64_t l = 0; l < lines.size(0); ++l) {
    W2V_CHECK(line[l] >= 0 && line[l] < ends.size(0), "lines: expected numbers below ", ends.size(0), ", got ",
              line[l]);
    const int64_t begin = line[l] > 0 ? end[line[l] - 1] : 0;
    each_ngram(token + begin, end[line[l]] - begin, hash, static_cast<int>(word_ngrams), buckets, [&](uint64_t bucket) {
      if (row[bucket] < 0) row[bucket] = next++;
    });
  }
  return next;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CPU, m) {
  m.impl("train_classifier_", TORCH_BOX(&train_classifier));
  m.impl("classify", TORCH_BOX(&classify));
  m.impl("number_ngrams_", TORCH_BOX(&number_ngrams));
}

}  // namespace w2v
