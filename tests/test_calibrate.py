"""Calibration against the papers' algorithms as literal loops. Dyadic numbers make equalities exact."""

import copy
import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import dyadic, images_for, networks, seeds
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import equispike as es
from equispike.batches import input_extent
from equispike.calibrate.method import Thresholds, with_thresholds
from equispike.calibrate.rmp import scaled
from equispike.conversion import prepare
from equispike.graph.exact import rescale
from equispike.graph.network import Network, Node
from equispike.graph.ops import AvgPool, Conv, Flatten, Input, Linear, Neuron, Readout
from equispike.provenance import as_data
from equispike.zoo.data import Dataset, load
from equispike.zoo.store import load_model

RESETS: Any = st.sampled_from(["subtract", "zero"])
METHODS = (
    es.DataNorm(),
    es.DataNorm(99.0),
    es.ModelNorm(),
    es.SpikeNorm(timesteps=6),
    es.RMP(0.75, timesteps=6),
    es.RMP(0.75, timesteps=6, after=True),
    es.RMP(1.0, timesteps=6, statistic="average"),
)


def raw(**options: Any) -> st.SearchStrategy[Network]:
    return networks(calibrated=False, v_init=False, **options)


def chain(seed: int, bias: bool = False, spikes: bool = False) -> Network:
    """Convolution, pool, convolution, linear, linear: dyadic, with more excitation than inhibition."""

    def w(n: int, *shape: int) -> Tensor:
        return dyadic(seed + n, *shape, low=-5)

    def b(n: int, size: int) -> Tensor | None:
        return w(n, size) if bias else None

    ops: list[tuple[str, Any]] = [
        ("input", Input((2, 6, 6))),
        ("c1", Conv(w(1, 3, 2, 3, 3), b(2, 3), (1, 1), (1, 1), (1, 1))),
        ("n1", Neuron()),
        ("pool", AvgPool((2, 2), (2, 2), (0, 0))),
        ("c2", Conv(w(3, 4, 3, 2, 2), b(4, 4), (1, 1), (0, 0), (1, 1))),
        ("n2", Neuron()),
        ("flat", Flatten()),
        ("l1", Linear(w(5, 5, 16), b(6, 5))),
        ("n3", Neuron()),
        ("l2", Linear(w(7, 3, 5), b(8, 3))),
        *([("n4", Neuron())] if spikes else []),
        ("readout", Readout()),
    ]
    names = [name for name, _ in ops]
    return Network(tuple(Node(n, op, (names[i - 1],) if i else ()) for i, (n, op) in enumerate(ops)))


def drive(network: Network, images: Tensor) -> Network:
    """The network with its input scale set as ``convert`` sets it."""
    scale, _ = input_extent([images])
    entrance = dataclasses.replace(network.input, scale=scale, amplitude=scale)
    return network.replace_ops({network.nodes[0].name: entrance})


def converted(network: Network, method: Any, batches: Any) -> Network:
    return with_thresholds(network, method(network, batches), method.reset)


def silent_at(thresholds: dict[str, Any]) -> str | None:
    return next((name for name, value in thresholds.items() if np.max(value) <= 0), None)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    return load("mnist-sample")


def on_grid(model: nn.Module, bits: int) -> nn.Module:
    """The model in float64 with weights rounded to multiples of 2**-bits, on which sums are exact."""
    model = copy.deepcopy(model).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter * 2**bits).round() / 2**bits)
    return model


# Trained activations: DataNorm


@given(raw(), st.data())
@settings(max_examples=40)
def test_data_norm_is_the_largest_trained_activation(network: Network, data: Any) -> None:
    images = data.draw(images_for(network))
    values = reference.trained(network, reference.array(images))
    expected = {name: values[name].max() for name in network.neurons}
    found = es.DataNorm()(network, [images])
    assert {name: float(t) for name, t in found.items() if expected[name] > 0} == {
        name: largest for name, largest in expected.items() if largest > 0
    }
    assert all(float(threshold) > 0 for threshold in found.values())
    assert found.scale == 1.0


