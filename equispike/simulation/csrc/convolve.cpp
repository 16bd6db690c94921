// What a convolution makes of images that are the same in every step, in double precision and rounded once. Products and
// sums come in one order on every machine, whatever the batch.
#include "vectors.h"

namespace equispike {
namespace {

constexpr int width = 16, vectors = width / lanes<double>;
constexpr int most = registers / 2 / vectors > 1 ? registers / 2 / vectors : 1;  // outputs of a row that go together

// Sums of `width` channels at P outputs side by side. `from` is where the first reads its first element.
template <int P, class Real>
void add_up(const Convolution<Real> &job, const double *from, std::size_t pitch, const double *weights, const double *bias,
            Real *out) {
  Vector<double> sum[P][vectors];
  EQUISPIKE_UNROLL
  for (int p = 0; p < P; ++p) {
    for (int n = 0; n < vectors; ++n) sum[p][n] = load(bias + n * lanes<double>);
  }
  for (int row = 0; row < job.inputs * job.rows.kernel; ++row, from += pitch) {
    for (int element = 0; element < job.cols.kernel; ++element, weights += width) {
      EQUISPIKE_UNROLL
      for (int p = 0; p < P; ++p) {
        const double x = from[p * job.cols.stride + element * job.cols.dilation];
        for (int n = 0; n < vectors; ++n) sum[p][n] += load(weights + n * lanes<double>) * x;
      }
    }
  }
  EQUISPIKE_UNROLL
  for (int p = 0; p < P; ++p) {
    for (int n = 0; n < vectors; ++n) {
      store(out + static_cast<std::size_t>(p) * job.padded + n * lanes<double>,
            __builtin_convertvector(sum[p][n], Group<Real, lanes<double>>));
    }
  }
}

// Row `y` of an image's outputs.
template <class Real>
void convolve_row(const Convolution<Real> &job, int image, int y, Scratch &scratch) {
  const SlidingAxis &rows = job.rows, &cols = job.cols;
  const std::size_t pitch = static_cast<std::size_t>(cols.size) + 2 * cols.padding, kernel = job.inputs * rows.kernel;
  double *read = reserve<double>(scratch.segments, kernel * pitch);
  std::memset(read, 0, kernel * pitch * sizeof(double));
  for (int input = 0; input < job.inputs; ++input) {
    for (int element = 0; element < rows.kernel; ++element) {
      const int row = y * rows.stride + element * rows.dilation - rows.padding;
      if (row < 0 || row >= rows.size) continue;
      const double *own = job.x + ((static_cast<std::size_t>(image) * job.inputs + input) * rows.size + row) * cols.size;
      std::memcpy(read + (input * rows.kernel + element) * pitch + cols.padding, own, cols.size * sizeof(double));
    }
  }
  Real *out = job.out + (static_cast<std::size_t>(image) * rows.outputs + y) * cols.outputs * job.padded;
  for (int channel = 0; channel < job.padded; channel += width) {
    const double *weights = job.weights + channel * kernel * cols.kernel, *bias = job.bias + channel;
    int x = 0;
    for (; x + most <= cols.outputs; x += most) {
      add_up<most>(job, read + x * cols.stride, pitch, weights, bias, out + static_cast<std::size_t>(x) * job.padded + channel);
    }
    for (; x < cols.outputs; ++x) {
      add_up<1>(job, read + x * cols.stride, pitch, weights, bias, out + static_cast<std::size_t>(x) * job.padded + channel);
    }
  }
}

}  // namespace

namespace EQUISPIKE_ISA {

void convolve(const Convolution<float> &job, int image, int y, Scratch &scratch) { convolve_row(job, image, y, scratch); }
void convolve(const Convolution<double> &job, int image, int y, Scratch &scratch) { convolve_row(job, image, y, scratch); }

}  // namespace EQUISPIKE_ISA
}  // namespace equispike
