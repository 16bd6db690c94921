// The gathering kernel: best where there are many output channels. Built once per instruction set, EQUISPIKE_ISA being
// its namespace; everything else is local to this file (see kernel.h). For a few output rows at a time:
//   decode   the bits of each input row become one list of events per step, once for all outputs that read the row;
//   collect  each output position gets, for every step, the list of weight rows that its events select: those of columns
//            that lie side by side, in the source and in the kernel, are copied at once;
//   gather   per slab of output channels, whose weights fit the L2 cache, potentials stay in registers for all steps.
#include "neurons.h"

namespace equispike {
namespace {

constexpr int slack = 8;          // copies run in strides of this many elements, past the end
constexpr int tile_steps = 4096;  // of output positions, whose event lists are kept at once

// The events of one bin of rows, step by step and then bin of columns by bin of columns, appended to the list of its
// source: bin of columns * channels + channel. Positions in row-major order within two bins.
std::uint32_t decode_rows(const Window &window, int image, int bin, int steps, std::uint32_t size, Buffer &decoded,
                          std::uint32_t *offset) {
  const Range rows = window.rows.bins[bin];
  const std::size_t first = static_cast<std::size_t>(image) * window.rows.size * window.cols.size;
  const std::size_t stride = static_cast<std::size_t>(steps) * window.bytes;
  std::size_t most = slack;
  for (int i = 0; i < window.cols.bin_count; ++i) {
    const Range cols = window.cols.bins[i];
    most += static_cast<std::size_t>(rows.last - rows.first) * (cols.last - cols.first) * window.bytes * 8;
  }
  for (int t = 0; t < steps; ++t) {
    const std::uint8_t *train = window.train + static_cast<std::size_t>(t) * window.bytes;
    auto *const begin = reserve<std::uint32_t>(decoded, size + most) + size, *end = begin;
    for (int col_bin = 0; col_bin < window.cols.bin_count; ++col_bin) {
      *offset++ = size + static_cast<std::uint32_t>(end - begin);
      const Range cols = window.cols.bins[col_bin];
      for (int row = rows.first; row < rows.last; ++row) {
        const std::uint8_t *bits = train + (first + static_cast<std::size_t>(row) * window.cols.size + cols.first) * stride;
        for (int col = cols.first; col < cols.last; ++col, bits += stride) {
          for (int word = 0; word < window.bytes / 8; ++word) {
            std::uint64_t left;
            std::memcpy(&left, bits + 8 * word, 8);
            const std::uint32_t channel = col_bin * window.channels + 64 * word;
            end = list_bits<4>(left, channel, end);
          }
        }
      }
    }
    size += static_cast<std::uint32_t>(end - begin);
    *offset++ = size;
  }
  return size;
}

// The part of an output position's events that comes from one bin of rows and one run of columns.
struct Segment {
  const std::uint32_t *decoded, *first, *last;  // events of its source; where those of the next step begin and end
  std::size_t stride;                           // between steps
  std::uint32_t row;                            // of the weights, for event 0; modulo 2^32
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
      const Axis &rows = job.gathers[g].window.rows, &cols = job.gathers[g].window.cols;
      const std::size_t per_bin = static_cast<std::size_t>(job.steps) * (cols.bin_count + 1);
      auto *offsets = reserve<std::uint32_t>(scratch.offsets[g], rows.bin_count * per_bin);
      auto *done = reserve<std::uint8_t>(scratch.done[g], rows.bin_count);
      reserve<std::uint32_t>(scratch.decoded[g], slack);
      if (fresh) {
        std::memset(done, 0, rows.bin_count);
        sizes[g] = 0;
      }
      for (int run = rows.run_starts[y]; run < rows.run_starts[y + 1]; ++run) {
        for (int bin = rows.runs[run].first; bin < rows.runs[run].last; ++bin) {
          if (done[bin]) continue;
          sizes[g] = decode_rows(job.gathers[g].window, image, bin, job.steps, sizes[g], scratch.decoded[g],
                                 offsets + bin * per_bin);
          done[bin] = 1;
        }
      }
    }
  }