@given(raw(), st.data())
@settings(max_examples=25)
def test_data_norm_per_channel_takes_each_channels_maximum(network: Network, data: Any) -> None:
    images = data.draw(images_for(network))
    values = reference.trained(network, reference.array(images))
    expected = {n: values[n].max(axis=tuple(i for i in range(values[n].ndim) if i != 1)) for n in network.neurons}
    assume(silent_at(expected) is None)
    found = es.DataNorm(per_channel=True)(network, [images])
    for name, largest in expected.items():
        largest = np.where(largest > 0, largest, largest.max())  # a dead channel takes the layer's largest
        assert np.array_equal(found[name].flatten().numpy(), largest)
        assert found[name].shape == (len(largest), *(1,) * (len(network.shapes[name]) - 1))


@given(raw(), st.data(), st.sampled_from([50.0, 90.0, 99.0, 99.9]), st.booleans())
@settings(max_examples=40)
def test_data_norm_percentiles_are_nearest_ranks(network: Network, data: Any, percentile: float, each: bool) -> None:
    images = dyadic(data.draw(seeds), 12, *network.input.shape)
    values = reference.trained(network, reference.array(images))
    expected = {}
    for name in network.neurons:
        channels = np.moveaxis(values[name], 1, 0) if each else values[name][None]
        expected[name] = np.array([reference.nearest_rank(channel, percentile) for channel in channels])
    method = es.DataNorm(percentile, per_channel=each)
    assume(silent_at(expected) is None)
    bound = 2**-7 if each else 2**-13  # stated at functional.statistics.Percentile
    for name, threshold in method(network, [images]).items():
        ranked = np.where(expected[name] > 0, expected[name], 0)
        error = np.abs(threshold.flatten().numpy() - ranked)[ranked > 0]
        assert (error <= bound * ranked[ranked > 0] * (1 + 1e-6)).all()


class Sparse(nn.Module):
    """2,000 hidden neurons of which a few respond to an image."""

    def __init__(self, active: int) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(10, 2000), nn.Linear(2000, 3)
        with torch.no_grad():
            self.a.weight.zero_()
            self.a.bias.fill_(-1.0)
            self.a.bias[:active] = 0.0
            self.a.weight[torch.arange(active), torch.arange(active) % 10] = torch.linspace(1, 10, active)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.relu(self.a(x)))


@pytest.mark.parametrize("active", [1, 4, 100])
def test_scores_of_a_sparse_layer_approach_the_trained_ones(active: int) -> None:
    torch.manual_seed(0)
    model, images = Sparse(active), torch.rand(64, 10)
    wanted = model(images).detach()
    for percentile in (99.9, 100.0):
        run = es.simulate(es.convert(model, images, es.DataNorm(percentile)), images, 512)
        assert float((run.readout[-1] / 512 - wanted).norm() / wanted.norm()) < 0.01


