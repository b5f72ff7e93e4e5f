// Chooses the kernels once, at the first call: the widest vectors this machine has, or what W2V_EXT_CPU names.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace w2v {

#if defined(__x86_64__)
namespace avx512 {
extern const KernelTable table;
}
namespace avx2 {
extern const KernelTable table;
}
#endif
namespace portable {
extern const KernelTable table;
}

namespace {

const KernelTable& choose() {
  const char* wanted = std::getenv("W2V_EXT_CPU");
  const std::string name = wanted == nullptr ? "" : wanted;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_avx512 && (name.empty() || name == "avx512")) return avx512::table;
  if (has_avx2 && (name.empty() || name == "avx2")) return avx2::table;
#endif
  if (name.empty() || name == "portable") return portable::table;
  throw std::invalid_argument("W2V_EXT_CPU: expected avx512, avx2 or portable, and a machine that has it, got '" +
                              name + "'");
}

}  // namespace

const KernelTable& kernels() {
  static const KernelTable& table = choose();
  return table;
}

}  // namespace w2v
