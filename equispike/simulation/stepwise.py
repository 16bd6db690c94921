"""The specification: time outside, layers inside, one step at a time. Plain and slow; never optimised."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from equispike.functional.integrate import if_step, signed_step
from equispike.graph.network import calibrated
from equispike.graph.ops import Input, Neuron, Readout, WinnerPool
from equispike.simulation.beginning import beginning
from equispike.simulation.task import Moment, Record, Replay, Task, Visit, negative_spikes


@dataclass(eq=False)
class StepwiseBatch:
    """A batch on its way, and all that was seen of it."""

    task: Task
    start: Moment

    def __post_init__(self) -> None:
        task = self.task
        self.done, self.total = self.start.step, self.start.scores
        self.v, self.sent = dict(self.start.potentials), dict(self.start.sent)
        self.totals: list[Tensor] = []
        self.spikes: dict[str, list[Tensor]] = {name: [] for name in task.network.neurons}
        self.trains: dict[str, list[Tensor]] = {name: [] for name in task.trains}
        self.potentials: dict[str, list[Tensor]] = {name: [] for name in task.potentials}
        self.counts = {
            name: task.images.new_zeros(len(task.images), *task.network.shapes[name], dtype=torch.int32)
            for name in task.network.neurons
        }

    def record(self) -> Record:
        kept = self.spikes, self.trains, self.potentials
        spikes, trains, potentials = ({name: torch.stack(layer) for name, layer in own.items()} for own in kept)
        negative = negative_spikes(self.counts, self.start.sent, self.sent)
        return Record(torch.stack(self.totals), self.counts, spikes, trains, potentials, negative)

    def moment(self) -> Moment:
        return Moment(self.done, self.v, self.total, self.sent)


class Stepwise:
    """The specification as an engine. Every other one must give the same record."""

    def begin(
        self, task: Task, memory: int, start: Moment | None = None, replay: Replay | None = None
    ) -> StepwiseBatch:
        """See ``task.Engine``; ``memory`` and ``replay`` are without effect here."""
        return StepwiseBatch(task, start or beginning(task))

    def advance(self, batch: StepwiseBatch, visit: Visit | None = None) -> None:
        """Run the next step, and show the value of every node."""
        batch.done += 1
        values = step(batch.task, batch.done, batch.v, batch.sent)
        network = batch.task.network
        batch.total = batch.total + values[network.nodes[-1].inputs[0]].double()
        scores = batch.total * network.readout.scale
        batch.totals.append(scores.to(torch.promote_types(batch.task.images.dtype, torch.float32)))
        for name in batch.spikes:
            fired = (values[name] != 0).to(torch.int32)
            batch.counts[name] += fired
            batch.spikes[name].append(fired.flatten(1).sum(1, dtype=torch.int32))
        for name, train in batch.trains.items():
            train.append(values[name].sign().to(torch.int8) if name in batch.sent else values[name] != 0)
        for name, own in batch.potentials.items():
            own.append(batch.v[name])
        for name, value in values.items():
            if visit:
                visit(name, value[None])


def steps(task: Task, v: dict[str, Tensor] | None = None) -> Iterator[dict[str, Tensor]]:
    """Yield every node's value, step after step: see :func:`step`, which brings the potentials ``v`` up to date."""
    start = beginning(task)
    v, sent = dict(start.potentials) if v is None else v, dict(start.sent)
    for t in range(1, task.timesteps + 1):
        yield step(task, t, v, sent)


def step(task: Task, t: int, v: dict[str, Tensor], sent: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every node's value in step t: currents of linear nodes, spikes (0 or the amplitude, with its sign) of neurons.

    Potentials ``v`` (and sums of winner pools) after the steps before, and what signed neurons have ``sent``, are
    brought up to date.
    """
    values: dict[str, Tensor] = {}
    for node in task.network.nodes:
        op, inputs, name = node.op, [values[name] for name in node.inputs], node.name
        if isinstance(op, Input):
            given = task.images, task.indices, range(t, t + 1), task.seed, op.scale, op.amplitude
            (values[name],) = task.coder.encode(*given)
        elif isinstance(op, Neuron):
            threshold, amplitude = calibrated(name, op)
            current = inputs[0] if op.drive is None else inputs[0] + drive_in(op, range(t, t + 1), inputs[0].ndim)
            if op.signed:
                values[name], v[name], sent[name] = signed_step(current, v[name], sent[name], threshold, amplitude)
            else:
                values[name], v[name] = if_step(current, v[name], threshold, op.reset, amplitude)
        elif isinstance(op, WinnerPool):
            (values[name],), v[name] = winners(op, inputs[0][None], v[name])
        elif isinstance(op, Readout):
            values[name] = inputs[0].double() * op.scale
        else:
            values[name] = op(*inputs)
    return values


def drive_in(op: Neuron, steps: range, rank: int) -> Tensor:
    """The drive in some steps, (T' or 1, C, 1, ...), with as many axes as values (B, C, ...) have."""
    rows = op.drive_in(steps)
    assert rows is not None
    return rows.view(*rows.shape, *(1,) * (rank - 2))


def winners(op: WinnerPool, inputs: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Pass the growth of the largest sums in each of some steps (see ``ops.WinnerPool``).

    Sums are float64, so that spikes of one size, and currents that stay the same, add up exactly.

    Args:
        inputs: spikes or currents, (T', B, C, *space).
        total: their sums over all steps before, (B, C, *space), float64.
    Returns:
        what passes, (T', B, C, *windows), and the sums after the last step.
    """
    sums = torch.cat([total[None], inputs]).cumsum(0)
    largest = op(sums.flatten(0, 1))
    largest = largest.view(*sums.shape[:2], *largest.shape[1:])
    return (largest[1:] - largest[:-1]).to(inputs.dtype), sums[-1]
