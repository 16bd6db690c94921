// The Python module: layers, and what runs without one, spikes of Poisson input and currents that are the same in every step.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "layer.h"

namespace equispike {

void grow(Buffer &buffer, std::size_t bytes) {
  void *data = std::realloc(buffer.data, bytes);
  if (!data) throw std::bad_alloc();
  buffer = {data, bytes};
}

namespace {

// The numbers added up, again and again: what that takes is the machine's limit.
float add_up(const Array<const float> &numbers, int repeats, const std::string &isa) {
  return EQUISPIKE_BUILT_FOR(isa, float(const float *, std::size_t, int), add_up)(numbers.data(), numbers.size(), repeats);
}

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
      .def(nb::init<std::size_t, std::size_t, const std::vector<std::pair<std::size_t, std::size_t>> &, bool>(), "images"_a,
           "steps"_a, "layers"_a, "some_signed"_a)
      .def_prop_ro("v", &Own::seen_v, shared, "Potentials, of one layer after the other (images, positions, channels).")
      .def_prop_ro("counts", &Own::seen_counts, shared, "Spikes so far less those taken back, likewise.")
      .def_prop_ro("taken", &Own::seen_taken, shared, "Those taken back, likewise; empty where no neurons are signed.")
      .def_prop_ro("fired", &Own::seen_fired, shared, "Spikes in each step, (layers, images, steps).");
  nb::class_<Self>(module, layer)
      .def(nb::init<int, int, int, int, const std::string &, const Array<const Real> &>(), "rows"_a, "cols"_a, "channels"_a,
           "width"_a, "how"_a, "bias"_a)
      .def("gather", &Self::gather, "extent"_a, "rows"_a, "cols"_a)
      .def("tap", &Self::tap, "extent"_a, "rows"_a, "cols"_a, "shift"_a, "weights"_a)
      .def("set_weights", &Self::set_weights, "weights"_a, "units"_a)
      .def("set_shorts", &Self::set_shorts, "weights"_a, "units"_a)
      .def("set_digits", &Self::set_digits, "weights"_a, "units"_a, "digits"_a)
      .def("set_neurons", &Self::set_neurons, "threshold"_a, "reset"_a)
      .def("fire", &Self::fire, "trains"_a, "base"_a.none(), "neurons"_a, "layer"_a, "first"_a, "steps"_a,
           "threads"_a, "isa"_a, "drive"_a.none(), unlocked)
      .def("fire_signed", &Self::fire_signed, "trains"_a, "base"_a.none(), "neurons"_a, "layer"_a, "first"_a, "steps"_a,
           "threads"_a, "isa"_a, "drive"_a.none(), unlocked)
      .def("score", &Self::score, "trains"_a, "base"_a.none(), "sums"_a.noconvert(), "readout"_a.noconvert(), "first"_a,
           "steps"_a, "scale"_a, "threads"_a, "isa"_a, unlocked)
      .def("emit", &Self::emit, "trains"_a, "base"_a.none(), "currents"_a.noconvert(), "threads"_a, "isa"_a, unlocked);
}

}  // namespace
}  // namespace equispike

NB_MODULE(_core, module) {
  using nb::literals::operator""_a;
  using equispike::Train;
  module.attr("interface") = 2;  // the number that trains.py asks for
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