def test_a_threshold_that_clips_much_says_so() -> None:
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.rand(64, 4)
    with pytest.warns(es.CalibrationWarning, match=r"^1: the threshold of DataNorm\(percentile=20\) cuts off \d+ %"):
        network = es.convert(model, images, es.DataNorm(20.0))
    activity = model[:2](images).detach()
    lost = float((activity - network.thresholds["1"]).clamp(min=0).sum() / activity.sum())
    with pytest.warns(es.CalibrationWarning, match=f"cuts off {100 * lost:.0f} %"):
        es.convert(model, images, es.DataNorm(20.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        es.convert(model, images, es.DataNorm(99.9))


def test_data_norm_on_digits_is_the_literal_loop(mnist: Dataset) -> None:
    images = mnist.train.take(3).floats().double()
    network, _ = prepare(load_model("mnist-cnn")[0].double(), images)
    for percentile, tolerance in ((100.0, 1e-12), (99.9, 2**-13)):
        factors = reference.data_norm_factors(network, reference.array(images), percentile)
        found = es.DataNorm(percentile)(network, [images])
        assert [float(t) for t in found.values()] == pytest.approx(factors[1:], rel=tolerance)
    assert input_extent([images]) == (factors[0], 3) == (1.0, 3)


@given(seeds, st.booleans(), st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0]), min_size=4, max_size=4), RESETS)
@settings(max_examples=25)
def test_weight_normalisation_gives_the_spikes_of_threshold_balancing(
    seed: int, bias: bool, factors: list[float], reset: Any
) -> None:
    """Weights times previous factor over own, biases over own, thresholds 1: every spike the same (all powers of 2)."""
    network, images = chain(seed % 10**6, bias), dyadic(seed, 2, 2, 6, 6, low=0)
    network = network.replace_ops({"input": Input((2, 6, 6), factors[0], factors[0])})
    own = dict(zip(network.neurons, factors[1:], strict=True))
    balanced = with_thresholds(network, {n: torch.tensor(f).double() for n, f in own.items()}, reset)
    run = es.simulate(balanced, images, 16)

    previous = factors[0]
    spikes = np.stack([reference.array(images) / previous] * 16)
    for layer, (name, factor) in zip(reference.stages(network), own.items()):
        *moves, op = layer
        biased = op.bias if op.bias is None else op.bias / factor
        normalised = [*moves, dataclasses.replace(op, weight=op.weight * previous / factor, bias=biased)]
        spikes, _ = reference.if_neurons([reference.current(normalised, s) for s in spikes], 1.0, reset)
        assert np.array_equal(run.counts[name].numpy(), spikes.sum(0))
        previous = factor


# The weights alone: ModelNorm


@given(seeds, st.integers(1, 3))
@settings(max_examples=25)
def test_model_norm_is_diehls_algorithm(seed: int, depth: int) -> None:
    """Threshold of a layer = product of the factors by which Diehl divides weights up to it."""
    weights = [dyadic(seed + n, 4, 4) for n in range(depth)]
    factors = reference.model_norm_factors([w.numpy() for w in weights])
    assume(min(factors) > 0)
    nodes = [Node("input", Input((4,)))]
    for n, w in enumerate(weights):
        nodes += [Node(f"l{n}", Linear(w, None), (nodes[-1].name,)), Node(f"n{n}", Neuron(), (f"l{n}",))]
    network = Network((*nodes, Node("readout", Readout(), (nodes[-1].name,))))
    found = es.ModelNorm()(network, [torch.rand(2, 4).double()])
    assert [float(t) for t in found.values()] == np.cumprod(factors).tolist()


@given(raw(), st.data())
@settings(max_examples=40)
def test_no_image_of_the_range_exceeds_model_norm(network: Network, data: Any) -> None:
    images = data.draw(images_for(network, signed=True))
    assume(bool((images < 0).any()))
    network = drive(network, images)
    try:
        bounds = es.ModelNorm()(network, [images])
    except es.CalibrationError:
        assume(False)
    others = dyadic(data.draw(seeds), 20, *network.input.shape) * network.input.scale
    for name, value in network.values(others, bounds).items():
        assert bool((value <= bounds[name]).all())


def test_model_norm_is_reached_by_the_worst_image() -> None:
    weight = dyadic(3, 4, 6)
    images = torch.stack([row.sign() for row in weight])
    network = Network(
        (
            Node("input", Input((6,))),
            Node("l", Linear(weight, dyadic(4, 4)), ("input",)),
            Node("n", Neuron(), ("l",)),
            Node("readout", Readout(), ("n",)),
        )
    )
    assert torch.equal(es.ModelNorm()(network, [images])["n"], es.DataNorm()(network, [images])["n"])
    positive = es.ModelNorm()(network, [images.clamp(min=0)])["n"]  # pixels from 0 up: negative weights rest
    assert torch.equal(positive, es.DataNorm()(network, [images.clamp(min=0)])["n"])


# Spikes: SpikeNorm and RMP


