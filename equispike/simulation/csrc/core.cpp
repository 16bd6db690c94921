// The Python module: checks everything that a kernel relies on, chooses the kernel for this machine, shares the work.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(EQUISPIKE_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#endif
#if defined(__unix__)
#include <unistd.h>
#endif

#include "kernel.h"

namespace nb = nanobind;

namespace equispike {

void grow(Buffer &buffer, std::size_t bytes) {
  void *data = std::realloc(buffer.data, bytes);
  if (!data) throw std::bad_alloc();
  buffer = {data, bytes};
}

namespace {

template <class T>
using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu>;

void require(bool condition, const char *message) {
  if (!condition) throw std::invalid_argument(message);
}

template <class T>
void require_shape(const Array<T> &array, const std::vector<std::size_t> &shape, const char *message) {
  require(array.ndim() == shape.size(), message);
  for (std::size_t i = 0; i < shape.size(); ++i) require(array.shape(i) == shape[i], message);
}

// Memory of the core's as Python sees it.
template <class T, int dimensions>
using Seen = nb::ndarray<nb::numpy, T, nb::ndim<dimensions>, nb::c_contig>;
constexpr auto shared = nb::rv_policy::automatic;  // it has an owner

// Numbers in whole cache lines, which live as long as anybody looks at them.
template <class T>
class Numbers {
 public:
  explicit Numbers(std::size_t count)
      : count_(count), data_(static_cast<T *>(::operator new(count * sizeof(T), line)),
                             [](T *data) { ::operator delete(data, line); }) {}
  T *data() const { return data_.get(); }
  void clear() { std::memset(data(), 0, count_ * sizeof(T)); }
  template <int dimensions>
  Seen<T, dimensions> seen(const std::size_t (&shape)[dimensions]) const {
    using Owner = std::shared_ptr<T>;
    const nb::capsule owner(new Owner(data_), [](void *own) noexcept { delete static_cast<Owner *>(own); });
    return {data(), dimensions, shape, owner};
  }

 private:
  static constexpr std::align_val_t line{64};
  std::size_t count_;
  std::shared_ptr<T> data_;
};

// What a layer, or one sign of the input, spikes in some steps. The channels of a position and step are bits of whole
// words, the first lowest.
class Train {
 public:
  Train(std::size_t images, std::size_t positions, std::size_t steps, std::size_t channels)
      : images(images), positions(positions), steps(steps), channels(channels), bytes((channels + 63) / 64 * 8),
        bits_(images * positions * steps * bytes) {
    require(images && positions && steps && channels, "train: an extent is 0");
  }
  std::uint8_t *bits() const { return bits_.data(); }
  void clear() { bits_.clear(); }
  Seen<std::uint8_t, 4> seen() const { return bits_.seen<4>({images, positions, steps, bytes}); }

  std::size_t images, positions, steps, channels, bytes;  // bytes of a position and step

 private:
  Numbers<std::uint8_t> bits_;
};

// The neurons of all layers in the course of a run: potentials, spikes so far, and spikes in each step. At rest at first.
template <class Real>
class Neurons {
 public:
  // Of a layer's neurons, [images][positions][padded], where they begin.
  struct Place {
    std::size_t positions, padded, first;
  };

  // Of each layer its positions, and its channels in whole slabs.
  Neurons(std::size_t images, std::size_t steps, const std::vector<std::pair<std::size_t, std::size_t>> &layers)
      : images(images), steps(steps), places_(places(images, layers)), v_(places_.back().first), counts_(places_.back().first),
        fired_(layers.size() * images * steps) {
    require(images && steps, "neurons: an extent is 0");
    v_.clear();
    counts_.clear();
    fired_.clear();
  }
  std::size_t layers() const { return places_.size() - 1; }
  const Place &place(std::size_t layer) const { return places_[layer]; }
  Real *v(std::size_t layer) const { return v_.data() + places_[layer].first; }
  Int<Real> *counts(std::size_t layer) const { return counts_.data() + places_[layer].first; }
  std::int32_t *fired(std::size_t layer) const { return fired_.data() + layer * images * steps; }
  Seen<Real, 1> seen_v() const { return v_.template seen<1>({places_.back().first}); }
  Seen<Int<Real>, 1> seen_counts() const { return counts_.template seen<1>({places_.back().first}); }
  Seen<std::int32_t, 3> seen_fired() const { return fired_.template seen<3>({layers(), images, steps}); }

  std::size_t images, steps;

 private:
  static std::vector<Place> places(std::size_t images, const std::vector<std::pair<std::size_t, std::size_t>> &layers) {
    std::vector<Place> found;
    std::size_t first = 0;
    for (const auto &[positions, padded] : layers) {
      found.push_back({positions, padded, first});
      first += images * positions * padded;
    }
    found.push_back({0, 0, first});
    return found;
  }
  std::vector<Place> places_;  // behind the last layer where it ends
  Numbers<Real> v_;
  Numbers<Int<Real>> counts_;
  Numbers<std::int32_t> fired_;
};

// Scratch that is handed out and taken back; a call takes one per thread.
class Pool {
 public:
  ~Pool() {
    for (auto &scratch : free_) clear(*scratch);
  }
  std::unique_ptr<Scratch> take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) return std::make_unique<Scratch>();
    auto scratch = std::move(free_.back());
    free_.pop_back();
    return scratch;
  }
  void give(std::unique_ptr<Scratch> scratch) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(scratch));
  }

 private:
  static void clear(Scratch &scratch) {
    for (auto *buffers : {scratch.decoded, scratch.offsets, scratch.done}) {
      for (int i = 0; i < most_gathers; ++i) std::free(buffers[i].data);
    }
    for (auto *buffer : {&scratch.segments, &scratch.events, &scratch.starts, &scratch.fired, &scratch.taps, &scratch.open,
                         &scratch.steps}) {
      std::free(buffer->data);
    }
  }
  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> free_;
};

