// The scattering kernel: best where there are few output channels. Built once per instruction set, like gather.cpp. For a
// few steps at a time, output row by output row:
//   decode     each input row that the output row reads, and no row before it did, becomes one list of events per step;
//   scatter    each event adds its weight rows to the currents of all outputs that read it, in this and later rows;
//   integrate  the row's currents are complete, and its neurons go through the steps.
// Only the rows between the first that is not complete and the last that was added to are kept: they stay in the cache.
#include "neurons.h"

namespace equispike {
namespace {

constexpr int slots = 8;                       // events that the decoder writes at a time, past the end
constexpr std::size_t open_bytes = 96 * 1024;  // of the currents that are kept

using Event = std::uint32_t;  // column, then channel in the lower bits

// Where events go along one axis: elements of the currents, and of the weights for channel 0.
struct Place {
  std::uint32_t to, from;
};

// The events of one step in one row of a source, in order. Of trains of one word, C columns share 64 bits.
template <int C>
Event *decode(const std::uint8_t *bits, int cols, std::size_t stride, int words, Event *event) {
  for (int col = 0; col < cols; col += C, bits += C * stride) {
    for (int word = 0; word < words; ++word) {
      std::uint64_t left = 0;
      for (int i = 0; i < C && col + i < cols; ++i) {
        std::uint64_t own;
        std::memcpy(&own, bits + i * stride + 8 * word, 8);
        left |= own << (64 / C * i);
      }
      const Event first = C == 1 ? static_cast<Event>(col) << 16 | static_cast<Event>(64 * word) : col * (64 / C);
      event = list_bits<slots>(left, first, event);
    }
  }
  return event;
}

// A block of steps at a time.
template <class Real, int N>
class Block {
  using Whole = Int<Real>;
  static constexpr int L = lanes<Real>, width = N * L;

 public:
  Block(const Job<Real> &job, Scratch &scratch) : job_(job), scratch_(scratch) {
    std::size_t across = 0;
    for (int g = 0; g < job.gather_count; ++g) across += job.gathers[g].window.cols.target_starts[job.gathers[g].window.cols.size];
    Place *place = reserve<Place>(scratch.steps, across);
    for (int g = 0; g < job.gather_count; ++g) {
      const Window &window = job.gathers[g].window;
      cols_[g] = place;
      for (int i = 0; i < window.cols.target_starts[window.cols.size]; ++i) {
        const Target target = window.cols.targets[i];
        *place++ = at(target.output, target.element * window.channels);
      }
    }
    ring_ = 1;
    walk(0, job.out_rows, [&](int g, int row, int y) {
      const Window &window = job.gathers[g].window;
      for (int i = window.rows.target_starts[row]; i < window.rows.target_starts[row + 1]; ++i) {
        const int rows = window.rows.targets[i].output - y + 1;
        if (rows > ring_) ring_ = rows;
      }
    }, [](int) {});
    // A cache line more, or the same place in all steps would compete for the same few lines of the cache.
    step_ = static_cast<std::size_t>(ring_) * job.out_cols * width + 64 / sizeof(Whole);
    block_ = static_cast<int>(open_bytes / (step_ * sizeof(Whole)));
    block_ = block_ < 1 ? 1 : block_ < job.steps ? block_ : job.steps;
    open_ = reserve_lines<Whole>(scratch.open, step_ * block_);
    std::memset(open_, 0, step_ * block_ * sizeof(Whole));
  }

  // Rows first ... last - 1 of one image and slab.
  void run(int image, int first, int last, int slab, std::int32_t *fired) {
    image_ = image, first_ = first, last_ = last, slab_ = slab, fired_ = fired;
    taps_ = reserve<std::size_t>(scratch_.starts, static_cast<std::size_t>(last - first) * job_.out_cols + 1);
    std::size_t reads = 0;
    for (int y = first; y < last; ++y) {
      reads = row_reads(job_, image, y, slab * width, width, reads, taps_ + (y - first) * job_.out_cols, scratch_.taps);
    }
    for (int t = 0; t < job_.steps; t += block_) {
      start_ = t;
      size_ = t + block_ < job_.steps ? block_ : job_.steps - t;
      walk(first, last, [this](int g, int row, int) { scatter(g, row); }, [this](int y) { finish(y); });
    }
  }

 private:
  // For each output row in order, show what it is the first to read, then the row itself. From the image's first row
  // on, or the order of additions would depend on how the rows are shared among threads.
  template <class Read, class Finish>
  void walk(int first, int last, Read read, Finish finish) {
    int done[most_gathers] = {};
    for (int y = 0; y < last; ++y) {
      for (int g = 0; g < job_.gather_count; ++g) {
        const Window &window = job_.gathers[g].window;
        for (int ky = 0; ky < window.rows.kernel; ++ky) {
          const Range range = window.rows.ranges[static_cast<std::size_t>(y) * window.rows.kernel + ky];
          if (range.first == range.last) continue;
          for (; done[g] < range.last; ++done[g]) read(g, done[g], y);
        }
      }
      if (y >= first) finish(y);
    }
  }

  static Place at(int position, std::size_t weight_row) {
    return {static_cast<std::uint32_t>(position) * width, static_cast<std::uint32_t>(weight_row) * width};
  }

