// The dense kernel: best where many neurons spike, on machines with instructions for products of matrices. Built once per
// instruction set, like gather.cpp. Weights are split into one to four digits to the base 256. For a few output rows and
// some steps at a time:
//   lay out    the spikes of source rows as bytes, with zeros where kernels reach into the padding;
//   multiply   the bytes of 16 steps and the digits of 16 output channels, 64 inputs at a time;
//   integrate  the sums of digits make the weights that arrive, and the neurons go through the steps.
#include "neurons.h"

#if defined(__AMX_INT8__)
#include "tiles.h"
#endif

namespace equispike {
namespace {

constexpr int most_steps = 64;                   // laid out at once
constexpr std::size_t most_bytes = 1024 * 1024;  // of spikes laid out at once, which are to stay in the L2 cache
constexpr int cells = side * side;

// Bytes that some product reads, for output column 0 and the first 16 steps; the other numbers are bytes from one to the next.
struct Operand {
  const std::uint8_t *bytes;
  std::size_t step, part, column;
};

// Sixteen steps of an output column.
struct Place {
  int column, part;
};

const std::uint8_t *at(const Operand &operand, Place place) {
  return operand.bytes + place.column * operand.column + place.part * operand.part;
}

// How a line of a source lies in memory: parts of 16 steps, and in them blocks of 64 channels of a position, step by step;
// or, where several positions share 64 bytes, whole steps of the line. So a product reads few pages.
struct Layout {
  std::size_t step, part, column, chunk;  // bytes; a column of the line, and what the next product reads

  explicit Layout(const Gather &gather) {
    const std::size_t slot = gather.slot, places = gather.window.cols.line_size;
    if (slot < deep) {
      step = (places * slot + 2 * deep - 1) / deep * deep;  // the last product reads on
      part = side * step;
      column = slot;
      chunk = deep;
    } else {
      step = deep;
      chunk = side * deep;
      column = slot / deep * chunk;
      part = places * column;
    }
  }
};

// sums[m][j], 16 steps by 16 channels, of `count` operands at M places and J digits.
template <int M, int J>
void products(const Operand *operand, std::size_t count, const Place *place, const std::int8_t *weights,
              std::int32_t *const *sums) {
#if defined(__AMX_INT8__)
  tiles::products<M, J>(
      count, [=](std::size_t k, int m) { return at(operand[k], place[m]); },
      [=](std::size_t k) { return operand[k].step; }, weights, sums);
#else
  for (int m = 0; m < M; ++m) {
    for (int j = 0; j < J; ++j) {
      const std::int8_t *own = weights + j * deep * side;
      std::int32_t *sum = sums[m] + j * cells;
      std::memset(sum, 0, cells * sizeof *sum);
      for (std::size_t k = 0; k < count; ++k, own += J * deep * side) {
        for (int t = 0; t < side; ++t) {
          const std::uint8_t *bytes = at(operand[k], place[m]) + t * operand[k].step;
          for (int i = 0; i < deep; ++i) {
            if (!bytes[i]) continue;
            for (int n = 0; n < side; ++n) sum[t * side + n] += bytes[i] * own[i / 4 * 4 * side + n * 4 + i % 4];
          }
        }
      }
    }
  }
#endif
}

using Products = void (*)(const Operand *, std::size_t, const Place *, const std::int8_t *, std::int32_t *const *);

// A position of a source and by how many bits it is moved on.
struct Source {
  const std::uint8_t *bits;
  int shift;
};

// 64 bytes that say how many of the sources' bits are set, for steps first ... last - 1.
void count(const Source *source, std::size_t sources, std::size_t bytes, int first, int last, std::uint8_t *to,
           std::size_t stride) {
  for (int t = first; t < last; ++t, to += stride) {
#if defined(__AVX512BW__)
    __m512i sum = _mm512_setzero_si512();
    for (std::size_t s = 0; s < sources; ++s) {
      std::uint64_t bits;
      std::memcpy(&bits, source[s].bits + t * bytes, 8);
      sum = _mm512_mask_add_epi8(sum, bits << source[s].shift, sum, _mm512_set1_epi8(1));
    }
    _mm512_storeu_si512(to, sum);
#else
    std::uint64_t sum[8] = {};
    for (std::size_t s = 0; s < sources; ++s) {
      std::uint64_t bits;
      std::memcpy(&bits, source[s].bits + t * bytes, 8);
      bits <<= source[s].shift;
      for (int i = 0; i < 8; ++i) {  // bit k of a byte is alone in byte k, then becomes a one
        const std::uint64_t alone = (bits >> (8 * i) & 255) * 0x0101010101010101u & 0x8040201008040201u;
        sum[i] += (alone + 0x7f7f7f7f7f7f7f7fu) >> 7 & 0x0101010101010101u;
      }
    }
    std::memcpy(to, sum, 64);
#endif
  }
}

template <class Real, int N>
class Rows {
  static constexpr int L = lanes<Real>, width = N * L, columns = width / side;

