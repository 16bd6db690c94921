// The sweeping kernel: for convolutions along rows whose outputs read one place after the other, of few channels. Built
// once per instruction set, like gather.cpp. Output row by output row:
//   pack       the bits that a kernel's column of elements reads at a place of the line become words, for each step;
//   sweep      from place to place, each bit that is set adds its weights to the outputs that read the place: as many as
//              the kernel has columns, in registers; the first of them is then complete;
//   integrate  the row's currents are complete, and its neurons go through the steps.
#include "neurons.h"

namespace equispike {
namespace {

constexpr std::size_t row_bytes = 48 * 1024;  // of the currents of a row, for some steps

// A block of steps at a time.
template <class Real, int N>
class Row {
  using Whole = Int<Real>;
  static constexpr int L = lanes<Real>, width = N * L;

 public:
  Row(const Job<Real> &job, Scratch &scratch) : job_(job), scratch_(scratch) {
    step_ = static_cast<std::size_t>(job.out_cols) * width;
    block_ = static_cast<int>(row_bytes / (step_ * sizeof(Whole)));
    block_ = block_ < 1 ? 1 : block_ < job.steps ? block_ : job.steps;
    row_ = reserve_lines<Whole>(scratch.open, step_ * block_);
  }

  // Row y of one image and slab.
  void run(int image, int y, int slab, std::int32_t *fired) {
    for (int g = 0; g < job_.gather_count; ++g) pack(image, y, g);
    auto *starts = reserve<std::size_t>(scratch_.starts, job_.out_cols + 1);
    row_reads(job_, image, y, slab * width, width, 0, starts, scratch_.taps);
    for (int t = 0; t < job_.steps; t += block_) {
      const int end = t + block_ < job_.steps ? t + block_ : job_.steps;
      for (int g = 0; g < job_.gather_count; ++g) {
        const Axis &cols = job_.gathers[g].window.cols;
        const bool alone = job_.gathers[g].sweep.alone();
        const auto some = cols.line_stride == 1 ? by_kernel<1>(cols.kernel, alone) : by_kernel<2>(cols.kernel, alone);
        some(*this, g, slab, t, end);
      }
      auto at = [&](int x) {
        return [from = row_ + x * width, t, step = step_](int p, int now, Vector<Whole> *sum) {
          for (int n = 0; n < N; ++n) sum[n] = load(from + (now - t) * step + p * width + n * L);
        };
      };
      integrate_row<Real, N>(job_, image, y, slab, t, end, at, starts, scratch_.taps, fired);
    }
  }

 private:
  // What an output row reads of one source, as words, [places][words][steps].
  void pack(int image, int y, int g) {
    const Gather &gather = job_.gathers[g];
    const Window &window = gather.window;
    const Sweep &sweep = gather.sweep;
    const std::size_t steps = job_.steps, words = sweep.words();
    const bool alone = sweep.alone();
    std::uint64_t *to = reserve<std::uint64_t>(scratch_.decoded[g], window.cols.line_size * words * steps);
    std::memset(to, 0, window.cols.line_size * words * steps * 8);
    const std::size_t first = static_cast<std::size_t>(image) * window.rows.size;
    for (int place = 0; place < window.cols.line_size; ++place, to += words * steps) {
      const Range cols = window.cols.line[place];
      for (int ky = 0; ky < window.rows.kernel; ++ky) {
        const Range rows = window.rows.ranges[static_cast<std::size_t>(y) * window.rows.kernel + ky];
        for (int i = 0; i < sweep.high; ++i) {
          for (int j = 0; j < sweep.wide; ++j) {
            const int row = rows.first + i, col = cols.first + j;
            if (row >= rows.last || col >= cols.last) continue;
            const std::uint8_t *bits = window.train + ((first + row) * window.cols.size + col) * steps * window.bytes;
            const int bit = alone ? ky * sweep.slot : ky * sweep.same * 64 + (i * sweep.wide + j) * sweep.slot;
            std::uint64_t *word = to + bit / 64 * steps;
            const int shift = bit % 64;
            for (std::size_t t = 0; t < steps; ++t) {
              std::uint64_t own;
              std::memcpy(&own, bits + 8 * t, 8);
              word[t] |= own << shift;
            }
          }
        }
      }
    }
  }

