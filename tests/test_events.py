"""The event-driven engine against the specification, spike for spike, on networks with exact arithmetic."""

import dataclasses
import math
import os
import subprocess
import sys
import warnings
from fractions import Fraction
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import dyadic, images_for, networks, seeds
from test_simulate import one_layer, same

import equispike as es
from equispike.graph.network import Network, Node
from equispike.graph.ops import Add, AvgPool, Concat, Conv, Flatten, Input, Linear, Neuron, Pad, Readout, map_tensors
from equispike.simulation import beginning, cpu, trains
from equispike.simulation import plan as planning
from equispike.simulation import run as running
from equispike.simulation.currents import Current, Spikes, Term, apply_view, whole_train
from equispike.simulation.state import Plan, PlannedBatch
from equispike.simulation.task import Task
from equispike.simulation.trains import Integers, as_integers, pack
from equispike.zoo.data import load
from equispike.zoo.store import load_model

needs_core = pytest.mark.skipif(not cpu.installed(), reason="installed without a compiler: there is no core")

T = 11
EXAMPLES = int(os.environ.get("EQUISPIKE_EXAMPLES", "80"))
coders = st.sampled_from([es.Constant(), es.Poisson(), es.Poisson(scale=0.5)])
everything = st.tuples(networks(form="any"), st.data())


def in_turn(layer: cpu.CpuLayer) -> str:
    """Chunk by chunk another of the kernels that a layer may choose from."""
    return sorted(layer.cores)[-1 - layer.runs % len(layer.cores)]


@needs_core
@given(everything, coders, seeds, st.sampled_from([1, 2, 7]), st.integers(1, T), st.sampled_from([1, 2, 3]))
@settings(max_examples=EXAMPLES)
def test_events_are_stepwise_spike_for_spike(
    drawn: Any, coder: Any, seed: int, batch: int, chunk: int, threads: int
) -> None:
    network, data = drawn
    network = network.to(data.draw(st.sampled_from([torch.float32, torch.float64])))
    images = data.draw(images_for(network))
    reference = es.simulate(network, images, T, coder, seed, engine="stepwise")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "LONGEST", chunk)
        patch.setattr(cpu, "DENSE_ABOVE", data.draw(st.sampled_from([0.0, 0.1, 0.3])))
        patch.setattr(cpu, "NARROW", data.draw(st.sampled_from([0, 16, 10**6])))
        patch.setattr(cpu, "LARGEST_SHORT", data.draw(st.sampled_from([0, 2**13 - 1])))
        patch.setattr(cpu, "ISA", data.draw(st.sampled_from(cpu.core.instruction_sets())))  # type: ignore
        patch.setattr(cpu, "MULTIPLIES", data.draw(st.booleans()))
        patch.setattr(cpu.CpuLayer, "_fastest", in_turn)
        patch.setattr(torch, "get_num_threads", lambda: threads)
        for name in ("events", "auto"):
            same(es.simulate(network, images, T, coder, seed, engine=name, batch_size=batch), reference)


LEVELS = torch.tensor([0.0, 2.0**-40, -1e-9, 0.3, -0.7, 1.0, -1.0, 2.5])