Pool &pool() {
  static Pool instance;
  return instance;
}

// Scratch of the pool for as long as this lives, also where the work throws.
class Lease {
 public:
  Lease() : scratch_(pool().take()) {}
  ~Lease() { pool().give(std::move(scratch_)); }
  Lease(const Lease &) = delete;
  Lease &operator=(const Lease &) = delete;
  Scratch &operator*() { return *scratch_; }

 private:
  std::unique_ptr<Scratch> scratch_;
};

// The same work on so many threads, this one among them; what the last of them to fail threw. On those of OpenMP, where
// the compiler has it: they are torch's own, which keep a processor busy for some milliseconds after each operation of
// torch, and others would have to share it with them.
template <class Worker>
void on_threads(std::size_t threads, const Worker &worker) {
  std::exception_ptr failure;
  std::mutex mutex;
  auto body = [&] {
    try {
      worker();
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      failure = std::current_exception();
    }
  };
#if defined(_OPENMP)
#pragma omp parallel num_threads(static_cast<int>(threads)) if (threads > 1)
  body();
#else
  std::vector<std::thread> others;
  for (std::size_t i = 1; i < threads; ++i) others.emplace_back(body);
  body();
  for (auto &other : others) other.join();
#endif
  if (failure) std::rethrow_exception(failure);
}

#if defined(EQUISPIKE_AMX)
// Whether there are tiles, and the system lets this process use them: it has to be asked, once.
bool tiles_granted() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 24 & 1) || !(d >> 25 & 1)) return false;
  constexpr int request_permission = 0x1023, tile_data = 18;  // of arch_prctl, since Linux 5.16
  static const bool granted = syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  return granted;
}
#endif

// Those of this machine that kernels were built for, each including those before it.
std::vector<std::string> instruction_sets() {
  std::vector<std::string> names{"baseline"};
#if defined(EQUISPIKE_X86)
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2"))) return names;
  names.push_back("avx2");
  if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))) {
    return names;
  }
  names.push_back("avx512");
#if defined(EQUISPIKE_AMX)
  if (tiles_granted()) names.push_back("amx");
#endif
#endif
  return names;
}

// Bytes of a processor's L2 cache, or 0 where the system does not say.
long l2_cache() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
  return std::max(0L, sysconf(_SC_LEVEL2_CACHE_SIZE));
#else
  return 0;
#endif
}

// One of the functions of a name that were built, by the instruction set: the widest of those up to it.
template <class Function>
Function *built_for(const std::string &isa, std::initializer_list<std::pair<const char *, Function *>> built) {
  static const std::vector<std::string> known = instruction_sets();
  const auto wanted = std::find(known.begin(), known.end(), isa);
  require(wanted != known.end(), "instruction set: this machine or build does not have it");
  Function *found = nullptr;
  for (const auto &[name, function] : built) {
    if (std::find(known.begin(), wanted + 1, name) != wanted + 1) found = function;
  }
  return found;
}

#if defined(EQUISPIKE_X86)
#define EQUISPIKE_BUILT_FOR(isa, Function, name) \
  built_for<Function>(isa, {{"baseline", &baseline::name}, {"avx2", &avx2::name}, {"avx512", &avx512::name}})
#else
#define EQUISPIKE_BUILT_FOR(isa, Function, name) built_for<Function>(isa, {{"baseline", &baseline::name}})
#endif

template <class Real>
Kernel<Real> multiplier(const std::string &isa) {
  return built_for<std::remove_pointer_t<Kernel<Real>>>(isa, {{"baseline", &baseline::multiply},
#if defined(EQUISPIKE_X86)
                                                              {"avx2", &avx2::multiply},
                                                              {"avx512", &avx512::multiply},
#endif
#if defined(EQUISPIKE_AMX)
                                                              {"amx", &amx::multiply},
#endif
                                                             });
}

// How a layer's current comes about: see the kernels of these names.
enum class How { gather, scatter, sweep, multiply };

template <class Real>
Kernel<Real> kernel(const std::string &isa, How how) {
  using Function = std::remove_pointer_t<Kernel<Real>>;
  if (how == How::multiply) return multiplier<Real>(isa);
  if (how == How::sweep) return EQUISPIKE_BUILT_FOR(isa, Function, sweep);
  return how == How::scatter ? EQUISPIKE_BUILT_FOR(isa, Function, scatter) : EQUISPIKE_BUILT_FOR(isa, Function, gather);
}

// The numbers added up, again and again: what that takes is the machine's limit.
float add_up(const Array<const float> &numbers, int repeats, const std::string &isa) {
  return EQUISPIKE_BUILT_FOR(isa, float(const float *, std::size_t, int), add_up)(numbers.data(), numbers.size(), repeats);
}

using Ranges = nb::ndarray<std::int32_t, nb::c_contig, nb::device::cpu>;

