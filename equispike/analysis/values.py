r"""Values that a network with other outputs than classes states, and how finely whole spikes can state them.

The readout adds up currents, so that after T steps

.. math:: y = \frac{1}{T} \sum_t \Bigl( b + \sum_i w_i a_i z_i(t) \Bigr)

estimates the trained output. One spike more or less of neuron i moves it by :math:`|w_i| a_i / T`. If the charge that a
neuron has left over when time is up is anything below one spike with equal probability, and neurons do not depend on
each other, the error that this leaves has the deviation

.. math:: \sigma = \frac{1}{T} \sqrt{\sum_i \frac{(w_i a_i)^2}{12}}

It falls with 1/T. Of a delayed readout T are the steps that count, and charge is left over before them too, which makes
the variance twice as large. What earlier layers lose, and activations above the thresholds, come on top: see
``analysis.causes``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from equispike.errors import ConversionError, SimulationError, one_line
from equispike.functional.coding import left_out
from equispike.graph.network import Network, calibrated
from equispike.graph.ops import Neuron, Node, Readout, WinnerPool
from equispike.graph.walk import interpret, reweighted
from equispike.simulation.run import Run


class Values(NamedTuple):
    """Outputs in the units of the trained network, (B, *outputs), and their quantisation error, (*outputs)."""

    values: Tensor
    deviation: Tensor


def values(run: Run) -> Values:
    """The outputs after the last step of a run, and the deviation that whole spikes of the last neurons leave.

    Args:
        run: of a network with any outputs: class scores, a picture, a single number.

    >>> import equispike as es
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    >>> images = torch.rand(16, 4)
    >>> found = values(es.simulate(es.convert(model, images), images, timesteps=64))
    >>> found.values.shape, found.deviation.shape
    (torch.Size([16, 1]), torch.Size([1]))
    """
    early = left_out(run.task.network.readout.delay, run.timesteps)
    ends = 2 if early else 1  # where charge is left over: before the steps that count, and after them
    deviation = (ends * _variance(run.task.network)).sqrt() / (run.timesteps - early)
    return Values(run.readout[-1] / run.timesteps, deviation)


def _variance(network: Network) -> Tensor:
    """Variance of the readout's sum over time that leftovers of one spike give, (*outputs), float64."""
    exact = network.to(torch.float64)

    def fire(node: Node, op: Neuron, x: Tensor) -> Tensor:
        _, amplitude = calibrated(node.name, op)
        return (amplitude**2 / 12).expand(1, *exact.shapes[node.name])

    def through(node: Node, inputs: Sequence[Tensor]) -> Tensor:
        if isinstance(node.op, Readout):
            own = inputs[0] * node.op.scale**2
            return own if node.op.mix is None else own @ node.op.mix.square().T
        if isinstance(node.op, WinnerPool):  # one of its inputs passes, and none varies more than the most variable
            return node.op(*inputs)
        try:
            return reweighted(node.op, torch.square)(*inputs)
        except ConversionError as error:
            raise SimulationError(f"{node.name} ({one_line(error)})") from error

    entrance = torch.zeros(1, *network.input.shape, dtype=torch.float64, device=exact.device)
    *_, (_, variance) = interpret(exact.nodes, lambda node, op: entrance, fire, through)
    return variance[0]
