"""Simulation against the specification and against plain NumPy loops. Dyadic numbers make every equality exact."""

import dataclasses
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import dyadic, images_for, networks, seeds
from torch import Tensor

import equispike as es
from equispike.functional.coding import uniform
from equispike.graph.network import Network, Node
from equispike.graph.ops import AvgPool, Conv, Flatten, Input, Linear, MaxPool, Neuron, Readout
from equispike.simulation import task as running
from equispike.simulation.layerwise import bytes_per_step, steps_per_chunk
from equispike.simulation.run import ENGINES, Run
from equispike.simulation.stepwise import Stepwise, steps
from equispike.simulation.task import Task
from equispike.zoo.data import load
from equispike.zoo.store import load_model

T = 11
coders = st.sampled_from([es.Constant(), es.Poisson(), es.Poisson(scale=0.5)])
everything = st.tuples(networks(form="any"), st.data())


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def same(a: Run, b: Run) -> None:
    assert torch.equal(a.readout, b.readout)
    for kept in ("counts", "negative", "spikes", "trains", "potentials"):
        mine, other = getattr(a, kept), getattr(b, kept)
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine), kept
    assert a.neurons == b.neurons


def part(run: Run, chosen: Any) -> Run:
    return dataclasses.replace(
        run,
        totals=run.totals[:, chosen],
        counts={name: count[chosen] for name, count in run.counts.items()},
        negative={name: count[chosen] for name, count in run.negative.items()},
        spikes={name: layer[:, chosen] for name, layer in run.spikes.items()},
    )


def one_layer(
    threshold: float = 1.0, inputs: int = 3, reset: str = "subtract", v_init: Any = 0.0, classes: int | None = None
) -> Network:
    """Each input drives a neuron of its own, which class c = 0, 1, ... reads."""
    theta = torch.tensor(threshold, dtype=torch.float64)
    eye = torch.eye(inputs, dtype=torch.float64)
    return Network(
        (
            Node("input", Input((inputs,))),
            Node("in", Linear(eye, None), ("input",)),
            Node("n", Neuron(theta, theta, None, reset, v_init), ("in",)),  # type: ignore[arg-type]
            Node("out", Linear(eye[: classes or inputs], None), ("n",)),
            Node("readout", Readout(), ("out",)),
        )
    )


# Engines


@given(everything, coders, seeds, st.sampled_from([1, 2, 7, 256]), st.integers(1, T))
@settings(max_examples=60)
def test_layerwise_is_stepwise_spike_for_spike(drawn: Any, coder: Any, seed: int, batch: int, chunk: int) -> None:
    network, data = drawn
    images = data.draw(images_for(network))
    memory = bytes_per_step(network) * min(batch, len(images)) * chunk
    run = es.simulate(network, images, T, coder, seed, engine="layerwise", batch_size=batch, memory=memory, verify=2)
    same(run, es.simulate(network, images, T, coder, seed, engine="stepwise"))
    assert run.mismatch == 0.0


@pytest.mark.parametrize("steps", [1, 2, 4, 9])
def test_counts_of_chunks_whose_values_lie_otherwise_in_memory(steps: int) -> None:
    """Pooled images of one step and image, and of several, are laid out in different orders by torch."""
    theta = torch.tensor(0.625, dtype=torch.float64)
    network = Network(
        (
            Node("input", Input((1, 6, 6))),
            Node("conv", Conv(torch.ones(2, 1, 1, 1).double(), theta.repeat(2), (1, 1), (0, 0), (1, 1)), ("input",)),
            Node("below", Neuron(theta, theta), ("conv",)),
            Node("pool", AvgPool((2, 2), (2, 2), (0, 0)), ("below",)),
            Node("above", Neuron(theta, theta), ("pool",)),
            Node("flat", Flatten(), ("above",)),
            Node("readout", Readout(), ("flat",)),
        )
    )
    images = torch.arange(36, dtype=torch.float64).view(1, 1, 6, 6) / 32 - 0.5
    run = es.simulate(network, images, 9, engine="layerwise", memory=steps * bytes_per_step(network))
    same(run, es.simulate(network, images, 9, engine="stepwise"))


@given(everything, coders, seeds)
@settings(max_examples=25)
def test_float32_gives_the_spikes_of_float64(drawn: Any, coder: Any, seed: int) -> None:
    network, data = drawn
    images = data.draw(images_for(network))
    exact = es.simulate(network, images, T, coder, seed)
    run = es.simulate(network.to(torch.float32), images.float(), T, coder, seed)
    assert run.readout.dtype == torch.float32
    same(dataclasses.replace(run, totals=run.totals.double()), exact)


