// Which table of kernels this CPU runs.
#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace gradclip {

#if !defined(__x86_64__)
const Kernels* avx2_kernels() { return nullptr; }
const Kernels* avx512_kernels() { return nullptr; }
#endif

namespace {

const Kernels* choose() {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  const bool avx2 = false, avx512 = false;
#endif
  const Kernels* const best_first[] = {
      avx512 ? avx512_kernels() : nullptr,
      avx2 ? avx2_kernels() : nullptr,
      baseline_kernels(),
  };
  const char* wanted = std::getenv("GRADCLIP_ISA");
  const Kernels* best = nullptr;
  for (const Kernels* table : best_first) {
    if (!table) continue;
    if (!best) best = table;
    if (wanted && !std::strcmp(wanted, table->name)) return table;
  }
  return best;
}

}  // namespace

#if defined(__x86_64__)
const bool kPrefetches = (__builtin_cpu_init(), __builtin_cpu_is("intel"));
#else
const bool kPrefetches = false;
#endif

const Kernels& kernels() {
  static const Kernels& chosen = *choose();
  return chosen;
}

}  // namespace gradclip
