// What every kernel does at an output position once the current of a step is known there.
#pragma once

#include "vectors.h"

namespace equispike {
namespace {

// The bits that one tap reads from one source position, and what each of them adds.
template <class Real>
struct TapRead {
  const std::uint8_t *train;  // of the first step; if `whole`, where the bits begin
  const Real *weights;
  int bytes, first;  // of a step; bit that belongs to the first channel
  bool whole;        // the bits of all channels are bytes of the train
};

// Append all that the taps read for output (y, x) and `width` channels from this one on. Returns how many reads there are.
template <class Real>
std::size_t tap_reads(const Job<Real> &job, int image, int y, int x, int channel, int width, std::size_t count, Buffer &buffer) {
  for (int k = 0; k < job.tap_count; ++k) {
    const Tap<Real> &tap = job.taps[k];
    const Window &window = tap.window;
    const int bit = channel - tap.shift;
    const bool whole = bit >= 0 && bit % 8 == 0 && bit + width <= 8 * window.bytes;
    const std::size_t first = static_cast<std::size_t>(image) * window.rows.size * window.cols.size;
    for (int ky = 0; ky < window.rows.kernel; ++ky) {
      const Range rows = window.rows.ranges[static_cast<std::size_t>(y) * window.rows.kernel + ky];
      for (int kx = 0; kx < window.cols.kernel; ++kx) {
        const Range cols = window.cols.ranges[static_cast<std::size_t>(x) * window.cols.kernel + kx];
        const Real *weights = tap.weights + (ky * window.cols.kernel + kx) * static_cast<std::size_t>(job.padded) + channel;
        for (int row = rows.first; row < rows.last; ++row) {
          for (int col = cols.first; col < cols.last; ++col) {
            const std::size_t position = first + static_cast<std::size_t>(row) * window.cols.size + col;
            const std::uint8_t *train = window.train + position * job.steps * window.bytes;
            reserve<TapRead<Real>>(buffer, count + 1)[count] = {train + (whole ? bit / 8 : 0), weights, window.bytes, bit, whole};
            ++count;
          }
        }
      }
    }
  }
  return count;
}

// What the taps of one output position read.
template <class Real>
struct Reads {
  const TapRead<Real> *first;
  std::size_t count;
};

// What P positions read, position p from starts[p] up to starts[p + 1].
template <class Real, int P>
void reads_of(const Buffer &taps, const std::size_t *starts, Reads<Real> *reads) {
  for (int p = 0; p < P; ++p) reads[p] = {static_cast<const TapRead<Real> *>(taps.data) + starts[p], starts[p + 1] - starts[p]};
}

// Numbers of a slab's channels that do not change: in registers where there is room for them.
template <class Real, int N>
class Constants {
  static constexpr bool roomy = 6 * N <= registers;

 public:
  explicit Constants(const Real *from) : from_(from) {
    for (int n = 0; roomy && n < N; ++n) held_[n] = load(from + n * lanes<Real>);
  }
  Vector<Real> operator[](int n) const { return roomy ? held_[n] : load(from_ + n * lanes<Real>); }

