"""Outputs that are no classes: their values, the error that whole spikes leave, and predictions for each place."""

import math

import pytest
import torch

import equispike as es
from equispike.analysis.values import values
from equispike.graph.network import Network, Node
from equispike.graph.ops import AvgPool, Conv, Flatten, Input, Linear, Neuron, Op, Readout

IMAGES = torch.randint(0, 256, (40, 1, 4, 4), generator=torch.Generator().manual_seed(0)) / 256


def weights(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conv(inputs: int, outputs: int, seed: int) -> Conv:
    return Conv(weights(outputs, inputs, 3, 3, seed=seed), weights(outputs, seed=seed + 1), (1, 1), (1, 1), (1, 1))


def network(*behind: tuple[str, Op, tuple[str, ...]]) -> Network:
    """A convolution and neurons, and what is given behind them."""
    nodes = [Node("in", Input((1, 4, 4))), Node("conv", conv(1, 6, 1), ("in",)), Node("if", Neuron(), ("conv",))]
    nodes += [Node(*part) for part in behind]
    return Network((*nodes, Node("out", Readout(), (behind[-1][0],))))


SPACE = network(("head", conv(6, 2, 3), ("if",)))
NUMBER = network(("pool", AvgPool((2, 2), (2, 2), (1, 1)), ("if",)),
                 ("flat", Flatten(), ("pool",)), ("head", Linear(weights(1, 54), weights(1)), ("flat",)))  # fmt: skip


def test_scores_in_space_have_a_class_at_each_place() -> None:
    converted = es.convert(SPACE, IMAGES, es.DataNorm(100.0))
    run = es.simulate(converted, IMAGES, 64)
    assert run.readout.shape == (64, 40, 2, 4, 4)
    assert torch.equal(run.predictions[-1], (run.readout[-1, :, 1] > run.readout[-1, :, 0]).long())
    trained = SPACE(IMAGES).argmax(1)
    right = (run.predictions[-1] == trained).double().mean()
    assert float(es.accuracy(run, trained)[-1]) == pytest.approx(float(right))
    assert float(right) > 0.9
    with pytest.raises(es.SimulationError, match=r"labels: shape \(40,\) .* or per place"):
        es.accuracy(run, torch.zeros(40))
    with pytest.raises(es.SimulationError, match="one answer"):
        es.simulate(converted, IMAGES, 4, stop=es.Stable(2))


@pytest.mark.parametrize("engine", ["stepwise", "layerwise", "auto"])
def test_engines_agree_on_scores_in_space(engine: str) -> None:
    quantized = es.quantize(es.convert(SPACE, IMAGES), 8)
    run = es.simulate(quantized, IMAGES[:3], 9, engine=engine)  # type: ignore[arg-type]
    assert torch.equal(run.readout, es.simulate(quantized, IMAGES[:3], 9, engine="stepwise").readout)


@pytest.mark.parametrize("delay", [0.0, 0.5])
@pytest.mark.parametrize("trained", [SPACE, NUMBER], ids=["space", "number"])
def test_values_are_within_the_error_that_whole_spikes_leave(trained: Network, delay: float) -> None:
    """With a potential of half a threshold in the beginning, leftovers lie around zero, as the error assumes."""
    converted = es.convert(trained, IMAGES, es.DataNorm(100.0), v_init=0.5, delay=delay)
    found = values(es.simulate(converted, IMAGES, 128))
    assert found.values.shape == (40, *found.deviation.shape)
    error = (found.values - trained(IMAGES)).square().mean().sqrt()
    assert float(error) < 1.5 * float(found.deviation.square().mean().sqrt())


def test_the_error_is_that_of_every_neuron_by_itself() -> None:
    """Literally: the output of each neuron's spike alone, squared, over twelve."""
    converted = es.convert(NUMBER, IMAGES, es.DataNorm(100.0, per_channel=True))
    run = es.simulate(converted, IMAGES[:2], 10)
    behind = Network((Node("if", Input((6, 4, 4))), *converted.nodes[3:])).to(torch.float64)
    size = converted["if"].op.amplitude.double()  # type: ignore[union-attr]
    zero = behind(torch.zeros(1, 6, 4, 4))
    effects = [behind((size * one.view(1, 6, 4, 4)).double()) - zero for one in torch.eye(96)]
    expected = math.sqrt(sum(float(effect) ** 2 for effect in effects) / 12) / 10
    assert float(values(run).deviation) == pytest.approx(expected)
