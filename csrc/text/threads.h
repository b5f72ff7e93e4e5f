// A few threads for a few pieces of work.
#pragma once

#include <exception>
#include <system_error>
#include <thread>
#include <vector>

namespace w2v::text {

// Calls work(0) to work(n - 1), each in a thread of its own as far as the system gives them, work(0) in the caller's.
// When all have ended, the failure of the lowest number is thrown.
template <typename Work>
void in_threads(unsigned n, const Work& work) {
  std::vector<std::exception_ptr> failures(n);
  const auto guarded = [&](unsigned i) {
    try {
      work(i);
    } catch (...) {
      failures[i] = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(n);
  try {
    for (unsigned i = 1; i < n; ++i) threads.emplace_back(guarded, i);
  } catch (const std::system_error&) {
    // no more threads: the caller does the rest
  }
  guarded(0);
  for (unsigned i = static_cast<unsigned>(threads.size()) + 1; i < n; ++i) guarded(i);
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

}  // namespace w2v::text