@given(seeds, RESETS, st.sampled_from([es.Constant(), es.Poisson()]), st.booleans())
@settings(max_examples=30)
def test_spike_norm_is_algorithm_1(seed: int, reset: Any, coder: Any, spikes: bool) -> None:
    """In the balanced form: unit spikes, inputs of +1 and -1, weights untouched."""
    images = dyadic(seed, 3, 2, 6, 6)
    network = drive(chain(seed % 10**6, spikes=spikes), images)
    scale = network.input.scale
    entering = coder.encode(images, torch.arange(3), range(1, 10), seed, scale, 1.0)
    entering = reference.array(entering.expand(9, *images.shape))
    if not coder.constant:
        assert set(np.unique(entering)) <= {-1.0, 0.0, 1.0}
    layers = reference.stages(network)[:-1]
    method = es.SpikeNorm(timesteps=9, reset=reset, coder=coder, seed=seed)
    expected, trains = reference.spike_norm(layers, entering, reset)
    assume(min(expected) > 0)
    calibrated = with_thresholds(network, method(network, [images]), reset)
    found = rescale(calibrated, "balanced").thresholds
    assert list(found) == list(network.neurons)
    assert [float(t) for t in found.values()] == pytest.approx(expected, rel=1e-14)
    run = es.simulate(calibrated, images, 9, coder, seed)
    for name, train in zip(found, trains, strict=True):
        assert np.array_equal(run.counts[name].numpy(), train.sum(0))


@given(raw(), st.data(), RESETS, st.sampled_from([es.Constant(), es.Poisson()]))
@settings(max_examples=40)
def test_spike_norm_takes_biases_sums_and_ceilings(network: Network, data: Any, reset: Any, coder: Any) -> None:
    images = data.draw(images_for(network))
    assume(bool(images.any()))
    network = drive(network, images)
    scale, seed = network.input.scale, data.draw(seeds)
    entering = coder.encode(images, torch.arange(len(images)), range(1, 8), seed, scale, scale)
    expected = reference.spike_norm_graph(network, reference.array(entering.expand(7, *images.shape)), reset)
    method = es.SpikeNorm(timesteps=7, reset=reset, coder=coder, seed=seed, residual="measured")
    found = with_thresholds(network, method(network, [images]), reset)
    assert {name: float(threshold) for name, threshold in found.thresholds.items()} == expected


@given(seeds, st.sampled_from([0.5, 0.625, 0.75, 1.0]), st.booleans())
@settings(max_examples=30)
def test_rmp_is_hans_algorithm(seed: int, scale: float, after: bool) -> None:
    """Thresholds in the balanced form, and every spike, are those of the literal loop; of both readings."""
    images = dyadic(seed, 3, 2, 6, 6)
    network = drive(chain(seed % 10**6, spikes=True), images)
    entering = es.Poisson().encode(images, torch.arange(3), range(1, 10), seed, network.input.scale, 1.0)
    layers = reference.stages(network)[:-1]
    assume(min(reference.spike_norm(layers, reference.array(entering), "subtract")[0]) > 0)
    expected, trains = reference.rmp(layers, reference.array(entering), scale, after)
    thresholds = es.RMP(scale, timesteps=9, seed=seed, after=after)(network, [images])
    calibrated = with_thresholds(network, thresholds)
    assert thresholds.scale == scale
    found = [float(t) for t in rescale(calibrated, "balanced").thresholds.values()]
    assert found == pytest.approx(expected, rel=1e-14)
    run = es.simulate(calibrated, images, 9, es.Poisson(), seed)
    for name, train in zip(thresholds, trains, strict=True):
        assert np.array_equal(run.counts[name].numpy(), train.sum(0))


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_spike_norm_and_rmp_on_digits_are_the_literal_loops(mnist: Dataset, reset: Any) -> None:
    model = on_grid(load_model("mnist-cnn")[0], bits=4)
    images, timesteps = mnist.train.take(2).floats().double(), 6
    method: Any = es.SpikeNorm(timesteps, reset) if reset == "zero" else es.RMP(0.75, timesteps)
    network = es.convert(model, [images], method)
    entering = es.Poisson().encode(images, torch.arange(2), range(1, timesteps + 1), 0, network.input.scale, 1.0)
    layers = reference.stages(network)[:-1]
    spikes = reference.array(entering)
    v_th, trains = (
        reference.spike_norm(layers, spikes, reset) if reset == "zero" else reference.rmp(layers, spikes, 0.75)
    )
    assert [float(t) for t in rescale(network, "balanced").thresholds.values()] == pytest.approx(v_th, rel=1e-12)
    run = es.simulate(network, images, timesteps, es.Poisson())
    for (name, count), train in zip(run.counts.items(), trains, strict=True):
        assert np.array_equal(count.numpy(), train.sum(0)), name
    assert int(run.counts["output neurons"].sum()) > 0