// An axis of a source and where the outputs read it; owns the tables.
class AxisReads {
 public:
  AxisReads(int size, const Ranges &table, int outputs) : size_(size) {
    require(size > 0, "source: an extent out of range");
    require(table.ndim() == 3 && table.shape(2) == 2 && table.shape(0) == static_cast<std::size_t>(outputs) &&
                table.shape(1) > 0 && table.shape(1) < 65536,
            "ranges: not (outputs, kernel, 2)");
    kernel_ = static_cast<int>(table.shape(1));
    ranges_.resize(table.shape(0) * table.shape(1));
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      ranges_[i] = {table.data()[2 * i], table.data()[2 * i + 1]};
      require(ranges_[i].first >= 0 && ranges_[i].last <= size, "ranges: outside of the source");
    }
    find_runs(outputs);
    invert();
    find_line(outputs);
  }

  int size() const { return size_; }
  int kernel() const { return kernel_; }
  std::size_t bins() const { return bins_.size(); }
  int widest() const {
    int most = 0;
    for (const Range &bin : bins_) most = std::max(most, bin.last - bin.first);
    return most;
  }
  Axis view() const {
    return {size_,          kernel_,          static_cast<int>(bins_.size()),
            ranges_.data(), bins_.data(),     runs_.data(),
            run_starts_.data(), targets_.data(), target_starts_.data(),
            line_.data(),   static_cast<int>(line_.size()), line_stride_};
  }

 private:
  void find_runs(int outputs) {
    std::map<std::pair<int, int>, int> numbers;
    for (const Range &range : ranges_) {
      if (range.first < range.last) numbers[{range.first, range.last}] = 0;
    }
    for (auto &[range, number] : numbers) {
      number = static_cast<int>(bins_.size());
      bins_.push_back({range.first, range.second});
    }
    for (int output = 0; output < outputs; ++output) {
      run_starts_.push_back(static_cast<std::int32_t>(runs_.size()));
      bool open = false;
      for (int element = 0; element < kernel_; ++element) {
        const Range range = ranges_[static_cast<std::size_t>(output) * kernel_ + element];
        if (range.first >= range.last) {
          open = false;
          continue;
        }
        const int bin = numbers[{range.first, range.last}];
        if (open && runs_.back().last == bin) {
          ++runs_.back().last;
        } else {
          runs_.push_back({bin, bin + 1, element});
        }
        open = true;
      }
    }
    run_starts_.push_back(static_cast<std::int32_t>(runs_.size()));
  }

  // Who reads each position.
  void invert() {
    std::vector<std::vector<Target>> readers(size_);
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      const Target target{static_cast<std::int32_t>(i / kernel_), static_cast<std::int32_t>(i % kernel_)};
      for (int source = ranges_[i].first; source < ranges_[i].last; ++source) readers[source].push_back(target);
    }
    target_starts_.push_back(0);
    for (const auto &own : readers) {
      targets_.insert(targets_.end(), own.begin(), own.end());
      target_starts_.push_back(static_cast<std::int32_t>(targets_.size()));
    }
  }

  // The line with the least stride on which each place holds one range: of a convolution without dilation its stride. At
  // the size of the kernel, at the latest, no two outputs share a place.
  void find_line(int outputs) {
    for (line_stride_ = 1;; ++line_stride_) {
      line_.assign(static_cast<std::size_t>(outputs - 1) * line_stride_ + kernel_, Range{-1, -1});
      bool fits = true;
      for (std::size_t i = 0; i < ranges_.size() && fits; ++i) {
        const Range own = ranges_[i].first < ranges_[i].last ? ranges_[i] : Range{0, 0};
        Range &place = line_[i / kernel_ * line_stride_ + i % kernel_];
        fits = place.first < 0 || (place.first == own.first && place.last == own.last);
        place = own;
      }
      if (fits) return;
    }
  }

  int size_, kernel_, line_stride_ = 1;
  std::vector<Range> ranges_, bins_, line_;
  std::vector<Run> runs_;
  std::vector<Target> targets_;
  std::vector<std::int32_t> run_starts_, target_starts_;
};

// A source's extent and where the outputs read it.
struct Reads {
  int channels;
  AxisReads rows, cols;

  Reads(std::tuple<int, int, int> extent, const Ranges &row_table, const Ranges &col_table, int out_rows, int out_cols)
      : channels(std::get<0>(extent)), rows(std::get<1>(extent), row_table, out_rows),
        cols(std::get<2>(extent), col_table, out_cols) {
    require(channels > 0 && channels <= 65535 && cols.bins() * channels <= std::numeric_limits<std::int32_t>::max(),
            "source: an extent out of range");
  }

  // Whether the sweeping kernel can take it: neighbours read places close to each other, a word holds a position, and what
  // a place reads is not too much.
  bool swept() const {
    return cols.view().line_stride <= 2 && cols.kernel() <= 3 && channels <= 64 &&
           std::size_t{1} * rows.kernel() * rows.widest() * cols.widest() <= 64;
  }

  Sweep sweep(std::size_t first) const {
    const int slot = channels <= 16 ? 16 : channels <= 32 ? 32 : 64, share = 64 / slot;
    int digits = 1;
    while (rows.widest() * cols.widest() >> digits) ++digits;
    return {slot, (rows.kernel() + share - 1) / share, digits, first};
  }

  std::size_t elements() const { return static_cast<std::size_t>(rows.kernel()) * cols.kernel(); }

  // Bytes of a position where each channel takes one, so that several positions fill the depth of a product, or it them.
  int slot() const {
    int bytes = 4;
    while (bytes < channels && bytes < deep) bytes *= 2;
    return bytes < channels ? (channels + deep - 1) / deep * deep : bytes;
  }