 private:
  const Real *from_;
  Vector<Real> held_[roomy ? N : 1];
};

// Neurons of one vector go one step; those that spike, and in `back` those that take a spike back.
template <Reset reset, class Real>
Lanes<Real> fire(Vector<Real> &v, Vector<Int<Real>> &count, Vector<Real> current, Vector<Real> theta, Lanes<Real> &back) {
  const Vector<Real> u = v + current;
  const Lanes<Real> fires = at_least(u, theta);
  if constexpr (reset == Reset::takes_back) {
    back = static_cast<Lanes<Real>>(~at_least(u, Vector<Real>{}) & positive(count));
    v = choose(fires, u - theta, choose(back, u + theta, u));
    count = count_down(count_up(count, fires), back);
  } else {
    v = choose(fires, reset == Reset::hard ? Vector<Real>{} : u - theta, u);
    count = count_up(count, fires);
  }
  return fires;
}

// Neurons of P output positions in a row, from `here` on, and of a slab through steps first ... last - 1, with potentials
// and counts in registers. `make()` gives a function of which `current(p, t, sum)` sets the current of position p in a step;
// it is made here, so that what it holds is in registers too. Several positions together hide how long an addition takes,
// where there are few channels.
template <class Real, int N, int P, Reset reset, class Make>
__attribute__((noinline)) void integrate(const Job<Real> &job, int image, int here, int slab, int first, int last, Make make,
                                         std::int32_t *fired) {
  constexpr int L = lanes<Real>, width = N * L;
  const std::size_t padded = job.padded, place = static_cast<std::size_t>(image) * job.out_rows * job.out_cols + here;
  const std::size_t channel = static_cast<std::size_t>(slab) * width, bytes = job.spike_bytes, next = job.steps * bytes;
  Real *const own_v = job.v + place * padded + channel;
  Int<Real> *const own_counts = job.counts + place * padded + channel;
  std::uint8_t *out = job.spikes + (place * job.steps + first) * bytes + channel / 8;
  const bool alone = job.padded == width && bytes == 8;  // the bits above are zero
  const Constants<Real, N> theta(job.threshold + channel);
  constexpr bool back = reset == Reset::takes_back;
  std::uint8_t *out_back = back ? job.back + (out - job.spikes) : nullptr;
  const auto current = make();
  Vector<Real> v[P][N];
  Vector<Int<Real>> count[P][N], taken[back ? P : 1][N];
  EQUISPIKE_UNROLL
  for (int p = 0; p < P; ++p) {
    EQUISPIKE_UNROLL
    for (int n = 0; n < N; ++n) {
      v[p][n] = load(own_v + p * padded + n * L);
      count[p][n] = load(own_counts + p * padded + n * L);
      if constexpr (back) taken[p][n] = load(job.taken + place * padded + channel + p * padded + n * L);
    }
  }
  for (int t = first; t < last; ++t, out += bytes) {
    int spikes = 0;
    EQUISPIKE_UNROLL
    for (int p = 0; p < P; ++p) {
      Vector<Real> sum[N];
      current(p, t, sum);
      std::uint64_t bits = 0, taken_bits = 0;
      EQUISPIKE_UNROLL
      for (int n = 0; n < N; ++n) {
        Lanes<Real> taking{};
        bits |= bits_of<Real>(fire<reset, Real>(v[p][n], count[p][n], sum[n], theta[n], taking)) << (n * L);
        if constexpr (back) {
          taken[p][n] = count_up(taken[p][n], taking);
          taken_bits |= bits_of<Real>(taking) << (n * L);
        }
      }
      alone ? std::memcpy(out + p * next, &bits, 8) : std::memcpy(out + p * next, &bits, width / 8);
      spikes += __builtin_popcountll(bits);
      if constexpr (back) {
        alone ? std::memcpy(out_back + p * next, &taken_bits, 8) : std::memcpy(out_back + p * next, &taken_bits, width / 8);
        spikes += __builtin_popcountll(taken_bits);
      }
    }
    fired[t] += spikes;
    if constexpr (back) out_back += bytes;
  }
  EQUISPIKE_UNROLL
  for (int p = 0; p < P; ++p) {
    EQUISPIKE_UNROLL
    for (int n = 0; n < N; ++n) {
      store(own_v + p * padded + n * L, v[p][n]);
      store(own_counts + p * padded + n * L, count[p][n]);
      if constexpr (back) store(job.taken + place * padded + channel + p * padded + n * L, taken[p][n]);
    }
  }
}

// Neurons, or where there are none their currents into memory.
template <class Real, int N, int P, class Make>
void integrate(const Job<Real> &job, int image, int here, int slab, int first, int last, Make make, std::int32_t *fired) {
  if (job.threshold) {
    switch (job.reset) {
      case Reset::soft: return integrate<Real, N, P, Reset::soft>(job, image, here, slab, first, last, make, fired);
      case Reset::hard: return integrate<Real, N, P, Reset::hard>(job, image, here, slab, first, last, make, fired);
      case Reset::takes_back:
        return integrate<Real, N, P, Reset::takes_back>(job, image, here, slab, first, last, make, fired);
    }
  }
  constexpr int L = lanes<Real>;
  const std::size_t place = static_cast<std::size_t>(image) * job.out_rows * job.out_cols + here, padded = job.padded;
  Real *out = job.currents + (place * job.steps + first) * padded + slab * N * L;
  const auto current = make();
  Vector<Real> sum[N];
  for (int t = first; t < last; ++t, out += padded) {
    for (int p = 0; p < P; ++p) {
      current(p, t, sum);
      for (int n = 0; n < N; ++n) store(out + p * job.steps * padded + n * L, sum[n]);
    }
  }
}

// The same with all that arrives: `total(p, t, sum)` sets the weights of spikes at position p in a step, in units; the base
// and what the taps read are added here, so that every kernel makes the same numbers.
template <class Real, int N, int P, class Total>
void arrive(const Job<Real> &job, int image, int here, int slab, int first, int last, Total total, const Reads<Real> *reads,
            std::int32_t *fired) {
  constexpr int L = lanes<Real>, width = N * L;
  const std::size_t step = job.base_step, position = job.base_position;
  const Real *base = job.base + image * job.base_image + here * position + slab * width, *units = job.units + slab * width;
  const Real *drive = job.drive ? job.drive + slab * width : nullptr;
  const std::size_t padded = job.padded;
  auto with = [&](auto gathers) {
    auto make = [=]() __attribute__((always_inline)) {
      const Constants<Real, N> unit(units);
      return [=](int p, int t, Vector<Real> *sum) __attribute__((always_inline)) {
        for (int n = 0; n < N; ++n) sum[n] = load(base + p * position + t * step + n * L);
        if (drive) {
          for (int n = 0; n < N; ++n) sum[n] += load(drive + t * padded + n * L);
        }
        if (decltype(gathers)::value) {
          Vector<Int<Real>> arrived[N];
          total(p, t, arrived);
          for (int n = 0; n < N; ++n) sum[n] += __builtin_convertvector(arrived[n], Vector<Real>) * unit[n];
        }
        for (std::size_t r = 0; r < reads[p].count; ++r) {
          const TapRead<Real> &read = reads[p].first[r];
          const std::uint8_t *mask = read.train + static_cast<std::size_t>(t) * read.bytes;
          std::uint64_t bits = 0;
          if (read.whole) {
            std::memcpy(&bits, mask, width / 8);
          } else {
            bits = bits_at(mask, read.bytes, read.first);
          }
          for (int n = 0; n < N; ++n) sum[n] += where<Real>(lanes_of<Real>(bits >> (n * L)), load(read.weights + n * L));
        }
      };
    };
    integrate<Real, N, P>(job, image, here, slab, first, last, make, fired);
  };
  auto steady = [=]() __attribute__((always_inline)) {  // one current, the same in every step
    Vector<Real> held[P][N];
    EQUISPIKE_UNROLL
    for (int p = 0; p < P; ++p) {
      EQUISPIKE_UNROLL
      for (int n = 0; n < N; ++n) held[p][n] = load(base + p * position + n * L);
    }
    return [held](int p, int, Vector<Real> *sum) __attribute__((always_inline)) {
      for (int n = 0; n < N; ++n) sum[n] = held[p][n];
    };
  };
  if (!job.gather_count && !job.tap_count && !step && !drive) {
    integrate<Real, N, P>(job, image, here, slab, first, last, steady, fired);
  } else {
    job.gather_count ? with(std::true_type{}) : with(std::false_type{});
  }
}

// Positions that go through the steps together: as many as give the processor so many chains of additions.
template <int N, int chains>
constexpr int together = N < chains ? chains / N : 1;

// Append all that the taps read for the outputs of row y; `starts` receives where each begins, and where the last ends.
template <class Real>
std::size_t row_reads(const Job<Real> &job, int image, int y, int channel, int width, std::size_t count, std::size_t *starts,
                      Buffer &taps) {
  for (int x = 0; x < job.out_cols; ++x) {
    starts[x] = count;
    count = tap_reads(job, image, y, x, channel, width, count, taps);
  }
  return starts[job.out_cols] = count;
}

// Neurons of row y through steps first ... last - 1, as many positions together as pay. `at(x)` gives the total, as for
// `arrive`, of the positions from x on; `starts` is what `row_reads` left.
template <class Real, int N, class At>
void integrate_row(const Job<Real> &job, int image, int y, int slab, int first, int last, At at, const std::size_t *starts,
                   const Buffer &taps, std::int32_t *fired) {
  auto some = [&](auto positions, int x) {
    constexpr int P = decltype(positions)::value;
    Reads<Real> reads[P];
    reads_of<Real, P>(taps, starts + x, reads);
    arrive<Real, N, P>(job, image, y * job.out_cols + x, slab, first, last, at(x), reads, fired);
  };
  int x = 0;
  if (!job.gather_count) {  // the currents are there: nothing else keeps the processor busy
    for (; x + together<N, 8> <= job.out_cols; x += together<N, 8>) some(std::integral_constant<int, together<N, 8>>{}, x);
  }
  for (; x + together<N, 4> <= job.out_cols; x += together<N, 4>) some(std::integral_constant<int, together<N, 4>>{}, x);
  for (; x < job.out_cols; ++x) some(std::integral_constant<int, 1>{}, x);
}

// A function for this job's width of slabs, given as `function<Real, N>`.
#define EQUISPIKE_BY_WIDTH(function, width)                          \
  ((width) == 64   ? function<Real, 64 / lanes<Real>>                \
   : (width) == 48 ? function<Real, 48 / lanes<Real>>                \
   : (width) == 32 ? function<Real, 32 / lanes<Real>>                \
                   : function<Real, 16 / lanes<Real>>)

// Spikes in each step of the images of a share, which other threads may share.
template <class Real>
class Fired {
 public:
  Fired(const Job<Real> &job, const Share &share, Buffer &buffer)
      : job_(job), first_(share.first_row / job.out_rows), images_((share.last_row - 1) / job.out_rows + 1 - first_),
        counts_(reserve<std::int32_t>(buffer, static_cast<std::size_t>(images_) * job.steps)) {
    std::memset(counts_, 0, static_cast<std::size_t>(images_) * job.steps * sizeof *counts_);
  }
  std::int32_t *of(int image) { return counts_ + static_cast<std::size_t>(image - first_) * job_.steps; }
  void add_up() const {
    if (!job_.threshold) return;
    for (int image = 0; image < images_; ++image) {
      std::int32_t *own = job_.fired + (first_ + image) * job_.fired_image;
      const std::int32_t *counts = counts_ + static_cast<std::size_t>(image) * job_.steps;
      for (int t = 0; t < job_.steps; ++t) __atomic_fetch_add(own + t, counts[t], __ATOMIC_RELAXED);
    }
  }

 private:
  const Job<Real> &job_;
  int first_, images_;
  std::int32_t *counts_;
};

}  // namespace
}  // namespace equispike