 public:
  Rows(const Job<Real> &job, const Share &share, Scratch &scratch)
      : job_(job), share_(share), scratch_(scratch), fired_(job, share, scratch.fired) {
    steps_ = job.steps < most_steps ? (job.steps + side - 1) / side * side : most_steps;
    const int rows = share.last_row - share.first_row;
    while (steps_ > side && bytes(rows < job.out_rows ? rows : job.out_rows) > most_bytes) steps_ = (steps_ / side + 1) / 2 * side;
  }

  void run() {
    for (int first = share_.first_row, last; first < share_.last_row; first = last) {
      last = tile(first);
      for (int t = 0; t < job_.steps; t += steps_) {
        start_ = t;
        size_ = t + steps_ < job_.steps ? steps_ : job_.steps - t;
        lay_out(first, last);
        for (int slab = share_.first_slab; slab < share_.last_slab; ++slab) {
          for (int row = first; row < last; ++row) multiply(row, slab);
        }
      }
    }
    fired_.add_up();
  }

 private:
  int lines(const Gather &gather, int rows) const { return (rows - 1) * gather.window.rows.line_stride + gather.window.rows.kernel; }

  std::size_t line_bytes(const Layout &layout) const { return steps_ / side * layout.part; }

  std::size_t bytes(int rows) const {
    std::size_t total = 0;
    for (int g = 0; g < job_.gather_count; ++g) total += lines(job_.gathers[g], rows) * line_bytes(Layout(job_.gathers[g]));
    return total;
  }

  // Where the rows end that are laid out together with this one: whole images, or a part of one.
  int tile(int first) const {
    std::size_t used = 0;
    int row = first;
    while (row < share_.last_row) {
      int rows = rows_of_image(row, share_.last_row);
      while (!used && rows > 1 && bytes(rows) > most_bytes) --rows;
      if (used && used + bytes(rows) > most_bytes) break;
      used += bytes(rows);
      row += rows;
      if (row % job_.out_rows) break;
    }
    return row;
  }

  void lay_out(int first, int last) {
    std::size_t total = 0;
    for (int row = first, rows; row < last; row += rows) {
      rows = rows_of_image(row, last);
      total += bytes(rows);
    }
    std::uint8_t *to = reserve<std::uint8_t>(scratch_.open, total);
    const std::uint8_t **base = reserve<const std::uint8_t *>(scratch_.starts, static_cast<std::size_t>(last - first) * job_.gather_count);
    base_ = base;
    first_ = first;
    for (int row = first, rows; row < last; row += rows) {
      rows = rows_of_image(row, last);
      for (int g = 0; g < job_.gather_count; ++g) {
        const Gather &gather = job_.gathers[g];
        const std::size_t line = line_bytes(Layout(gather));
        const int above = row % job_.out_rows * gather.window.rows.line_stride;
        for (int i = 0; i < rows; ++i) {
          base[static_cast<std::size_t>(row - first + i) * job_.gather_count + g] = to + i * gather.window.rows.line_stride * line;
        }
        for (int i = 0; i < lines(gather, rows); ++i, to += line) lay_out(gather, row / job_.out_rows, above + i, to);
      }
    }
  }

  int rows_of_image(int row, int last) const {
    const int rows = job_.out_rows - row % job_.out_rows;
    return rows < last - row ? rows : last - row;
  }

  // One line of a source, [steps][places][channels].
  void lay_out(const Gather &gather, int image, int place, std::uint8_t *to) {
    const Window &window = gather.window;
    const Range rows = window.rows.line[place];
    const Layout layout(gather);
    const int together = gather.slot < deep ? deep / gather.slot : 1;
    for (int col = 0; col < window.cols.line_size; col += together) {
      for (int word = 0; word * deep < gather.slot || !word; ++word) {
        std::size_t sources = 0;
        for (int i = 0; i < together && col + i < window.cols.line_size; ++i) {
          const Range cols = window.cols.line[col + i];
          for (int y = rows.first; y < rows.last; ++y) {
            for (int x = cols.first; x < cols.last; ++x) {
              const std::size_t position = (static_cast<std::size_t>(image) * window.rows.size + y) * window.cols.size + x;
              const std::uint8_t *bits = window.train + (position * job_.steps + start_) * window.bytes + 8 * word;
              reserve<Source>(scratch_.segments, sources + 1)[sources] = {bits, i * gather.slot};
              ++sources;
            }
          }
        }
        for (int t = 0; t < size_; t += side) {
          count(static_cast<const Source *>(scratch_.segments.data), sources, window.bytes, t,
                t + side < size_ ? t + side : size_,
                to + col * layout.column + word * layout.chunk + t / side * layout.part, layout.step);
        }
      }
    }
  }

