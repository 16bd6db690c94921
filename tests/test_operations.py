"""Synaptic operations: exact at borders, along every path, against loops that count one synapse at a time."""

import math

import pytest
import torch
from torch import nn

import equispike as es
from equispike.analysis.energy import FLOAT32_45NM, INT8_45NM, Costs
from equispike.analysis.operations import operations, synapses
from equispike.errors import SimulationError
from equispike.zoo.data import load
from equispike.zoo.models import mnist_cnn, resnet
from equispike.zoo.store import load_model


def converted(model: nn.Module, *shape: int) -> es.Network:
    torch.manual_seed(0)
    return es.convert(model.eval(), torch.randn(4, *shape), es.DataNorm())


def literal_fan_out(size: int, conv: nn.Conv2d) -> torch.Tensor:
    """Synapses of each pixel of a square image into a convolution, one at a time."""
    (k, _), (stride, _), (padding, _), (dilation, _) = conv.kernel_size, conv.stride, conv.padding, conv.dilation
    out = (size + 2 * padding - dilation * (k - 1) - 1) // stride + 1
    count = torch.zeros(size, size, dtype=torch.float64)
    for row in range(out):
        for col in range(out):
            for ky in range(k):
                for kx in range(k):
                    y, x = (at * stride + offset * dilation - padding for at, offset in ((row, ky), (col, kx)))
                    if 0 <= y < size and 0 <= x < size:
                        count[y, x] += conv.out_channels // conv.groups
    return count


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"stride": 2},
        {"padding": 2, "dilation": 2},
        {"groups": 2, "padding": 1},
        {"stride": 3, "padding": 2},
    ],
    ids=str,
)
def test_fan_out_of_a_convolution_counts_borders(options):
    conv = nn.Conv2d(4, 6, 3, **options)
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), conv, nn.ReLU(), nn.Flatten())
    network = converted(model, 1, 7, 7)
    second = synapses(network)[1]
    (origin,) = second.fan_out
    expected = literal_fan_out(7, conv).expand(4, -1, -1)
    assert torch.equal(second.fan_out[origin], expected)
    assert second.macs == expected.sum()


def test_as_many_additions_as_macs_if_every_neuron_fires_in_every_step():
    """And without pools, which send several spikes through one weight."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(3, 4, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 5),
    )
    network = converted(model, 1, 8, 8)
    T = 3
    counts = {name: torch.full(network.shapes[name], float(T)) for name in network.neurons}
    found = operations(network, counts, T)
    first, *rest = found.rows
    assert first.additions == 0
    assert first.analog_macs == first.macs == (3 * 8 - 2) ** 2 * 3
    assert [row.additions for row in rest] == [T * row.macs for row in rest]
    assert found.ratio == T
    table = {row.layer: row.macs for row in network.table() if row.macs}
    assert [row.macs for row in rest] == [table[row.layer] for row in rest]  # no padding there


def test_through_an_average_pool_each_spike_reaches_the_weights_of_its_pool():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 5))
    network = converted(model, 1, 5, 5)
    fan_out = next(iter(synapses(network)[1].fan_out.values()))
    expected = torch.zeros(2, 5, 5, dtype=torch.float64)
    expected[:, :4, :4] = 5  # the last row and column are in no pool
    assert torch.equal(fan_out, expected)


def test_a_shortcut_adds_one_synapse():
    network = converted(resnet(20, width=0.25, front=0), 3, 32, 32)
    joined = [layer for layer in synapses(network) if layer.macs == 0]
    assert len(joined) == 9
    shapes = network.shapes
    for layer in joined:
        (origin, fan_out), *others = layer.fan_out.items()
        assert not others
        same = shapes[origin] == shapes[layer.layer]
        assert set(fan_out.unique().tolist()) == ({1.0} if same else {0.0, 1.0})
        assert fan_out.sum() == fan_out.numel() / (1 if same else 4)  # every second row and column


def test_a_weighted_layer_after_another_multiplies_in_every_step():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 6), nn.Linear(6, 2))
    network = converted(model, 4)
    found = operations(network, {name: torch.tensor([2.0, 0.0, 1.0]) for name in network.neurons}, 10)
    assert [(row.macs, row.analog_macs, row.additions) for row in found.rows] == [
        (12, 12, 0),
        (18, 0, 18),
        (12, 120, 0),
    ]


def test_counts_of_images_and_their_mean_agree_with_a_sum_over_spikes():
    model, _ = load_model("mnist-cnn")
    digits = load("mnist-sample")
    network = es.convert(model, [digits.train.take(32).floats()], es.DataNorm(99.9))
    run = es.simulate(network, digits.test.take(6).floats(), 16)
    found = operations(network, run.counts, 16)
    expected = sum(
        float((run.counts[name].double() * fan_out).sum()) / 6
        for layer in synapses(network)
        for name, fan_out in layer.fan_out.items()
    )
    assert found.additions == pytest.approx(expected)
    assert operations(network, {name: c.double().mean(0) for name, c in run.counts.items()}, 16).rows == found.rows
    steps = {name: spikes.double().mean(1) for name, spikes in run.spikes.items()}
    by_step = found.energy_by_step(steps)
    assert by_step.shape == (16,)
    assert by_step[-1] == pytest.approx(found.energy())
    assert bool((by_step.diff() >= 0).all())
    assert found.macs == sum(layer.macs for layer in synapses(network))


def test_energy_and_break_even():
    network = converted(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 6)), 4)
    found = operations(network, {name: torch.tensor([2.0, 0.0, 1.0]) for name in network.neurons}, 10)
    costs = Costs("made up", mac=4.0, add=1.0)
    assert found.trained_energy(costs) == 4 * (12 + 18)
    assert found.energy(costs) == 4 * 12 + 18
    assert found.break_even(costs) == (4 * 30 - 4 * 12) / 18
    assert found.energy(Costs("with memory", 4.0, 1.0, 10.0)) == 4 * 12 + 18 + 10 * (12 + 18)
    assert found.break_even(FLOAT32_45NM, INT8_45NM) == 0  # float input costs more than all of an 8-bit network
    silent = operations(network, {name: torch.zeros(3) for name in network.neurons}, 10)
    assert silent.break_even() == math.inf
    assert silent.energy(costs) == 48


def test_what_does_not_fit_is_refused():
    network = converted(mnist_cnn(), 1, 28, 28)
    with pytest.raises(SimulationError, match=r"counts: features\.1 is missing"):
        operations(network, {}, 4)
    counts = {name: torch.zeros(2, 3) for name in network.neurons}
    with pytest.raises(SimulationError, match=r"of shape \(2, 3\), expected \(B, 32, 28, 28\)"):
        operations(network, counts, 4)