@given(everything, coders, seeds)
@settings(max_examples=40)
def test_stepwise_is_the_literal_loop(drawn: Any, coder: Any, seed: int) -> None:
    network, data = drawn
    images = data.draw(images_for(network))
    indices = torch.arange(len(images))
    entrance = network.input
    currents = coder.encode(images, indices, range(1, T + 1), seed, entrance.scale, entrance.amplitude)
    v: dict[str, Any] = {}
    for n, (name, op) in enumerate(network.neurons.items(), start=1):
        if isinstance(op.v_init, Tensor):
            v[name] = reference.array(op.v_init + torch.zeros(network.shapes[name]))
            continue
        drawn_v = op.v_init if op.v_init != "uniform" else uniform(seed, indices, n, network.shapes[name]).double()
        v[name] = reference.array(op.threshold * drawn_v * torch.ones(network.shapes[name]))
    trains, readout = reference.spiking(network, reference.array(currents.expand(T, *currents.shape[1:])), v)
    run = es.simulate(network, images, T, coder, seed, engine="stepwise")
    assert np.array_equal(run.readout.numpy(), readout)
    for name, train in trains.items():
        assert np.array_equal(run.sent(name).numpy(), train.sum(0))
        assert np.array_equal(run.counts[name].numpy(), np.abs(train).sum(0))
        assert np.array_equal(run.spikes[name].numpy(), np.abs(train).reshape(T, len(images), -1).sum(2))


@given(everything, coders, seeds)
@settings(max_examples=25)
def test_an_image_spikes_the_same_in_any_batch_and_order(drawn: Any, coder: Any, seed: int) -> None:
    network, data = drawn
    images = dyadic(data.draw(seeds), 9, *network.input.shape)
    whole = es.simulate(network, images, T, coder, seed)
    for size in (1, 7):
        same(es.simulate(network, images, T, coder, seed, batch_size=size), whole)
    order = torch.tensor(data.draw(st.permutations(range(9))))
    same(es.simulate(network, images[order], T, coder, seed, indices=order), part(whole, order))
    same(es.simulate(network, images[4:6], T, coder, seed, indices=torch.tensor([4, 5])), part(whole, slice(4, 6)))


@given(everything)
@settings(max_examples=25)
def test_charge_is_conserved_in_every_layer_with_soft_reset(drawn: Any) -> None:
    network, data = drawn
    images = data.draw(images_for(network))
    plain = {"reset": "subtract", "v_init": 0.0, "drive": None, "spikes": "binary"}
    soft = {name: dataclasses.replace(op, **plain) for name, op in network.neurons.items()}
    network = network.replace_ops(soft)
    charge = {name: torch.zeros(len(images), *network.shapes[name]).double() for name in soft}
    most = {name: torch.full_like(value, -torch.inf) for name, value in charge.items()}
    for values in steps(Task(network, images, torch.arange(len(images)), T, es.Constant(), 0)):
        for name in soft:
            current = values[network[name].inputs[0]]
            charge[name] += current
            most[name] = torch.maximum(most[name], current)
    counts = es.simulate(network, images, T).counts
    for name, op in soft.items():
        left = charge[name] - op.threshold * counts[name]  # type: ignore[operator]
        # What is left is below theta, unless a step brought more than one spike can carry away.
        bounded = most[name] <= op.threshold  # type: ignore[operator]
        assert bool((left[bounded] < op.threshold.expand_as(left)[bounded]).all())  # type: ignore[union-attr]
        assert bool((counts[name] <= T).all())
        unfired = counts[name] == 0
        assert bool((left[unfired] < op.threshold.expand_as(left)[unfired]).all())  # type: ignore[union-attr]


def test_constant_input_gives_the_spike_count_of_the_formula() -> None:
    images = torch.tensor([[0.0, 0.125, 0.75], [1.0, 2.5, -1.0]], dtype=torch.float64)
    counts = es.simulate(one_layer(threshold=0.5), images, 16).counts["n"]
    assert torch.equal(counts, (16 * images / 0.5).floor().clamp(0, 16).int())


def test_resets_differ_as_in_hans_example() -> None:
    """Currents of 0.75 thresholds: soft reset fires 3 times in 4 steps, hard reset every second step."""
    images = torch.full((1, 3), 0.75).double()
    assert es.simulate(one_layer(), images, 4).counts["n"].tolist() == [[3, 3, 3]]
    assert es.simulate(one_layer(reset="zero"), images, 4).counts["n"].tolist() == [[2, 2, 2]]


