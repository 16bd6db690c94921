"""convert(), end to end: trained networks, real digits, and the promises that the README makes."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equispike as es
from equispike.calibrate.method import Thresholds, with_thresholds
from equispike.conversion import DEEP, Converter, prepare
from equispike.graph.network import Network
from equispike.provenance import as_data
from equispike.zoo.data import Dataset, load
from equispike.zoo.store import load_model


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    return load("mnist-sample")


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def dyadic_network(images: Tensor) -> Network:
    """The trained network with weights that are multiples of 2**-6, and thresholds that are powers of two."""
    model = copy.deepcopy(load_model("mnist-cnn")[0]).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter * 64).round() / 64)
    network = prepare(model, images.double())[0]
    found = es.DataNorm()(network, [images])
    return with_thresholds(network, Thresholds({n: 2.0 ** t.log2().round() for n, t in found.items()}))


# Trained networks on real digits


@pytest.mark.parametrize("name", ["mnist-cnn", "mnist-cnn-bn"])
def test_the_converted_network_loses_no_more_than_a_point(mnist: Dataset, name: str) -> None:
    """Channels of very different size, as batch norm makes them, need a threshold each to be as fast."""
    model = load_model(name)[0]
    method = es.DataNorm(99.9, per_channel=name == "mnist-cnn-bn")
    network = es.convert(model, mnist.train.take(256).batches(64), method)
    test = mnist.test.sample(200)
    images, labels = test.floats(), test.labels
    found = es.evaluate(network, [(images, labels)], 64)
    trained = float((model(images).argmax(1) == labels).double().mean())
    assert found.trained == trained > 0.97
    assert float(found.mean[-1]) >= trained - 0.01
    assert float(found.mean[0]) < 0.9  # and not because T were without meaning
    assert 0 < float(found.spike_rate[0, -1]) < 20


@pytest.mark.parametrize("name", ["mnist-cnn", "mnist-cnn-bn"])
def test_the_network_computes_the_models_function(mnist: Dataset, name: str) -> None:
    """Bias and batch norm folded, whatever the method: each neuron as its ReLU, the output is the model's."""
    model, images = load_model(name)[0], mnist.train.take(4).floats()
    for method in (es.DataNorm(per_channel=True), es.RMP(0.5, timesteps=4)):
        network = es.convert(model, images, method, readout="potential")
        torch.testing.assert_close(network(images), model(images).detach(), rtol=1e-4, atol=1e-4)


def test_batches_of_any_size_give_the_same_poisson_run(mnist: Dataset) -> None:
    images = mnist.test.take(16).floats().double()
    network = dyadic_network(images)
    runs = [es.simulate(network, images, 10, es.Poisson(), seed=3, batch_size=size) for size in (1, 7, 256)]
    runs.append(es.simulate(network, images, 10, es.Poisson(), seed=3, engine="stepwise"))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    shuffled = es.simulate(network, images[order], 10, es.Poisson(), seed=3, indices=order, batch_size=5)
    back = order.argsort()
    assert int(runs[0].counts["classifier.2"].sum()) > 0
    for run in runs[1:]:
        assert torch.equal(run.predictions, runs[0].predictions)
        assert torch.equal(run.readout, runs[0].readout)
        assert all(torch.equal(run.counts[name], count) for name, count in runs[0].counts.items())
    assert torch.equal(shuffled.readout[:, back], runs[0].readout)
    assert all(torch.equal(shuffled.counts[name][back], count) for name, count in runs[0].counts.items())


def test_a_saved_network_gives_the_same_run(mnist: Dataset, tmp_path: Any) -> None:
    images = mnist.test.take(4).floats()
    network = es.convert(load_model("mnist-cnn-bn")[0], mnist.train.take(16).floats(), v_init="uniform")
    es.save(network, tmp_path / "network")
    before, after = (es.simulate(n, images, 6, es.Poisson()) for n in (network, es.load(tmp_path / "network")))
    assert torch.equal(before.readout, after.readout)


# The user's model


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(12, 2)
    )
    model.train()
    before = copy.deepcopy(model.state_dict())
    images = torch.rand(5, 1, 4, 4)
    kept = images.clone()
    network = es.convert(model, images, es.SpikeNorm(timesteps=4))
    es.simulate(network, images, 4, es.Poisson())
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(images, kept)


def test_the_network_does_not_follow_the_model() -> None:
    model, images = mlp(), torch.rand(9, 4)
    network = es.convert(model, images)
    before = network(images)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(network(images), before)
    assert bool(before.any())


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reset": "hard"}, "reset: 'hard' is not known. Choose from subtract, zero"),
        ({"readout": "rate"}, "readout: 'rate' is not known. Choose from potential, spikes"),
        ({"v_init": 1.0}, "v_init: 1.0"),
        ({"v_init": -0.1}, "v_init: -0.1"),
        ({"v_init": float("nan")}, "v_init: nan"),
        ({"v_init": "random"}, "v_init: 'random'"),
    ],
)
def test_unknown_options_are_refused_before_calibration(options: dict[str, Any], message: str) -> None:
    @dataclasses.dataclass(frozen=True)
    class Never(es.DataNorm):  # type: ignore[misc]
        def __call__(self, network: Any, batches: Any) -> Any:
            raise AssertionError("calibrated")

    with pytest.raises(es.ConversionError) as caught:
        es.convert(mlp(), torch.rand(9, 4), Never(), **options)
    assert str(caught.value).startswith(message)


