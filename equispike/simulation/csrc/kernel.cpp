// The event-driven kernel. Built once per instruction set, EQUISPIKE_ISA being its namespace; everything else is
// local to this file (see kernel.h). For a few output rows at a time:
//   decode   the bits of each input position become channel numbers, once for all outputs that read the position;
//   collect  each output position gets, for every step, the list of weight rows that its active inputs select;
//   gather   per slab of output channels, whose weights fit the L2 cache, potentials stay in registers for all steps.
#include "kernel.h"

#include <cstring>

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

constexpr int slack = 8;            // copies run in strides of this many elements, past the end
constexpr int tile_positions = 16;  // output positions whose event lists are kept at once

template <class Real>
struct Lanes;

template <>
struct Lanes<float> {
  using Int = std::int32_t;
  typedef float Vector __attribute__((vector_size(vector_bytes)));
  typedef Int Mask __attribute__((vector_size(vector_bytes)));
};

template <>
struct Lanes<double> {
  using Int = std::int64_t;
  typedef double Vector __attribute__((vector_size(vector_bytes)));
  typedef Int Mask __attribute__((vector_size(vector_bytes)));
};

template <class Real>
using Vector = typename Lanes<Real>::Vector;
template <class Real>
using Mask = typename Lanes<Real>::Mask;
template <class Real>
constexpr int lanes = vector_bytes / static_cast<int>(sizeof(Real));

template <class Real>
Vector<Real> load(const Real *from) {
  Vector<Real> x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

template <class Real>
void store(Real *to, Vector<Real> x) {
  std::memcpy(to, &x, sizeof x);
}

template <class Real>
Vector<Real> where(Mask<Real> mask, Vector<Real> x) {
  return (Vector<Real>)((Mask<Real>)x & mask);
}

// Lanes in which x >= y. Intrinsics where GCC 12 fails on the plain comparison of doubles.
#if defined(__SSE2__) && !defined(__AVX2__)
Mask<float> at_least(Vector<float> x, Vector<float> y) { return (Mask<float>)_mm_cmpge_ps(x, y); }
Mask<double> at_least(Vector<double> x, Vector<double> y) { return (Mask<double>)_mm_cmpge_pd(x, y); }
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
  using Int = typename Lanes<Real>::Int;
  Mask<Real> lane;
#if defined(__AVX2__)
  for (int i = 0; i < lanes<Real>; ++i) lane[i] = Int{1} << i;
  return ((Mask<Real>{} + static_cast<Int>(bits & ((1u << lanes<Real>)-1))) & lane) == lane;
#else
  for (int i = 0; i < lanes<Real>; ++i) lane[i] = -static_cast<Int>(bits >> i & 1);
  return lane;
#endif
}

// Bits first ... first + 63 of a mask of `bytes` bytes (a multiple of 8), zero outside of it.
std::uint64_t bits_at(const std::uint8_t *mask, int bytes, int first) {
  const int word = first >> 6, shift = first & 63, words = bytes / 8;
  std::uint64_t low = 0, high = 0;
  if (word >= 0 && word < words) std::memcpy(&low, mask + 8 * word, 8);
  if (shift == 0) return low;
  if (word + 1 >= 0 && word + 1 < words) std::memcpy(&high, mask + 8 * (word + 1), 8);
  return low >> shift | high << (64 - shift);
}

template <class T>
T *reserve(Buffer &buffer, std::size_t count) {
  if (buffer.bytes < count * sizeof(T)) grow(buffer, 2 * count * sizeof(T));
  return static_cast<T *>(buffer.data);
}

