// A layer: checks everything that a kernel relies on, lays weights out, and shares the work among threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "machine.h"
#include "reads.h"

namespace equispike {
namespace {

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

  // Their thresholds, and what becomes of the potential of those that spike.
  void set_neurons(const Array<const Real> &threshold, const std::string &reset) {
    const std::map<std::string, Reset> names{
        {"subtract", Reset::soft}, {"zero", Reset::hard}, {"signed", Reset::takes_back}};
    require(names.count(reset), "neurons: not subtract, zero or signed");
    threshold_ = by_channel(threshold, "layer: thresholds are not (channels,)");
    reset_ = names.at(reset);
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
             const std::string &isa, const std::optional<Array<const Real>> &drive) const {
    require(reset_ != Reset::takes_back, "layer: signed neurons leave two trains");
    Train train(neurons.images, positions_of(), steps, channels_);
    integrate(trains, base, neurons, layer, first, steps, threads, isa, drive, train, nullptr);
    return train;
  }

  // The same of signed neurons; gives their spikes, and those that take one back.
  std::pair<Train, Train> fire_signed(const std::vector<const Train *> &trains, const std::optional<Array<const Real>> &base,
                                      const Neurons<Real> &neurons, std::size_t layer, std::size_t first, std::size_t steps,
                                      int threads, const std::string &isa,
                                      const std::optional<Array<const Real>> &drive) const {
    require(reset_ == Reset::takes_back, "layer: its neurons are not signed");
    std::pair<Train, Train> both{Train(neurons.images, positions_of(), steps, channels_),
                                 Train(neurons.images, positions_of(), steps, channels_)};
    integrate(trains, base, neurons, layer, first, steps, threads, isa, drive, both.first, &both.second);
    return both;
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
  // Fill the trains of neurons, a second one of signed ones.
  void integrate(const std::vector<const Train *> &trains, const std::optional<Array<const Real>> &base,
                 const Neurons<Real> &neurons, std::size_t layer, std::size_t first, std::size_t steps, int threads,
                 const std::string &isa, const std::optional<Array<const Real>> &drive, Train &train, Train *back) const {
    require(!threshold_.empty(), "layer: thresholds are missing");
    require(layer < neurons.layers() && neurons.place(layer).positions == positions_of() &&
                neurons.place(layer).padded == static_cast<std::size_t>(padded_),
            "neurons: of another layer");
    require(first < neurons.steps && steps <= neurons.steps - first, "neurons: the run is shorter");
    require(!back || neurons.taken(layer), "neurons: none of them is signed");
    if (drive) require_shape<const Real>(*drive, {steps, static_cast<std::size_t>(padded_)}, "drive: not (steps, channels)");
    Job<Real> job = prepare(base, neurons.images, steps);
    job.drive = drive ? drive->data() : nullptr;
    job.threshold = threshold_.data();
    job.reset = reset_;
    job.v = neurons.v(layer);
    job.counts = neurons.counts(layer);
    job.fired = neurons.fired(layer) + first;
    job.fired_image = neurons.steps;
    job.spikes = train.bits();
    job.spike_bytes = static_cast<int>(train.bytes);
    if (back) {
      job.taken = neurons.taken(layer);
      job.back = back->bits();
    }
    // A slab alone writes whole words, several their own bytes: those above the last of them belong to none.
    if (8 * train.bytes != static_cast<std::size_t>(padded_) && !(padded_ == width_ && train.bytes == 8)) {
      train.clear();
      if (back) back->clear();
    }
    run(job, trains, threads, isa);
  }

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
  Reset reset_ = Reset::soft;
  int digit_count_ = 0;
  std::size_t products_ = 0;
  How how_;
};

}  // namespace
}  // namespace equispike