  // What output (y, x) reads.
  template <class Real>
  std::size_t segments(const Job<Real> &job, int y, int x) {
    std::size_t count = 0;
    for (int g = 0; g < job.gather_count; ++g) {
      const Window &window = job.gathers[g].window;
      const Axis &rows = window.rows, &cols = window.cols;
      const auto *decoded = static_cast<const std::uint32_t *>(scratch.decoded[g].data);
      const auto *offsets = static_cast<const std::uint32_t *>(scratch.offsets[g].data);
      for (int i = rows.run_starts[y]; i < rows.run_starts[y + 1]; ++i) {
        for (int bin = rows.runs[i].first; bin < rows.runs[i].last; ++bin) {
          const int ky = rows.runs[i].element + bin - rows.runs[i].first;
          const auto *own = offsets + static_cast<std::size_t>(bin) * job.steps * (cols.bin_count + 1);
          for (int j = cols.run_starts[x]; j < cols.run_starts[x + 1]; ++j) {
            const Run &run = cols.runs[j];
            const std::uint32_t element = ky * cols.kernel + run.element - run.first;
            reserve<Segment>(scratch.segments, count + 1)[count] = {
                decoded, own + run.first, own + run.last, static_cast<std::size_t>(cols.bin_count) + 1,
                job.gathers[g].first + element * window.channels};
            ++count;
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
    auto *const begin = static_cast<Segment *>(scratch.segments.data), *const end = begin + count;
    auto *events = reserve<std::uint32_t>(scratch.events, size + slack);
    std::size_t room = scratch.events.bytes / sizeof *events;
    for (int t = 0; t < job.steps; ++t) {
      starts[t] = size;
      for (Segment *segment = begin; segment != end; ++segment) {
        const std::uint32_t length = *segment->last - *segment->first;
        const std::uint32_t *from = segment->decoded + *segment->first;
        segment->first += segment->stride;
        segment->last += segment->stride;
        if (size + length + slack > room) {
          events = reserve<std::uint32_t>(scratch.events, size + length + slack);
          room = scratch.events.bytes / sizeof *events;
        }
        std::uint32_t *to = events + size;
        std::uint32_t i = 0;
        do {
          for (int j = 0; j < slack; j += 4) store(to + i + j, load<4>(from + i + j) + segment->row);
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
void add_events(const Job<Real> &, const Int<Real> *weights, const std::uint32_t *event, const std::uint32_t *end,
                Vector<Int<Real>> *total) {
  constexpr int L = lanes<Real>;
  for (; event != end; ++event) {
    const Int<Real> *row = weights + static_cast<std::size_t>(*event) * (N * L);
    for (int n = 0; n < N; ++n) total[n] += load(row + n * L);
  }
}

// Twice the weights in a vector and in the cache: added up in 16 bits, widened before they could overflow.
template <class Real, int N>
void add_events(const Job<Real> &job, const std::int16_t *weights, const std::uint32_t *event, const std::uint32_t *end,
                Vector<Int<Real>> *total) {
  constexpr int width = N * lanes<Real>, S = width % lanes<std::int16_t> ? 16 : lanes<std::int16_t>, M = width / S;
  const int run = job.run;
  while (event != end) {
    const std::uint32_t *stop = end - event > run ? event + run : end;
    Group<std::int16_t, S> part[M];
    for (int m = 0; m < M; ++m) part[m] = Group<std::int16_t, S>{};
    for (; event != stop; ++event) {
      const std::int16_t *row = weights + static_cast<std::size_t>(*event) * width;
      for (int m = 0; m < M; ++m) part[m] += load<S>(row + m * S);
    }
    alignas(vector_bytes) std::int16_t shorts[width];
    for (int m = 0; m < M; ++m) store(shorts + m * S, part[m]);
    for (int n = 0; n < N; ++n) total[n] += widen<Int<Real>>(shorts + n * lanes<Real>);
  }
}

// All steps of one output position and slab, `rows` being its weights.
template <class Real, int N, class Row>
void add_and_fire(const Job<Real> &job, const Row *rows, int image, int here, int slab, const std::uint32_t *events,
                  const std::size_t *starts, std::int32_t *fired, Buffer &buffer) {
  constexpr int L = lanes<Real>;
  auto total = [&](int, int t, Vector<Int<Real>> *sum) __attribute__((always_inline)) {
    for (int n = 0; n < N; ++n) sum[n] = Vector<Int<Real>>{};
    add_events<Real, N>(job, rows, events + starts[t], events + starts[t + 1], sum);
  };
  const std::size_t count =
      tap_reads(job, image, here / job.out_cols, here % job.out_cols, slab * N * L, N * L, 0, buffer);
  const Reads<Real> reads{static_cast<const TapRead<Real> *>(buffer.data), count};
  arrive<Real, N, 1>(job, image, here, slab, 0, job.steps, total, &reads, fired);
}

template <class Real, int N>
void position(const Job<Real> &job, int image, int here, int slab, const std::uint32_t *events,
              const std::size_t *starts, std::int32_t *fired, Buffer &buffer) {
  const std::size_t first = static_cast<std::size_t>(slab) * job.depth * N * lanes<Real>;
  if (job.shorts) {
    add_and_fire<Real, N>(job, job.shorts + first, image, here, slab, events, starts, fired, buffer);
  } else {
    add_and_fire<Real, N>(job, job.weights + first, image, here, slab, events, starts, fired, buffer);
  }
}

// A slab's weights into the L2 cache, in order, which the processor continues by itself. They are really loaded: of
// prefetches it drops those that it has no room for.
template <class Real>
void fetch(const Job<Real> &job, int slab) {
  const std::size_t bytes = job.depth * job.width * (job.shorts ? sizeof *job.shorts : sizeof *job.weights);
  const char *line = job.shorts ? reinterpret_cast<const char *>(job.shorts) : reinterpret_cast<const char *>(job.weights);
  line += slab * bytes;
  for (const char *end = line + bytes; line < end; line += 64) asm volatile("" : : "r"(*line));
}

template <class Real>
void share(const Job<Real> &job, const Share &share, Scratch &scratch) {
  const auto run = EQUISPIKE_BY_WIDTH(position, job.width);
  const std::size_t steps = job.steps;
  const int across = job.out_cols * job.steps, tile = across < tile_steps ? tile_steps / across : 1;
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
      // In order, before events read it out of order.
      if (size > job.depth) fetch(job, slab);
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