// The active channels of every position in one row of a source, appended to its list.
std::uint32_t decode_row(const Window &window, int image, int row, int steps, std::uint32_t size, Buffer &channels,
                         std::uint32_t *offsets) {
  for (int col = 0; col < window.cols; ++col) {
    const std::size_t position = static_cast<std::size_t>(row) * window.cols + col;
    const std::size_t first = static_cast<std::size_t>(image) * window.rows * window.cols + position;
    const std::uint8_t *bits = window.train + first * steps * window.bytes;
    std::uint32_t *offset = offsets + position * (steps + 1);
    for (int t = 0; t < steps; ++t, bits += window.bytes) {
      offset[t] = size;
      auto *list = reserve<std::uint16_t>(channels, size + 8 * static_cast<std::size_t>(window.bytes) + slack);
      for (int word = 0; word < window.bytes / 8; ++word) {
        std::uint64_t left;
        std::memcpy(&left, bits + 8 * word, 8);
        // Four at a time, wanted or not: few words hold more, so the branch is predicted.
        for (int n = __builtin_popcountll(left); n > 0; n -= 4) {
          for (int i = 0; i < 4; ++i) {
            list[size + i] = static_cast<std::uint16_t>(64 * word + (left ? __builtin_ctzll(left) : 0));
            left &= left - 1;
          }
          size += n < 4 ? n : 4;
        }
      }
    }
    offset[steps] = size;
  }
  return size;
}

// The part of an output position's events that comes from one position of one source.
struct Segment {
  const std::uint32_t *offsets;  // [steps + 1]
  int source;
  std::uint32_t row;  // of the weights, for channel 0
};

struct Decoder {
  Scratch &scratch;
  int image = -1;
  std::uint32_t sizes[most_gathers];

  // Decode what output row y of this image reads.
  template <class Real>
  void prepare(const Job<Real> &job, int wanted, int y) {
    const bool fresh = image != wanted;
    image = wanted;
    for (int g = 0; g < job.gather_count; ++g) {
      const Window &window = job.gathers[g].window;
      const std::size_t positions = static_cast<std::size_t>(window.rows) * window.cols;
      auto *offsets = reserve<std::uint32_t>(scratch.offsets[g], positions * (job.steps + 1));
      auto *decoded = reserve<std::uint8_t>(scratch.decoded[g], window.rows);
      reserve<std::uint16_t>(scratch.channels[g], slack);
      if (fresh) {
        std::memset(decoded, 0, window.rows);
        sizes[g] = 0;
      }
      for (int ky = 0; ky < window.kernel_rows; ++ky) {
        const Range range = window.row_ranges[static_cast<std::size_t>(y) * window.kernel_rows + ky];
        for (int row = range.first; row < range.last; ++row) {
          if (decoded[row]) continue;
          sizes[g] = decode_row(window, image, row, job.steps, sizes[g], scratch.channels[g], offsets);
          decoded[row] = 1;
        }
      }
    }
  }

  // The positions that output (y, x) reads.
  template <class Real>
  std::size_t segments(const Job<Real> &job, int y, int x) {
    std::size_t count = 0;
    for (int g = 0; g < job.gather_count; ++g) {
      const Window &window = job.gathers[g].window;
      const auto *offsets = static_cast<const std::uint32_t *>(scratch.offsets[g].data);
      for (int ky = 0; ky < window.kernel_rows; ++ky) {
        const Range rows = window.row_ranges[static_cast<std::size_t>(y) * window.kernel_rows + ky];
        for (int kx = 0; kx < window.kernel_cols; ++kx) {
          const Range cols = window.col_ranges[static_cast<std::size_t>(x) * window.kernel_cols + kx];
          const std::uint32_t first = job.gathers[g].first + (ky * window.kernel_cols + kx) * window.channels;
          for (int row = rows.first; row < rows.last; ++row) {
            for (int col = cols.first; col < cols.last; ++col) {
              const std::size_t position = static_cast<std::size_t>(row) * window.cols + col;
              auto *segment = reserve<Segment>(scratch.segments, count + 1);
              segment[count++] = {offsets + position * (job.steps + 1), g, first};
            }
          }
        }
      }
    }
    return count;
  }

