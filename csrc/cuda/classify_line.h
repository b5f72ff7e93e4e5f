// How a warp trains a line of text for the classifier; see classify.cu.
#pragma once
#include "../checks.h"
#include "../warp_sums.h"
#include "device_warp.h"

namespace w2v {

enum class LabelLoss { kSoftmax, kHierarchical, kOneVsAll };

constexpr uint32_t kEveryLane = 0xFFFFFFFFu;
constexpr int kTogether = 8;             // outputs whose scores are summed together
constexpr int kRowsTogether = 4;         // rows that are on their way at a time
constexpr int64_t kSharedScores = 2048;  // more than so many outputs lie in global memory

// See ClassifyParams and ClassifyTraining in cpu/kernels.h for what is not said here.
struct LineArguments {
  float *in, *out;
  int64_t in_stride, out_stride, num_in, num_out, num_labels;
  const int32_t* tokens;
  const int64_t* ends;
  const int32_t* ngrams;
  const int64_t* ngram_ends;
  int64_t num_lines;
  const int32_t* rows;
  const int64_t* row_ends;
  int64_t num_words;
  const int32_t* order;
  int64_t num_examples;
  const int32_t* labels;
  const int64_t* label_ends;
  const int32_t* path;
  const int64_t* path_ends;
  uint64_t seed;
  uint32_t epoch, epochs;
  double lr;
  int64_t begin, end, warps;
  LabelLoss loss;
  int pitch;      // D rounded up to a multiple of 4
  int64_t most;   // outputs of a line, at most
  float* scores;  // (warps, most); null: they lie in shared memory
  int64_t bytes;  // of shared memory, of a warp
};

__device__ inline int64_t begin_of(const int64_t* ends, int64_t i) { return i > 0 ? ends[i - 1] : 0; }

__device__ inline float warp_max(float x) {
  for (int step = kWarp / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kEveryLane, x, step));
  return x;
}

// kHeld: pieces of 128 columns for which the sum of a line's rows is held in registers at a time.
template <int kHeld>
class LineTrainer {
 public:
  double loss = 0, examples = 0;  // the loss: a lane's part

  __device__ LineTrainer(const LineArguments& arguments, char* shared, float* scores, Counter* bad)
      : a_(arguments),
        hidden_(reinterpret_cast<float*>(shared)),
        scores_(scores != nullptr ? scores : hidden_ + arguments.pitch),
        bad_(bad),
        lane_(lane_of_warp()) {}

  __device__ void train(int64_t place) {
    place_ = place;
    const int64_t line = a_.order[place];
    if (line < 0 || line >= a_.num_lines) return report();
    const int64_t first = begin_of(a_.label_ends, line), num_labels = a_.label_ends[line] - first;
    if (num_labels <= 0) return report();
    if (!find_rows(line)) return;  // no example
    const float scale = 1.0f / static_cast<float>(inputs_);
    for (int d = 4 * lane_; d < a_.pitch; d += 4 * kWarp) {
      Vec4& h = at(d);
      h = {h.x * scale, h.y * scale, h.z * scale, h.w * scale};
    }
    const uint64_t key = sentence_key(a_.seed, a_.epoch, static_cast<uint64_t>(line));
    const int64_t drawn =
        num_labels > 1 ? below(static_cast<uint32_t>(draw(key, 0) >> 32), static_cast<uint32_t>(num_labels)) : 0;
    const int64_t label = a_.labels[first + drawn];
    if (label < 0 || label >= a_.num_labels) return report();
    const double done = static_cast<double>(place) / static_cast<double>(a_.num_examples);
    const auto lr = static_cast<float>(a_.lr * (1.0 - (static_cast<double>(a_.epoch) + done) / a_.epochs));

    if (a_.loss == LabelLoss::kHierarchical) {
      const int64_t from = begin_of(a_.path_ends, label), count = smaller(a_.path_ends[label] - from, a_.most);
      const int32_t* path = a_.path + from;
      const auto row = [&](int64_t n) { return a_.out + (path[n] >> 1) * a_.out_stride; };
      if (!all_nodes(path, count)) return report();
      score(count, row);
      logistic_slopes(count, lr, [&](int64_t n) { return (path[n] & 1) != 0; });
      step_outputs(count, scale, row);
    } else {
      const auto row = [&](int64_t n) { return a_.out + n * a_.out_stride; };
      score(a_.num_out, row);
      if (a_.loss == LabelLoss::kSoftmax) {
        softmax_slopes(label, lr);
      } else {
        const int32_t* labels = a_.labels + first;
        logistic_slopes(a_.num_out, lr, [&](int64_t n) {
          bool mine = false;
          for (int64_t i = 0; i < num_labels; ++i) mine = mine || labels[i] == n;
          return mine;
        });
      }
      step_outputs(a_.num_out, scale, row);
    }
    each_row(line, [&](const int32_t (&rows)[kRowsTogether]) {
      for (int d = 4 * lane_; d < a_.pitch; d += 4 * kWarp)
#pragma unroll
        for (int i = 0; i < kRowsTogether; ++i)
          if (rows[i] >= 0) add_to_row(a_.in + rows[i] * a_.in_stride + d, at(d));
    });
    examples += 1;
  }

