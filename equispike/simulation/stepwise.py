"""The specification: time outside, layers inside, one step at a time. Plain and slow; never optimised."""

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from equispike.functional.coding import uniform
from equispike.functional.integrate import if_step, signed_step
from equispike.graph.exact import calibrated
from equispike.graph.network import Network
from equispike.graph.ops import Input, Neuron, Readout, WinnerPool
from equispike.simulation.pooling import winners
from equispike.simulation.record import Moment, Record, Resume, Task, negative_spikes


def stepwise(task: Task, memory: int, start: Moment | None = None) -> tuple[Record, Resume]:
    """Run one batch up to step T; ``memory`` is without effect here. Every other engine must give the same record.

    A ``start`` in the middle gives the record of the steps behind it.
    """
    network, images = task.network, task.images
    start = start or beginning(task)
    v, sent, total = dict(start.potentials), dict(start.sent), start.scores
    readout: list[Tensor] = []
    counts = {name: images.new_zeros(len(images), *network.shapes[name], dtype=torch.int32) for name in network.neurons}
    spikes: dict[str, list[Tensor]] = {name: [] for name in network.neurons}
    trains: dict[str, list[Tensor]] = {name: [] for name in task.trains}
    potentials: dict[str, list[Tensor]] = {name: [] for name in task.potentials}
    last = network.nodes[-1]
    assert isinstance(last.op, Readout)
    for values in steps(task, v, start.step, sent):
        total = total + values[last.inputs[0]].double()
        readout.append((total * last.op.scale).to(torch.promote_types(images.dtype, torch.float32)))
        for name in network.neurons:
            fired = (values[name] != 0).to(torch.int32)
            counts[name] += fired
            spikes[name].append(fired.flatten(1).sum(1, dtype=torch.int32))
        for name, train in trains.items():
            train.append(values[name].sign().to(torch.int8) if name in sent else values[name] != 0)
        for name, own in potentials.items():
            own.append(v[name])
    by_step = ({name: torch.stack(layer) for name, layer in own.items()} for own in (spikes, trains, potentials))
    record = Record(torch.stack(readout), counts, *by_step, negative_spikes(counts, start.sent, sent))
    return record, lambda: Moment(task.timesteps, v, total, sent)


def steps(
    task: Task, v: dict[str, Tensor] | None = None, done: int = 0, sent: dict[str, Tensor] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Yield every node's value, step after step: currents of linear nodes, spikes (0 or the amplitude) of neurons.

    Potentials ``v`` (and sums of winner pools) after the ``done`` steps before, and what signed neurons have ``sent``,
    are brought up to date on the way.
    """
    network, coder = task.network, task.coder
    v = initial_potentials(network, task.indices, task.seed) if v is None else v
    sent = nothing_sent(network, len(task.images)) if sent is None else sent
    for t in range(done + 1, task.timesteps + 1):
        values: dict[str, Tensor] = {}
        for node in network.nodes:
            op, inputs = node.op, [values[name] for name in node.inputs]
            if isinstance(op, Input):
                (values[node.name],) = coder.encode(
                    task.images, task.indices, range(t, t + 1), task.seed, op.scale, op.amplitude
                )
            elif isinstance(op, Neuron):
                threshold, amplitude = calibrated(node.name, op)
                current = inputs[0] if op.drive is None else inputs[0] + drive_in(op, range(t, t + 1), inputs[0].ndim)
                if op.signed:
                    values[node.name], v[node.name], sent[node.name] = signed_step(
                        current, v[node.name], sent[node.name], threshold, amplitude
                    )
                else:
                    values[node.name], v[node.name] = if_step(current, v[node.name], threshold, op.reset, amplitude)
            elif isinstance(op, WinnerPool):
                (values[node.name],), v[node.name] = winners(op, inputs[0][None], v[node.name])
            elif isinstance(op, Readout):
                values[node.name] = inputs[0].double() * op.scale
            else:
                values[node.name] = op(*inputs)
        yield values


def beginning(task: Task) -> Moment:
    """The moment before the first step."""
    network, indices = task.network, task.indices
    classes = network.shapes[network.nodes[-1].name]
    scores = torch.zeros(len(indices), *classes, dtype=torch.float64, device=network.device)
    return Moment(0, initial_potentials(network, indices, task.seed), scores, nothing_sent(network, len(indices)))


def nothing_sent(network: Network, images: int) -> dict[str, Tensor]:
    """Of signed neuron layers, what they have sent before the first step: zeros, (B, *features)."""
    kind = {"dtype": torch.promote_types(network.dtype, torch.float32), "device": network.device}
    signed = (name for name, op in network.neurons.items() if op.signed)
    return {name: torch.zeros(images, *network.shapes[name], **kind) for name in signed}


def drive_in(op: Neuron, steps: range, rank: int) -> Tensor:
    """The drive in some steps, (T' or 1, C, 1, ...), with as many axes as values (B, C, ...) have."""
    rows = op.drive_in(steps)
    assert rows is not None
    return rows.view(*rows.shape, *(1,) * (rank - 2))


def initial_potentials(network: Network, indices: Tensor, seed: int) -> dict[str, Tensor]:
    """Potential V(0) of every neuron layer, (B, *features): a fraction of the threshold, uniform below it, or given.

    A uniform draw of the n-th neuron layer (n = 1, 2, ...) comes from stream n of the seed. Of winner pools the sums of
    their inputs so far: zeros, float64.
    """
    potentials: dict[str, Tensor] = {}
    for n, (name, op) in enumerate(network.neurons.items(), start=1):
        threshold, _ = calibrated(name, op)
        shape = network.shapes[name]
        if isinstance(op.v_init, Tensor):
            potentials[name] = op.v_init.expand(len(indices), *shape).contiguous()
            continue
        if op.v_init == "uniform":
            fraction = uniform(seed, indices, n, shape).to(threshold.dtype)
        else:
            fraction = threshold.new_full((len(indices), *shape), op.v_init)
        potentials[name] = fraction * threshold
    return potentials | sums_of_pools(network, len(indices), {node.name for node in network.nodes})


def sums_of_pools(network: Network, images: int, wanted: Collection[str]) -> dict[str, Tensor]:
    """What winner pools were given before the first step: zeros, (B, *features), float64."""
    return {
        node.name: torch.zeros(images, *network.shapes[node.inputs[0]], dtype=torch.float64, device=network.device)
        for node in network.nodes
        if isinstance(node.op, WinnerPool) and node.name in wanted
    }
