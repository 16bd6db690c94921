// What the driver keeps: arrays that Python gives and sees, trains, neurons, and scratch for the kernels.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include "kernel.h"

namespace nb = nanobind;

namespace equispike {
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
// Where some are signed, their spikes so far are less those taken back, and these are counted too.
template <class Real>
class Neurons {
 public:
  // Of a layer's neurons, [images][positions][padded], where they begin.
  struct Place {
    std::size_t positions, padded, first;
  };

  // Of each layer its positions, and its channels in whole slabs.
  Neurons(std::size_t images, std::size_t steps, const std::vector<std::pair<std::size_t, std::size_t>> &layers,
          bool some_signed)
      : images(images), steps(steps), places_(places(images, layers)), some_signed_(some_signed), v_(places_.back().first),
        counts_(places_.back().first), taken_(some_signed ? places_.back().first : 0),
        fired_(layers.size() * images * steps) {
    require(images && steps, "neurons: an extent is 0");
    v_.clear();
    counts_.clear();
    taken_.clear();
    fired_.clear();
  }
  std::size_t layers() const { return places_.size() - 1; }
  const Place &place(std::size_t layer) const { return places_[layer]; }
  Real *v(std::size_t layer) const { return v_.data() + places_[layer].first; }
  Int<Real> *counts(std::size_t layer) const { return counts_.data() + places_[layer].first; }
  Int<Real> *taken(std::size_t layer) const { return some_signed_ ? taken_.data() + places_[layer].first : nullptr; }
  std::int32_t *fired(std::size_t layer) const { return fired_.data() + layer * images * steps; }
  Seen<Real, 1> seen_v() const { return v_.template seen<1>({places_.back().first}); }
  Seen<Int<Real>, 1> seen_counts() const { return counts_.template seen<1>({places_.back().first}); }
  Seen<Int<Real>, 1> seen_taken() const {
    return taken_.template seen<1>({some_signed_ ? places_.back().first : 0});
  }
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
  bool some_signed_;
  Numbers<Real> v_;
  Numbers<Int<Real>> counts_, taken_;
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

}  // namespace
}  // namespace equispike