@given(raw(), st.data(), st.sampled_from(METHODS), st.sampled_from([1, 2, 3, 40]))
@settings(max_examples=25)
def test_thresholds_do_not_depend_on_batches(network: Network, data: Any, method: Any, size: int) -> None:
    images = dyadic(data.draw(seeds), 40, *network.input.shape)
    network = drive(network, images)
    try:
        expected = method(network, [images])
    except es.CalibrationError:
        assume(False)
    found = method(network, images.split(size))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_spikes_of_an_output_layer_are_calibrated_like_any_other() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    images = torch.rand(20, 4)
    names = {
        readout: list(es.convert(model, images, es.SpikeNorm(timesteps=8, readout=readout)).thresholds)  # type: ignore[arg-type]
        for readout in ("potential", "spikes")
    }
    assert names == {"potential": ["1"], "spikes": ["1", "output neurons"]}
    assert list(es.convert(model, images, es.DataNorm(), readout="spikes").thresholds) == ["1", "output neurons"]
    assert es.SpikeNorm().readout == es.RMP().readout == "spikes"


# The converted network still computes its trained function


class Residual(nn.Module):
    """Biases everywhere, an identity shortcut and one with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, 4, 3, padding=1) for n in (2, 4, 4))
        self.short, self.out = nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        x = (self.b(x) + x).relu()
        x = (self.c(x).relu() + self.short(x)).relu()
        return self.out(x.mean((2, 3)))


@pytest.mark.parametrize(
    "calibrate",
    [
        lambda network, images: es.DataNorm()(network, images),
        lambda network, images: es.DataNorm(per_channel=True)(network, images),
        lambda network, images: es.ModelNorm()(network, images),
        lambda network, images: es.SpikeNorm(timesteps=64, reset="subtract")(network, images),
        # Two, four, ... times lower thresholds than where rates are one: four layers deep, every activation fits.
        lambda network, images: scaled(loose(es.DataNorm()(network, images), 16), 0.5),
        lambda network, images: scaled(loose(es.DataNorm()(network, images), 4), 0.75),
        lambda network, images: es.RMP(0.75, 64)(network, images),
    ],
)
def test_readout_converges_to_the_trained_output_with_biases_and_sums(calibrate: Any) -> None:
    torch.manual_seed(0)
    model, images = Residual().double(), torch.rand(6, 2, 5, 5).double()
    network = drive(prepare(model, images)[0], images)
    network = with_thresholds(network, calibrate(network, [images]))
    exact = model(images).detach()
    errors = []
    for timesteps in (64, 256, 1024):
        run = es.simulate(network, images, timesteps)
        errors.append(float((run.readout[-1] / timesteps - exact).abs().max() / exact.abs().max()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.03  # about c / T


def loose(thresholds: Thresholds, factor: float) -> Thresholds:
    return Thresholds({name: threshold * factor for name, threshold in thresholds.items()})


def test_converged_rates_estimate_the_relu_of_every_layer() -> None:
    torch.manual_seed(0)
    model, images = Residual().double(), torch.rand(4, 2, 5, 5).double()
    network = es.convert(model, images, es.DataNorm())
    run = es.simulate(network, images, 1024)
    exact = network.values(images, network.neurons)
    for name, op in network.neurons.items():
        estimate = op.amplitude * run.counts[name] / 1024
        assert float((estimate - exact[name]).abs().max()) < 0.02 * float(exact[name].max())


@pytest.mark.parametrize("method", [*METHODS, es.RMP(0.5, timesteps=6), es.DataNorm(per_channel=True)], ids=repr)
def test_a_ceiling_is_never_exceeded(method: Any) -> None:
    """ReLU6: however strong the input, the layer's estimate stays at or below 6."""
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU6(), nn.Linear(5, 5), nn.ReLU6(), nn.Linear(5, 5)).double()
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight.copy_(8 * torch.eye(5, layer.in_features))  # type: ignore[union-attr]
            layer.bias.fill_(2.0)  # type: ignore[union-attr]
        model[4].weight.copy_(torch.eye(5))  # type: ignore[union-attr]
        model[4].bias.zero_()  # type: ignore[union-attr]
    images = torch.rand(8, 3, generator=torch.Generator().manual_seed(0)).double()
    network = es.convert(model, images, method, readout="potential")
    assert float(network(images).max()) == 6.0
    estimate = es.simulate(network, images * 3, 50).readout / torch.arange(1, 51).view(-1, 1, 1)
    assert float(estimate.max()) <= 6.0 * (1 + 1e-12)
    assert float(estimate.max()) > 1.0