@needs_core
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 3), st.integers(1, 3)),
    st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=3),
    st.integers(0, 2**64 - 1),
    st.integers(1, 2**31),
    st.integers(1, 70),
    st.sampled_from([None, 0.5, 2.0]),
)
@settings(max_examples=EXAMPLES // 4)
def test_poisson_spikes_of_the_core_are_those_of_the_coder(
    shape: tuple[int, ...], indices: list[int], seed: int, first: int, steps: int, scale: float | None
) -> None:
    images = LEVELS[torch.randint(len(LEVELS), shape, generator=torch.Generator().manual_seed(seed % 2**32))]
    coder, numbers, when = es.Poisson(scale=scale), torch.tensor(indices[: len(images)]), range(first, first + steps)
    currents = coder.encode(images, numbers, when, seed, scale=1.0, amplitude=1.0)
    limits = coder.limits(images, 1.0).flatten(2)
    for isa in cpu.core.instruction_sets():  # type: ignore[union-attr]
        trains = cpu.core.draw(limits, numbers, seed, first, steps, 2, isa)  # type: ignore[union-attr]
        positive, negative = (torch.from_numpy(train.bits) for train in trains)
        assert torch.equal(positive, pack(currents > 0))
        assert torch.equal(negative, pack(currents < 0))


@needs_core
@given(st.data(), st.integers(1, 2), seeds)
@settings(max_examples=EXAMPLES)
def test_the_core_convolves_in_double_precision_in_one_order(data: Any, axes: int, seed: int) -> None:
    """Sums of dyadic numbers are torch's; those of others the same on every instruction set, in every batch."""

    def sizes(least: int, most: int) -> tuple[int, ...]:
        return tuple(data.draw(st.integers(least, most)) for _ in range(axes))

    batch, inputs, outputs, threads = (data.draw(st.integers(1, most)) for most in (3, 4, 40, 3))
    kernel, stride, padding, dilation = sizes(1, 4), sizes(1, 3), sizes(0, 3), sizes(1, 2)
    space = [d * (k - 1) + 1 + data.draw(st.integers(0, 9)) for k, d in zip(kernel, dilation)]
    weight = dyadic(seed, outputs, inputs, *kernel, dtype=torch.float32)
    bias = dyadic(seed + 1, outputs, dtype=torch.float32) if data.draw(st.booleans()) else None
    x = dyadic(seed + 2, batch, inputs, *space, dtype=torch.float64)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed % 2**32), dtype=torch.float64)
    op = Conv(weight, bias, stride, padding, dilation)
    exact = map_tensors(op, torch.Tensor.double)(x)
    noisy: list[torch.Tensor] = []
    for isa in cpu.core.instruction_sets():  # type: ignore[union-attr]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(beginning, "ISA", isa)
            patch.setattr(torch, "get_num_threads", lambda: threads)
            for dtype in (torch.float32, torch.float64):
                convolve = beginning._convolution(op, tuple(exact.shape[1:]), dtype)
                assert torch.equal(convolve(x), exact.to(dtype))
                alone = torch.cat([convolve(image[None]) for image in noise])
                assert torch.equal(convolve(noise), alone)
            noisy.append(alone)
    assert all(torch.equal(one, noisy[0]) for one in noisy)


def image_network(*layers: Conv | AvgPool, channels: int = 3, size: int = 8, classes: int = 4) -> Network:
    """Neurons behind every layer; thresholds and weights are dyadic."""
    theta = torch.tensor(1.0)
    nodes = [Node("input", Input((channels, size, size))), Node("first", Neuron(theta, theta), ("input",))]
    for n, op in enumerate(layers):
        nodes.append(Node(f"op{n}", op, (nodes[-1].name,)))
        nodes.append(Node(f"n{n}", Neuron(theta / 2, theta), (nodes[-1].name,)))
    nodes.append(Node("flat", Flatten(), (nodes[-1].name,)))
    features = Network((*nodes, Node("readout", Readout(), ("flat",)))).shapes["flat"][0]
    head = Linear(dyadic(9, classes, features, dtype=torch.float32), None)
    return Network((*nodes, Node("head", head, ("flat",)), Node("readout", Readout(), ("head",))))


