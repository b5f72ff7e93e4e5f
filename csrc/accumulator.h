// The type that sums are taken in: double for double, float for all others. Losses and coefficients have it too.
#pragma once
#include <type_traits>

namespace w2v {

template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

}  // namespace w2v