def test_initial_potential_is_a_fraction_of_the_threshold() -> None:
    images = torch.full((1, 3), 0.5).double()
    first = {v: int(es.simulate(one_layer(2.0, v_init=v), images, 4).spikes["n"].argmax()) + 1 for v in (0.0, 0.5)}
    assert first == {0.0: 4, 0.5: 2}


def test_potentials_may_be_given_for_each_channel() -> None:
    network, images = one_layer(2.0, v_init=torch.tensor([0.0, 1.0, -1.0]).double()), torch.full((1, 3), 0.5).double()
    run = es.simulate(network, images, 6, trains=["n"])
    assert (run.trains["n"][:, 0].int().argmax(0) + 1).tolist() == [4, 2, 6]


def test_a_drive_goes_on_with_its_last_row() -> None:
    rows = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]], dtype=torch.float64)
    network = one_layer()
    network = network.replace_ops({"n": dataclasses.replace(network.neurons["n"], drive=rows)})
    run = es.simulate(network, torch.zeros(1, 3).double(), 5, trains=["n"])
    assert run.trains["n"][:, 0].int().T.tolist() == [[1, 0, 0, 0, 0], [0, 1, 1, 1, 1], [0, 1, 0, 1, 0]]
    assert torch.equal(network(torch.ones(1, 3).double()), one_layer()(torch.ones(1, 3).double())), (
        "no part of the ReLU"
    )


def test_signed_spikes_are_taken_back_and_both_signs_are_counted() -> None:
    """The second layer is driven up by the first input and down by the second, which comes later."""
    theta = torch.tensor(1.0).double()
    neurons = Neuron(theta, theta, spikes="signed", drive=torch.tensor([[1.0], [1.0], [-1.0], [-1.0], [0.0]]).double())
    eye = torch.eye(1).double()
    nodes = (
        Node("input", Input((1,))),
        Node("in", Linear(eye, None), ("input",)),
        Node("n", neurons, ("in",)),
        Node("out", Linear(eye, None), ("n",)),
        Node("readout", Readout(), ("out",)),
    )
    run = es.simulate(Network(nodes), torch.zeros(1, 1).double(), 6, trains=["n"])
    assert run.trains["n"].flatten().tolist() == [1, 1, -1, -1, 0, 0]
    assert run.readout.flatten().tolist() == [1, 2, 1, 0, 0, 0]
    assert (int(run.counts["n"]), int(run.negative["n"]), int(run.sent("n"))) == (4, 2, 0)
    assert float(run.spike_rate[-1]) == pytest.approx(100 * 4 / 6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"drive": torch.ones(2, 4)}, "n .Neuron.: a drive of shape .2, 4.. Give rows of 3 channels"),
        ({"drive": torch.ones(3)}, "a drive of shape .3,."),
        ({"drive": torch.ones(0, 3)}, "at least one"),
        ({"v_init": torch.ones(2)}, r"n .Neuron.: v_init of shape \(2,\), where \(3,\) is expected"),
        ({"spikes": "signed", "reset": "zero"}, "a hard reset has forgotten"),
    ],
)
def test_drives_potentials_and_signs_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    network = one_layer()
    with pytest.raises(es.ConversionError, match=message):
        network.replace_ops({"n": dataclasses.replace(network.neurons["n"], **fields)})


def test_random_initial_potentials_are_below_the_threshold_and_keyed_by_seed_and_image() -> None:
    network, images = one_layer(inputs=64, v_init="uniform"), torch.full((4, 64), 0.5).double()
    run = es.simulate(network, images, 2)
    assert 60 < int(run.spikes["n"][0].sum()) < 196  # half of 256 start above a half: 128, sigma 8
    assert bool((run.counts["n"] == 1).all())  # nobody starts at the threshold: each fires once in two steps
    assert torch.equal(es.simulate(network, images, 2).spikes["n"], run.spikes["n"])
    assert not torch.equal(es.simulate(network, images, 2, seed=1).spikes["n"], run.spikes["n"])
    assert len({tuple(es.simulate(network, images[:1], 1, indices=[i]).counts["n"][0].tolist()) for i in range(4)}) == 4


def test_images_may_lie_in_memory_in_any_order() -> None:
    theta = torch.tensor(1.0)
    network = Network(
        (
            Node("input", Input((2, 3, 4))),
            Node("n", Neuron(theta, theta), ("input",)),
            Node("flat", Flatten(), ("n",)),
            Node("out", Linear(torch.ones(2, 24), None), ("flat",)),
            Node("readout", Readout(), ("out",)),
        )
    )
    images = dyadic(0, 2, 3, 4, 5, low=0, dtype=torch.float32).permute(3, 0, 1, 2)
    run = es.simulate(network, images, 8, engine="layerwise")
    same(run, es.simulate(network, images.contiguous(), 8, engine="stepwise"))
    assert int(run.spikes["n"].sum()) == int(run.counts["n"].sum()) > 0
    memory_format: Any = torch.channels_last
    same(run, es.simulate(network, images.contiguous(memory_format=memory_format), 8))