  const std::int8_t *weights(int slab) const { return job_.digits + slab * job_.products * columns * job_.digit_count * deep * side; }

  void multiply(int row, int slab) {
    auto *const operands = reserve<Operand>(scratch_.steps, job_.products), *operand = operands;
    for (int g = 0; g < job_.gather_count; ++g) {
      const Gather &gather = job_.gathers[g];
      const std::uint8_t *line = base_[static_cast<std::size_t>(row - first_) * job_.gather_count + g];
      const Layout layout(gather);
      for (int ky = 0; ky < gather.window.rows.kernel; ++ky, line += line_bytes(layout)) {
        for (int i = 0; i * deep < gather.window.cols.kernel * gather.slot; ++i) {
          *operand++ = {line + i * layout.chunk, layout.step, layout.part, gather.window.cols.line_stride * layout.column};
        }
      }
    }
    for (int x = 0; x < job_.out_cols; x += 2) {
      for (int part = 0; part * side < size_; ++part) {
        x + 1 < job_.out_cols ? multiply<2>(row, slab, {x, part}, operands) : multiply<1>(row, slab, {x, part}, operands);
      }
    }
  }

  // P output columns from this one on, in 16 steps.
  template <int P>
  void multiply(int row, int slab, Place place, const Operand *operands) {
    static constexpr Products of_digits[] = {products<P, 1>, products<P, 2>, products<P, 3>};
    const Place places[] = {place, {place.column + 1, place.part}};
    const int all = columns * job_.digit_count;
    auto *const buffer = reserve<std::int32_t>(scratch_.events, P * static_cast<std::size_t>(all) * cells);
    for (int j = 0; j < all; j += group_of(all - j)) {
      std::int32_t *const sums[] = {buffer + j * cells, buffer + (all + j) * cells};
      const std::int8_t *own = weights(slab) + j * job_.products * deep * side;
      of_digits[group_of(all - j) - 1](operands, job_.products, places, own, sums);
    }
    const int image = row / job_.out_rows, y = row % job_.out_rows;
    const int first = start_ + place.part * side, last = first + side < start_ + size_ ? first + side : start_ + size_;
    auto total = [=, digits = job_.digit_count](int p, int t, Vector<Int<Real>> *sum) __attribute__((always_inline)) {
      for (int n = 0; n < N; ++n) {
        const std::int32_t *own = buffer + (p * all + n * L / side * digits) * cells + (t - first) * side + n * L % side;
        sum[n] = widen<Int<Real>>(own + (digits - 1) * cells);
        for (int d = digits - 2; d >= 0; --d) sum[n] = (sum[n] << 8) + widen<Int<Real>>(own + d * cells);
      }
    };
    std::size_t starts[P + 1] = {};
    for (int p = 0; p < P; ++p) {
      starts[p + 1] = tap_reads(job_, image, y, place.column + p, slab * width, width, starts[p], scratch_.taps);
    }
    Reads<Real> reads[P];
    reads_of<Real, P>(scratch_.taps, starts, reads);
    arrive<Real, N, P>(job_, image, y * job_.out_cols + place.column, slab, first, last, total, reads, fired_.of(image));
  }

  const Job<Real> &job_;
  const Share &share_;
  Scratch &scratch_;
  Fired<Real> fired_;
  int steps_, start_ = 0, size_ = 0, first_ = 0;
  const std::uint8_t **base_ = nullptr;
};

template <class Real, int N>
void rows(const Job<Real> &job, const Share &share, Scratch &scratch) {
  Rows<Real, N>(job, share, scratch).run();
}

template <class Real>
void share(const Job<Real> &job, const Share &share, Scratch &scratch) {
#if defined(__AMX_INT8__)
  const tiles::Use use;
#endif
  EQUISPIKE_BY_WIDTH(rows, job.width)(job, share, scratch);
}

}  // namespace

namespace EQUISPIKE_ISA {
void multiply(const Job<float> &job, const Share &part, Scratch &scratch) { share(job, part, scratch); }
void multiply(const Job<double> &job, const Share &part, Scratch &scratch) { share(job, part, scratch); }
}  // namespace EQUISPIKE_ISA

}  // namespace equispike
