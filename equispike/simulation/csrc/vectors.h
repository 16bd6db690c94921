// Vectors of the instruction set that a kernel is compiled for. Everything is local to the kernel's file (see kernel.h).
#pragma once

#include <cstring>

#include "kernel.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

// In front of loops over an array that else would stay in memory.
#if defined(__clang__)
#define EQUISPIKE_UNROLL _Pragma("unroll")
#else
#define EQUISPIKE_UNROLL _Pragma("GCC unroll 8")
#endif

namespace equispike {
namespace {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64, registers = 32;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32, registers = 16;
#else
constexpr int vector_bytes = 16, registers = 16;
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

// A vector of T from numbers of a narrower type. By intrinsics where GCC 12 would convert a part of them at a time.
template <class T, class Narrow>
Vector<T> widen(const Narrow *from) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Narrow) == 2 && sizeof(T) == 4) {
    return (Vector<T>)_mm512_maskz_cvtepi16_epi32(-1, _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
  }
  if constexpr (sizeof(Narrow) == 2 && sizeof(T) == 8) {
    return (Vector<T>)_mm512_maskz_cvtepi16_epi64(-1, _mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(Narrow) == 2 && sizeof(T) == 4) {
    return (Vector<T>)_mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
  }
#endif
  return __builtin_convertvector(load<lanes<T>>(from), Vector<T>);
}

// Some lanes of a vector: in a mask register where there are some, else all ones in those lanes and zero in the others.
#if defined(__AVX512F__)
template <class Real>
using Lanes = std::conditional_t<sizeof(Real) == 4, __mmask16, __mmask8>;

[[maybe_unused]] Lanes<float> at_least(Vector<float> x, Vector<float> y) {
  return _mm512_cmp_ps_mask((__m512)x, (__m512)y, _CMP_GE_OQ);
}
[[maybe_unused]] Lanes<double> at_least(Vector<double> x, Vector<double> y) {
  return _mm512_cmp_pd_mask((__m512d)x, (__m512d)y, _CMP_GE_OQ);
}

// x in these lanes, else y.
[[maybe_unused]] Vector<float> choose(Lanes<float> these, Vector<float> x, Vector<float> y) {
  return (Vector<float>)_mm512_mask_blend_ps(these, (__m512)y, (__m512)x);
}
[[maybe_unused]] Vector<double> choose(Lanes<double> these, Vector<double> x, Vector<double> y) {
  return (Vector<double>)_mm512_mask_blend_pd(these, (__m512d)y, (__m512d)x);
}

// One more in these lanes.
[[maybe_unused]] Vector<std::int32_t> count_up(Vector<std::int32_t> counts, Lanes<float> these) {
  return (Vector<std::int32_t>)_mm512_mask_add_epi32((__m512i)counts, these, (__m512i)counts, _mm512_set1_epi32(1));
}
[[maybe_unused]] Vector<std::int64_t> count_up(Vector<std::int64_t> counts, Lanes<double> these) {
  return (Vector<std::int64_t>)_mm512_mask_add_epi64((__m512i)counts, these, (__m512i)counts, _mm512_set1_epi64(1));
}

// One less in these lanes.
[[maybe_unused]] Vector<std::int32_t> count_down(Vector<std::int32_t> counts, Lanes<float> these) {
  return (Vector<std::int32_t>)_mm512_mask_sub_epi32((__m512i)counts, these, (__m512i)counts, _mm512_set1_epi32(1));
}
[[maybe_unused]] Vector<std::int64_t> count_down(Vector<std::int64_t> counts, Lanes<double> these) {
  return (Vector<std::int64_t>)_mm512_mask_sub_epi64((__m512i)counts, these, (__m512i)counts, _mm512_set1_epi64(1));
}

// Those above zero.
[[maybe_unused]] Lanes<float> positive(Vector<std::int32_t> x) {
  return _mm512_cmpgt_epi32_mask((__m512i)x, _mm512_setzero_si512());
}
[[maybe_unused]] Lanes<double> positive(Vector<std::int64_t> x) {
  return _mm512_cmpgt_epi64_mask((__m512i)x, _mm512_setzero_si512());
}

template <class Real>
std::uint64_t bits_of(Lanes<Real> these) {
  return these;
}

template <class Real>
Lanes<Real> lanes_of(std::uint64_t bits) {
  return static_cast<Lanes<Real>>(bits);
}
#else
template <class Real>
using Lanes = Vector<Int<Real>>;

// Intrinsics where GCC 12 fails on the plain comparison of doubles.
#if defined(__SSE2__) && !defined(__AVX2__)
[[maybe_unused]] Lanes<float> at_least(Vector<float> x, Vector<float> y) { return (Lanes<float>)_mm_cmpge_ps(x, y); }
[[maybe_unused]] Lanes<double> at_least(Vector<double> x, Vector<double> y) { return (Lanes<double>)_mm_cmpge_pd(x, y); }
#else
template <class V>
auto at_least(V x, V y) {
  return x >= y;
}
#endif

template <class L, class V>
V choose(L these, V x, V y) {
  return (V)(((L)x & these) | ((L)y & ~these));
}

template <class L>
L count_up(L counts, L these) {
  return counts - these;
}

template <class L>
L count_down(L counts, L these) {
  return counts + these;
}

template <class L>
L positive(L x) {
  return (L)(x > L{});
}

// One bit per lane.
template <class Real>
std::uint64_t bits_of(Lanes<Real> these) {
#if defined(__AVX2__)
  if constexpr (sizeof(Real) == 4) return static_cast<unsigned>(_mm256_movemask_ps((__m256)these));
  if constexpr (sizeof(Real) == 8) return static_cast<unsigned>(_mm256_movemask_pd((__m256d)these));
#elif defined(__SSE2__)
  if constexpr (sizeof(Real) == 4) return static_cast<unsigned>(_mm_movemask_ps((__m128)these));
  if constexpr (sizeof(Real) == 8) return static_cast<unsigned>(_mm_movemask_pd((__m128d)these));
#else
  std::uint64_t bits = 0;
  for (int i = 0; i < lanes<Real>; ++i) bits |= static_cast<std::uint64_t>(these[i] & 1) << i;
  return bits;
#endif
}

// All lanes whose bit is set.
template <class Real>
Lanes<Real> lanes_of(std::uint64_t bits) {
  Lanes<Real> lane;
#if defined(__AVX2__)
  for (int i = 0; i < lanes<Real>; ++i) lane[i] = Int<Real>{1} << i;
  return ((Lanes<Real>{} + static_cast<Int<Real>>(bits & ((1u << lanes<Real>)-1))) & lane) == lane;
#else
  for (int i = 0; i < lanes<Real>; ++i) lane[i] = -static_cast<Int<Real>>(bits >> i & 1);
  return lane;
#endif
}
#endif

// x in these lanes, else zero.
template <class Real>
Vector<Real> where(Lanes<Real> these, Vector<Real> x) {
  return choose(these, x, Vector<Real>{});
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

// The lowest bit that is set; 64 if there is none.
[[maybe_unused]] unsigned lowest(std::uint64_t bits) {
#if defined(__BMI__)
  return static_cast<unsigned>(_tzcnt_u64(bits));
#else
  return bits ? static_cast<unsigned>(__builtin_ctzll(bits)) : 64;
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

// The same in whole cache lines: what lies across two is loaded and stored twice.
template <class T>
T *reserve_lines(Buffer &buffer, std::size_t count) {
  const auto start = reinterpret_cast<std::uintptr_t>(reserve<T>(buffer, count + 64 / sizeof(T)));
  return reinterpret_cast<T *>((start + 63) / 64 * 64);
}

}  // namespace
}  // namespace equispike
