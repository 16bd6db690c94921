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

// All that the taps read for output (y, x) and `width` channels from this one on. Returns how many reads these are.
template <class Real>
int tap_reads(const Job<Real> &job, int image, int y, int x, int channel, int width, Buffer &buffer) {
  int count = 0;
  for (int k = 0; k < job.tap_count; ++k) {
    const Tap<Real> &tap = job.taps[k];
    const Window &window = tap.window;
    const int bit = channel - tap.shift;
    const bool whole = bit >= 0 && bit % 8 == 0 && bit + width <= 8 * window.bytes;
    const std::size_t first = static_cast<std::size_t>(image) * window.rows * window.cols;
    for (int ky = 0; ky < window.kernel_rows; ++ky) {
      const Range rows = window.row_ranges[static_cast<std::size_t>(y) * window.kernel_rows + ky];
      for (int kx = 0; kx < window.kernel_cols; ++kx) {
        const Range cols = window.col_ranges[static_cast<std::size_t>(x) * window.kernel_cols + kx];
        const Real *weights = tap.weights + (ky * window.kernel_cols + kx) * static_cast<std::size_t>(job.padded) + channel;
        for (int row = rows.first; row < rows.last; ++row) {
          for (int col = cols.first; col < cols.last; ++col) {
            const std::size_t position = first + static_cast<std::size_t>(row) * window.cols + col;
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
// `current(t, sum)` sets the current of one step, but for what the taps add.
template <class Real, int N, class Current>
void integrate(const Job<Real> &job, int image, int here, int slab, int first, int last, Current current,
               std::int32_t *fired, Buffer &buffer) {
  constexpr int L = lanes<Real>, width = N * L;
  const int channel = slab * width;
  const std::size_t place = static_cast<std::size_t>(image) * job.out_rows * job.out_cols + here;
  const int reads = job.tap_count ? tap_reads(job, image, here / job.out_cols, here % job.out_cols, channel, width, buffer) : 0;
  const auto *read = static_cast<const TapRead<Real> *>(buffer.data);
  Vector<Real> sum[N];
  auto whole = [&](int t) {
    current(t, sum);
    for (int r = 0; r < reads; ++r) {
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
  // By value: the compiler has to assume that the stores below change whatever lies in memory.
  const bool hard = job.hard;
  const int spike_bytes = job.spike_bytes;
  const Vector<Real> one = Vector<Real>{} + Real{1};
  Vector<Real> v[N], count[N], threshold[N];
  for (int n = 0; n < N; ++n) {
    v[n] = load(job.v + place * job.padded + channel + n * L);
    count[n] = load(job.counts + place * job.padded + channel + n * L);
    threshold[n] = load(job.threshold + channel + n * L);
  }
  std::uint8_t *out = job.spikes + (place * job.steps + first) * job.spike_bytes + channel / 8;
  for (int t = first; t < last; ++t, out += spike_bytes) {
    whole(t);
    std::uint64_t bits = 0;
    for (int n = 0; n < N; ++n) {
      const Vector<Real> u = v[n] + sum[n];
      const Mask<Real> fires = at_least(u, threshold[n]);
      v[n] = u - where<Real>(fires, hard ? u : threshold[n]);
      count[n] += where<Real>(fires, one);
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
