// What the driver and the kernels share: plain data. The kernels are compiled once per instruction set, so this header
// holds no function that the linker sees: it would merge the copies and might keep one that this machine cannot run.
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
  const Range *line;  // what is read, in places such that element e of output i reads place line_stride * i + e
  int line_size, line_stride;
};

// A spike train, bit-packed with channels last, [images][rows * cols][steps][bytes], and where each output reads it.
struct Window {
  const std::uint8_t *train;
  int channels, bytes;
  Axis rows, cols;
};

constexpr int side = 16, deep = 64;  // of a product in the dense kernel: steps and output channels; inputs

// How the sweeping kernel takes a source. What the elements of one column of the kernel read at a place becomes words: of
// each element the number of spikes by channel, in `slot` bits, a power of two, for each binary digit of these numbers. A
// digit's bits lie in `groups` words, of as many elements as fit. Weights, times what the digit counts, follow bits: 64 rows
// for each word, and one of zeros; they begin in row `first`, one column of the kernel after the other.
struct Sweep {
  int slot, groups, digits;
  std::size_t first;
  int words() const { return digits * groups; }
};
constexpr int word_rows = 64 + 1;

// Every output channel reads every input channel: row `first + (ky * cols.kernel + kx) * channels + c` of the weights.
struct Gather {
  Window window;
  std::uint32_t first;
  int slot;  // bytes of a position where each channel takes one: a power of two, or a multiple of 64
  Sweep sweep;
};

// Output channel c reads input channel c - shift alone, with weights [rows.kernel * cols.kernel][padded].
template <class Real>
struct Tap {
  Window window;
  int shift;
  const Real *weights;
};

// What becomes of the potential of a neuron that spikes: less the threshold, or zero. Signed neurons, which lose the
// threshold too, take a spike back where the potential is below zero.
enum class Reset { soft, hard, takes_back };

// One layer over a chunk of steps. `padded` output channels (a multiple of `width`) in slabs of `width` (16, 32, 48, 64).
template <class Real>
struct Job {
  int images, out_rows, out_cols, steps, padded, width;
  // Weights are integers, in units of their channel, so that sums are exact in any order. No sum of them leaves Int<Real>.
  const Real *units;           // [padded]
  const Int<Real> *weights;    // [padded / width][depth][width]; or null, and instead of them
  const std::int16_t *shorts;  // the same, of which `run` add up without an overflow, whichever they are; or
  int run;
  // for the dense kernel digits to the base 256: of each slab width / 16 * digit_count columns, those of 16 channels side by
  // side, the lowest first, in groups (see `group_of`) of [products][columns][16][16][4], where inputs 4 i ... 4 i + 3 of a
  // product are in its row i.
  const std::int8_t *digits;
  int digit_count;
  std::size_t products;
  std::size_t depth;
  const Gather *gathers;
  int gather_count;
  const Tap<Real> *taps;
  int tap_count;
  const Real *base;  // current that is there without spikes, [images][positions][steps][padded] or with fewer dimensions
  std::size_t base_image, base_position, base_step;  // its strides, zero where it does not vary
  const Real *drive;  // current of each step that is added to it, [steps][padded]; or null
  // Either neurons ...
  const Real *threshold;  // [padded]; null if currents are asked for
  Reset reset;
  Real *v;              // [images][positions][padded]
  Int<Real> *counts;    // likewise, less those taken back; of these:
  Int<Real> *taken;     // the number so far, likewise; null but of signed neurons
  std::int32_t *fired;  // [images][steps], images so far from each other:
  std::size_t fired_image;
  std::uint8_t *spikes;  // [images][positions][steps][spike_bytes]
  std::uint8_t *back;    // those taken back, likewise; null but of signed neurons
  int spike_bytes;
  // ... or their input.
  Real *currents;  // [images][positions][steps][padded]
};

namespace {  // to every file its own: no copy of another instruction set

// How many columns of digits are multiplied together where so many are left: up to three, which is what registers hold.
[[maybe_unused]] constexpr int group_of(int left) { return left == 4 ? 2 : left < 3 ? left : 3; }

}  // namespace

// Poisson input: an input fires where its random word is below its limit's size, in the train of its limit's sign.
struct Draw {
  std::size_t channels, positions, steps, bytes;
  const std::int64_t *limits;   // [images][channels][positions], -2^32 to 2^32
  const std::int64_t *indices;  // [images], of the data set
  std::uint64_t seed;
  std::uint32_t first_step;
  std::uint8_t *positive, *negative;  // trains, [images][positions][steps][bytes]
};

// An axis of a convolution: of its inputs `size`, of its outputs as many as the kernel finds places.
struct SlidingAxis {
  int size, kernel, stride, padding, dilation, outputs;
};

// A convolution of images, [images][inputs][rows][cols], to currents, [images][rows][cols][padded].
template <class Real>
struct Convolution {
  int images, inputs, padded;
  SlidingAxis rows, cols;
  const double *x;
  const double *weights;  // [padded / 16][inputs][rows.kernel][cols.kernel][16]
  const double *bias;     // [padded]
  Real *out;
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

#define EQUISPIKE_DECLARE_MULTIPLY(isa)                            \
  namespace isa {                                                  \
  void multiply(const Job<float> &, const Share &, Scratch &);     \
  void multiply(const Job<double> &, const Share &, Scratch &);    \
  }
#define EQUISPIKE_DECLARE(isa)                                     \
  EQUISPIKE_DECLARE_MULTIPLY(isa)                                  \
  namespace isa {                                                  \
  void gather(const Job<float> &, const Share &, Scratch &);       \
  void gather(const Job<double> &, const Share &, Scratch &);      \
  void scatter(const Job<float> &, const Share &, Scratch &);      \
  void scatter(const Job<double> &, const Share &, Scratch &);     \
  void sweep(const Job<float> &, const Share &, Scratch &);        \
  void sweep(const Job<double> &, const Share &, Scratch &);       \
  void draw(const Draw &, std::size_t image);                      \
  void convolve(const Convolution<float> &, int image, int y, Scratch &);  \
  void convolve(const Convolution<double> &, int image, int y, Scratch &); \
  float add_up(const float *, std::size_t count, int repeats);     \
  }
EQUISPIKE_DECLARE(baseline)
EQUISPIKE_DECLARE(avx2)
EQUISPIKE_DECLARE(avx512)
EQUISPIKE_DECLARE_MULTIPLY(amx)
#undef EQUISPIKE_DECLARE
#undef EQUISPIKE_DECLARE_MULTIPLY

}  // namespace equispike
