// CBOW with negative sampling as its papers have it: one thread, one centre after the other, negatives of its own for
// each, the mean of the contexts, its gradient added to each of them whole. No kernel of the library is used, so that
// the library's figures have something plain to be compared with. Arguments are in main; see train_textbook in
// compare_family.py.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

template <typename T>
std::vector<T> read(const char* path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw std::runtime_error(std::string("cannot read ") + path);
  std::vector<T> values(static_cast<std::size_t>(file.tellg()) / sizeof(T));
  file.seekg(0).read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(T)));
  return values;
}

struct Model {
  int dim, window, negative;
  std::vector<float> in, out;       // rows x dim
  std::vector<std::int32_t> noise;  // each word as often as it is to be drawn
  std::mt19937_64 random;
  std::vector<float> mean, change;

  int below(std::size_t n) { return static_cast<int>(random() % n); }

  /// One step for sentence[i], whose contexts are the others from begin to end.
  void step(const std::vector<std::int32_t>& sentence, int i, int begin, int end, float lr) {
    mean.assign(dim, 0.0f);
    change.assign(dim, 0.0f);
    for (int j = begin; j < end; ++j) {
      if (j == i) continue;
      const float* row = &in[static_cast<std::size_t>(sentence[j]) * dim];
      for (int d = 0; d < dim; ++d) mean[d] += row[d];
    }
    for (int d = 0; d < dim; ++d) mean[d] /= static_cast<float>(end - begin - 1);
    for (int k = 0; k <= negative; ++k) {
      const int word = k == 0 ? sentence[i] : noise[below(noise.size())];
      if (k > 0 && word == sentence[i]) continue;
      float* row = &out[static_cast<std::size_t>(word) * dim];
      float dot = 0.0f;
      for (int d = 0; d < dim; ++d) dot += mean[d] * row[d];
      const float g = lr * ((k == 0 ? 1.0f : 0.0f) - 1.0f / (1.0f + std::exp(-dot)));
      for (int d = 0; d < dim; ++d) change[d] += g * row[d];
      for (int d = 0; d < dim; ++d) row[d] += g * mean[d];
    }
    for (int j = begin; j < end; ++j) {
      if (j == i) continue;
      float* row = &in[static_cast<std::size_t>(sentence[j]) * dim];
      for (int d = 0; d < dim; ++d) row[d] += change[d];
    }
  }
};

}  // namespace

int main(int count, char** argument) {
  if (count != 13) return std::fprintf(stderr, "textbook_cbow: expected 12 arguments, got %d\n", count - 1), 2;
  const auto ids = read<std::int32_t>(argument[1]);  // -1 behind each sentence
  const auto keep = read<float>(argument[2]);        // of each word, the share that is kept
  const auto number = [&](int i) { return std::atof(argument[i]); };
  Model model{std::atoi(argument[4]), std::atoi(argument[5]), std::atoi(argument[6]), {}, {}, {}, {}, {}, {}};
  model.noise = read<std::int32_t>(argument[3]);
  const int epochs = std::atoi(argument[7]);
  const double first = number(8), last = number(9), fall = number(10);  // fall: the share of an epoch's fall
  model.random.seed(std::strtoull(argument[11], nullptr, 10));
  std::uniform_real_distribution<float> uniform(0.0f, 1.0f);

  const std::size_t size = keep.size() * model.dim;
  model.out.assign(size, 0.0f);
  model.in.resize(size);
  for (float& x : model.in) x = (uniform(model.random) - 0.5f) / static_cast<float>(model.dim);

  std::vector<std::int32_t> sentence;
  for (int epoch = 0; epoch < epochs; ++epoch) {
    for (std::size_t at = 0; at < ids.size(); ++at) {
      if (ids[at] >= 0) {
        if (uniform(model.random) < keep[ids[at]]) sentence.push_back(ids[at]);
        continue;
      }
      const double done = epoch + fall * static_cast<double>(at) / static_cast<double>(ids.size());
      const auto lr = static_cast<float>(first - (first - last) * done / epochs);
      const int length = static_cast<int>(sentence.size());
      for (int i = 0; i < length; ++i) {
        const int reach = 1 + model.below(model.window);
        const int begin = std::max(0, i - reach), end = std::min(length, i + reach + 1);
        if (end - begin > 1) model.step(sentence, i, begin, end, lr);
      }
      sentence.clear();
    }
  }
  std::ofstream file(argument[12], std::ios::binary);
  file.write(reinterpret_cast<const char*>(model.in.data()), static_cast<std::streamsize>(size * sizeof(float)));
  if (!file.flush()) return std::fprintf(stderr, "textbook_cbow: cannot write %s\n", argument[12]), 1;
}