def test_options_override_the_methods_own_and_are_kept() -> None:
    images = torch.rand(9, 4)
    network = es.convert(mlp(), images, es.DataNorm())
    assert {op.reset for op in network.neurons.values()} == {"subtract"}
    assert list(network.neurons) == ["1"]
    network = es.convert(mlp(), images, es.DataNorm(), reset="zero", readout="spikes", v_init=0.5)
    assert {(op.reset, op.v_init) for op in network.neurons.values()} == {("zero", 0.5)}
    assert list(network.neurons) == ["1", "output neurons"]
    kept = {key: network.provenance[key] for key in ("reset", "readout", "v_init", "model", "method")}
    assert kept == {
        "reset": "zero", "readout": "spikes", "v_init": 0.5, "model": "Sequential", "method": as_data(es.DataNorm()),
    }  # fmt: skip
    assert network.provenance["calibration_images"] == 9


def test_the_default_is_a_percentile_per_channel_with_half_a_threshold_at_the_start() -> None:
    images = torch.rand(50, 4)
    named = es.DataNorm(99, per_channel=True)
    default, same = es.convert(mlp(), images), es.convert(mlp(), images, named, v_init=0.5)
    bare = es.convert(mlp(), images, named)
    assert torch.equal(default.thresholds["1"], same.thresholds["1"])
    assert default.provenance == same.provenance
    assert (default.neurons["1"].v_init, bare.neurons["1"].v_init) == (0.5, 0.0)  # methods keep their own settings
    assert es.convert(mlp(), images, v_init=0.0).neurons["1"].v_init == 0.0
    again = Converter(mlp(), images)
    assert again().provenance == default.provenance
    assert again(named).neurons["1"].v_init == 0.0


def test_thresholds_are_measured_once_for_all_starts_and_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[es.DataNorm] = []
    measure = es.DataNorm.__call__

    def counted(method: es.DataNorm, *arguments: Any) -> Thresholds:
        measured.append(method)
        return measure(method, *arguments)

    monkeypatch.setattr(es.DataNorm, "__call__", counted)
    images = torch.rand(50, 4)
    converter = Converter(mlp(), images)
    for v_init in (0.0, 0.5):
        for delay in (None, 0.25, 0.75):
            network = converter(es.DataNorm(), v_init=v_init, delay=delay)
            assert network.readout.delay == network.provenance["delay"] == (delay or 0.0)
    assert len(measured) == 1


@pytest.mark.parametrize(("layers", "delay"), [(DEEP - 1, 0.0), (DEEP, 0.5)])
def test_scores_of_a_deep_network_leave_out_the_first_half_of_the_steps(layers: int, delay: float) -> None:
    torch.manual_seed(0)
    blocks = [part for _ in range(layers) for part in (nn.Linear(16, 16), nn.ReLU())]
    model, images = nn.Sequential(*blocks, nn.Linear(16, 2)), torch.rand(50, 16)
    network = es.convert(model, images)
    assert network.readout.delay == network.provenance["delay"] == delay
    assert es.convert(model, images, es.DataNorm()).readout.delay == 0.0
    assert es.convert(model, images, delay=0.25).readout.delay == 0.25


def test_a_model_that_ends_in_a_relu_has_its_output_neurons() -> None:
    model = nn.Sequential(*mlp(), nn.ReLU())
    network = es.convert(model, torch.rand(20, 4), es.DataNorm(), readout="spikes")
    assert list(network.neurons) == ["1", "3"]


def test_pixels_scale_the_input_and_the_poisson_coder() -> None:
    images = torch.rand(9, 4) * torch.tensor([1.0, 1.0, 1.0, -3.0])
    network = es.convert(mlp(), images)
    assert network.input.scale == network.input.amplitude == float(images.abs().max())


def test_lossy_passes_are_asked_for_and_told() -> None:
    model = nn.Sequential(*(nn.Conv2d(1, 1, 1), nn.ReLU()) * 2, nn.MaxPool2d(4), nn.Flatten(), nn.Linear(1, 3))
    images = torch.rand(9, 1, 4, 4)
    with pytest.raises(es.ConversionError, match=r"4 \(MaxPool\).*max_pool_to_avg"):
        es.convert(model, images)
    network = es.convert(model, images, lossy=[es.max_pool_to_avg])
    assert network.provenance["changes"] == ["4: max pool became average pool of 4 x 4 windows"]
    assert es.simulate(network, images, 4).images == 9


def test_what_cannot_be_converted_is_refused_by_name() -> None:
    with pytest.raises(es.ConversionError, match=r"1 \(Sigmoid\)"):
        es.convert(nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 3), nn.ReLU()), torch.rand(9, 4))
    with pytest.raises(es.ConversionError, match="no ReLU"):
        es.convert(nn.Linear(4, 3), torch.rand(9, 4))
    broken = mlp()
    with torch.no_grad():
        broken[2].weight[0, 0] = torch.nan  # type: ignore[index, operator]
    with pytest.raises(es.ConversionError, match=r"2 \(Linear\): its weights hold NaN"):
        es.convert(broken, torch.rand(9, 4))


def test_check_says_what_convert_does() -> None:
    assert es.check(mlp(), torch.rand(2, 4)).convertible
    report = es.check(nn.Sequential(nn.Linear(4, 3), nn.Sigmoid()), torch.rand(2, 4))
    assert not report.convertible
    assert "Sigmoid" in str(report)
    assert not es.check(nn.Linear(4, 3), torch.rand(2, 4)).convertible
