"""Networks that learn their thresholds: the layer, the models made with it, and their direct conversion."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import dyadic, seeds
from torch import Tensor, distributed, multiprocessing, nn

import equispike as es
from equispike.graph.exact import fold_amplitudes, rescale
from equispike.nn import RateNorm, from_relu, measure_maxima, rate_norms, restart_maxima, with_rate_norm
from equispike.zoo.models import build

MOMENTA = (0.1, None)


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3))
    return model.double()


def dense(model: nn.Sequential) -> list[reference.Dense]:
    return [(reference.array(m.weight), reference.array(m.bias)) for m in model if isinstance(m, nn.Linear)]


def images(seed: int, n: int = 12) -> Tensor:
    return torch.rand(n, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def maxima(model: nn.Module) -> list[float]:
    return [float(layer.running_max) for _, layer in rate_norms(model)]


def set_layers(model: nn.Module, p: float, *largest: float) -> nn.Module:
    for (_, layer), value in zip(rate_norms(model), largest, strict=True):
        layer.running_max.fill_(value)
        layer.p.fill_(p)
    return model.eval()


# The layer


@pytest.mark.parametrize("momentum", [0.1, 0.5, 1.0])
def test_training_passes_are_those_of_algorithm_1(momentum: float) -> None:
    model, running = with_rate_norm(mlp(), momentum), [1.0, 1.0]
    for step, size in enumerate((12, 5, 3, 7)):
        x = images(step, size)
        expected = reference.rate_norm_stage_1(dense(model), running, momentum, x.numpy())
        assert np.allclose(model(x).detach().numpy(), expected, rtol=1e-12)
        assert maxima(model) == pytest.approx(running, rel=1e-12)
    assert running[0] != 1.0
    assert min(running) > 0


@pytest.mark.parametrize("momentum", MOMENTA)
def test_gradients_flow_through_the_maximum_of_the_batch(momentum: float | None) -> None:
    x, other = images(0).sub(0.3).requires_grad_(), images(0).sub(0.3).requires_grad_()
    weights = images(1)
    layer = RateNorm(momentum).double()
    (layer(x) * weights).sum().backward()
    theta = other.max() if momentum is None else 0.9 + 0.1 * other.max()
    (torch.minimum(other.clamp(min=0), theta) / theta * weights).sum().backward()
    assert x.grad is not None
    assert other.grad is not None
    # at the maximum itself the plain formula has a kink, of which autograd takes half
    inside = other.detach() < other.detach().max()
    assert torch.allclose(x.grad[inside], other.grad[inside], rtol=1e-12)
    assert float(x.grad[~inside].abs().sum()) > 0


def test_in_eval_mode_nothing_moves_and_no_image_depends_on_others() -> None:
    model = with_rate_norm(mlp())
    model(images(0))
    before = copy.deepcopy(model.eval().state_dict())
    x = images(1) * 5
    alone = torch.cat([model(part) for part in x.split(1)])
    assert torch.allclose(alone, model(x), rtol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@given(seeds, st.lists(st.integers(1, 5), min_size=1, max_size=5))
@settings(max_examples=30)
def test_the_exact_maximum_does_not_depend_on_batches(seed: int, sizes: list[int]) -> None:
    x = dyadic(seed, sum(sizes), 4)
    layer, backwards = RateNorm(momentum=None).double(), RateNorm(momentum=None).double()
    for part in x.split(sizes):
        layer(part)
    for part in x.flip(0).split(1):
        backwards(part)
    assert float(layer.running_max) == float(backwards.running_max) == max(0.0, float(x.max()))


def test_old_maxima_are_forgotten_on_request() -> None:
    model = nn.Sequential(RateNorm(None), RateNorm(0.1))
    model(torch.full((2, 3), 100.0))
    moving = float(model[1].running_max)  # type: ignore[arg-type, union-attr]
    restart_maxima(model)
    assert maxima(model) == [0.0, moving]
    model[0](torch.full((2, 3), 5.0))
    assert maxima(model)[0] == 5.0


@given(seeds, st.integers(1, 12))
@settings(max_examples=15)
def test_measured_maxima_of_a_deep_network_do_not_depend_on_batches(seed: int, size: int) -> None:
    x, model = images(seed), with_rate_norm(mlp(seed % 100))
    model.train()
    measure_maxima(model, x.flip(0).split(size))
    expected: list[float] = []
    rates = x.numpy()
    for weight, bias in dense(model)[:-1]:
        current = rates @ weight.T + bias
        expected.append(current.max())
        rates = np.clip(current, 0, None) / current.max()
    assert maxima(model) == pytest.approx(expected, rel=1e-12)
    assert model.training


def test_measuring_needs_images_for_every_pass() -> None:
    with pytest.raises(es.DataError, match="there are no images"):
        measure_maxima(with_rate_norm(mlp()), iter([images(0)]))


@pytest.mark.parametrize("momentum", [1.0, 0.5, None])
def test_a_silent_layer_divides_by_its_p_and_not_by_zero(momentum: float | None) -> None:
    layer = RateNorm(momentum)
    for _ in range(100):
        x = torch.full((2, 3), -1.0, requires_grad=True)
        y = layer(x)
        y.sum().backward()
        assert not y.any()
        assert not x.grad.any()  # type: ignore[union-attr]
    assert float(layer.threshold) == 1.0
    assert layer.eval()(torch.full((1, 1), 0.25)).item() == 0.25


@pytest.mark.parametrize("momentum", [0.0, -0.1, 1.5, float("nan")])
def test_momentum_out_of_range_is_refused(momentum: float) -> None:
    with pytest.raises(es.EquispikeError, match="outside"):
        RateNorm(momentum)


def train_step(model: nn.Module, x: Tensor) -> list[Tensor]:
    model(x).square().sum(1).mean().backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def worker(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    for momentum in MOMENTA:
        model = nn.parallel.DistributedDataParallel(with_rate_norm(mlp(), momentum))
        grads = train_step(model, images(0).split(6)[rank])
        torch.save((maxima(model), grads), f"{folder}/{rank} {momentum}")
    distributed.barrier()  # threads of the group free the last sum's tensors; Python must still be there for them
    distributed.destroy_process_group()


def test_two_workers_have_the_maxima_and_gradients_of_one(tmp_path: Path) -> None:
    multiprocessing.spawn(worker, (str(tmp_path),), nprocs=2)  # type: ignore[attr-defined]
    for momentum in MOMENTA:
        alone = with_rate_norm(mlp(), momentum)
        grads = train_step(alone, images(0))
        for rank in range(2):
            found, gradients = torch.load(tmp_path / f"{rank} {momentum}")
            assert found == pytest.approx(maxima(alone), rel=1e-12)
            assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-14) for a, b in zip(gradients, grads, strict=True))


# Models


def test_every_relu_is_replaced_in_a_copy() -> None:
    model = (
        nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(inplace=True), nn.Dropout()), nn.ReLU()).double().eval()
    )
    copied = with_rate_norm(model, momentum=None)
    assert [path for path, _ in rate_norms(copied)] == ["1.0", "2"]
    assert not any(isinstance(module, RateNorm) for module in model.modules())
    for _, layer in rate_norms(copied):
        assert layer.running_max.dtype == torch.float64
        assert layer.momentum is None
        assert not layer.training
    assert copied[0].weight is not model[0].weight


def test_a_module_with_two_paths_becomes_two_layers() -> None:
    relu = nn.ReLU()
    model = with_rate_norm(nn.Sequential(nn.Linear(3, 3), relu, nn.Linear(3, 3), relu))
    assert [path for path, _ in rate_norms(model)] == ["1", "3"]
    model(torch.rand(4, 3))
    assert len(set(maxima(model))) == 2


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.relu = nn.Linear(3, 3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.linear(self.relu(x)))


class Branching(nn.Module):
    """torch.fx cannot follow it; a pass can."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or len(x) < 1:
            raise ValueError
        return self.inner(x)