  // Products that one row of kernel elements takes.
  std::size_t products() const { return (cols.kernel() * std::size_t{1} * slot() + deep - 1) / deep; }

  Window window(const Train &train, std::size_t images, std::size_t steps) const {
    require(train.images == images && train.positions == static_cast<std::size_t>(rows.size()) * cols.size() &&
                train.steps == steps && train.channels == static_cast<std::size_t>(channels),
            "train: of other images, positions, steps or channels");
    return {train.bits(), channels, static_cast<int>(train.bytes), rows.view(), cols.view()};
  }
};

// A layer of neurons and the linear map in front of it, or that alone: gathers and taps over spike trains, and a bias.
template <class Real>
class Layer {
 public:
  Layer(int out_rows, int out_cols, int channels, int width, const std::string &how, const Array<const Real> &bias)
      : out_rows_(out_rows), out_cols_(out_cols), channels_(channels), width_(width) {
    const std::map<std::string, How> names{
        {"gather", How::gather}, {"scatter", How::scatter}, {"sweep", How::sweep}, {"multiply", How::multiply}};
    require(names.count(how), "layer: not gather, scatter, sweep or multiply");
    how_ = names.at(how);
    require(out_rows > 0 && out_cols > 0 && channels > 0, "layer: an extent out of range");
    require(width == 16 || width == 32 || width == 48 || width == 64, "layer: no such slab");
    padded_ = (channels + narrowest - 1) / narrowest * narrowest;
    require(padded_ % width == 0, "layer: channels not in whole slabs");
    bias_ = by_channel(bias, "layer: biases are not (channels,)");
  }

  // Their thresholds, and whether they are reset to zero.
  void set_neurons(const Array<const Real> &threshold, bool hard) {
    threshold_ = by_channel(threshold, "layer: thresholds are not (channels,)");
    hard_ = hard;
  }

  void gather(std::tuple<int, int, int> extent, const Ranges &rows, const Ranges &cols) {
    require(gathers_.size() < most_gathers, "layer: too many sources");
    gathers_.emplace_back(extent, rows, cols, out_rows_, out_cols_);
    const Reads &reads = gathers_.back();
    require(how_ != How::scatter || reads.cols.size() <= 65535, "layer: a source is too wide to be scattered");
    require(how_ != How::sweep || reads.swept(), "layer: a source cannot be swept");
    firsts_.push_back(static_cast<std::uint32_t>(depth_));
    depth_ += reads.elements() * reads.channels;
    sweeps_.push_back(reads.sweep(swept_));
    swept_ += std::size_t{1} * reads.cols.kernel() * sweeps_.back().words() * word_rows;
    require(depth_ <= std::numeric_limits<std::uint32_t>::max(), "layer: too many inputs");
  }

  void tap(std::tuple<int, int, int> extent, const Ranges &rows, const Ranges &cols, int shift,
           const Array<const Real> &weights) {
    taps_.emplace_back(extent, rows, cols, out_rows_, out_cols_);
    const Reads &reads = taps_.back();
    require(shift > -65536 && shift < 65536, "tap: a shift out of range");
    require_shape<const Real>(
        weights, {reads.elements(), static_cast<std::size_t>(padded_)},
        "tap: weights are not (kernel, channels)");
    shifts_.push_back(shift);
    tap_weights_.emplace_back(weights.data(), weights.data() + weights.size());
  }

  // Weights of all gathers, (slabs, depth, width), and what they count, by channel. The layer keeps them alive, or
  // laid out anew.
  void set_weights(const Array<const Int<Real>> &weights, const Array<const Real> &units) {
    require_weights(weights, units, how_ != How::multiply);
    if (how_ == How::sweep) {
      lay_out(weights.data());
    } else {
      weights_ = weights;
    }
  }

  // The same in 16 bits, which is gathered only.
  void set_shorts(const Array<const std::int16_t> &weights, const Array<const Real> &units) {
    require_weights(weights, units, how_ == How::gather);
    int largest = 1;
    for (std::size_t i = 0; i < weights.size(); ++i) largest = std::max(largest, std::abs(int{weights.data()[i]}));
    run_ = std::numeric_limits<std::int16_t>::max() / largest;
    require(run_ > 0, "layer: weights are too large");
    shorts_ = weights;
  }

  // The same, (depth, channels), to be kept in one to four digits, -128 to 127, to the base 256.
  void set_digits(const Array<const std::int32_t> &weights, const Array<const Real> &units, int digits) {
    const std::size_t padded = padded_;
    require_shape<const std::int32_t>(weights, {depth_, padded}, "layer: weights are not (depth, channels)");
    require(how_ == How::multiply && digits >= 1 && digits <= 4, "layer: not a dense one, or not one to four digits");
    set_units(units);
    digit_count_ = digits;
    products_ = 0;
    std::size_t most = 0;
    for (const Reads &reads : gathers_) {
      const std::size_t window = std::size_t{1} * reads.rows.widest() * reads.cols.widest();
      require(window <= 255, "layer: more spikes summed up than a byte counts");
      most += window * reads.elements() * reads.channels;
      products_ += reads.rows.kernel() * reads.products();
    }
    require(most < (1u << 24), "layer: sums of digits could overflow");
    digits_.assign(products_ * padded * digits, Inputs{});
    std::size_t product = 0;
    for (std::size_t g = 0; g < gathers_.size(); ++g) {
      const Reads &reads = gathers_[g];
      for (int ky = 0; ky < reads.rows.kernel(); ++ky, product += reads.products()) {
        for (int kx = 0; kx < reads.cols.kernel(); ++kx) {
          for (int channel = 0; channel < reads.channels; ++channel) {
            const std::size_t row = firsts_[g] + (std::size_t{1} * ky * reads.cols.kernel() + kx) * reads.channels + channel;
            put_digits(weights.data() + row * padded, product, std::size_t{1} * kx * reads.slot() + channel);
          }
        }
      }
    }
  }