  using Some = void (*)(const Row &, int g, int slab, int first, int last);
  template <int S>
  static Some by_kernel(int kernel, bool alone) {
    return kernel == 1 ? by_window<1, S>(alone) : kernel == 2 ? by_window<2, S>(alone) : by_window<3, S>(alone);
  }
  template <int K, int S>
  static Some by_window(bool alone) {
    return alone ? &Row::sweep<K, S, true> : &Row::sweep<K, S, false>;
  }

  // Currents of the row in steps first ... last - 1, for K columns of the kernel and a stride of S places. On its own, and
  // everything by value: else the compiler runs out of registers, and has to assume that a store of currents changes
  // whatever lies in memory.
  template <int K, int S, bool alone>
  static __attribute__((noinline)) void sweep(const Row &row, int g, int slab, int first, int last) {
    const Job<Real> &job = row.job_;
    const Gather &gather = job.gathers[g];
    const std::size_t steps = job.steps, words = gather.sweep.words(), group = gather.sweep.rows * width;
    const std::size_t table = gather.sweep.groups * group;  // of one column of the kernel
    const int same = alone ? 1 : gather.sweep.same;
    const unsigned mask = gather.sweep.slot - 1;
    const Whole *weights = job.weights + static_cast<std::size_t>(slab) * job.depth * width + gather.sweep.first * width;
    const auto *bits = static_cast<const std::uint64_t *>(row.scratch_.decoded[g].data);
    constexpr int open = (K + S - 1) / S;  // outputs from x on that places read so far belong to
    // Bits that are taken at once, wanted or not, where one costs little: that saves branches that are mispredicted.
    constexpr int at_once = alone && N == 1 ? 2 : 1;
    const int outputs = job.out_cols;
    for (int t = first; t < last; ++t) {
      Vector<Whole> sum[open][N] = {};
      Whole *to = row.row_ + (t - first) * row.step_;
      for (int x = 1 - open; x < outputs; ++x) {
        // the places that x is the first to read the last of: element K - S + i of x, S less of the output behind it
        for (int i = S > K ? S - K : 0; i < S; ++i) {
          const int place = S * x + K - S + i;
          if (S > 1 && place < 0) continue;
          const std::uint64_t *word = bits + place * words * steps + t;
          const Whole *own = weights;
          for (const Whole *end = weights + table; own != end; own += group) {
            for (int w = 0; w < same; ++w, word += steps) {
              for (std::uint64_t left = *word; left;) {
                for (int b = 0; b < at_once; ++b, left &= left - 1) {
                  const Whole *from = own + (alone ? lowest(left) : lowest(left) & mask) * width;
                  for (int k = 0; k < open; ++k) {
                    const int element = K - (k + 1) * S + i;
                    if (element < 0) continue;
                    for (int n = 0; n < N; ++n) sum[k][n] += load(from + element * table + n * L);
                  }
                }
              }
            }
          }
        }
        if (x >= 0) {
          for (int n = 0; n < N; ++n) store(to + x * width + n * L, g ? load(to + x * width + n * L) + sum[0][n] : sum[0][n]);
        }
        for (int k = 0; k + 1 < open; ++k) {
          for (int n = 0; n < N; ++n) sum[k][n] = sum[k + 1][n];
        }
        for (int n = 0; n < N; ++n) sum[open - 1][n] = Vector<Whole>{};
      }
    }
  }

  const Job<Real> &job_;
  Scratch &scratch_;
  int block_;
  std::size_t step_;
  Whole *row_;
};

template <class Real, int N>
void rows(const Job<Real> &job, const Share &share, Scratch &scratch) {
  Row<Real, N> row(job, scratch);
  Fired<Real> fired(job, share, scratch.fired);
  for (int y = share.first_row; y < share.last_row; ++y) {
    const int image = y / job.out_rows;
    for (int slab = share.first_slab; slab < share.last_slab; ++slab) row.run(image, y % job.out_rows, slab, fired.of(image));
  }
  fired.add_up();
}

template <class Real>
void share(const Job<Real> &job, const Share &share, Scratch &scratch) {
  EQUISPIKE_BY_WIDTH(rows, job.width)(job, share, scratch);
}

}  // namespace

namespace EQUISPIKE_ISA {
void sweep(const Job<float> &job, const Share &part, Scratch &scratch) { share(job, part, scratch); }
void sweep(const Job<double> &job, const Share &part, Scratch &scratch) { share(job, part, scratch); }
}  // namespace EQUISPIKE_ISA

}  // namespace equispike