# RMP without a scale


def test_rmp_chooses_the_smallest_scale_within_tolerance(mnist: Dataset) -> None:
    chosen = mnist.validation.take(24)
    images, labels = chosen.floats(), chosen.labels
    network = drive(prepare(load_model("mnist-cnn")[0], images)[0], images)
    options: Any = {"timesteps": 6, "trial": 12}
    scales = (0.02, 0.05, 1.0)
    measured = {scale: es.RMP(scale, **options)(network, [images]) for scale in scales}
    reached = {}
    for scale, thresholds in measured.items():
        run = es.simulate(with_thresholds(network, thresholds), images, 12, es.Poisson())
        reached[scale] = float(es.accuracy(run, labels)[-1])
    trained = float((network(images).argmax(1) == labels).double().mean())
    assert len(set(reached.values())) == 3, reached

    def choose(tolerance: float) -> float:
        method = es.RMP(None, scales=scales[::-1], tolerance=tolerance, **options)
        found = method(network, [(images[:20], labels[:20]), (images[20:], labels[20:])])
        assert all(torch.allclose(measured[found.scale][name], t, rtol=1e-5) for name, t in found.items())
        return found.scale

    for tolerance in (0.0, 0.1, 1.0):
        within = [scale for scale in scales if reached[scale] >= trained - tolerance]
        best = max(scales, key=lambda scale: reached[scale])  # the first of equals: the smallest
        assert choose(tolerance) == (min(within) if within else best)


def test_rmp_measures_on_calibration_images_and_chooses_on_validation_images(mnist: Dataset) -> None:
    images, validation = mnist.train.take(8).floats(), mnist.validation.take(12).floats()
    network = drive(prepare(load_model("mnist-cnn")[0], images)[0], images)
    options: Any = {"timesteps": 6, "trial": 12, "scales": (0.1, 1.0), "tolerance": 0.0}
    predicted = {}
    for scale in (0.1, 1.0):  # as labels, what a scale predicts anyway: then this scale is chosen
        run = es.simulate(converted(network, es.RMP(scale, timesteps=6), [images]), validation, 12, es.Poisson())
        predicted[scale] = run.predictions[-1]
    found = {
        s: es.RMP(None, validation=iter([(validation, predicted[s])]), **options)(network, [images]) for s in predicted
    }
    assert {scale: thresholds.scale for scale, thresholds in found.items()} == {0.1: 0.1, 1.0: 1.0}
    for scale, thresholds in found.items():
        for name, threshold in es.RMP(scale, timesteps=6)(network, [images]).items():
            assert torch.equal(thresholds[name], threshold)