  // Append the events of output (y, x), step by step; `starts` receives where each step begins.
  template <class Real>
  std::size_t collect(const Job<Real> &job, int y, int x, std::size_t size, std::size_t *starts) {
    const std::size_t count = segments(job, y, x);
    const auto *segment = static_cast<const Segment *>(scratch.segments.data);
    for (int t = 0; t < job.steps; ++t) {
      starts[t] = size;
      for (std::size_t s = 0; s < count; ++s) {
        const auto *channels = static_cast<const std::uint16_t *>(scratch.channels[segment[s].source].data);
        const std::uint32_t first = segment[s].offsets[t], length = segment[s].offsets[t + 1] - first;
        std::uint32_t *events = reserve<std::uint32_t>(scratch.events, size + length + slack) + size;
        std::uint32_t i = 0;
        do {
          for (int j = 0; j < slack; ++j) events[i + j] = segment[s].row + channels[first + i + j];
          i += slack;
        } while (i < length);
        size += length;
      }
    }
    starts[job.steps] = size;
    return size;
  }
};

// What the taps add to one output position, slab and step.
template <class Real, int N>
void add_taps(const Job<Real> &job, int image, int y, int x, int channel, int t, Vector<Real> *sum) {
  for (int k = 0; k < job.tap_count; ++k) {
    const Tap<Real> &tap = job.taps[k];
    const Window &window = tap.window;
    const std::size_t first = static_cast<std::size_t>(image) * window.rows * window.cols;
    for (int ky = 0; ky < window.kernel_rows; ++ky) {
      const Range rows = window.row_ranges[static_cast<std::size_t>(y) * window.kernel_rows + ky];
      for (int kx = 0; kx < window.kernel_cols; ++kx) {
        const Range cols = window.col_ranges[static_cast<std::size_t>(x) * window.kernel_cols + kx];
        const Real *weights = tap.weights + (ky * window.kernel_cols + kx) * static_cast<std::size_t>(job.padded) + channel;
        for (int row = rows.first; row < rows.last; ++row) {
          for (int col = cols.first; col < cols.last; ++col) {
            const std::size_t position = first + static_cast<std::size_t>(row) * window.cols + col;
            const std::uint8_t *train = window.train + (position * job.steps + t) * window.bytes;
            const std::uint64_t bits = bits_at(train, window.bytes, channel - tap.shift);
            for (int n = 0; n < N; ++n) {
              sum[n] += where<Real>(mask_of<Real>(bits >> (n * lanes<Real>)), load(weights + n * lanes<Real>));
            }
          }
        }
      }
    }
  }
}

template <class Real, int N>
void add_events(const Real *weights, const std::uint32_t *event, const std::uint32_t *end, Vector<Real> *sum) {
  constexpr int width = N * lanes<Real>;
  if constexpr (N < 4) {  // two chains of additions, or their latency would count
    Vector<Real> other[N] = {};
    for (; end - event > 1; event += 2) {
      const Real *one = weights + static_cast<std::size_t>(event[0]) * width;
      const Real *two = weights + static_cast<std::size_t>(event[1]) * width;
      for (int n = 0; n < N; ++n) {
        sum[n] += load(one + n * lanes<Real>);
        other[n] += load(two + n * lanes<Real>);
      }
    }
    for (int n = 0; n < N; ++n) sum[n] += other[n];
  }
  for (; event != end; ++event) {
    const Real *row = weights + static_cast<std::size_t>(*event) * width;
    for (int n = 0; n < N; ++n) sum[n] += load(row + n * lanes<Real>);
  }
}