  // Run the neurons of that layer through so many steps, the first of which is that one of the run; gives their spikes.
  Train fire(const std::vector<const Train *> &trains, const std::optional<Array<const Real>> &base,
             const Neurons<Real> &neurons, std::size_t layer, std::size_t first, std::size_t steps, int threads,
             const std::string &isa) const {
    require(!threshold_.empty(), "layer: thresholds are missing");
    require(layer < neurons.layers() && neurons.place(layer).positions == positions_of() &&
                neurons.place(layer).padded == static_cast<std::size_t>(padded_),
            "neurons: of another layer");
    require(first < neurons.steps && steps <= neurons.steps - first, "neurons: the run is shorter");
    Job<Real> job = prepare(base, neurons.images, steps);
    Train train(neurons.images, positions_of(), steps, channels_);
    job.threshold = threshold_.data();
    job.hard = hard_;
    job.v = neurons.v(layer);
    job.counts = neurons.counts(layer);
    job.fired = neurons.fired(layer) + first;
    job.fired_image = neurons.steps;
    job.spikes = train.bits();
    job.spike_bytes = static_cast<int>(train.bytes);
    // A slab alone writes whole words, several their own bytes: those above the last of them belong to none.
    if (8 * train.bytes != static_cast<std::size_t>(padded_) && !(padded_ == width_ && train.bytes == 8)) train.clear();
    run(job, trains, threads, isa);
    return train;
  }

  // Currents of one chunk, (images, positions, steps, channels), in place.
  void emit(const std::vector<const Train *> &trains, const std::optional<Array<const Real>> &base,
            const Array<Real> &currents, int threads, const std::string &isa) const {
    require(currents.ndim() == 4 && currents.shape(1) == positions_of() &&
                currents.shape(3) == static_cast<std::size_t>(padded_),
            "currents: not (images, positions, steps, channels)");
    Job<Real> job = prepare(base, currents.shape(0), currents.shape(2));
    job.currents = currents.data();
    run(job, trains, threads, isa);
  }

  // Currents of one position as class scores: added up in `sums`, (images, channels), which after each step times the scale
  // are what `readout` receives, (steps of the run, images, channels), from step `first` on.
  void score(const std::vector<const Train *> &trains, const std::optional<Array<const Real>> &base, const Array<double> &sums,
             const Array<Real> &readout, std::size_t first, std::size_t steps, double scale, int threads,
             const std::string &isa) const {
    require(positions_of() == 1, "layer: more than one position");
    require(sums.ndim() == 2 && sums.shape(1) == static_cast<std::size_t>(channels_), "sums: not (images, channels)");
    const std::size_t images = sums.shape(0), channels = channels_;
    require(readout.ndim() == 3 && readout.shape(1) == images && readout.shape(2) == channels,
            "readout: not (steps, images, channels)");
    require(first < readout.shape(0) && steps <= readout.shape(0) - first, "readout: the run is shorter");
    Job<Real> job = prepare(base, images, steps);
    const Numbers<Real> currents(images * steps * padded_);
    job.currents = currents.data();
    run(job, trains, threads, isa);
    for (std::size_t image = 0; image < images; ++image) {
      double *sum = sums.data() + image * channels;
      for (std::size_t t = 0; t < steps; ++t) {
        const Real *own = currents.data() + (image * steps + t) * padded_;
        Real *out = readout.data() + ((first + t) * images + image) * channels;
        for (std::size_t c = 0; c < channels; ++c) out[c] = static_cast<Real>((sum[c] += own[c]) * scale);
      }
    }
  }

 private:
  std::size_t positions_of() const { return static_cast<std::size_t>(out_rows_) * out_cols_; }

  template <class Number>
  void require_weights(const Array<const Number> &weights, const Array<const Real> &units, bool kernel) {
    require_shape<const Number>(
        weights, {static_cast<std::size_t>(padded_ / width_), depth_, static_cast<std::size_t>(width_)},
        "layer: weights are not (slabs, depth, width)");
    require(kernel, "layer: weights of another kernel");
    set_units(units);
  }

  void set_units(const Array<const Real> &units) { units_ = by_channel(units, "layer: units are not (channels,)"); }

  std::vector<Real> by_channel(const Array<const Real> &numbers, const char *message) const {
    require_shape<const Real>(numbers, {static_cast<std::size_t>(padded_)}, message);
    return {numbers.data(), numbers.data() + padded_};
  }