def test_rmp_takes_a_scale_that_just_reaches_the_target_and_of_equals_the_smallest(mnist: Dataset) -> None:
    images, validation = mnist.train.take(8).floats(), mnist.validation.take(64).floats()
    network = drive(prepare(load_model("mnist-cnn")[0], images)[0], images)
    options: Any = {"timesteps": 6, "trial": 4, "scales": (0.1, 1.0), "tolerance": 0.0}
    trained = network(validation).argmax(1)
    low, high = (
        es.simulate(converted(network, es.RMP(scale, timesteps=6), [images]), validation, 4, es.Poisson()).predictions[
            -1
        ]
        for scale in (0.1, 1.0)
    )

    def choose(labels: Tensor) -> float:
        return es.RMP(None, validation=[(validation, labels)], **options)(network, [images]).scale

    nothing = torch.full_like(trained, 10)  # a class that nobody predicts
    only_high = (high != low) & (high != trained)
    assert bool(only_high.any())
    assert choose(torch.where(only_high, high, nothing)) == 0.1  # right on none, like the trained network
    only_trained = (trained != low) & (trained != high)
    assert bool(only_trained.any())
    assert choose(torch.where(only_trained, trained, nothing)) == 0.1  # both right on none, below the target


@pytest.mark.parametrize("after", [False, True])
def test_the_chosen_scale_is_kept(after: bool) -> None:
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.rand(9, 4)
    method = es.RMP(None, 8, after=after, trial=4, scales=(0.5, 1.0), tolerance=1.0, readout="potential")
    network = es.convert(model, [(images, torch.zeros(9))], method)
    assert network.provenance["scale"] == 0.5
    assert network.provenance["method"] == as_data(method)
    ratio = network.thresholds["1"] / network.neurons["1"].amplitude  # type: ignore[operator]
    assert float(ratio) == (0.5 if after else 1.0)


def test_rmp_without_a_scale_needs_labels() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with pytest.raises(es.CalibrationError, match="needs labels"):
        es.convert(model, torch.rand(9, 4), es.RMP(None, timesteps=8))
    unlabelled = es.RMP(None, timesteps=8, validation=[torch.rand(9, 4)])
    with pytest.raises(es.CalibrationError, match="needs labels"):
        es.convert(model, [(torch.rand(9, 4), torch.zeros(9))], unlabelled)
    half = es.RMP(None, timesteps=8, validation=[(torch.rand(9, 4), torch.zeros(9)), torch.rand(9, 4)])
    with pytest.raises(es.CalibrationError, match="needs labels"):
        es.convert(model, torch.rand(9, 4), half)
    misshapen = es.RMP(None, timesteps=8, validation=[(torch.rand(9, 5), torch.zeros(9))])
    with pytest.raises(es.DataError, match=r"validation batch 0: shape \(9, 5\), expected \(B, 4\)"):
        es.convert(model, torch.rand(9, 4), misshapen)


