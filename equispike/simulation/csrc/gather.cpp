// The gathering kernel: best where there are many output channels. Built once per instruction set, EQUISPIKE_ISA being
// its namespace; everything else is local to this file (see kernel.h). For a few output rows at a time:
//   decode   the bits of each input position become channel numbers, once for all outputs that read the position;
//   collect  each output position gets, for every step, the list of weight rows that its active inputs select;
//   gather   per slab of output channels, whose weights fit the L2 cache, potentials stay in registers for all steps.
#include "neurons.h"

namespace equispike {
namespace {

constexpr int slack = 8;              // copies run in strides of this many elements, past the end
constexpr int tile_positions = 16;    // output positions whose event lists are kept at once
constexpr int most_shorts = 1 << 16;  // so many int16 add up in an int32

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

template <class Real, int N>
void add_events(const Job<Real> &, const Real *weights, const std::uint32_t *event, const std::uint32_t *end,
                Vector<Real> *sum) {
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

// Twice the weights in a vector and in the cache: integers are added up in 16 bits, widened before they could overflow.
template <class Real, int N>
void add_events(const Job<Real> &job, const std::int16_t *integers, const std::uint32_t *event, const std::uint32_t *end,
                Vector<Real> *sum) {
  constexpr int width = N * lanes<Real>, K = width / lanes<std::int32_t>;
  constexpr int S = width % lanes<std::int16_t> ? 16 : lanes<std::int16_t>, M = width / S;
  const int run = job.run;
  while (event != end) {
    const std::uint32_t *last = end - event > most_shorts ? event + most_shorts : end;
    Vector<std::int32_t> total[K];
    for (int k = 0; k < K; ++k) total[k] = Vector<std::int32_t>{};
    while (event != last) {
      const std::uint32_t *stop = last - event > run ? event + run : last;
      Group<std::int16_t, S> part[M];
      for (int m = 0; m < M; ++m) part[m] = Group<std::int16_t, S>{};
      for (; event != stop; ++event) {
        const std::int16_t *row = integers + static_cast<std::size_t>(*event) * width;
        for (int m = 0; m < M; ++m) part[m] += load<S>(row + m * S);
      }
      alignas(vector_bytes) std::int16_t shorts[width];
      for (int m = 0; m < M; ++m) store(shorts + m * S, part[m]);
      for (int k = 0; k < K; ++k) total[k] += widen<std::int32_t>(shorts + k * lanes<std::int32_t>);
    }
    alignas(vector_bytes) std::int32_t ints[width];
    for (int k = 0; k < K; ++k) store(ints + k * lanes<std::int32_t>, total[k]);
    for (int n = 0; n < N; ++n) sum[n] += widen<Real>(ints + n * lanes<Real>) * job.unit;
  }
}

// All steps of one output position and slab, `rows` being its weights.
template <class Real, int N, class Row>
void add_and_fire(const Job<Real> &job, const Row *rows, int image, int here, int slab, const std::uint32_t *events,
                  const std::size_t *starts, std::int32_t *fired, Buffer &buffer) {
  constexpr int L = lanes<Real>;
  const Real *base = job.base + image * job.base_image + here * job.base_position + slab * N * L;
  auto current = [&](int t, Vector<Real> *sum) {
    for (int n = 0; n < N; ++n) sum[n] = load(base + t * job.base_step + n * L);
    add_events<Real, N>(job, rows, events + starts[t], events + starts[t + 1], sum);
  };
  const std::size_t reads =
      tap_reads(job, image, here / job.out_cols, here % job.out_cols, slab * N * L, N * L, 0, buffer);
  const auto *read = static_cast<const TapRead<Real> *>(buffer.data);
  integrate<Real, N>(job, image, here, slab, 0, job.steps, current, read, reads, fired);
}

template <class Real, int N>
void position(const Job<Real> &job, int image, int here, int slab, const std::uint32_t *events,
              const std::size_t *starts, std::int32_t *fired, Buffer &buffer) {
  const std::size_t first = static_cast<std::size_t>(slab) * job.depth * N * lanes<Real>;
  if (job.integers) {
    add_and_fire<Real, N>(job, job.integers + first, image, here, slab, events, starts, fired, buffer);
  } else {
    add_and_fire<Real, N>(job, job.weights + first, image, here, slab, events, starts, fired, buffer);
  }
}

template <class Real>
void share(const Job<Real> &job, const Share &share, Scratch &scratch) {
  const auto run = EQUISPIKE_BY_WIDTH(position, job.width);
  const std::size_t steps = job.steps;
  const int tile = job.out_cols < tile_positions ? tile_positions / job.out_cols : 1;
  Decoder decoder{scratch, -1, {}};
  Fired<Real> fired(job, share, scratch.fired);
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
        const int image = row / job.out_rows, here = row % job.out_rows * job.out_cols;
        for (int x = 0; x < job.out_cols; ++x, ++list) {
          run(job, image, here + x, slab, events, starts + list * (steps + 1), fired.of(image), scratch.taps);
        }
      }
    }
  }
  fired.add_up();
}

}  // namespace

namespace EQUISPIKE_ISA {
void gather(const Job<float> &job, const Share &part, Scratch &scratch) { share(job, part, scratch); }
void gather(const Job<double> &job, const Share &part, Scratch &scratch) { share(job, part, scratch); }
}  // namespace EQUISPIKE_ISA

}  // namespace equispike