// All steps of one output position and slab.
template <class Real, int N>
void position(const Job<Real> &job, int image, int y, int x, int slab, const std::uint32_t *events,
              const std::size_t *starts, std::int32_t *fired) {
  constexpr int width = N * lanes<Real>, L = lanes<Real>;
  const int channel = slab * width;
  const std::size_t here = static_cast<std::size_t>(y) * job.out_cols + x;
  const std::size_t place = static_cast<std::size_t>(image) * job.out_rows * job.out_cols + here;
  const Real *base = job.base + image * job.base_image + here * job.base_position + channel;
  const Real *weights = job.weights + static_cast<std::size_t>(slab) * job.depth * width;
  auto current = [&](int t, Vector<Real> *sum) {
    for (int n = 0; n < N; ++n) sum[n] = load(base + t * job.base_step + n * L);
    add_events<Real, N>(weights, events + starts[t], events + starts[t + 1], sum);
    if (job.tap_count) add_taps<Real, N>(job, image, y, x, channel, t, sum);
  };
  Vector<Real> sum[N];
  if (!job.threshold) {
    Real *out = job.currents + place * job.steps * job.padded + channel;
    for (int t = 0; t < job.steps; ++t, out += job.padded) {
      current(t, sum);
      for (int n = 0; n < N; ++n) store(out + n * L, sum[n]);
    }
    return;
  }
  Vector<Real> v[N], count[N], threshold[N], reset[N];
  for (int n = 0; n < N; ++n) {
    v[n] = load(job.v + place * job.padded + channel + n * L);
    count[n] = load(job.counts + place * job.padded + channel + n * L);
    threshold[n] = load(job.threshold + channel + n * L);
  }
  std::uint8_t *out = job.spikes + place * job.steps * job.spike_bytes + channel / 8;
  for (int t = 0; t < job.steps; ++t, out += job.spike_bytes) {
    current(t, sum);
    std::uint64_t bits = 0;
    for (int n = 0; n < N; ++n) {
      const Vector<Real> u = v[n] + sum[n];
      const Mask<Real> fires = at_least(u, threshold[n]);
      reset[n] = job.hard ? u : threshold[n];
      v[n] = u - where<Real>(fires, reset[n]);
      count[n] += where<Real>(fires, Vector<Real>{} + Real{1});
      bits |= bits_of(fires) << (n * L);
    }
    std::memcpy(out, &bits, width / 8);
    fired[t] += __builtin_popcountll(bits);
  }
  for (int n = 0; n < N; ++n) {
    store(job.v + place * job.padded + channel + n * L, v[n]);
    store(job.counts + place * job.padded + channel + n * L, count[n]);
  }
}

template <class Real>
void share(const Job<Real> &job, const Share &share, Scratch &scratch) {
  constexpr int L = lanes<Real>;
  const auto step = job.width == 64   ? position<Real, 64 / L>
                    : job.width == 32 ? position<Real, 32 / L>
                                      : position<Real, 16 / L>;
  const std::size_t steps = job.steps;
  const int tile = job.out_cols < tile_positions ? tile_positions / job.out_cols : 1;
  Decoder decoder{scratch, -1, {}};
  // Spikes in each step of the images of this share, which other threads may share.
  const int first_image = share.first_row / job.out_rows, images = (share.last_row - 1) / job.out_rows + 1 - first_image;
  auto *fired = reserve<std::int32_t>(scratch.fired, images * steps);
  std::memset(fired, 0, images * steps * sizeof *fired);
  for (int first = share.first_row; first < share.last_row; first += tile) {
    const int last = first + tile < share.last_row ? first + tile : share.last_row;
    auto *starts = reserve<std::size_t>(scratch.starts, (last - first) * job.out_cols * (steps + 1));
    std::size_t size = 0, list = 0;
    for (int row = first; row < last; ++row) {
      decoder.prepare(job, row / job.out_rows, row % job.out_rows);
      for (int x = 0; x < job.out_cols; ++x, ++list) {
        size = decoder.collect(job, row % job.out_rows, x, size, starts + list * (steps + 1));
      }
    }
    const auto *events = static_cast<const std::uint32_t *>(scratch.events.data);
    for (int slab = share.first_slab; slab < share.last_slab; ++slab) {
      list = 0;
      for (int row = first; row < last; ++row) {
        for (int x = 0; x < job.out_cols; ++x, ++list) {
          const int image = row / job.out_rows;
          step(job, image, row % job.out_rows, x, slab, events, starts + list * (steps + 1),
               fired + (image - first_image) * steps);
        }
      }
    }
  }
  if (!job.threshold) return;
  for (std::size_t i = 0; i < images * steps; ++i) {
    __atomic_fetch_add(job.fired + first_image * steps + i, fired[i], __ATOMIC_RELAXED);
  }
}

}  // namespace

namespace EQUISPIKE_ISA {
void run(const Job<float> &job, const Share &part, Scratch &scratch) { share(job, part, scratch); }
void run(const Job<double> &job, const Share &part, Scratch &scratch) { share(job, part, scratch); }
}  // namespace EQUISPIKE_ISA

}  // namespace equispike
