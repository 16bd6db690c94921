// Products of matrices in the tile registers of Intel's AMX: eight of them, of 16 rows of 64 bytes.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace equispike {
namespace {
namespace tiles {

// All tiles whole, for as long as this lives.
class Use {
 public:
  Use() {
    struct alignas(64) {
      std::uint8_t palette = 1, start = 0, reserved[14] = {};
      std::uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } all;
    _tile_loadconfig(&all);
  }
  ~Use() { _tile_release(); }
  Use(const Use &) = delete;
  Use &operator=(const Use &) = delete;
};

// GCC's intrinsics do not say that they read memory.
inline void settle() { asm volatile("" ::: "memory"); }

// sums[m] + 256 * j, 16 x 16: over all k, `left(k, m)`, 16 rows of 64 bytes `stride(k)` apart, times tile J k + j of the
// weights. Sum m, j is tile 3 m + j; numbers of tiles have to be literal.
template <int M, int J, class Left, class Stride>
void products(std::size_t count, Left left, Stride stride, const std::int8_t *weights, std::int32_t *const *sums) {
  static_assert(M <= 2 && J <= 3, "six sums, a left and a right factor fill the tiles");
  settle();
  _tile_zero(0);
  if constexpr (J > 1) _tile_zero(1);
  if constexpr (J > 2) _tile_zero(2);
  if constexpr (M > 1) _tile_zero(3);
  if constexpr (M > 1 && J > 1) _tile_zero(4);
  if constexpr (M > 1 && J > 2) _tile_zero(5);
  for (std::size_t k = 0; k < count; ++k, weights += J * 1024) {
    const std::size_t apart = stride(k);
    const std::uint8_t *const first = left(k, 0), *const second = left(k, M - 1);
    _tile_loadd(7, weights, 64);
    if constexpr (J < 3) {  // there is a tile for each factor
      _tile_loadd(2, first, apart);
      _tile_dpbusd(0, 2, 7);
      if constexpr (J > 1) _tile_loadd(6, weights + 1024, 64);
      if constexpr (J > 1) _tile_dpbusd(1, 2, 6);
      if constexpr (M > 1) _tile_loadd(5, second, apart);
      if constexpr (M > 1) _tile_dpbusd(3, 5, 7);
      if constexpr (M > 1 && J > 1) _tile_dpbusd(4, 5, 6);
    } else {
      _tile_loadd(6, first, apart);
      _tile_dpbusd(0, 6, 7);
      if constexpr (M > 1) _tile_loadd(6, second, apart);
      if constexpr (M > 1) _tile_dpbusd(3, 6, 7);
      _tile_loadd(7, weights + 1024, 64);
      if constexpr (M > 1) _tile_dpbusd(4, 6, 7);
      if constexpr (M > 1) _tile_loadd(6, first, apart);
      _tile_dpbusd(1, 6, 7);
      _tile_loadd(7, weights + 2048, 64);
      _tile_dpbusd(2, 6, 7);
      if constexpr (M > 1) _tile_loadd(6, second, apart);
      if constexpr (M > 1) _tile_dpbusd(5, 6, 7);
    }
  }
  _tile_stored(0, sums[0], 64);
  if constexpr (J > 1) _tile_stored(1, sums[0] + 256, 64);
  if constexpr (J > 2) _tile_stored(2, sums[0] + 512, 64);
  if constexpr (M > 1) _tile_stored(3, sums[1], 64);
  if constexpr (M > 1 && J > 1) _tile_stored(4, sums[1] + 256, 64);
  if constexpr (M > 1 && J > 2) _tile_stored(5, sums[1] + 512, 64);
  settle();
}

}  // namespace tiles
}  // namespace
}  // namespace equispike
