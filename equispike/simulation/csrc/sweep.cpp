// The sweeping kernel: for convolutions along rows whose outputs read one place after the other, of few channels. Built
// once per instruction set, like gather.cpp. Output row by output row:
//   pack       the bits that a kernel's column of elements reads at a place of the line become words, for each step; those
//              of a window of positions, which share their weights, are counted, and the count's binary digits packed;
//   sweep      from place to place, each bit that is set adds its weights to the outputs that read the place: as many as
//              the kernel has columns, in registers; the first of them is then complete. A few steps go side by side;
//   integrate  the row's currents are complete, and its neurons go through the steps.
#include "neurons.h"

namespace equispike {
namespace {

constexpr std::size_t row_bytes = 128 * 1024;  // of the currents of a row, for some steps: not for L1, but for any L2 cache

// How many of some positions spike, channel by channel: sums of bits, digit by digit. Digit d goes to the words of the steps
// from to[d * next] on, in whose bits from `shift` on there is nothing yet.
template <int digits>
void count_spikes(const std::uint8_t *const *positions, int count, std::size_t steps, int shift, std::size_t next,
                  std::uint64_t *to) {
  auto some = [&](auto bits, std::size_t t) __attribute__((always_inline)) {
    decltype(bits) sum[digits] = {}, word;
    for (int i = 0; i < count; ++i) {
      std::memcpy(&bits, positions[i] + 8 * t, sizeof bits);
      for (int d = 0; d < digits; ++d) {
        const auto carry = sum[d] & bits;
        sum[d] ^= bits;
        bits = carry;
      }
    }
    for (int d = 0; d < digits; ++d) {
      std::memcpy(&word, to + d * next + t, sizeof word);
      word |= sum[d] << static_cast<std::uint64_t>(shift);
      std::memcpy(to + d * next + t, &word, sizeof word);
    }
  };
  constexpr std::size_t at_once = vector_bytes / 8;
  std::size_t t = 0;
  for (; t + at_once <= steps; t += at_once) some(Group<std::uint64_t, at_once>{}, t);
  for (; t < steps; ++t) some(std::uint64_t{}, t);
}

constexpr decltype(&count_spikes<2>) by_digits[] = {count_spikes<2>, count_spikes<3>, count_spikes<4>,
                                                    count_spikes<5>, count_spikes<6>, count_spikes<7>};

// What an output row reads of source g in steps first ... last - 1, as words, [places][words][steps].
template <class Real>
void pack(const Job<Real> &job, int image, int y, int g, int first, int last, Scratch &scratch) {
  const Window &window = job.gathers[g].window;
  const Sweep &sweep = job.gathers[g].sweep;
  const std::size_t steps = last - first, place_words = sweep.words() * steps;
  const std::ptrdiff_t position = static_cast<std::ptrdiff_t>(job.steps) * 8, row_size = position * window.cols.size;
  std::uint64_t *to = reserve<std::uint64_t>(scratch.decoded[g], window.cols.line_size * place_words);
  std::memset(to, 0, window.cols.line_size * place_words * 8);
  const std::uint8_t *train = window.train + row_size * window.rows.size * image + first * 8;
  const Range *rows = window.rows.ranges + static_cast<std::size_t>(y) * window.rows.kernel;
  for (int place = 0; place < window.cols.line_size; ++place, to += place_words) {
    const Range cols = window.cols.line[place];
    // Positions lie far from each other, which the processor does not foresee.
    const Range next = window.cols.line[place + 1 < window.cols.line_size ? place + 1 : place];
    const std::ptrdiff_t ahead = (next.first - cols.first) * position;
    std::uint64_t *group = to;
    int shift = 0;
    for (int ky = 0; ky < window.rows.kernel; ++ky) {
      const std::uint8_t *positions[64];
      int count = 0;
      for (int row = rows[ky].first; row < rows[ky].last; ++row) {
        for (int col = cols.first; col < cols.last; ++col) {
          const std::uint8_t *own = train + row * row_size + col * position;
          for (std::size_t t = 0; t < steps; t += 8) __builtin_prefetch(own + ahead + 8 * t);
          positions[count++] = own;
        }
      }
      if (sweep.digits > 1) {
        by_digits[sweep.digits - 2](positions, count, steps, shift, sweep.groups * steps, group);
      } else if (count) {
        for (std::size_t t = 0; t < steps; ++t) {
          std::uint64_t bits;
          std::memcpy(&bits, positions[0] + 8 * t, 8);
          group[t] |= bits << shift;
        }
      }
      shift += sweep.slot;
      if (shift == 64) {
        shift = 0;
        group += steps;
      }
    }
  }
}

// A block of steps at a time.
template <class Real, int N>
class Row {
  using Whole = Int<Real>;
  static constexpr int L = lanes<Real>, width = N * L;