def conv(seed: int, out: int, inputs: int, kernel: int, groups: int = 1, **settings: tuple[int, int]) -> Conv:
    given = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)} | settings
    weight = dyadic(seed, out, inputs // groups, kernel, kernel, dtype=torch.float32)
    return Conv(weight, dyadic(seed + 1, out, dtype=torch.float32) / 8, **given, groups=groups)


WIDE = {
    "slabs of 64, 32 and 16 channels, words in between": (conv(0, 64, 3, 3), conv(2, 96, 64, 3), conv(4, 80, 96, 3)),
    "strides, dilation and large kernels": (
        conv(0, 20, 3, 5, stride=(2, 1), padding=(4, 2), dilation=(2, 1)),
        conv(2, 40, 20, 3, stride=(3, 2)),
    ),
    "groups": (conv(0, 24, 3, 3), conv(2, 36, 24, 3, groups=4), conv(4, 72, 36, 1, groups=12)),
    "depthwise": (conv(0, 130, 3, 1), conv(2, 130, 130, 3, groups=130), conv(4, 8, 130, 1)),
    "pools": (
        AvgPool((2, 2), (2, 2), (0, 0)),
        conv(0, 32, 3, 3),
        AvgPool((4, 4), (2, 2), (2, 2), ceil_mode=True, count_include_pad=False),
    ),
}


@needs_core
@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("coder", [es.Constant(), es.Poisson(scale=2.0)])
@pytest.mark.parametrize(("scattered", "largest"), [(0, 2**13 - 1), (0, 0), (10**6, 0), (0, None)])
def test_wide_layers_and_awkward_geometries_are_exact(
    name: str, coder: Any, scattered: int, largest: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "NARROW", scattered)
    monkeypatch.setattr(cpu, "LARGEST_SHORT", largest or 0)
    monkeypatch.setattr(cpu, "MULTIPLIES", largest is None)
    monkeypatch.setattr(cpu.CpuLayer, "_fastest", in_turn)
    network, images = image_network(*WIDE[name]), dyadic(7, 3, 3, 8, 8, dtype=torch.float32)
    reference = es.simulate(network, images, 6, coder, engine="stepwise")
    assert 0 < float(reference.spike_rate[-1]) < 100
    for isa in cpu.core.instruction_sets():  # type: ignore[union-attr]
        monkeypatch.setattr(cpu, "ISA", isa)
        same(es.simulate(network, images, 6, coder, engine="events" if largest is not None else "auto"), reference)


@needs_core
@pytest.mark.parametrize("channels", [20, 32, 48, 64, 80])
def test_layers_of_several_slabs_write_all_their_spikes(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was in memory before must not be taken for spikes, least of all for those of channels that do not exist."""
    network = image_network(conv(0, channels, 3, 3), conv(2, 8, channels, 3), size=4)
    images = dyadic(7, 2, 3, 4, 4, dtype=torch.float32)
    reference = es.simulate(network, images, 6, engine="stepwise")
    real = torch.empty

    def dirty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return real(*shape, dtype=dtype).fill_(255)

    for slab in (1, cpu.SLAB):
        monkeypatch.setattr(cpu, "SLAB", slab)
        plan = Network(network.nodes)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "empty", dirty)
            run = es.simulate(plan, images, 6, engine="events")
        same(run, reference)


def linear_network(weight: torch.Tensor, *shape: int) -> Network:
    """Neurons that spike where the input is one, and a linear layer that is read out."""
    theta = torch.ones((), dtype=weight.dtype)
    nodes = Node("input", Input(shape)), Node("neurons", Neuron(theta, theta), ("input",))
    head = Node("flat", Flatten(), ("neurons",)), Node("head", Linear(weight, None), ("flat",))
    return Network((*nodes, *head, Node("readout", Readout(), ("head",))))


@needs_core
@given(st.integers(250, 2**15 - 1), st.integers(0, 3), st.integers(1, 70), st.integers(-20, 20), seeds, st.data())
@settings(max_examples=EXAMPLES // 3)
def test_sums_of_integers_are_widened_before_they_overflow(
    largest: int, more: int, classes: int, exponent: int, seed: int, data: Any
) -> None:
    """Output 0 adds up the largest weight, output 1 the smallest, in one more event than 16 bits hold at least."""
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    events = (2**15 - 1) // largest + 1 + more
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-largest, largest + 1, (classes + 2, events + 1), generator=generator).to(dtype)
    weight[0], weight[1] = largest, -largest
    weight[:, -1] = 1.0  # no larger unit divides all
    network = linear_network(weight * 2.0**exponent, events + 1)
    images = torch.ones(3, events + 1, dtype=dtype)
    images[1] = torch.randint(0, 2, (events + 1,), generator=generator)
    images[2, -1] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "LARGEST_SHORT", 2**15 - 1)
        patch.setattr(cpu, "ISA", data.draw(st.sampled_from(cpu.core.instruction_sets())))  # type: ignore
        run = es.simulate(network, images, 2, engine="events")
    same(run, es.simulate(network, images, 2, engine="stepwise"))


@needs_core
def test_sums_of_integers_may_leave_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "LARGEST_SHORT", 2**15 - 1)
    shape = 1100, 8, 8
    weight = torch.full((1, 1100 * 8 * 8), 2.0**15 - 1, dtype=torch.float64)
    network = linear_network(torch.cat([weight, -weight]), *shape)
    run = es.simulate(network, torch.ones(1, *shape, dtype=torch.float64), 1, engine="events")
    total = 1100 * 64 * (2.0**15 - 1)
    assert total > 2**31
    assert run.readout.flatten().tolist() == [total, -total]


numbers = st.floats(-4, 4, width=32) | st.integers(-127, 127).map(float)


@given(st.lists(st.lists(numbers, min_size=2, max_size=2), max_size=6), st.data())
def test_sums_of_integers_fit_and_rounding_is_that_of_sums(rows: list[list[float]], data: Any) -> None:
    dtype, bits = data.draw(st.sampled_from([(torch.float32, 31), (torch.float64, 62)]))
    weight = torch.tensor(rows, dtype=dtype).reshape(-1, 2) * 2.0 ** data.draw(st.integers(-60, 60))
    spikes = torch.tensor(data.draw(st.lists(st.integers(1, 9), min_size=len(weight), max_size=len(weight))))
    found = as_integers(weight, spikes.float())
    for channel in range(2):
        unit = Fraction(float(found.unit[channel]))
        assert unit.numerator == 1 or unit.denominator == 1  # a power of two
        own = [int(w) for w in found.whole[:, channel]]
        exact = [Fraction(float(w)) for w in weight[:, channel]]
        for sign in (1, -1):
            assert sum(int(n) * max(0, sign * w) for n, w in zip(spikes, own)) < 2**bits
        most = max(sum(int(n) * max(0, sign * w) for n, w in zip(spikes, exact)) for sign in (1, -1))
        rounding = max(most / 2 ** (bits - 1), Fraction(torch.finfo(dtype).tiny))
        assert all(abs(w * unit - e) <= rounding for w, e in zip(own, exact))
    assert found.largest == int(found.whole.abs().max() if len(weight) else 0)
    assert found.largest <= 127 * (256**found.digits - 1) // 255 or found.digits == 5


def test_weights_that_are_all_rounded_up_add_up_to_no_more_than_fits() -> None:
    """Their sum is 2**31 - 1 units; rounded to units it would be 2**31 + 41."""
    weight = torch.tensor([2.0**31 - 2**7, *[1.5] * 84, 1.0])[:, None]
    assert float(weight.double().sum()) == 2**31 - 1
    assert int(as_integers(weight, torch.ones(86)).whole.long().sum()) < 2**31


@given(st.integers(1, 2**15 - 1), st.integers(-60, 60), seeds)
def test_weights_on_a_grid_stay_on_it(most: int, exponent: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-most, most + 1, (3, 4), generator=generator) * 2.0**exponent
    found = as_integers(weight, torch.ones(3))
    assert torch.equal(found.whole * found.unit, weight)
    assert found.largest <= most
    assert bool((found.whole % 2).any(0).eq(weight.any(0)).all())  # no larger unit divides all of a channel


@needs_core
@settings(max_examples=EXAMPLES // 4)
@given(seeds, st.integers(1, 4), st.integers(1, 40), st.data())
def test_float_weights_spike_alike_however_the_work_is_done(seed: int, images: int, size: int, data: Any) -> None:
    """Sums of integers are exact in any order, so not a bit depends on kernel, batch, threads or instructions."""
    generator = torch.Generator().manual_seed(seed)
    theta = torch.ones(())
    nodes = [Node("input", Input((3, 5, 5))), Node("first", Neuron(theta, theta), ("input",))]
    weight = torch.randn(size, 3, 3, 3, generator=generator)
    nodes.append(Node("conv", Conv(weight, None, (1, 1), (1, 1), (1, 1), 1), ("first",)))
    nodes.append(Node("second", Neuron(theta * 0.3, theta), ("conv",)))
    nodes.append(Node("flat", Flatten(), ("second",)))
    nodes.append(Node("head", Linear(torch.randn(4, size * 25, generator=generator), None), ("flat",)))
    network = Network((*nodes, Node("readout", Readout(), ("head",))))
    pixels = torch.rand(images, 3, 5, 5, generator=generator) / 2
    expected = es.simulate(network, pixels, T, engine="events")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "LONGEST", data.draw(st.integers(1, T)))
        patch.setattr(cpu, "DENSE_ABOVE", math.inf)  # torch's sums depend on their order
        patch.setattr(cpu, "NARROW", data.draw(st.sampled_from([0, 16, 10**6])))
        patch.setattr(cpu, "ISA", data.draw(st.sampled_from(cpu.core.instruction_sets())))  # type: ignore
        patch.setattr(cpu, "MULTIPLIES", data.draw(st.booleans()))
        patch.setattr(cpu.CpuLayer, "_fastest", in_turn)
        threads = data.draw(st.integers(1, 3))
        patch.setattr(torch, "get_num_threads", lambda: threads)
        found = es.simulate(Network(network.nodes), pixels, T, engine="auto", batch_size=data.draw(st.integers(1, 4)))
    same(found, expected)


@needs_core
@pytest.mark.parametrize("method", [es.DataNorm(99.0, per_channel=True), es.SpikeNorm(timesteps=16)])
def test_real_images_on_a_grid_are_exact(method: Any) -> None:
    data = load("mnist-sample")
    network = es.convert(load_model("mnist-cnn")[0], data.train.take(16).floats(), method)

    def grid(tensor: torch.Tensor) -> torch.Tensor:
        return (tensor * 256).round() / 256

    def exact(node: Node) -> Node:  # a threshold stays above zero
        positive = isinstance(node.op, Neuron)
        return dataclasses.replace(
            node, op=map_tensors(node.op, lambda x: grid(x).clamp(min=1 / 256) if positive else grid(x))
        )

    network = network.rewrite(exact).to(torch.float64)
    images = grid(data.test.take(5).floats()).double()
    for coder in (es.Constant(), es.Poisson()):
        reference = es.simulate(network, images, 12, coder, engine="stepwise")
        for engine_name in ("events", "auto"):
            same(es.simulate(network, images, 12, coder, engine=engine_name), reference)  # type: ignore[arg-type]


@needs_core
@pytest.mark.parametrize("coder", [es.Constant(), es.Poisson()])
def test_a_trained_network_spikes_alike_at_any_batch_and_number_of_threads(coder: Any) -> None:
    """Sums of floats are as exact as those of integers; what torch computes first, it computes in float64."""
    data = load("mnist-sample")
    network = es.convert(load_model("mnist-cnn")[0], data.train.take(16).floats())
    images = data.test.take(5).floats()
    expected = es.simulate(network, images, 20, coder, engine="events")
    for batch, threads, memory in ((1, 1, 2**25), (2, 2, 2**25), (5, 3, 2**16)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "get_num_threads", lambda n=threads: n)
            run = es.simulate(network, images, 20, coder, engine="events", batch_size=batch, memory=memory)
        same(run, expected)


@needs_core
def test_layers_try_their_kernels_keep_to_the_fastest_and_look_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr(cpu.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(cpu, "MULTIPLIES", True)
    network = image_network(conv(0, 32, 3, 3, dilation=(1, 2), padding=(1, 2)), size=6)
    plan = planning.plan(cpu.Cpu(), network, planning.input_spike(network, es.Constant()), choose=True)
    (layer,) = (a.run.keywords["layer"] for a in plan.actions if a.node.name == "n0")  # type: ignore[attr-defined]
    assert sorted(layer.cores) == ["gather", "multiply", "scatter"]
    assert layer.products < 1e-3
    tried: list[str] = []
    cost = {"gather": 3, "scatter": 2, "multiply": 40}

    def take(core: Any) -> None:
        name = next(name for name, own in layer.cores.items() if own is core)
        tried.append(name)
        for _ in range(cost[name]):
            next(clock)

    for _ in range(3 * cpu.TRY_AGAIN):
        layer.run(1, take)
    assert tried[0] == tried[1]  # once more, when the memory is there
    assert set(tried[1:4]) == set(layer.cores)
    again = tried[4:]
    assert again.count("scatter") == len(again) - 1  # "multiply" is too slow to be tried again
    assert again.count("gather") == 1
    for held_up, after in ((5, "scatter"), (9, "gather")):
        cost["scatter"] = held_up
        layer.run(1, take)
        cost["scatter"] = 2
        layer.run(1, take)
        assert tried[-2:] == ["scatter", after]
    layer.pace, layer.runs, layer.products = {"scatter": 1.0}, 2, 2.0
    assert layer._fastest() == "gather"
    layer.pace["gather"] = 1.5
    assert layer._fastest() == "scatter"  # what "multiply" takes at best is more


@needs_core
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("window", [(2, 2), (3, 1), (1, 3), (3, 3)])
@pytest.mark.parametrize("channels", [5, 16, 20, 40, 64])
def test_windows_of_pools_are_swept_exactly(
    channels: int, window: tuple[int, int], kernel: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spikes of a window's positions, which share their weights, are counted before these are added."""
    first, pool = conv(0, channels, 3, 3), AvgPool(window, window, (0, 0))
    network = image_network(first, pool, conv(2, 24, channels, kernel, stride=(stride, stride)), size=9)
    network = without(network, "n1")  # the convolution reads the pool
    images = dyadic(7, 2, 3, 9, 9, dtype=torch.float32)
    found: dict[str, list[es.Run]] = {"gather": [], "sweep": []}
    for how, runs in found.items():
        monkeypatch.setattr(cpu.CpuLayer, "_fastest", lambda own, how=how: how if how in own.cores else min(own.cores))
        for isa in cpu.core.instruction_sets():  # type: ignore[union-attr]
            monkeypatch.setattr(cpu, "ISA", isa)
            runs.append(es.simulate(network, images, 13))  # some steps side by side, and some that are left over
    plan = planning.plan(cpu.Cpu(), network, planning.input_spike(network, es.Constant()), choose=True)
    (layer,) = (a.run.keywords["layer"] for a in plan.actions if a.node.name == "n2")  # type: ignore[attr-defined]
    assert "sweep" in layer.cores
    for gathered, swept in zip(found["gather"], found["sweep"], strict=True):
        same(swept, gathered)


def without(network: Network, neuron: str) -> Network:
    """The network without these neurons: who reads them reads what drives them."""
    (source,) = network[neuron].inputs
    nodes = (node for node in network.nodes if node.name != neuron)
    return Network(tuple(Node(n.name, n.op, tuple(source if i == neuron else i for i in n.inputs)) for n in nodes))


@needs_core
@pytest.mark.parametrize(("window", "swept"), [((8, 8), True), ((16, 8), False)])
def test_windows_that_hold_too_much_are_not_swept(window: tuple[int, int], swept: bool) -> None:
    """Most of the words for 128 positions at each place would be empty in a step."""
    network = image_network(AvgPool(window, window, (0, 0)), conv(2, 16, 3, 1), size=32)
    network = without(network, "n0")  # the convolution reads the pool
    plan = planning.plan(cpu.Cpu(), network, planning.input_spike(network, es.Constant()), choose=True)
    (layer,) = (a.run.keywords["layer"] for a in plan.actions if a.node.name == "n1")  # type: ignore[attr-defined]
    assert ("sweep" in layer.cores) == swept
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    reference = es.simulate(network, images.mul(64).round() / 64, T, engine="stepwise")
    same(es.simulate(network, images.mul(64).round() / 64, T, engine="events"), reference)


@needs_core
def test_rows_too_wide_for_the_cache_are_swept_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Currents of 222 outputs and 16 channels fill the cache in a few steps."""
    network = image_network(conv(0, 4, 3, 3), conv(2, 16, 4, 3), size=222)
    images = dyadic(7, 1, 3, 222, 222, dtype=torch.float32)
    reference = es.simulate(network, images, 21, engine="stepwise")
    assert reference.spikes["n1"].all()
    for isa in cpu.core.instruction_sets():  # type: ignore[union-attr]
        monkeypatch.setattr(cpu, "ISA", isa)
        same(es.simulate(network, images, 21, engine="events"), reference)


@needs_core
def test_auto_computes_crowded_layers_densely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every neuron fires in every step: additions would be as many as multiplications."""
    monkeypatch.setattr(cpu, "MULTIPLIES", False)
    *before, out, readout = one_layer(threshold=0.5, inputs=4).nodes
    second = Node("second", before[-1].op, ("out",))
    assert isinstance(out.op, Linear)
    head = Node("head", out.op, ("second",))
    network = Network((*before, out, second, head, Node("readout", readout.op, ("head",)))).to(torch.float32)
    spike = planning.input_spike(network, es.Constant())
    first = planning.plan(cpu.Cpu(), network, spike)
    task = Task(network, torch.ones(2, 4), torch.arange(2), 8, es.Constant(), 0)
    state = PlannedBatch(cpu.Cpu(), first, task, 2**20)  # type: ignore[arg-type]
    planning.ByPlan(cpu.Cpu()).advance(state)  # type: ignore[arg-type]
    assert planning.plan(cpu.Cpu(), network, spike, choose=True).events == first.events
    assert cpu._crowded(state) == {"out"}
    state.neurons.fired["n"].zero_()
    assert cpu._crowded(state) == set()
    assert any(
        action.node.name == "out" for action in planning.plan(cpu.Cpu(), network, spike, frozenset({"out"})).actions
    )


@needs_core
def test_all_chunks_of_a_run_share_one_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are prepared once, and what was found out about kernels is known in the next chunk."""
    monkeypatch.setattr(planning, "LONGEST", 2)
    planning.plan.cache_clear()
    es.simulate(image_network(conv(0, 20, 3, 3), conv(2, 20, 20, 3)), torch.zeros(1, 3, 8, 8), 6)
    assert planning.plan.cache_info().misses == 1


@needs_core
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_in_single_precision(dtype: torch.dtype) -> None:
    network = one_layer().to(dtype)
    run = es.simulate(network, torch.ones(1, 3), 2, engine="events")
    same(run, es.simulate(network.to(torch.float32), torch.ones(1, 3), 2, engine="stepwise"))


def test_without_a_core_auto_says_once_that_it_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "core", None)
    running._tell_once.cache_clear()
    with pytest.warns(UserWarning, match="without a C\\+\\+ compiler"):
        run = es.simulate(one_layer(), torch.ones(1, 3), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(run, es.simulate(one_layer(), torch.ones(1, 3), 2))
    with pytest.raises(es.SimulationError, match="where there is a C"):
        es.simulate(one_layer(), torch.ones(1, 3), 2, engine="events")


MEMORY = """
import resource, sys, torch
import equispike as es
from test_events import conv, image_network
torch.set_num_threads(1)
network, images = image_network(conv(0, 64, 3, 3), conv(2, 64, 64, 3), size=16), torch.rand(16, 3, 16, 16)
peaks = []
for timesteps in (64, 64, 64, 512):  # the heap takes more than one run to find its size
    es.simulate(network, images, timesteps, es.Poisson(scale=4.0), engine="events", memory=2**22)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print((peaks[-1] - peaks[-2]) * 1024)
"""


@needs_core
@pytest.mark.skipif(sys.platform == "win32", reason="counts memory by getrusage")
def test_memory_does_not_grow_with_the_steps() -> None:
    """448 steps more: the spikes of these layers would take 28 MiB more even as bits, 900 MiB as floats."""
    tests = os.path.dirname(__file__)
    paths = os.pathsep.join((tests, *sys.path))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", MEMORY], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 8 * 2**20


THREADS = """
import torch

def runtimes():
    with open("/proc/self/maps") as maps:
        return {line.split()[-1] for line in maps if "libgomp" in line}

before = runtimes()
from equispike.simulation.cpu import core
with open(core.__file__, "rb") as file:
    linked = file.read()
print(len(before), len(runtimes()), b"GOMP_parallel" in linked, b"__kmpc_fork_call" in linked)
"""


@needs_core
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads what Linux says of a process")
def test_threads_are_those_of_torch() -> None:
    """Others would share processors with torch's, which keep them busy after each operation."""
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    before, after, gnu, llvm = done.stdout.split()
    if before == "0" or llvm == "True":
        pytest.skip("torch or the core was built with another OpenMP than GNU's")
    assert (before, after, gnu) == ("1", "1", "True")


def test_sums_and_differences_of_spikes_of_one_shape_stay_spikes() -> None:
    one, other = (Spikes((whole_train(name, (2, 3, 3), torch.ones(1)),), (2, 3, 3)) for name in "ab")
    summed = apply_view(Add((1.0, -0.5)), [one, other], (2, 3, 3))
    assert summed is not None  # else torch would add them up, densely
    assert [(view.train, view.scale.tolist()) for view in summed.views] == [("a", [1.0, 1.0]), ("b", [-0.5, -0.5])]
    assert apply_view(Add((1.0, -0.5)), [one, dataclasses.replace(other, flat=True)], (2, 3, 3)) is None


def test_spikes_with_zeros_around_them_stay_spikes_and_with_zeros_between_them_are_values() -> None:
    one, before, after = Spikes((whole_train("a", (1, 2, 1), torch.ones(1)),), (1, 2, 1)), (0, 1, 0), (0, 0, 0)
    padded = apply_view(Pad(before, after), [one], (1, 3, 1))
    assert padded is not None
    assert [view.rows for view in padded.views] == [((0, 0), (0, 1), (1, 2))]
    assert apply_view(Pad(before, after, (0, 1, 0)), [one], (1, 4, 1)) is None


@needs_core
def test_images_beside_vectors_are_read_in_their_order() -> None:
    """Flattened spikes and those of a vector, one behind the other, which no view has."""
    theta, ones = torch.ones((), dtype=torch.float64), (1, 1)
    nodes = (
        Node("input", Input((2, 3, 3))),
        Node("conv", Conv(dyadic(1, 3, 2, 2, 2, low=-4), None, ones, (0, 0), ones), ("input",)),
        Node("n1", Neuron(theta, theta), ("conv",)),
        Node("flat", Flatten(), ("n1",)),
        Node("all", Flatten(), ("input",)),
        Node("l1", Linear(dyadic(2, 4, 18, low=-4), None), ("all",)),
        Node("n2", Neuron(theta, theta), ("l1",)),
        Node("both", Concat((1.0, 0.5)), ("flat", "n2")),
        Node("l2", Linear(dyadic(3, 2, 16), None), ("both",)),
        Node("readout", Readout(), ("l2",)),
    )
    network, images = Network(nodes), dyadic(4, 3, 2, 3, 3, low=0)
    run = es.simulate(network, images, T, engine="events")
    assert all(int(counts.sum()) for counts in run.counts.values())
    same(run, es.simulate(network, images, T, engine="stepwise"))


@needs_core
@pytest.mark.parametrize("name", ["events", "auto"])
def test_counts_are_whole_numbers_of_one_kind_and_a_core_is_used_without_a_word(name: Any) -> None:
    running._tell_once.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = es.simulate(one_layer(), torch.ones(1, 3), 2, engine=name)
    assert {own["n"].dtype for own in (run.counts, run.spikes)} == {torch.int32}


def test_a_core_of_another_interface_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    core = ModuleType("core")  # as they were before they had a number
    core.__file__ = "core.so"
    monkeypatch.setattr(trains, "import_module", lambda _: core)
    with pytest.raises(es.SimulationError, match=r"core\.so: a compiled core of interface 1, where .* is needed"):
        trains._load()
    core.interface = trains.INTERFACE  # type: ignore[attr-defined]
    assert trains._load() is core


def test_a_chunk_is_as_long_as_memory_and_no_longer_than_what_is_left() -> None:
    plan = Plan((), frozenset(), 10, {})
    assert plan.steps_per_chunk(2, 100, memory=219, longest=64) == 10
    assert plan.steps_per_chunk(2, 100, memory=219, longest=64, besides=10) == 5
    assert plan.steps_per_chunk(2, 100, memory=19, longest=64) == 1
    assert plan.steps_per_chunk(2, 100, memory=10**6, longest=64) == 64
    assert plan.steps_per_chunk(2, 7, memory=10**6, longest=64) == 7


def test_the_engine_takes_networks_in_full_precision_alone() -> None:
    network = one_layer()
    assert [cpu.suits(network.to(kind)) for kind in (torch.float64, torch.float32, torch.float16)] == [1, 1, 0]


def test_digits_are_multiplied_where_bytes_hold_the_spikes_and_32_bits_the_sums() -> None:
    def fits(at_once: int = 1, inputs: int = 1, largest: int = 1) -> bool:
        ranges = (torch.tensor([[[0, end]]]) for end in (1, at_once))
        term = Term("a", (1, 1, at_once), *ranges, torch.zeros(1).expand(inputs, 1, 1))
        return cpu._fits(Current((1,), (term,)), Integers(torch.ones(1), torch.ones(1), largest))

    assert fits(at_once=255, inputs=2**16, largest=2**30)
    assert not fits(at_once=256)
    assert not fits(inputs=2**24)
    assert not fits(largest=2**31)
