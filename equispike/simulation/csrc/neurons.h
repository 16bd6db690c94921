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

// Neurons of one output position, `here`, and slab through steps first ... last - 1, or their currents into memory.
// `current(t, sum)` sets the current of one step, but for what the taps' reads add.
template <class Real, int N, class Current>
void integrate(const Job<Real> &job, int image, int here, int slab, int first, int last, Current current,
               const TapRead<Real> *read, std::size_t reads, std::int32_t *fired) {
  constexpr int L = lanes<Real>, width = N * L;
  const int channel = slab * width;
  const std::size_t place = static_cast<std::size_t>(image) * job.out_rows * job.out_cols + here;
  Vector<Real> sum[N];
  auto whole = [&](int t) __attribute__((always_inline)) {
    current(t, sum);
    for (std::size_t r = 0; r < reads; ++r) {
      const std::uint8_t *mask = read[r].train + static_cast<std::size_t>(t) * read[r].bytes;
      std::uint64_t bits = 0;
      if (read[r].whole) {
        std::memcpy(&bits, mask, width / 8);
      } else {
        bits = bits_at(mask, read[r].bytes, read[r].first);
      }
      for (int n = 0; n < N; ++n) sum[n] += where<Real>(mask_of<Real>(bits >> (n * L)), load(read[r].weights + n * L));
    }
  };
  if (!job.threshold) {
    Real *out = job.currents + (place * job.steps + first) * job.padded + channel;
    for (int t = first; t < last; ++t, out += job.padded) {
      whole(t);
      for (int n = 0; n < N; ++n) store(out + n * L, sum[n]);
    }
    return;
  }
  const Real *threshold = job.threshold + channel;
  Real *own_v = job.v + place * job.padded + channel;
  Int<Real> *own_counts = job.counts + place * job.padded + channel;
  std::uint8_t *out = job.spikes + (place * job.steps + first) * job.spike_bytes + channel / 8;
  Vector<Real> v[N];
  Mask<Real> count[N];
  for (int n = 0; n < N; ++n) {
    v[n] = load(own_v + n * L);
    count[n] = load(own_counts + n * L);
  }
  auto run = [&, spike_bytes = job.spike_bytes](auto hard) {
    for (int t = first; t < last; ++t, out += spike_bytes) {
      whole(t);
      std::uint64_t bits = 0;
      for (int n = 0; n < N; ++n) {
        const Vector<Real> u = v[n] + sum[n], theta = load(threshold + n * L);
        const Mask<Real> fires = at_least(u, theta);
        v[n] = u - where<Real>(fires, hard ? u : theta);
        count[n] -= fires;
        bits |= bits_of(fires) << (n * L);
      }
      std::memcpy(out, &bits, width / 8);
      fired[t] += __builtin_popcountll(bits);
    }
  };
  job.hard ? run(std::true_type{}) : run(std::false_type{});
  for (int n = 0; n < N; ++n) {
    store(own_v + n * L, v[n]);
    store(own_counts + n * L, count[n]);
  }
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
    for (std::size_t i = 0; i < static_cast<std::size_t>(images_) * job_.steps; ++i) {
      __atomic_fetch_add(job_.fired + static_cast<std::size_t>(first_) * job_.steps + i, counts_[i], __ATOMIC_RELAXED);
    }
  }

 private:
  const Job<Real> &job_;
  int first_, images_;
  std::int32_t *counts_;
};

}  // namespace
}  // namespace equispike
