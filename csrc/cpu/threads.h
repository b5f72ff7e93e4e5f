// Threads for the length of one call.
#pragma once
#include <algorithm>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "../checks.h"

namespace w2v {

// As long as it lives, this thread takes numbers below 1e-38 for 0. Coefficients get there where scores come near 90
// (in large vocabularies, of words that hardly ever meet as negatives), and the processor takes 100 times as long for
// such.
class FlushDenormals {
 public:
#if defined(__SSE2__)
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }  // FTZ, DAZ
  ~FlushDenormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#else
  FlushDenormals() {}
  ~FlushDenormals() {}
#endif
};

inline void check_threads(int64_t threads) {
  W2V_CHECK(threads >= 1 && threads <= 4096, "threads: expected an integer from 1 to 4096, got ", threads);
}

// Runs work(0) to work(threads - 1), each in a thread of its own, work(0) in this one, and waits for all; rethrows what
// the first of them threw. If the system gives no more threads, those that run must share the work: missing() is called
// for each of the others, before work(0).
template <typename Work, typename Missing>
void run_threads(int64_t threads, const Work& work, const Missing& missing) {
  std::vector<std::exception_ptr> failures(threads);
  const auto guarded = [&](int64_t thread) {
    const FlushDenormals flush;
    try {
      work(thread);
    } catch (...) {
      failures[thread] = std::current_exception();
    }
  };
  std::vector<std::thread> pool;
  pool.reserve(threads);
  try {
    for (int64_t t = 1; t < threads; ++t) pool.emplace_back(guarded, t);
  } catch (const std::system_error&) {
    for (int64_t t = static_cast<int64_t>(pool.size()) + 1; t < threads; ++t) missing();
  }
  guarded(0);
  for (std::thread& thread : pool) thread.join();
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

template <typename Work>
void run_threads(int64_t threads, const Work& work) {
  run_threads(threads, work, [] {});
}

// The sums of an epoch's part, as a float64 tensor on the device of `like`.
inline Tensor float64_tensor(const Tensor& like, std::initializer_list<double> values) {
  Tensor result = torch::stable::new_empty(like, {static_cast<int64_t>(values.size())}, ScalarType::Double);
  std::copy(values.begin(), values.end(), result.mutable_data_ptr<double>());
  return result;
}

}  // namespace w2v