class Functional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


def test_a_relu_that_is_used_twice_is_refused() -> None:
    with pytest.raises(es.EquispikeError, match=r"relu \(ReLU\): is used 2 times.*Give each use"):
        with_rate_norm(Twice())
    with pytest.raises(es.EquispikeError, match=r"inner.relu \(ReLU\): is used 2 times"):
        with_rate_norm(Branching(Twice()), example=torch.rand(2, 3))
    block = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    with pytest.raises(es.EquispikeError, match="is used 2 times"):
        with_rate_norm(nn.Sequential(block, block))


def test_what_cannot_be_followed_needs_an_example() -> None:
    model = Branching(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    with pytest.raises(es.EquispikeError, match=r"torch\.fx cannot follow.*Pass example=images"):
        with_rate_norm(model)
    copied = with_rate_norm(model, example=torch.rand(2, 3))
    assert [path for path, _ in rate_norms(copied)] == ["inner.1"]
    assert maxima(copied) == [1.0]


def test_a_model_without_relu_modules_is_refused() -> None:
    with pytest.raises(es.EquispikeError, match=r"Functional: holds no nn\.ReLU module.*F\.relu"):
        with_rate_norm(Functional())


@settings(deadline=None)
@given(seeds, st.sampled_from([nn.AvgPool2d(2), nn.MaxPool2d(2), nn.Dropout()]), st.booleans())
def test_a_trained_network_gives_the_same_scores_with_rate_norm(seed: int, between: nn.Module, normed: bool) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4) if normed else nn.Identity(), nn.ReLU(), between,
        nn.Conv2d(4, 3, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 4),
    ).double()  # fmt: skip
    x = torch.randn(20, 2, 6, 6, dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    made = from_relu(model, [x[:15], x[15:]], momentum=0.3)
    assert [layer.momentum for _, layer in rate_norms(made)] == [0.3] * 3
    assert torch.allclose(made.eval()(x), model.eval()(x), rtol=1e-10, atol=1e-12)
    largest = [model[:n](x).amax().item() for n in (2, 5, 9)]
    assert maxima(made) == pytest.approx(largest, rel=1e-12)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_trained_pre_activation_network_gives_the_same_scores_with_rate_norm() -> None:
    from equispike.zoo.models import preact_resnet

    model = preact_resnet(18, width=0.06).eval()
    x = torch.rand(4, 3, 32, 32)
    assert torch.allclose(from_relu(model, [x])(x), model(x), rtol=1e-3, atol=1e-5)


def test_a_rate_that_no_weights_can_scale_is_refused() -> None:
    normed = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(es.EquispikeError, match=r"_2 \(BatchNorm2d\): reads rates and has no weights.*with_rate_norm"):
        from_relu(normed, [torch.rand(2, 1, 4, 4)])
    with pytest.raises(es.EquispikeError, match=r"output \(the output\): reads rates"):
        from_relu(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), [torch.rand(2, 3)])
    with pytest.raises(es.EquispikeError, match=r"add.*reads rates"):
        from_relu(build("resnet20-cifar10"), [torch.rand(2, 3, 32, 32)])
    shared = nn.Linear(3, 3)
    with pytest.raises(es.EquispikeError, match=r"\(Linear\): reads rates"):
        from_relu(nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), shared), [torch.rand(2, 3)])