  // What one row of a source adds to all rows that read it.
  void scatter(int g, int source_row) {
    const Gather &gather = job_.gathers[g];
    const Window &window = gather.window;
    const int below = window.rows.target_starts[source_row], above = window.rows.target_starts[source_row + 1];
    Place *rows = reserve<Place>(scratch_.segments, above - below), *end = rows;
    for (int i = below; i < above; ++i) {
      const Target target = window.rows.targets[i];
      if (target.output < first_ || target.output >= last_) continue;
      *end++ = at(target.output % ring_ * job_.out_cols, gather.first + target.element * window.cols.kernel * window.channels);
    }
    if (rows == end) return;
    Event *events = reserve<Event>(scratch_.events, static_cast<std::size_t>(window.cols.size) * window.bytes * 8 + slots);
    const Whole *weights = job_.weights + static_cast<std::size_t>(slab_) * job_.depth * width;
    const std::size_t first = (static_cast<std::size_t>(image_) * window.rows.size + source_row) * window.cols.size;
    const std::size_t stride = static_cast<std::size_t>(job_.steps) * window.bytes;
    const int shift = window.channels <= 16 ? 4 : window.channels <= 32 ? 5 : 16;
    const auto list = shift == 4 ? decode<4> : shift == 5 ? decode<2> : decode<1>;
    for (int t = 0; t < size_; ++t) {
      const std::uint8_t *bits = window.train + first * stride + static_cast<std::size_t>(start_ + t) * window.bytes;
      const Event *last = list(bits, window.cols.size, stride, window.bytes / 8, events);
      Whole *open = open_ + t * step_;
      const Place *row = rows;
      for (; end - row > 2; row += 3) add<3>(events, last, shift, window.cols.target_starts, cols_[g], open, weights, row);
      if (end - row == 2) add<2>(events, last, shift, window.cols.target_starts, cols_[g], open, weights, row);
      if (end - row == 1) add<1>(events, last, shift, window.cols.target_starts, cols_[g], open, weights, row);
    }
  }

  // The weights of events to so many rows of outputs. On its own, and everything by value: else the compiler runs out of
  // registers, and has to assume that a store of currents changes whatever lies in memory.
  template <int rows>
  __attribute__((noinline)) static void add(const Event *event, const Event *last, int shift, const std::int32_t *starts,
                                            const Place *cols, Whole *open, const Whole *weights, const Place *row) {
    Whole *to[rows];
    const Whole *from[rows];
    for (int r = 0; r < rows; ++r) {
      to[r] = open + row[r].to;
      from[r] = weights + row[r].from;
    }
    const Event mask = (Event{1} << shift) - 1;
    for (; event != last; ++event) {
      const std::size_t own = static_cast<std::size_t>(*event & mask) * width;
      const std::int32_t *start = starts + (*event >> shift);
      for (const Place *col = cols + start[0], *end = cols + start[1]; col != end; ++col) {
        const std::size_t there = col->to, weight = own + col->from;
        for (int r = 0; r < rows; ++r) {
          for (int n = 0; n < N; ++n) {
            Whole *place = to[r] + there + n * L;
            store(place, load(place) + load(from[r] + weight + n * L));
          }
        }
      }
    }
  }

  // Neurons of a row whose currents are complete; these become zero again, for a later row.
  void finish(int y) {
    Whole *from = open_ + static_cast<std::size_t>(y % ring_) * job_.out_cols * width;
    auto at = [&](int x) {
      return [from = from + x * width, start = start_, step = step_](int p, int t, Vector<Whole> *sum) {
        for (int n = 0; n < N; ++n) {
          Whole *place = from + (t - start) * step + p * width + n * L;
          sum[n] = load(place);
          store(place, Vector<Whole>{});
        }
      };
    };
    const std::size_t *starts = taps_ + static_cast<std::size_t>(y - first_) * job_.out_cols;
    integrate_row<Real, N>(job_, image_, y, slab_, start_, start_ + size_, at, starts, scratch_.taps, fired_);
  }

  const Job<Real> &job_;
  Scratch &scratch_;
  const Place *cols_[most_gathers];
  int ring_, block_, image_ = 0, first_ = 0, last_ = 0, slab_ = 0, start_ = 0, size_ = 0;
  std::size_t step_, *taps_ = nullptr;
  std::int32_t *fired_ = nullptr;
  Whole *open_;
};

template <class Real, int N>
void blocks(const Job<Real> &job, const Share &share, Scratch &scratch) {
  Block<Real, N> block(job, scratch);
  Fired<Real> fired(job, share, scratch.fired);
  for (int row = share.first_row; row < share.last_row;) {
    const int image = row / job.out_rows, end = (image + 1) * job.out_rows;
    const int last = end < share.last_row ? end : share.last_row;
    for (int slab = share.first_slab; slab < share.last_slab; ++slab) {
      block.run(image, row - image * job.out_rows, last - image * job.out_rows, slab, fired.of(image));
    }
    row = last;
  }
  fired.add_up();
}

template <class Real>
void share(const Job<Real> &job, const Share &share, Scratch &scratch) {
  EQUISPIKE_BY_WIDTH(blocks, job.width)(job, share, scratch);
}

}  // namespace

namespace EQUISPIKE_ISA {
void scatter(const Job<float> &job, const Share &part, Scratch &scratch) { share(job, part, scratch); }
void scatter(const Job<double> &job, const Share &part, Scratch &scratch) { share(job, part, scratch); }
}  // namespace EQUISPIKE_ISA

}  // namespace equispike