@pytest.mark.parametrize("engine", ["auto", "layerwise", "stepwise"])
def test_half_precision_counts_every_spike(engine: Any) -> None:
    """bfloat16 holds integers up to 256 exactly; layers and runs are larger."""
    run = es.simulate(one_layer(inputs=301).to(torch.bfloat16), torch.ones(2, 301), 301, engine=engine, memory=10**6)
    assert run.counts["n"].unique().tolist() == [301]
    assert run.spikes["n"].unique().tolist() == [301]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("engine", ["auto", "layerwise", "stepwise"])
def test_models_in_half_precision_convert_and_score_without_end(dtype: torch.dtype, engine: Any) -> None:
    """Scores grow with every step: in float16 they would be infinite beyond 65,504, and every image of class 0."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)).to(dtype)
    with torch.no_grad():
        model[2].weight.mul_(4000)
    images = torch.rand(5, 4)
    network = es.convert(model, images, es.DataNorm())
    for spiking in (network, network.to(dtype)):
        run = es.simulate(spiking, images, 256, engine=engine)
        assert run.readout.dtype == torch.float32
        assert float(run.readout.abs().max()) > 65_504
        trained = model.float()(images).detach()
        assert torch.allclose(run.readout[-1] / 256, trained, atol=float(0.02 * trained.abs().max()))
    for method in (es.RMP(timesteps=8), es.SpikeNorm(timesteps=8)):
        assert es.convert(model.to(dtype), images, method).dtype == torch.float32


# The trained float network


@pytest.fixture(scope="module")
def digits() -> tuple[Network, Tensor, Tensor]:
    data = load("mnist-sample")
    network = es.convert(load_model("mnist-cnn")[0], data.train.take(64).floats(), es.DataNorm(99.9))
    return network, data.test.take(24).floats(), data.test.take(24).labels


def test_engines_agree_on_the_trained_network_but_for_rounding(digits: Any) -> None:
    network, images, _ = digits
    run = es.simulate(network, images, 16, verify=6)
    assert run.mismatch is not None
    assert 0 <= run.mismatch < 0.002
    assert es.simulate(network, images[:2], 2).mismatch is None


def test_mismatch_counts_the_neurons_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(Stepwise):
        def begin(self, *args: Any) -> Any:
            batch = super().begin(*args)
            batch.counts["n"][0, 0] += 1
            return batch

    monkeypatch.setitem(ENGINES, "layerwise", Wrong())  # type: ignore[arg-type]
    images = torch.rand(4, 3).double()
    assert es.simulate(one_layer(), images, 3, engine="layerwise", verify=2).mismatch == 1 / 6


def test_potential_readout_estimates_the_trained_output(digits: Any) -> None:
    network, images, _ = digits
    exact = network(images)
    errors = []
    for timesteps in (16, 64, 256):
        estimate = es.simulate(network, images[:6], timesteps).readout[-1] / timesteps
        errors.append(float((estimate - exact[:6]).abs().mean() / exact[:6].abs().mean()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.05


# What a run tells


def test_predictions_and_ties_by_hand() -> None:
    # Class scores are spike counts: neurons fire every 2nd, every step, and every 2nd step.
    run = es.simulate(one_layer(), torch.tensor([[0.5, 1.0, 0.5], [0.5, 0.0, 0.5]]).double(), 2)
    assert run.readout.tolist() == [[[0, 1, 0], [0, 0, 0]], [[1, 2, 1], [1, 0, 1]]]
    assert run.predictions.tolist() == [[1, 0], [1, 0]]  # equal scores go to the lowest class
    assert run.ties.tolist() == [0.5, 0.5]
    assert (run.timesteps, run.images) == (2, 2)


def test_spike_rate_by_hand() -> None:
    run = es.simulate(one_layer(), torch.tensor([[0.5, 1.0, 0.0]]).double(), 2)
    assert run.neurons == {"n": 3}
    assert run.spike_rate.tolist() == pytest.approx([100 / 3, 100 * 3 / 6], rel=1e-15)  # 1 of 3; 1 + 2 of 3 x 2


@given(everything)
@settings(max_examples=20)
def test_spike_rate_counts_all_layers_and_images(drawn: Any) -> None:
    network, data = drawn
    images = data.draw(images_for(network))
    run = es.simulate(network, images, T)
    neurons = sum(count[0].numel() for count in run.counts.values())
    spikes = sum(int(count.sum()) for count in run.counts.values())
    assert neurons == sum(run.neurons.values())
    assert float(run.spike_rate[-1]) == pytest.approx(100 * spikes / (neurons * len(images) * T), rel=1e-12)


def test_a_run_is_the_users_to_change() -> None:
    run = es.simulate(one_layer(), torch.rand(2, 3), 4)
    run.readout.div_(4)
    run.counts["n"].add_(1)
    assert torch.nn.Parameter(run.readout).requires_grad


# Memory


def test_chunks_keep_to_the_budget() -> None:
    """The values alive at once in one chunk, counted by hand: 3 inputs, their currents, their spikes (float64)."""
    network = one_layer()
    per_step = bytes_per_step(network)
    assert per_step == 2 * 3 * 8
    for memory, expected in ((1, 1), (per_step * 4 * 5, 5), (per_step * 4 * 6 - 1, 5), (10**9, 20)):
        assert steps_per_chunk(network, 4, 20, memory) == expected


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timesteps": 0}, "timesteps: 0 is less than 1"),
        ({"timesteps": -3}, "timesteps: -3 is less than 1"),
        ({"engine": "fast"}, "engine: 'fast' is not known. Choose from auto, events, gpu, layerwise, stepwise"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"memory": 0}, "memory: 0"),
        ({"verify": -1}, "verify: -1"),
        ({"images": torch.zeros(0, 3)}, "there are none"),
        ({"images": torch.zeros(2, 4)}, r"shape \(2, 4\): this network takes \(B, 3\)"),
        ({"images": torch.tensor(1.0)}, "shape"),
        ({"images": torch.full((2, 3), torch.nan)}, "NaN"),
        ({"images": torch.full((2, 3), torch.inf)}, "infinity"),
        ({"images": torch.zeros(2, 3, dtype=torch.uint8)}, "uint8"),
        ({"indices": torch.arange(3)}, r"indices: shape \(3,\) for 2 images"),
        ({"indices": [-1, 0]}, "indices"),
        ({"indices": [0, 2**32]}, "indices"),
        ({"indices": torch.tensor([0.5, 1.0])}, "indices"),
        ({"seed": -1, "coder": es.Poisson()}, "seed: -1"),
        ({"seed": 2**64, "coder": es.Poisson()}, "seed"),
        ({"coder": es.Poisson(scale=0.0)}, "scale"),
    ],
)
@pytest.mark.parametrize("engine", ["stepwise", "layerwise"])
def test_unusable_arguments_are_refused_by_name(change: dict[str, Any], message: str, engine: str) -> None:
    arguments = {"images": torch.ones(2, 3), "timesteps": 4, "engine": engine} | change
    with pytest.raises(es.SimulationError, match=message):
        es.simulate(one_layer(), **arguments)


def test_a_network_without_thresholds_is_refused() -> None:
    network = one_layer().replace_ops({"n": Neuron()})
    with pytest.raises(es.ConversionError, match="n: has no threshold yet"):
        es.simulate(network, torch.ones(1, 3), 4)


def test_max_pools_and_networks_without_neurons_are_refused() -> None:
    pooled = Network(
        (
            Node("input", Input((1, 4))),
            Node("pool", MaxPool((2,), (2,), (0,), (1,)), ("input",)),
            Node("flat", Flatten(), ("pool",)),
            Node("readout", Readout(), ("flat",)),
        )
    )
    with pytest.raises(es.SimulationError, match=r"pool \(MaxPool\)"):
        es.simulate(pooled, torch.ones(1, 1, 4), 4)
    plain = Network((Node("input", Input((3,))), Node("readout", Readout(), ("input",))))
    with pytest.raises(es.SimulationError, match="no neuron layer"):
        es.simulate(plain, torch.ones(1, 3), 4)


def test_on_gpus_no_factor_is_rounded_and_settings_come_back() -> None:
    """torch's own setting on GPUs would round weights to 11 bits in convolutions."""
    before = running._precisions()
    with suppress(KeyError), running.full_precision(torch.device("cuda")):
        assert running._precisions() == ["ieee", "ieee"]
        raise KeyError
    assert running._precisions() == before
    with running.full_precision(torch.device("cpu")):
        assert running._precisions() == before


def test_simulations_ask_for_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    @contextmanager
    def noted(device: torch.device) -> Generator[None]:
        asked.append(device.type)
        yield

    monkeypatch.setattr(running, "full_precision", noted)
    es.simulate(one_layer(), torch.ones(1, 3), 2)
    assert asked == ["cpu"]