  // Weights in the order in which they are swept.
  void lay_out(const Int<Real> *given) {
    const std::size_t width = width_, slabs = padded_ / width_;
    table_.assign(slabs * swept_ * width / narrowest, Narrowest{});
    Int<Real> *table = table_.empty() ? nullptr : table_.front().of;
    for (std::size_t slab = 0; slab < slabs; ++slab) {
      const Int<Real> *weights = given + slab * depth_ * width;
      for (std::size_t g = 0; g < gathers_.size(); ++g) {
        const Reads &reads = gathers_[g];
        const Sweep &sweep = sweeps_[g];
        const int share = 64 / sweep.slot;
        for (int kx = 0; kx < reads.cols.kernel(); ++kx) {
          for (int ky = 0; ky < reads.rows.kernel(); ++ky) {
            const std::size_t from = firsts_[g] + (std::size_t{1} * ky * reads.cols.kernel() + kx) * reads.channels;
            for (int digit = 0; digit < sweep.digits; ++digit) {
              const std::size_t word = std::size_t{1} * (kx * sweep.digits + digit) * sweep.groups + ky / share;
              const std::size_t to = sweep.first + word * word_rows + ky % share * sweep.slot;
              Int<Real> *own = table + (slab * swept_ + to) * width;
              for (std::size_t i = 0; i < reads.channels * width; ++i) own[i] = weights[from * width + i] * (1 << digit);
            }
          }
        }
      }
    }
  }

  // Digits of one input's weights; its place counts from the first input of a product.
  void put_digits(const std::int32_t *weights, std::size_t product, std::size_t place) {
    product += place / deep;
    place %= deep;
    for (int channel = 0; channel < padded_; ++channel) {
      const std::size_t slab = channel / width_, column = channel % width_ / side;
      std::int64_t left = weights[channel];
      for (int digit = 0; digit < digit_count_; ++digit) {
        const std::int64_t low = ((left + 128) & 255) - 128;
        left = (left - low) / 256;
        const int own = static_cast<int>(column) * digit_count_ + digit, all = width_ / side * digit_count_;
        int first = 0;
        while (first + group_of(all - first) <= own) first += group_of(all - first);
        const std::size_t block = (slab * all + first) * products_ + product * group_of(all - first) + own - first;
        const std::size_t row = block * side + place / 4;
        digits_[row].of[4 * (channel % side) + place % 4] = static_cast<std::int8_t>(low);
      }
      require(left == 0, "layer: a weight has more digits");
    }
  }

  // Without a base there is the bias alone.
  Job<Real> prepare(const std::optional<Array<const Real>> &base, std::size_t images, std::size_t steps) const {
    require(!units_.empty(), "layer: weights are missing");
    require(images > 0 && steps > 0 && images * out_rows_ <= std::numeric_limits<std::int32_t>::max() && steps < (1u << 20),
            "chunk: its size is out of range");
    const std::size_t padded = padded_, positions = positions_of();
    if (base) {
      require(base->ndim() == 4 && (base->shape(0) == 1 || base->shape(0) == images) &&
                  (base->shape(1) == 1 || base->shape(1) == positions) && (base->shape(2) == 1 || base->shape(2) == steps) &&
                  base->shape(3) == padded,
              "base: not (images or 1, positions or 1, steps or 1, channels)");
    }
    Job<Real> job{};
    job.images = static_cast<int>(images);
    job.out_rows = out_rows_;
    job.out_cols = out_cols_;
    job.steps = static_cast<int>(steps);
    job.padded = padded_;
    job.width = width_;
    job.weights = !table_.empty() ? table_.front().of : weights_.is_valid() ? weights_.data() : nullptr;
    job.shorts = shorts_.is_valid() ? shorts_.data() : nullptr;
    job.run = run_;
    job.depth = how_ == How::sweep ? swept_ : depth_;
    job.digits = digits_.empty() ? nullptr : digits_.front().of;
    job.digit_count = digit_count_;
    job.products = products_;
    job.units = units_.data();
    job.base = base ? base->data() : bias_.data();
    job.base_step = !base || base->shape(2) == 1 ? 0 : padded;
    job.base_position = !base || base->shape(1) == 1 ? 0 : base->shape(2) * padded;
    job.base_image = !base || base->shape(0) == 1 ? 0 : base->shape(1) * base->shape(2) * padded;
    return job;
  }

  void run(Job<Real> &job, const std::vector<const Train *> &trains, int threads, const std::string &isa) const {
    require(trains.size() == gathers_.size() + taps_.size(), "trains: one for each gather, then one for each tap");
    for (const Train *train : trains) require(train, "train: None");
    require(threads > 0, "threads: fewer than one");
    std::vector<Gather> gathers;
    for (std::size_t i = 0; i < gathers_.size(); ++i) {
      gathers.push_back({gathers_[i].window(*trains[i], job.images, job.steps), firsts_[i], gathers_[i].slot(), sweeps_[i]});
    }
    std::vector<Tap<Real>> taps;
    for (std::size_t i = 0; i < taps_.size(); ++i) {
      const Window window = taps_[i].window(*trains[gathers_.size() + i], job.images, job.steps);
      taps.push_back({window, shifts_[i], tap_weights_[i].data()});
    }
    job.gathers = gathers.data();
    job.gather_count = static_cast<int>(gathers.size());
    job.taps = taps.data();
    job.tap_count = static_cast<int>(taps.size());
    work(job, shares(job, threads), threads, kernel<Real>(isa, how_));
  }

