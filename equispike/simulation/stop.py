"""When an image's answer is good enough to stop: certain, since nothing can overtake it, or stable for some steps.

``until_settled`` saves the time: it looks at the scores every few steps and goes on with the images that are left.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from equispike.arguments import checked_fields
from equispike.errors import SimulationError
from equispike.functional.coding import left_out, predict
from equispike.graph.network import Network, Node, calibrated
from equispike.graph.ops import Input, Linear, Neuron, WinnerPool, map_tensors
from equispike.graph.walk import reweighted
from equispike.simulation.task import Engine, Record, Task, empty_record, enter, run, scores_of

BLOCK = 16
"""Steps between two looks at the scores."""


class Stop(Protocol):
    """A rule that says which answers stand."""

    def settled(self, network: Network, totals: Tensor, timesteps: int) -> Tensor:
        """Tell whether each image may stop after each step.

        Args:
            network: calibrated.
            totals: as of ``Run``, after steps 1 to t, (t, B, classes); ``task.scores_of(network.readout, totals)`` are
                the scores.
            timesteps: T, the steps that would be run without early exit.
        Returns:
            bool, (t, B).
        """
        ...


@dataclass(frozen=True)
class Certain:
    r"""Stop when no class can overtake the first any more: the prediction is that of all T steps, proved.

    .. math:: S_i(t) - S_j(t) > (T - t)\, G_{ji} \quad \text{for all } j \ne i,

    with :math:`G_{ji}` the most that one step can add to the score of j beyond that of i (:func:`largest_gains`). Of
    a delayed readout S counts from the first step that the scores after T steps do not leave out.
    """

    def settled(self, network: Network, totals: Tensor, timesteps: int) -> Tensor:
        """See :meth:`Stop.settled`.

        Raises:
            SimulationError: scores depend on pixels without a neuron in between, so no bound exists.
        """
        if totals.shape[2] == 1:
            raise SimulationError(
                "Certain: the network gives one score per image, which has no rival. Use Stable(steps)"
            )
        op, gains = network.readout, largest_gains(network).to(totals.device)
        early = min(left_out(op.delay, timesteps), len(totals))
        counted = totals[early:] - (totals[early - 1] if early else 0)
        readout, timesteps = scores_of(replace(op, delay=0.0), counted), timesteps - early
        winner, _ = predict(readout)
        lead = readout.double().gather(2, winner[..., None]) - readout.double()
        left = timesteps - torch.arange(1, len(readout) + 1, device=readout.device)
        ahead = lead > left[:, None, None] * gains.T[winner] + timesteps * rounding_of_mix(network)
        settled = ahead.scatter(2, winner[..., None], True).all(2) | (left == 0)[:, None]
        return torch.cat([settled.new_zeros(len(totals) - len(settled), totals.shape[1]), settled])


@checked_fields
@dataclass(frozen=True)
class Stable:
    """Stop when the prediction has not changed for ``steps`` steps. Nothing is proved: later steps might change it.

    Args:
        steps: length of the unchanged stretch, at least 1; the first prediction of a run begins one.
        lead: how far the first class must be ahead of the second, in scores per step (those of the trained network).
    """

    steps: int
    lead: float = 0.0

    def settled(self, network: Network, totals: Tensor, timesteps: int) -> Tensor:
        """See :meth:`Stop.settled`.

        Raises:
            SimulationError: ``steps`` is less than 1, or ``lead`` negative.
        """
        if self.steps < 1 or self.lead < 0:
            raise SimulationError(f"Stable: steps {self.steps} and lead {self.lead} must be at least 1 and 0")
        readout = scores_of(network.readout, totals)
        winner, _ = predict(readout)
        t = torch.arange(1, len(readout) + 1, device=readout.device)[:, None]
        changed = torch.ones_like(winner, dtype=torch.bool)
        changed[1:] = winner[1:] != winner[:-1]
        since = torch.where(changed, t, 0).cummax(0).values
        best = readout.topk(min(2, readout.shape[2]), dim=2).values
        leads = best[..., 0] - best[..., 1:].amax(2) >= self.lead * t if best.shape[2] > 1 else True
        return ((t - since + 1 >= self.steps) & leads) | (t == timesteps)


def until_settled(engine: Engine, task: Task, memory: int, stop: Stop) -> tuple[Record, Tensor]:
    """Run one batch in blocks of steps and drop images whose answer stands at the end of a block.

    Returns:
        the record of T steps, in which scores and potentials stay and spikes end where an image stopped; and the steps
        that each image was run for, (B,), int64.
    """
    images, timesteps = len(task.images), task.timesteps
    record, steps = empty_record(task, images), torch.zeros_like(task.indices)
    running, start = torch.arange(images, device=task.images.device), None
    for done in range(0, timesteps, BLOCK):
        end = min(done + BLOCK, timesteps)
        batch = run(engine, task.of(running).until(end), memory, start)
        enter(record, batch.record(), done, running)
        steps[running] = end
        going = ~stop.settled(task.network, record.totals[:end, running], timesteps)[-1]
        running, start = running[going], batch.moment().of(going)
        if not len(running):
            break
    return record, steps


@lru_cache(maxsize=4)
def largest_gains(network: Network) -> Tensor:
    r"""The most by which class j can gain on class i in one step, (classes j, classes i), float64.

    Every neuron gives a spike or none (or a negative one). For scores :math:`W x + b` with :math:`x \in [m - r, m + r]`

    .. math:: G_{ji} = (w_j - w_i) \cdot m + |w_j - w_i| \cdot r + b_j - b_i

    times the scale of the readout, plus what rounding of the sums can add. Where the readout reads anything else than a
    linear layer, classes are bounded one by one.

    Raises:
        SimulationError: scores depend on pixels without a neuron in between.
    """
    exact = network.to(torch.float64)
    last, readout = exact[exact.nodes[-1].inputs[0]], exact.readout
    if isinstance(last.op, Linear):
        middle, radius = (x.flatten() for x in _bounds(exact, exact[last.inputs[0]]))
        weight = last.op.weight
        bias = weight.new_zeros(len(weight)) if last.op.bias is None else last.op.bias
        if readout.mixing is not None:
            weight, bias = readout.mixing.weight @ weight, readout.mixing(bias)
        gains = torch.stack([(w - weight) @ middle + (w - weight).abs() @ radius for w in weight])
        gains += bias[:, None] - bias
        size = weight.abs() @ (middle.abs() + radius) + bias.abs()
        rounding = (weight.shape[1] + 1) * torch.finfo(network.dtype).eps * (size[:, None] + size)
    else:
        middle, radius = (x.flatten() for x in _bounds(exact, last))
        if readout.mixing is not None:
            middle, radius = readout.mixing(middle), readout.mixing.weight.abs() @ radius
        gains = (middle + radius)[:, None] - (middle - radius)
        rounding = 4 * torch.finfo(network.dtype).eps * gains.abs()
    return readout(gains + rounding)


@lru_cache(maxsize=4)
def rounding_of_mix(network: Network) -> float:
    """The most by which rounding can change the difference of two corrected scores, a step; 0 where none are."""
    if network.readout.mixing is None:
        return 0.0
    exact = network.to(torch.float64)
    middle, radius = (x.flatten() for x in _bounds(exact, exact[exact.nodes[-1].inputs[0]]))
    positive = map_tensors(network.readout.mixing, lambda t: t.double().abs())
    size = exact.readout(positive(middle.abs() + radius))
    return float(4 * torch.finfo(torch.float32).eps * size.max())


def _bounds(network: Network, node: Node) -> tuple[Tensor, Tensor]:
    """Middle and radius of the interval in which a node's value lies in every step, (1, *features)."""
    op = node.op
    if isinstance(op, Neuron):
        _, amplitude = calibrated(node.name, op)
        most = amplitude.expand(1, *network.shapes[node.name])
        return (torch.zeros_like(most), most) if op.signed else (most / 2, most / 2)
    if isinstance(op, Input):
        raise SimulationError(
            f"{node.name}: the scores depend on pixels without a neuron in between, so no lead is safe. "
            "Use another rule, e.g. Stable, or a network with hidden neurons"
        )
    inputs = [_bounds(network, network[name]) for name in node.inputs]
    if isinstance(op, WinnerPool):
        ((middle, radius),) = inputs
        most, least = op(middle + radius), -op(radius - middle)
        return (most + least) / 2, (most - least) / 2
    return op(*(middle for middle, _ in inputs)), reweighted(op, torch.abs)(*(radius for _, radius in inputs))