 public:
  Row(const Job<Real> &job, Scratch &scratch) : job_(job), scratch_(scratch) {
    step_ = static_cast<std::size_t>(job.out_cols) * width;
    block_ = static_cast<int>(row_bytes / (step_ * sizeof(Whole)));
    block_ = block_ < 8 ? 8 : block_ / 8 * 8;
    if (block_ > job.steps) block_ = job.steps;
    row_ = reserve_lines<Whole>(scratch.open, step_ * block_);
  }

  // Row y of one image and slab.
  void run(int image, int y, int slab, std::int32_t *fired) {
    auto *starts = reserve<std::size_t>(scratch_.starts, job_.out_cols + 1);
    row_reads(job_, image, y, slab * width, width, 0, starts, scratch_.taps);
    for (int t = 0; t < job_.steps; t += block_) {
      const int end = t + block_ < job_.steps ? t + block_ : job_.steps;
      for (int g = 0; g < job_.gather_count; ++g) {
        const Axis &cols = job_.gathers[g].window.cols;
        const auto sweep = cols.line_stride == 1 ? by_kernel<1>(cols.kernel) : by_kernel<2>(cols.kernel);
        pack(job_, image, y, g, t, end, scratch_);
        sweep(*this, g, slab, t, end);
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
  template <int S>
  static auto by_kernel(int kernel) {
    return kernel == 1 ? &Row::sweep<1, S> : kernel == 2 ? &Row::sweep<2, S> : &Row::sweep<3, S>;
  }

  // Currents of the row in steps first ... last - 1, for K columns of the kernel and a stride of S places. On its own, and
  // everything by value: else the compiler runs out of registers, and has to assume that a store of currents changes
  // whatever lies in memory.
  template <int K, int S>
  static __attribute__((noinline)) void sweep(const Row &row, int g, int slab, int first, int last) {
    const Job<Real> &job = row.job_;
    const Gather &gather = job.gathers[g];
    const std::size_t words = gather.sweep.words(), group = word_rows * width, table = words * group;
    const Whole *weights = job.weights + static_cast<std::size_t>(slab) * job.depth * width + gather.sweep.first * width;
    const auto *bits = static_cast<const std::uint64_t *>(row.scratch_.decoded[g].data);
    const std::size_t steps = last - first;
    constexpr int open = (K + S - 1) / S;  // outputs from x on that places read so far belong to
    // Steps that take a bit each at once, wanted or not: that saves branches that are mispredicted.
    constexpr int fit = registers * 3 / 4 / (open * N), together = fit < 1 ? 1 : fit < 4 ? fit : 4;
    const int outputs = job.out_cols;
    auto some = [&](auto count, int t) __attribute__((always_inline)) {
      constexpr int P = decltype(count)::value;
      Vector<Whole> sum[P][open][N] = {};
      Whole *to = row.row_ + (t - first) * row.step_;
      for (int x = 1 - open; x < outputs; ++x) {
        // the places that x is the first to read the last of: element K - S + i of x, S less of the output behind it
        for (int i = S > K ? S - K : 0; i < S; ++i) {
          const int place = S * x + K - S + i;
          if (S > 1 && place < 0) continue;
          const std::uint64_t *word = bits + place * words * steps + t - first;
          const Whole *own = weights;
          for (const Whole *end = weights + table; own != end; own += group, word += steps) {
            std::uint64_t left[P], any = 0;
            for (int p = 0; p < P; ++p) any |= left[p] = word[p];
            while (any) {
              any = 0;
              EQUISPIKE_UNROLL
              for (int p = 0; p < P; ++p) {
                const Whole *from = own + lowest(left[p]) * width;
                any |= left[p] &= left[p] - 1;
                for (int k = 0; k < open; ++k) {
                  const int element = K - (k + 1) * S + i;
                  if (element < 0) continue;
                  for (int n = 0; n < N; ++n) sum[p][k][n] += load(from + element * table + n * L);
                }
              }
            }
          }
        }
        EQUISPIKE_UNROLL
        for (int p = 0; p < P; ++p) {
          if (x >= 0) {
            Whole *own = to + p * row.step_ + x * width;
            for (int n = 0; n < N; ++n) store(own + n * L, g ? load(own + n * L) + sum[p][0][n] : sum[p][0][n]);
          }
          for (int k = 0; k + 1 < open; ++k) {
            for (int n = 0; n < N; ++n) sum[p][k][n] = sum[p][k + 1][n];
          }
          for (int n = 0; n < N; ++n) sum[p][open - 1][n] = Vector<Whole>{};
        }
      }
    };
    int t = first;
    for (; t + together <= last; t += together) some(std::integral_constant<int, together>{}, t);
    for (; t < last; ++t) some(std::integral_constant<int, 1>{}, t);
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