# What methods accept


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_any_iterable_of_images_gives_the_same_thresholds(method: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    images, labels = torch.rand(10, 4).double(), torch.arange(10)
    network = drive(prepare(model, images)[0], images)
    expected = method(network, images)
    for batches in (
        [images],
        images.split(3),
        (part for part in images.split(4)),
        iter([images]),
        [(images, labels)],
        [[images, labels.tolist()]],
        [(images, None)],
        [images, images[:0]],
        DataLoader(TensorDataset(images, labels), batch_size=4),
        DataLoader(TensorDataset(images), batch_size=4),
    ):
        found = method(network, batches)
        assert found.keys() == expected.keys()
        assert all(torch.allclose(found[name], expected[name], rtol=1e-12) for name in expected)


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "there are no images"),
        (lambda: iter(()), "there are no images"),
        ([torch.rand(0, 2, 6, 6)], "there are no images"),
        ([torch.rand(2, 2, 6, 6), torch.rand(2, 2, 6, 5)], r"batch 1: shape \(2, 2, 6, 5\), expected \(B, 2, 6, 6\)"),
        ([torch.rand(2, 2, 6, 6), torch.rand(4)], r"batch 1: shape \(4,\)"),
        ([torch.rand(2, 2, 6, 6), torch.full((2, 2, 6, 6), torch.nan)], "batch 1: holds NaN or infinity"),
        ([torch.full((2, 2, 6, 6), torch.inf)], "batch 0: holds NaN or infinity"),
        ([torch.ones(2, 2, 6, 6, dtype=torch.uint8)], "batch 0: images of type torch.uint8"),
        ([()], "batch 0: holds a NoneType"),
        (7, "batches: a int"),
        (None, "batches: a NoneType"),
    ],
)
def test_unusable_images_are_refused_by_name(method: Any, batches: Any, message: str) -> None:
    network = chain(0)
    with pytest.raises(es.DataError, match=message):
        method(network, batches() if callable(batches) else batches)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_silent_layer_takes_the_size_of_a_spike_that_reaches_it_and_is_named(method: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        model[0].weight.abs_()  # type: ignore[operator, union-attr]
        model[2].weight.abs_().neg_()  # type: ignore[operator, union-attr]
        model[2].bias.fill_(-1)  # type: ignore[operator, union-attr]
    images = torch.rand(9, 4).double()
    with pytest.warns(es.CalibrationWarning, match=r"^3: its largest .* is not above zero"):
        network = es.convert(model, images, method, readout="potential")
    expected = network.neurons["1"].amplitude * network.provenance["scale"]  # type: ignore[operator]
    assert float(network.thresholds["3"]) == pytest.approx(float(expected))
    run = es.simulate(network, images, 40)
    assert int(run.counts["3"].sum()) == 0
    torch.testing.assert_close(run.readout[-1] / 40, model(images).detach())


def test_a_silent_layer_takes_a_spike_in_the_unit_of_its_steepest_channel() -> None:
    images, slopes = dyadic(1, 4, 2, 6, 6, low=0), torch.tensor([1.0, 4.0, 2.0, 1.0]).double().view(4, 1, 1)
    network = drive(chain(1), images)
    silent = network["c2"].op
    assert isinstance(silent, Conv)
    ops: dict[str, Any] = {
        "c2": dataclasses.replace(silent, weight=-silent.weight.abs()),
        "n2": dataclasses.replace(network.neurons["n2"], threshold=torch.ones_like(slopes), amplitude=slopes),
    }
    with pytest.warns(es.CalibrationWarning, match=r"^n2: its largest activation"):
        thresholds = es.DataNorm()(network.replace_ops(ops), images)
    assert float(thresholds["n2"]) == float(thresholds["n1"]) / 4


def test_black_images_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with pytest.raises(es.CalibrationError, match="every pixel is zero"):
        es.convert(model, torch.zeros(3, 4))


@pytest.mark.parametrize(
    "make",
    [
        lambda: es.DataNorm(0.0),
        lambda: es.DataNorm(100.1),
        lambda: es.DataNorm(float("nan")),
        lambda: es.SpikeNorm(timesteps=0),
        lambda: es.RMP(0.0),
        lambda: es.RMP(1.5),
        lambda: es.RMP(float("nan")),
        lambda: es.RMP(None, scales=(0.5, 0.0)),
        lambda: es.RMP(None, scales=()),
        lambda: es.RMP(timesteps=0),
        lambda: es.RMP(None, trial=0),
    ],
)
def test_parameters_out_of_range_are_refused_at_once(make: Any) -> None:
    with pytest.raises(es.CalibrationError):
        make()


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_thresholds_must_be_positive_and_finite(value: float) -> None:
    with pytest.raises(es.CalibrationError, match=r"n1: threshold .* is not positive and finite"):
        with_thresholds(chain(0), {"n1": torch.tensor(value)})


def test_thresholds_must_name_a_neuron_layer() -> None:
    with pytest.raises(es.CalibrationError, match="c1: no neuron layer has this name"):
        with_thresholds(chain(0), {"c1": torch.tensor(1.0)})


def test_thresholds_are_ordinary_tensors() -> None:
    """They can be trained further: an optimiser changes them in place."""
    model, images = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double(), torch.rand(9, 4).double()
    network = drive(prepare(model, images)[0], images)
    for method in METHODS:
        for threshold in converted(network, method, images).thresholds.values():
            threshold.add_(1.0)
            assert not threshold.is_inference()
