r"""What a network with other outputs than classes says: its values, and how finely whole spikes can state them.

The readout adds up currents, so that after T steps

.. math:: y = \frac{1}{T} \sum_t \Bigl( b + \sum_i w_i a_i z_i(t) \Bigr)

estimates the trained output. One spike more or less of neuron i moves it by :math:`|w_i| a_i / T`. If the charge that a
neuron has left over when time is up is anything below one spike with equal probability, and neurons do not depend on
each other, the error that this leaves has the deviation

.. math:: \sigma = \frac{1}{T} \sqrt{\sum_i \frac{(w_i a_i)^2}{12}}

It falls with 1/T. What earlier layers lose, and activations above the thresholds, come on top: see
``analysis.causes``.
"""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from equispike.analysis.operations import sum_pool
from equispike.errors import SimulationError
from equispike.graph.exact import calibrated
from equispike.graph.network import Network
from equispike.graph.ops import Add, AvgPool, Concat, Conv, Flatten, Input, Linear, Neuron, Pad, Readout, WinnerPool
from equispike.simulation.run import Run


class Values(NamedTuple):
    """Outputs in the units of the trained network, (B, *outputs), and their quantisation error, (*outputs)."""

    values: Tensor
    deviation: Tensor


def values(network: Network, run: Run) -> Values:
    """The outputs after the last step of a run, and the deviation that whole spikes of the last neurons leave.

    Args:
        network: that gave the run, with any outputs: class scores, a picture, a single number.
    Raises:
        SimulationError: the run is not of this network, or this was not converted.

    >>> import equispike as es
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    >>> images = torch.rand(16, 4)
    >>> network = es.convert(model, images)
    >>> found = values(network, es.simulate(network, images, timesteps=64))
    >>> found.values.shape, found.deviation.shape
    (torch.Size([16, 1]), torch.Size([1]))
    """
    shape = network.shapes[network.nodes[-1].name]
    if run.readout.shape[2:] != shape:
        raise SimulationError(f"run: of outputs {tuple(run.readout.shape[2:])}, not of {shape} as this network's")
    return Values(run.readout[-1] / run.timesteps, _variance(network).sqrt() / run.timesteps)


def _variance(network: Network) -> Tensor:
    """Variance of the readout's sum over time that leftovers of one spike give, (*outputs), float64."""
    exact, found = network.to(torch.float64), dict[str, Tensor]()
    for node in exact.nodes:
        op, inputs = node.op, [found[name] for name in node.inputs]
        if isinstance(op, Neuron):
            _, amplitude = calibrated(node.name, op)
            found[node.name] = (amplitude**2 / 12).expand(1, *exact.shapes[node.name])
        elif isinstance(op, Input):
            found[node.name] = torch.zeros(1, *op.shape, dtype=torch.float64, device=exact.device)
        elif isinstance(op, Conv | Linear):
            found[node.name] = dataclasses.replace(op, weight=op.weight**2, bias=None)(*inputs)
        elif isinstance(op, Add | Concat):
            squares = tuple(c**2 for c in op.coefficients)
            found[node.name] = dataclasses.replace(op, coefficients=squares)(*inputs)
        elif isinstance(op, AvgPool):
            ones = torch.ones_like(inputs[0])
            divisors = sum_pool(op, ones) / op(ones)
            found[node.name] = op(*inputs) / divisors
        elif isinstance(op, Flatten | Pad):
            found[node.name] = op(*inputs)
        elif isinstance(op, Readout):
            return (inputs[0] * op.scale**2)[0]
        elif isinstance(op, WinnerPool):  # one of its inputs passes, and none varies more than the most variable
            found[node.name] = op(*inputs)
        else:
            raise SimulationError(f"{node.name} ({type(op).__name__}): is not linear. Convert the model first")
    raise AssertionError("a network ends with its readout")
