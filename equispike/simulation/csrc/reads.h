// Where the outputs of a layer read a source, in the forms that the kernels take.
#pragma once

#include <algorithm>
#include <limits>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "memory.h"

namespace equispike {
namespace {

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

}  // namespace
}  // namespace equispike
