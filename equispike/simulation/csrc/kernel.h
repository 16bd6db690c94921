// What the driver and the kernels share: plain data. The kernels are compiled once per instruction set, so this header
// holds no function body: the linker would merge the copies and might keep one that this machine cannot run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace equispike {

template <class Real>
using Int = std::conditional_t<sizeof(Real) == 4, std::int32_t, std::int64_t>;

struct Range {
  std::int32_t first, last;  // half open; empty where a kernel reaches into the padding
};

// An output position along one axis that reads a given source position, and by which kernel element.
struct Target {
  std::int32_t output, element;
};

// Consecutive bins, `first` up to `last`, which consecutive kernel elements read; the first of them by `element`.
struct Run {
  std::int32_t first, last, element;
};

// One axis of a source, and where each output reads it. A bin is a range of positions that kernel elements read as one.
struct Axis {
  int size, kernel, bin_count;
  const Range *ranges;  // [outputs][kernel]
  const Range *bins;
  const Run *runs;  // of output i: runs[run_starts[i]] up to run_starts[i + 1]
  const std::int32_t *run_starts;
  const Target *targets;  // who reads position i: targets[target_starts[i]] up to target_starts[i + 1]
  const std::int32_t *target_starts;
};

// A spike train, bit-packed with channels last, [images][rows * cols][steps][bytes], and where each output reads it.
struct Window {
  const std::uint8_t *train;
  int channels, bytes;
  Axis rows, cols;
};

// Every output channel reads every input channel: row `first + (ky * cols.kernel + kx) * channels + c` of the weights.
struct Gather {
  Window window;
  std::uint32_t first;
};

// Output channel c reads input channel c - shift alone, with weights [rows.kernel * cols.kernel][padded].
template <class Real>
struct Tap {
  Window window;
  int shift;
  const Real *weights;
};

// One layer over a chunk of steps. `padded` output channels (a multiple of `width`) in slabs of `width` (16, 32, 48, 64).
template <class Real>
struct Job {
  int images, out_rows, out_cols, steps, padded, width;
  const Real *weights;           // [padded / width][depth][width]; or null, and instead of them
  const std::int16_t *integers;  // the same in multiples of `unit`,
  int run;                       // of which so many add up without an overflow, whichever they are
  Real unit;
  std::size_t depth;
  const Gather *gathers;
  int gather_count;
  const Tap<Real> *taps;
  int tap_count;
  const Real *base;  // current that is there without spikes, [images][positions][steps][padded] or with fewer dimensions
  std::size_t base_image, base_position, base_step;  // its strides, zero where it does not vary
  // Either neurons ...
  const Real *threshold;  // [padded]; null if currents are asked for
  bool hard;
  Real *v;                  // [images][positions][padded]
  Int<Real> *counts;        // likewise
  std::int32_t *fired;      // [images][steps]
  std::uint8_t *spikes;     // [images][positions][steps][spike_bytes]
  int spike_bytes;
  // ... or their input.
  Real *currents;  // [images][positions][steps][padded]
};

// Poisson input: an input fires where its random word is below its limit's size, in the train of its limit's sign.
struct Draw {
  std::size_t channels, positions, steps, bytes;
  const std::int64_t *limits;   // [images][channels][positions], -2^32 to 2^32
  const std::int64_t *indices;  // [images], of the data set
  std::uint64_t seed;
  std::uint32_t first_step;
  std::uint8_t *positive, *negative;  // trains, [images][positions][steps][bytes]
};

// Memory that outlives a call, so that pages are not mapped anew for every layer.
struct Buffer {
  void *data;
  std::size_t bytes;
};

void grow(Buffer &buffer, std::size_t bytes);  // keeps what is there; throws std::bad_alloc

constexpr int most_gathers = 64;

struct Scratch {
  Buffer decoded[most_gathers];  // per source: channel * cols.bin_count
  Buffer offsets[most_gathers];  // [row bins][steps][column bins + 1] into them
  Buffer done[most_gathers];     // [row bins]: whether that one is decoded
  Buffer segments, events, starts, fired, taps, open, steps;
};

// Output rows (numbered through all images) and slabs of channels of one job.
struct Share {
  int first_row, last_row, first_slab, last_slab;
};

template <class Real>
using Kernel = void (*)(const Job<Real> &, const Share &, Scratch &);

#define EQUISPIKE_DECLARE(isa)                                     \
  namespace isa {                                                  \
  void gather(const Job<float> &, const Share &, Scratch &);       \
  void gather(const Job<double> &, const Share &, Scratch &);      \
  void scatter(const Job<float> &, const Share &, Scratch &);      \
  void scatter(const Job<double> &, const Share &, Scratch &);     \
  void draw(const Draw &, std::size_t image);                      \
  float add_up(const float *, std::size_t count, int repeats);     \
  }
EQUISPIKE_DECLARE(baseline)
EQUISPIKE_DECLARE(avx2)
EQUISPIKE_DECLARE(avx512)
#undef EQUISPIKE_DECLARE

}  // namespace equispike
