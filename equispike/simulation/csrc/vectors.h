// Vectors of the instruction set that a kernel is compiled for. Everything is local to the kernel's file (see kernel.h).
#pragma once

#include <cstring>

#include "kernel.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace equispike {
namespace {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

template <class T, int count>
struct Grouped {
  typedef T Vector __attribute__((vector_size(count * sizeof(T))));
};

template <class T, int count>
using Group = typename Grouped<T, count>::Vector;
template <class T>
constexpr int lanes = vector_bytes / static_cast<int>(sizeof(T));
template <class T>
using Vector = Group<T, lanes<T>>;
template <class Real>
using Mask = Vector<Int<Real>>;

template <int count, class T>
Group<T, count> load(const T *from) {
  Group<T, count> x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

template <class T>
Vector<T> load(const T *from) {
  return load<lanes<T>>(from);
}

template <class T, class V>
void store(T *to, V x) {
  std::memcpy(to, &x, sizeof x);
}

// A vector of T from numbers of a narrower type.
template <class T, class Narrow>
Vector<T> widen(const Narrow *from) {
#if defined(__AVX2__) && !defined(__AVX512F__)  // GCC 12 would convert half of them at a time
  if constexpr (sizeof(Narrow) == 2) {
    return (Vector<T>)_mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
  }
#endif
  return __builtin_convertvector(load<lanes<T>>(from), Vector<T>);
}

template <class Real>
Vector<Real> where(Mask<Real> mask, Vector<Real> x) {
  return (Vector<Real>)((Mask<Real>)x & mask);
}

// Lanes in which x >= y. Intrinsics where GCC 12 fails on the plain comparison of doubles.
#if defined(__SSE2__) && !defined(__AVX2__)
[[maybe_unused]] Mask<float> at_least(Vector<float> x, Vector<float> y) { return (Mask<float>)_mm_cmpge_ps(x, y); }
[[maybe_unused]] Mask<double> at_least(Vector<double> x, Vector<double> y) { return (Mask<double>)_mm_cmpge_pd(x, y); }
#else
template <class V>
auto at_least(V x, V y) {
  return x >= y;
}
#endif

// One bit per lane.
[[maybe_unused]] std::uint64_t bits_of(Mask<float> mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask);
#elif defined(__AVX2__)
  return static_cast<unsigned>(_mm256_movemask_ps((__m256)mask));
#elif defined(__SSE2__)
  return static_cast<unsigned>(_mm_movemask_ps((__m128)mask));
#else
  std::uint64_t bits = 0;
  for (int i = 0; i < lanes<float>; ++i) bits |= static_cast<std::uint64_t>(mask[i] & 1) << i;
  return bits;
#endif
}

[[maybe_unused]] std::uint64_t bits_of(Mask<double> mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask);
#elif defined(__AVX2__)
  return static_cast<unsigned>(_mm256_movemask_pd((__m256d)mask));
#elif defined(__SSE2__)
  return static_cast<unsigned>(_mm_movemask_pd((__m128d)mask));
#else
  std::uint64_t bits = 0;
  for (int i = 0; i < lanes<double>; ++i) bits |= static_cast<std::uint64_t>(mask[i] & 1) << i;
  return bits;
#endif
}

// All lanes whose bit is set.
template <class Real>
Mask<Real> mask_of(std::uint64_t bits) {
  Mask<Real> lane;
#if defined(__AVX2__)
  for (int i = 0; i < lanes<Real>; ++i) lane[i] = Int<Real>{1} << i;
  return ((Mask<Real>{} + static_cast<Int<Real>>(bits & ((1u << lanes<Real>)-1))) & lane) == lane;
#else
  for (int i = 0; i < lanes<Real>; ++i) lane[i] = -static_cast<Int<Real>>(bits >> i & 1);
  return lane;
#endif
}

// Bits first ... first + 63 of a mask of `bytes` bytes (a multiple of 8), zero outside of it.
[[maybe_unused]] std::uint64_t bits_at(const std::uint8_t *mask, int bytes, int first) {
  const int word = first >> 6, shift = first & 63, words = bytes / 8;
  std::uint64_t low = 0, high = 0;
  if (word >= 0 && word < words) std::memcpy(&low, mask + 8 * word, 8);
  if (shift == 0) return low;
  if (word + 1 >= 0 && word + 1 < words) std::memcpy(&high, mask + 8 * (word + 1), 8);
  return low >> shift | high << (64 - shift);
}

// The lowest bit that is set; anything if there is none.
[[maybe_unused]] unsigned lowest(std::uint64_t bits) {
#if defined(__BMI__)
  return static_cast<unsigned>(_tzcnt_u64(bits));
#else
  return static_cast<unsigned>(__builtin_ctzll(bits | std::uint64_t{1} << 63));
#endif
}

// The bits that are set, in order, each as its number above `first`. They are written K at a time, wanted or not, past the
// end too: where few words hold more, the branch is predicted.
template <int K>
std::uint32_t *list_bits(std::uint64_t left, std::uint32_t first, std::uint32_t *list) {
  int n = __builtin_popcountll(left);
  do {
    for (int i = 0; i < K; ++i) {
      list[i] = first + lowest(left);
      left &= left - 1;
    }
    list += n < K ? n : K;
    n -= K;
  } while (n > 0);
  return list;
}

template <class T>
T *reserve(Buffer &buffer, std::size_t count) {
  if (buffer.bytes < count * sizeof(T)) grow(buffer, 2 * count * sizeof(T));
  return static_cast<T *>(buffer.data);
}

}  // namespace
}  // namespace equispike