 private:
  __device__ Vec4& at(int d) const { return *reinterpret_cast<Vec4*>(hidden_ + d); }
  __device__ void report() const {
    if (lane_ == 0) atomicMin(bad_, static_cast<Counter>(place_));
  }

  // A row, or -1 where it is one of zeros or none at all.
  __device__ int32_t known(int32_t row) const {
    if (row < -1 || row >= a_.num_in) atomicMin(bad_, static_cast<Counter>(place_));
    return row < a_.num_in ? larger(row, -1) : -1;
  }

  // Calls visit with the rows that the lanes have, some at a time, -1 where there are no more; gives how many they are.
  template <typename Visit>
  __device__ int hand_round(int32_t row, const Visit& visit) const {
    uint32_t there = __ballot_sync(kEveryLane, row >= 0);
    const int count = count_bits(there);
    while (there != 0) {
      int32_t rows[kRowsTogether];
#pragma unroll
      for (int i = 0; i < kRowsTogether; ++i) {
        rows[i] = -1;
        if (there == 0) continue;
        rows[i] = __shfl_sync(kEveryLane, row, lowest_bit(there));
        there &= there - 1;
      }
      visit(rows);
    }
    return count;
  }

  // The same for all rows of a line, those of 32 words at a time.
  template <typename Visit>
  __device__ int64_t each_row(int64_t line, const Visit& visit) const {
    int64_t count = 0;
    const int64_t stop = a_.ends[line];
    for (int64_t i = begin_of(a_.ends, line); i < stop; i += kWarp) {
      int64_t next = 0, last = 0;
      if (i + lane_ < stop) {
        const int64_t word = a_.tokens[i + lane_];
        if (word >= 0 && word < a_.num_words) {
          next = begin_of(a_.row_ends, word);
          last = a_.row_ends[word];
        } else {
          atomicMin(bad_, static_cast<Counter>(place_));
        }
      }
      for (; __ballot_sync(kEveryLane, next < last) != 0; ++next)
        count += hand_round(next < last ? known(a_.rows[next]) : -1, visit);
    }
    const int64_t last_ngram = a_.ngram_ends[line];
    for (int64_t i = begin_of(a_.ngram_ends, line); i < last_ngram; i += kWarp)
      count += hand_round(i + lane_ < last_ngram ? known(a_.ngrams[i + lane_]) : -1, visit);
    return count;
  }

  // How many rows a line has, and their sum, in `hidden`. False: none but rows of zeros.
  __device__ bool find_rows(int64_t line) {
    int64_t inputs = 0, count = 0;
    for (int64_t i = begin_of(a_.ends, line) + lane_; i < a_.ends[line]; i += kWarp) {
      const int64_t word = a_.tokens[i];
      if (word >= 0 && word < a_.num_words) inputs += a_.row_ends[word] - begin_of(a_.row_ends, word);
    }
    inputs_ = warp_sum(inputs) + a_.ngram_ends[line] - begin_of(a_.ngram_ends, line);
    for (int first = 4 * lane_; first - 4 * lane_ < a_.pitch; first += 4 * kWarp * kHeld) {
      Vec4 sum[kHeld];
#pragma unroll
      for (int c = 0; c < kHeld; ++c) sum[c] = {0, 0, 0, 0};
      count = each_row(line, [&](const int32_t (&rows)[kRowsTogether]) {
#pragma unroll
        for (int c = 0; c < kHeld; ++c) {
          const int d = first + c * 4 * kWarp;
          Vec4 row[kRowsTogether];
#pragma unroll
          for (int i = 0; i < kRowsTogether; ++i)
            row[i] =
                rows[i] >= 0 && d < a_.pitch ? load_shared_row(a_.in + rows[i] * a_.in_stride + d) : Vec4{0, 0, 0, 0};
#pragma unroll
          for (int i = 0; i < kRowsTogether; ++i) add_scaled(&sum[c], 1.0f, row[i]);
        }
      });
#pragma unroll
      for (int c = 0; c < kHeld; ++c)
        if (first + c * 4 * kWarp < a_.pitch) at(first + c * 4 * kWarp) = sum[c];
    }
    return count > 0;
  }

