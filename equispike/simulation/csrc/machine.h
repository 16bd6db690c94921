// What this machine has: threads, instruction sets and the kernels built for them, caches.
#pragma once

#include <algorithm>
#include <exception>
#include <initializer_list>
#include <mutex>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(EQUISPIKE_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#endif
#if defined(__unix__)
#include <unistd.h>
#endif

#include "memory.h"

namespace equispike {
namespace {

// The same work on so many threads, this one among them; what the last of them to fail threw. On those of OpenMP, where
// the compiler has it: they are torch's own, which keep a processor busy for some milliseconds after each operation of
// torch, and others would have to share it with them.
template <class Worker>
void on_threads(std::size_t threads, const Worker &worker) {
  std::exception_ptr failure;
  std::mutex mutex;
  auto body = [&] {
    try {
      worker();
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      failure = std::current_exception();
    }
  };
#if defined(_OPENMP)
#pragma omp parallel num_threads(static_cast<int>(threads)) if (threads > 1)
  body();
#else
  std::vector<std::thread> others;
  for (std::size_t i = 1; i < threads; ++i) others.emplace_back(body);
  body();
  for (auto &other : others) other.join();
#endif
  if (failure) std::rethrow_exception(failure);
}

#if defined(EQUISPIKE_AMX)
// Whether there are tiles, and the system lets this process use them: it has to be asked, once.
bool tiles_granted() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 24 & 1) || !(d >> 25 & 1)) return false;
  constexpr int request_permission = 0x1023, tile_data = 18;  // of arch_prctl, since Linux 5.16
  static const bool granted = syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  return granted;
}
#endif

// Those of this machine that kernels were built for, each including those before it.
std::vector<std::string> instruction_sets() {
  std::vector<std::string> names{"baseline"};
#if defined(EQUISPIKE_X86)
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2"))) return names;
  names.push_back("avx2");
  if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))) {
    return names;
  }
  names.push_back("avx512");
#if defined(EQUISPIKE_AMX)
  if (tiles_granted()) names.push_back("amx");
#endif
#endif
  return names;
}

// Bytes of a processor's L2 cache, or 0 where the system does not say.
long l2_cache() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
  return std::max(0L, sysconf(_SC_LEVEL2_CACHE_SIZE));
#else
  return 0;
#endif
}

// One of the functions of a name that were built, by the instruction set: the widest of those up to it.
template <class Function>
Function *built_for(const std::string &isa, std::initializer_list<std::pair<const char *, Function *>> built) {
  static const std::vector<std::string> known = instruction_sets();
  const auto wanted = std::find(known.begin(), known.end(), isa);
  require(wanted != known.end(), "instruction set: this machine or build does not have it");
  Function *found = nullptr;
  for (const auto &[name, function] : built) {
    if (std::find(known.begin(), wanted + 1, name) != wanted + 1) found = function;
  }
  return found;
}

#if defined(EQUISPIKE_X86)
#define EQUISPIKE_BUILT_FOR(isa, Function, name) \
  built_for<Function>(isa, {{"baseline", &baseline::name}, {"avx2", &avx2::name}, {"avx512", &avx512::name}})
#else
#define EQUISPIKE_BUILT_FOR(isa, Function, name) built_for<Function>(isa, {{"baseline", &baseline::name}})
#endif

template <class Real>
Kernel<Real> multiplier(const std::string &isa) {
  return built_for<std::remove_pointer_t<Kernel<Real>>>(isa, {{"baseline", &baseline::multiply},
#if defined(EQUISPIKE_X86)
                                                              {"avx2", &avx2::multiply},
                                                              {"avx512", &avx512::multiply},
#endif
#if defined(EQUISPIKE_AMX)
                                                              {"amx", &amx::multiply},
#endif
                                                             });
}

// How a layer's current comes about: see the kernels of these names.
enum class How { gather, scatter, sweep, multiply };

template <class Real>
Kernel<Real> kernel(const std::string &isa, How how) {
  using Function = std::remove_pointer_t<Kernel<Real>>;
  if (how == How::multiply) return multiplier<Real>(isa);
  if (how == How::sweep) return EQUISPIKE_BUILT_FOR(isa, Function, sweep);
  return how == How::scatter ? EQUISPIKE_BUILT_FOR(isa, Function, scatter) : EQUISPIKE_BUILT_FOR(isa, Function, gather);
}

}  // namespace
}  // namespace equispike