  // Rows go to threads in blocks, of whole images where there are enough, since rows are decoded for each block that reads
  // them. Of few images with many channels each thread takes a part of the channels, and so reads its own weights only.
  static std::vector<Share> shares(const Job<Real> &job, int threads) {
    const int rows = job.images * job.out_rows, slabs = job.padded / job.width;
    const bool many = job.images >= 2 * threads;
    const int parts = many || threads == 1 ? 1 : slabs >= 2 * threads ? threads : rows < threads ? std::min(slabs, threads) : 1;
    const int blocks = threads == 1 || parts == threads ? 1 : std::min(rows, 4 * threads);
    int block = (rows + blocks - 1) / blocks;
    if (many) block = (block + job.out_rows - 1) / job.out_rows * job.out_rows;
    std::vector<Share> shares;
    for (int row = 0; row < rows; row += block) {
      for (int part = 0; part < parts; ++part) {
        shares.push_back({row, std::min(rows, row + block), slabs * part / parts, slabs * (part + 1) / parts});
      }
    }
    return shares;
  }

  static void work(const Job<Real> &job, const std::vector<Share> &shares, int threads, Kernel<Real> kernel) {
    std::atomic<std::size_t> next{0};
    on_threads(std::min<std::size_t>(threads, shares.size()), [&] {
      Lease scratch;
      for (std::size_t i = next++; i < shares.size(); i = next++) kernel(job, shares[i], *scratch);
    });
  }

  int out_rows_, out_cols_, channels_, width_, padded_ = 0;
  std::size_t depth_ = 0, swept_ = 0;
  std::vector<Reads> gathers_, taps_;
  std::vector<Sweep> sweeps_;
  static constexpr int narrowest = 16;
  struct alignas(64) Narrowest {
    Int<Real> of[narrowest];
  };
  std::vector<Narrowest> table_;  // weights in the order in which they are swept, in whole cache lines
  std::vector<std::uint32_t> firsts_;
  std::vector<int> shifts_;
  std::vector<std::vector<Real>> tap_weights_;
  Array<const Int<Real>> weights_;
  Array<const std::int16_t> shorts_;
  int run_ = 0;
  // Inputs 4 i ... 4 i + 3 of a product, for 16 channels.
  struct alignas(64) Inputs {
    std::int8_t of[64];
  };
  std::vector<Inputs> digits_;
  std::vector<Real> bias_, units_, threshold_;
  bool hard_ = false;
  int digit_count_ = 0;
  std::size_t products_ = 0;
  How how_;
};

bool sweeps(std::tuple<int, int, int> extent, const Ranges &rows, const Ranges &cols) {
  require(rows.ndim() == 3 && cols.ndim() == 3, "ranges: not (outputs, kernel, 2)");
  return Reads(extent, rows, cols, static_cast<int>(rows.shape(0)), static_cast<int>(cols.shape(0))).swept();
}

// Poisson spikes of so many steps from first_step on: those of positive and of negative inputs.
std::pair<Train, Train> draw(const Array<const std::int64_t> &limits, const Array<const std::int64_t> &indices,
                             std::uint64_t seed, std::uint32_t first_step, std::size_t steps, int threads,
                             const std::string &isa) {
  require(limits.ndim() == 3 && limits.shape(0) > 0, "limits: not (images, channels, positions)");
  const std::size_t images = limits.shape(0), channels = limits.shape(1), positions = limits.shape(2);
  require_shape<const std::int64_t>(indices, {images}, "indices: not (images,)");
  require(channels * positions < (std::uint64_t{1} << 34), "limits: too many inputs");
  require(threads > 0, "threads: fewer than one");
  std::pair<Train, Train> trains{Train(images, positions, steps, channels), Train(images, positions, steps, channels)};
  auto &[positive, negative] = trains;
  positive.clear();
  negative.clear();
  const Draw job{channels,   positions,      steps,           positive.bytes,  limits.data(), indices.data(),
                 seed,       first_step,     positive.bits(), negative.bits()};
  auto *kernel = EQUISPIKE_BUILT_FOR(isa, void(const Draw &, std::size_t), draw);
  std::atomic<std::size_t> next{0};
  on_threads(std::min<std::size_t>(threads, images), [&] {
    for (std::size_t i = next++; i < images; i = next++) kernel(job, i);
  });
  return trains;
}

// Stride, padding and dilation of rows, or of columns.
using Slide = std::tuple<int, int, int>;

SlidingAxis sliding(std::size_t size, std::size_t kernel, const Slide &slide) {
  const auto &[stride, padding, dilation] = slide;
  const std::size_t limit = 1u << 24;
  require(size > 0 && size < limit && kernel > 0 && kernel < limit && stride > 0 && padding >= 0 && dilation > 0 &&
              static_cast<std::size_t>(std::max({stride, padding, dilation})) < limit,
          "convolution: an extent out of range");
  const auto reach = static_cast<std::int64_t>((kernel - 1) * dilation);
  const std::int64_t left = static_cast<std::int64_t>(size) + 2 * std::int64_t{padding} - 1 - reach;
  require(left >= 0, "convolution: the kernel is larger than the images");
  return {static_cast<int>(size), static_cast<int>(kernel), stride, padding, dilation, static_cast<int>(left / stride + 1)};
}