  __device__ bool all_nodes(const int32_t* path, int64_t count) const {
    bool all = true;
    for (int64_t n = lane_; n < count; n += kWarp) all = all && path[n] >= 0 && (path[n] >> 1) < a_.num_out;
    return __ballot_sync(kEveryLane, all) == kEveryLane;
  }

  // scores[n] = row(n) . hidden
  template <typename Row>
  __device__ void score(int64_t count, const Row& row) const {
    DeviceWarp warp(nullptr, nullptr);
    for (int64_t first = 0; first < count; first += kTogether) {
      DeviceWarp::PerLane<float> all_sums[1][kTogether];
      auto& sums = all_sums[0];
#pragma unroll
      for (int i = 0; i < kTogether; ++i) sums[i].own = 0;
      for (int d = 4 * lane_; d < a_.pitch; d += 4 * kWarp) {
#pragma unroll
        for (int i = 0; i < kTogether; ++i)
          if (first + i < count) sums[i].own = dot(sums[i].own, at(d), load_shared_row(row(first + i) + d));
      }
      sum_over_lanes<kTogether, 1>(warp, all_sums);
      if (lane_ < kTogether && first + lane_ < count) scores_[first + lane_] = sums[0].own;
    }
    __syncwarp();
  }

  // Scores become slopes, lr times (target - prediction). Each lane has every 32nd.
  __device__ void softmax_slopes(int64_t label, float lr) {
    float most = scores_[0];
    for (int64_t n = lane_; n < a_.num_out; n += kWarp) most = fmaxf(most, scores_[n]);
    most = warp_max(most);
    double sum = 0;
    for (int64_t n = lane_; n < a_.num_out; n += kWarp) sum += static_cast<double>(expf(scores_[n] - most));
    sum = warp_sum(sum);
    const auto scale = static_cast<float>(1 / sum);
    if (lane_ == 0) loss += static_cast<double>(most - scores_[label]) + log(sum);
    __syncwarp();  // the wanted score has been read
    for (int64_t n = lane_; n < a_.num_out; n += kWarp)
      scores_[n] = lr * ((n == label ? 1.0f : 0.0f) - expf(scores_[n] - most) * scale);
    __syncwarp();
  }

  template <typename Target>
  __device__ void logistic_slopes(int64_t count, float lr, const Target& target) {
    for (int64_t n = lane_; n < count; n += kWarp) {
      const Slope slope = logistic(scores_[n], target(n) ? -1.0f : 1.0f, lr);
      scores_[n] = slope.coefficient;
      loss += static_cast<double>(slope.loss);
    }
    __syncwarp();
  }

  // Outputs move by slope times hidden, and hidden becomes the step of the line's rows.
  template <typename Row>
  __device__ void step_outputs(int64_t count, float scale, const Row& row) const {
    for (int d = 4 * lane_; d < a_.pitch; d += 4 * kWarp) {
      const Vec4 h = at(d);
      Vec4 step{0, 0, 0, 0};
      for (int64_t n = 0; n < count; ++n) {
        float* output = row(n) + d;
        const float slope = scores_[n];
        add_scaled(&step, slope, load_shared_row(output));
        add_to_row(output, {slope * h.x, slope * h.y, slope * h.z, slope * h.w});
      }
      at(d) = {step.x * scale, step.y * scale, step.z * scale, step.w * scale};
    }
    __syncwarp();  // the slopes have been read
  }

  const LineArguments& a_;
  float *hidden_, *scores_;
  Counter* bad_;
  int lane_;
  int64_t place_ = 0, inputs_ = 0;
};

}  // namespace w2v
