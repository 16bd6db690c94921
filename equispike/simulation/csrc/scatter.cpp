// The scattering kernel: best where there are few output channels. Built once per instruction set, like gather.cpp. For a
// few steps at a time, output row by output row:
//   decode     each input row that the output row reads, and no row before it did, becomes one list of events per step;
//   scatter    each event adds its weight rows to the currents of all outputs that read it, in this and later rows;
//   integrate  the row's currents are complete, and its neurons go through the steps.
// Only the rows between the first that is not complete and the last that was added to are kept: they stay in the cache.
#include "neurons.h"

namespace equispike {
namespace {

constexpr int slack = 4;                       // the decoder writes four events at a time, past the end
constexpr std::size_t open_bytes = 96 * 1024;  // of the currents that are kept

using Event = std::uint32_t;  // column, then channel in the lower half

// Where the events of one source position go: elements of the currents, and of the weights for channel 0.
struct Step {
  std::uint32_t to, from;
};

// Rows first ... last - 1 of one image and slab, a block of steps at a time.
template <class Real, int N>
class Block {
  static constexpr int L = lanes<Real>, width = N * L;

 public:
  Block(const Job<Real> &job, int image, int first, int last, int slab, std::int32_t *fired, Scratch &scratch)
      : job_(job), image_(image), first_(first), last_(last), slab_(slab), fired_(fired), scratch_(scratch) {
    int ring = 1;
    walk([&](int g, int row, int y) {
      const Window &window = job.gathers[g].window;
      const int lowest = y < first ? first : y;
      for (int i = window.row_starts[row]; i < window.row_starts[row + 1]; ++i) {
        const int output = window.row_targets[i].output;
        if (output < last && output - lowest + 1 > ring) ring = output - lowest + 1;
      }
    }, [](int) {});
    ring_ = ring;
    // A cache line more, or the same place in all steps would compete for the same few lines of the cache.
    step_ = static_cast<std::size_t>(ring) * job.out_cols * width + 64 / sizeof(Real);
    block_ = static_cast<int>(open_bytes / (step_ * sizeof(Real)));
    block_ = block_ < 1 ? 1 : block_ < job.steps ? block_ : job.steps;
    // Whole cache lines: what lies across two is loaded and stored twice.
    const auto start = reinterpret_cast<std::uintptr_t>(reserve<Real>(scratch.open, step_ * block_ + 64 / sizeof(Real)));
    open_ = reinterpret_cast<Real *>((start + 63) / 64 * 64);
    std::memset(open_, 0, step_ * block_ * sizeof(Real));
  }

  void run() {
    for (int t = 0; t < job_.steps; t += block_) {
      start_ = t;
      size_ = t + block_ < job_.steps ? block_ : job_.steps - t;
      walk([this](int g, int row, int) { scatter(g, row); }, [this](int y) { finish(y); });
    }
  }

 private:
  // For each output row in order, show what it is the first to read, then the row itself. From the image's first row
  // on, or the order of additions would depend on how the rows are shared among threads.
  template <class Read, class Finish>
  void walk(Read read, Finish finish) {
    int done[most_gathers] = {};
    for (int y = 0; y < last_; ++y) {
      for (int g = 0; g < job_.gather_count; ++g) {
        const Window &window = job_.gathers[g].window;
        for (int ky = 0; ky < window.kernel_rows; ++ky) {
          const Range range = window.row_ranges[static_cast<std::size_t>(y) * window.kernel_rows + ky];
          if (range.first == range.last) continue;
          for (; done[g] < range.last; ++done[g]) read(g, done[g], y);
        }
      }
      if (y >= first_) finish(y);
    }
  }

  Real *row(int y) { return open_ + static_cast<std::size_t>(y % ring_) * job_.out_cols * width; }

  // The events of one step in one row of a source, in order.
  static Event *decode(const std::uint8_t *bits, int cols, std::size_t stride, int words, Event *event) {
    for (int col = 0; col < cols; ++col, bits += stride) {
      for (int word = 0; word < words; ++word) {
        std::uint64_t left;
        std::memcpy(&left, bits + 8 * word, 8);
        const Event first = static_cast<Event>(col) << 16 | static_cast<Event>(64 * word);
        // Four at a time, wanted or not: few words hold more, so the branch is predicted.
        int n = __builtin_popcountll(left);
        do {
          for (int i = 0; i < 4; ++i) {
            event[i] = first + static_cast<Event>(__builtin_ctzll(left | std::uint64_t{1} << 63));
            left &= left - 1;
          }
          event += n < 4 ? n : 4;
          n -= 4;
        } while (n > 0);
      }
    }
    return event;
  }

  static Step step(int position, std::size_t weight_row) {
    return {static_cast<std::uint32_t>(position) * width, static_cast<std::uint32_t>(weight_row) * width};
  }