// Currents of images that are the same in every step, in place. In double precision; rounded to Real once.
template <class Real>
void convolve(const Array<const double> &x, const Array<const double> &weights, const Array<const double> &bias,
              const Slide &rows, const Slide &cols, const Array<Real> &out, int threads, const std::string &isa) {
  require(x.ndim() == 4 && x.shape(0) > 0 && x.shape(0) < (1u << 31), "images: not (images, channels, rows, columns)");
  require(weights.ndim() == 5 && weights.shape(0) > 0 && weights.shape(0) < (1u << 24) && weights.shape(1) == x.shape(1) &&
              weights.shape(1) > 0 && weights.shape(1) < (1u << 24) && weights.shape(4) == 16,
          "weights: not (channels / 16, channels of the images, rows, columns, 16)");
  const std::size_t padded = 16 * weights.shape(0);
  require_shape<const double>(bias, {padded}, "bias: not (channels,)");
  Convolution<Real> job{};
  job.images = static_cast<int>(x.shape(0));
  job.inputs = static_cast<int>(x.shape(1));
  job.padded = static_cast<int>(padded);
  job.rows = sliding(x.shape(2), weights.shape(2), rows);
  job.cols = sliding(x.shape(3), weights.shape(3), cols);
  job.x = x.data();
  job.weights = weights.data();
  job.bias = bias.data();
  job.out = out.data();
  const std::size_t out_rows = job.rows.outputs, all = x.shape(0) * out_rows;
  require_shape<Real>(out, {x.shape(0), out_rows, static_cast<std::size_t>(job.cols.outputs), padded},
                      "currents: not (images, rows, columns, channels)");
  require(threads > 0, "threads: fewer than one");
  auto *kernel = EQUISPIKE_BUILT_FOR(isa, void(const Convolution<Real> &, int, int, Scratch &), convolve);
  std::atomic<std::size_t> next{0};
  on_threads(std::min<std::size_t>(threads, all), [&] {
    Lease scratch;
    for (std::size_t i = next++; i < all; i = next++) {
      kernel(job, static_cast<int>(i / out_rows), static_cast<int>(i % out_rows), *scratch);
    }
  });
}

template <class Real>
void bind(nb::module_ &module, const char *layer, const char *neurons) {
  using nb::literals::operator""_a;
  using Self = Layer<Real>;
  using Own = Neurons<Real>;
  const auto unlocked = nb::call_guard<nb::gil_scoped_release>();
  module.def("convolve", &convolve<Real>, "images"_a, "weights"_a, "bias"_a, "rows"_a, "cols"_a, "currents"_a.noconvert(),
             "threads"_a, "isa"_a, unlocked, "Currents of images that are the same in every step.");
  nb::class_<Own>(module, neurons)
      .def(nb::init<std::size_t, std::size_t, const std::vector<std::pair<std::size_t, std::size_t>> &>(), "images"_a,
           "steps"_a, "layers"_a)
      .def_prop_ro("v", &Own::seen_v, shared, "Potentials, of one layer after the other (images, positions, channels).")
      .def_prop_ro("counts", &Own::seen_counts, shared, "Spikes so far, likewise.")
      .def_prop_ro("fired", &Own::seen_fired, shared, "Spikes in each step, (layers, images, steps).");
  nb::class_<Self>(module, layer)
      .def(nb::init<int, int, int, int, const std::string &, const Array<const Real> &>(), "rows"_a, "cols"_a, "channels"_a,
           "width"_a, "how"_a, "bias"_a)
      .def("gather", &Self::gather, "extent"_a, "rows"_a, "cols"_a)
      .def("tap", &Self::tap, "extent"_a, "rows"_a, "cols"_a, "shift"_a, "weights"_a)
      .def("set_weights", &Self::set_weights, "weights"_a, "units"_a)
      .def("set_shorts", &Self::set_shorts, "weights"_a, "units"_a)
      .def("set_digits", &Self::set_digits, "weights"_a, "units"_a, "digits"_a)
      .def("set_neurons", &Self::set_neurons, "threshold"_a, "hard"_a)
      .def("fire", &Self::fire, "trains"_a, "base"_a.none(), "neurons"_a, "layer"_a, "first"_a, "steps"_a,
           "threads"_a, "isa"_a, unlocked)
      .def("score", &Self::score, "trains"_a, "base"_a.none(), "sums"_a.noconvert(), "readout"_a.noconvert(), "first"_a,
           "steps"_a, "scale"_a, "threads"_a, "isa"_a, unlocked)
      .def("emit", &Self::emit, "trains"_a, "base"_a.none(), "currents"_a.noconvert(), "threads"_a, "isa"_a, unlocked);
}

}  // namespace
}  // namespace equispike

NB_MODULE(_core, module) {
  using nb::literals::operator""_a;
  using equispike::Train;
  nb::class_<Train>(module, "Train")
      .def(nb::init<std::size_t, std::size_t, std::size_t, std::size_t>(), "images"_a, "positions"_a, "steps"_a, "channels"_a)
      .def_prop_ro("bits", &Train::seen, equispike::shared, "(images, positions, steps, bytes).");
  equispike::bind<float>(module, "Layer32", "Neurons32");
  equispike::bind<double>(module, "Layer64", "Neurons64");
  module.def("add_up", &equispike::add_up, "numbers"_a, "repeats"_a, "isa"_a,
             nb::call_guard<nb::gil_scoped_release>(), "Their sum, so many times.");
  module.def("draw", &equispike::draw, "limits"_a, "indices"_a, "seed"_a, "first_step"_a, "steps"_a, "threads"_a,
             "isa"_a, nb::call_guard<nb::gil_scoped_release>(), "Trains of Poisson spikes, positive and negative.");
  module.def("sweeps", &equispike::sweeps, "extent"_a, "rows"_a, "cols"_a, "Whether a source can be swept.");
  module.def("l2_cache", &equispike::l2_cache, "Bytes of a processor's L2 cache, or 0 where the system does not say.");
  module.def("instruction_sets", &equispike::instruction_sets, "Those this build and machine have, widest last.");
}