# Conversion


def conv_net(seed: int = 0) -> nn.Sequential:
    """Trained for some steps, so that batch norm and maxima have moved; double."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(5, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 4),
    )  # fmt: skip
    model = with_rate_norm(model.double(), momentum=0.3)
    for _ in range(10):
        model(pictures())
    for _, layer in rate_norms(model):
        layer.p.fill_(0.75)
    return model.eval()


def pictures(n: int = 8) -> Tensor:
    return torch.rand(n, 2, 8, 8, generator=torch.Generator().manual_seed(n), dtype=torch.float64)


def test_a_rate_norm_layer_becomes_neurons_with_its_threshold_and_unit_spikes() -> None:
    model = conv_net()
    report = es.check(model, pictures())
    assert report.convertible
    assert [row.layers for row in report.rows if row.operation == "RateNorm"] == [("2", "5")]
    network = es.trace(model.train(), pictures())
    for name, layer in rate_norms(model):
        op: Any = network[name].op
        assert float(op.threshold) == op.ceiling == float(layer.threshold) == 0.75 * float(layer.running_max)
        assert op.amplitude == 1
    assert torch.allclose(network(pictures() * 2), model.eval()(pictures() * 2), rtol=1e-12)


def test_a_threshold_computed_from_the_images_is_refused() -> None:
    class Batchwise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            from equispike.functional.rate import rate_norm

            return rate_norm(x, x.amax())

    with pytest.raises(es.ConversionError, match="threshold is computed from the images"):
        es.trace(Batchwise(), torch.rand(2, 3))


@given(seeds)
@settings(max_examples=10)
def test_conversion_keeps_weights_and_counts_are_exact(seed: int) -> None:
    """Dyadic weights, thresholds powers of two: trained rates and every spike are those of the literal loops."""
    model = mlp()
    with torch.no_grad():
        for n, parameter in enumerate(model.parameters()):
            parameter.copy_(dyadic(seed + n, *parameter.shape))
    model = set_layers(with_rate_norm(model), 0.5, 4.0, 2.0)
    x = dyadic(seed, 4, 6, low=0)
    network = es.convert(model, x + 0.125, es.RateNorm())
    layers = dense(model)
    assert all(np.array_equal(reference.array(n.op.weight), w) for n, (w, _) in zip(list(network)[1:6:2], layers))  # type: ignore[union-attr]
    assert {name: float(t) for name, t in network.thresholds.items()} == {"1": 2.0, "3": 1.0}
    assert np.array_equal(network(x).numpy(), reference.rate_norm_stage_2(layers, [4.0, 2.0], 0.0, 0.5, x.numpy())[-1])
    run = es.simulate(network, x, 20)
    spikes = np.stack([x.numpy()] * 20)
    for name, (weight, bias), theta in zip(("1", "3"), layers, (2.0, 1.0)):
        spikes, _ = reference.if_neurons(list(spikes @ weight.T + bias), theta, "subtract")
        assert np.array_equal(run.counts[name].numpy(), spikes.sum(0))
    assert np.array_equal(run.readout.numpy(), np.cumsum(spikes @ layers[2][0].T + layers[2][1], 0))


METHODS = (
    (es.RateNorm(), 0.01),
    (es.DataNorm(), 0.01),
    (es.DataNorm(per_channel=True), 0.01),
    (es.ModelNorm(), 0.01),
    (es.SpikeNorm(timesteps=32, reset="subtract", coder=es.Constant(), readout="potential"), 0.02),
)


@pytest.mark.parametrize(("method", "tolerance"), METHODS, ids=repr)
def test_every_method_gives_the_trained_function_in_every_form(method: Any, tolerance: float) -> None:
    model = conv_net()
    x, exact = pictures(), model(pictures()).detach()
    network = es.convert(model, x, method)
    forms = [network, fold_amplitudes(network)]
    if not getattr(method, "per_channel", False):
        forms += [rescale(network, "balanced"), rescale(network, "activation")]
        forms += [rescale(forms[-1], "balanced")]
    runs = [es.simulate(form, x, 800) for form in forms]
    for form, run in zip(forms, runs, strict=True):
        assert torch.allclose(form(x), exact, rtol=1e-10, atol=1e-12)
        assert float((run.readout[-1] / 800 - exact).abs().max()) < tolerance * float(exact.abs().max())
        for name, count in run.counts.items():
            assert float((count - runs[0].counts[name]).abs().max()) <= 1  # forms agree to rounding


def test_thresholds_are_in_units_of_the_current() -> None:
    """What DataNorm measures is the largest current, cut at the learnt threshold, and spikes estimate the rate."""
    model = set_layers(with_rate_norm(mlp()), 1.0, 1e3, 0.01)
    network = es.convert(model, images(0), es.DataNorm())
    assert float(network.thresholds["1"]) == pytest.approx(float(model[0](images(0)).max()), rel=1e-12)  # type: ignore[index, operator]
    assert float(network.thresholds["3"]) == pytest.approx(0.01, rel=1e-12)
    amplitudes = [float(op.amplitude) for op in network.neurons.values()]  # type: ignore[arg-type]
    assert amplitudes == pytest.approx([float(network.thresholds["1"]) / 1e3, 1.0], rel=1e-12)


def test_rmp_lowers_learnt_thresholds_and_keeps_the_function() -> None:
    model = conv_net()
    x = pictures() / 4  # far from saturation
    options: Any = {"timesteps": 32, "coder": es.Constant()}
    ways = (es.RMP(s, after=True, **options) for s in (0.8, 1.0))
    network, measured = (es.convert(model, pictures(), way, readout="potential") for way in ways)
    for name, op in network.neurons.items():
        assert float(op.threshold / op.amplitude) == pytest.approx(  # type: ignore[operator]
            0.8 * float(measured.neurons[name].threshold / measured.neurons[name].amplitude)  # type: ignore[operator]
        )
    exact = model(x).detach()
    assert torch.allclose(network(x), exact, rtol=1e-9)
    assert float((es.simulate(network, x, 2000).readout[-1] / 2000 - exact).abs().max()) < 0.01


def test_saved_networks_and_weights_come_back(tmp_path: Path) -> None:
    model = conv_net()
    network = es.convert(model, pictures(), es.RateNorm())
    es.save(network, tmp_path / "network")
    loaded = es.load(tmp_path / "network")
    run, again = es.simulate(network, pictures(), 20), es.simulate(loaded, pictures(), 20)
    assert torch.equal(run.readout, again.readout)
    fresh = copy.deepcopy(model)
    for tensor in fresh.state_dict().values():
        tensor.zero_()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(pictures()), model(pictures()))


def test_a_layer_without_learnt_threshold_is_named() -> None:
    model = nn.Sequential(nn.Linear(6, 5), RateNorm(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    with pytest.raises(es.CalibrationError, match=r"^3 \(ReLU\): has no threshold from training.*with_rate_norm"):
        es.convert(model, images(0), es.RateNorm())
    network = es.convert(model, images(0), es.DataNorm())
    assert float((es.simulate(network, images(0), 800).readout[-1] / 800 - model.eval()(images(0))).abs().max()) < 0.02


def test_output_neurons_take_their_largest_current() -> None:
    model = set_layers(with_rate_norm(mlp()), 1.0, 1.0, 1.0)
    model[4].bias.data.add_(1.0)  # type: ignore[index, operator, union-attr]
    network = es.convert(model, images(0).split(5), es.RateNorm(), readout="spikes")
    assert float(network.thresholds["output neurons"]) == pytest.approx(float(model(images(0)).max()), rel=1e-12)
    model[4].bias.data.sub_(100.0)  # type: ignore[index, operator, union-attr]
    with pytest.warns(es.CalibrationWarning, match="output neurons"):
        es.convert(model, images(0), es.RateNorm(), readout="spikes")