  void scatter(int g, int source_row) {
    const Gather &gather = job_.gathers[g];
    const Window &window = gather.window;
    const int below = window.row_starts[source_row + 1] - window.row_starts[source_row];
    const int across = window.col_starts[window.cols];
    Step *steps = reserve<Step>(scratch_.steps, static_cast<std::size_t>(across) * below + across + below);
    Step *cols = steps + static_cast<std::size_t>(across) * below, *rows = cols + across, *end = rows;
    for (int i = 0; i < across; ++i) {
      const Target target = window.col_targets[i];
      cols[i] = step(target.output, target.element * window.channels);
    }
    for (int i = 0; i < below; ++i) {
      const Target target = window.row_targets[window.row_starts[source_row] + i];
      if (target.output < first_ || target.output >= last_) continue;
      *end++ = step(target.output % ring_ * job_.out_cols, gather.first + target.element * window.kernel_cols * window.channels);
    }
    auto *starts = reserve<std::uint32_t>(scratch_.segments, window.cols + 1);
    std::uint32_t count = 0;
    for (int col = 0; col < window.cols; ++col) {
      starts[col] = count;
      for (const Step *row = rows; row != end; ++row) {
        for (int i = window.col_starts[col]; i < window.col_starts[col + 1]; ++i) {
          steps[count++] = {row->to + cols[i].to, row->from + cols[i].from};
        }
      }
    }
    starts[window.cols] = count;
    if (!count) return;
    Event *events = reserve<Event>(scratch_.events, static_cast<std::size_t>(window.cols) * window.bytes * 8 + slack);
    const Real *weights = job_.weights + static_cast<std::size_t>(slab_) * job_.depth * width;
    const std::size_t first = (static_cast<std::size_t>(image_) * window.rows + source_row) * window.cols;
    const std::size_t stride = static_cast<std::size_t>(job_.steps) * window.bytes;
    for (int t = 0; t < size_; ++t) {
      const std::uint8_t *bits = window.train + first * stride + static_cast<std::size_t>(start_ + t) * window.bytes;
      const Event *last = decode(bits, window.cols, stride, window.bytes / 8, events);
      add(events, last, starts, steps, open_ + t * step_, weights);
    }
  }

  // On its own, and everything by value: else the compiler runs out of registers, and has to assume that a store of
  // currents changes whatever lies in memory.
  __attribute__((noinline)) static void add(const Event *event, const Event *last, const std::uint32_t *starts,
                                            const Step *steps, Real *open, const Real *weights) {
    for (; event != last; ++event) {
      const Real *own = weights + (*event & 0xffff) * width;
      const std::uint32_t *start = starts + (*event >> 16);
      const Step *step = steps + start[0], *end = steps + start[1];
      for (; step != end; ++step) {
        Real *place = open + step->to;
        const Real *weight = own + step->from;
        for (int n = 0; n < N; ++n) store(place + n * L, load(place + n * L) + load(weight + n * L));
      }
    }
  }

  // Neurons of a row whose currents are complete; these become zero again, for a later row.
  void finish(int y) {
    Real *from = row(y);
    const Real *base = job_.base + image_ * job_.base_image + slab_ * width;
    for (int x = 0; x < job_.out_cols; ++x, from += width) {
      const int here = y * job_.out_cols + x;
      const Real *own = base + here * job_.base_position;
      auto current = [from, own, start = start_, step = step_, base_step = job_.base_step](int t, Vector<Real> *sum) {
        for (int n = 0; n < N; ++n) {
          Real *place = from + (t - start) * step + n * L;
          sum[n] = load(own + t * base_step + n * L) + load(place);
          store(place, Vector<Real>{});
        }
      };
      integrate<Real, N>(job_, image_, here, slab_, start_, start_ + size_, current, fired_, scratch_.taps);
    }
  }

  const Job<Real> &job_;
  const int image_, first_, last_, slab_;
  std::int32_t *fired_;
  Scratch &scratch_;
  int ring_, block_, start_ = 0, size_ = 0;
  std::size_t step_;
  Real *open_;
};

template <class Real, int N>
void rows(const Job<Real> &job, int image, int first, int last, int slab, std::int32_t *fired, Scratch &scratch) {
  Block<Real, N>(job, image, first, last, slab, fired, scratch).run();
}

template <class Real>
void share(const Job<Real> &job, const Share &share, Scratch &scratch) {
  const auto run = EQUISPIKE_BY_WIDTH(rows, job.width);
  Fired<Real> fired(job, share, scratch.fired);
  for (int row = share.first_row; row < share.last_row;) {
    const int image = row / job.out_rows, end = (image + 1) * job.out_rows;
    const int last = end < share.last_row ? end : share.last_row;
    for (int slab = share.first_slab; slab < share.last_slab; ++slab) {
      run(job, image, row - image * job.out_rows, last - image * job.out_rows, slab, fired.of(image), scratch);
    }
    row = last;
  }
  fired.add_up();
}

}  // namespace

namespace EQUISPIKE_ISA {
void scatter(const Job<float> &job, const Share &part, Scratch &scratch) { share(job, part, scratch); }
void scatter(const Job<double> &job, const Share &part, Scratch &scratch) { share(job, part, scratch); }
}  // namespace EQUISPIKE_ISA

}  // namespace equispike
