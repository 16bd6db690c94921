"""A converted network as one Python file that needs torch alone, for people who only want to run it."""

import hashlib
import io
from importlib.metadata import version
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from equispike.errors import ConversionError, FileError
from equispike.files.disk import write_bytes
from equispike.graph import ops
from equispike.graph.network import Network, Node, calibrated, not_spiking
from equispike.graph.units import mixing_as_layer
from equispike.provenance import set_for

TEMPLATE = '''"""A spiking network, written by equispike {version}; it needs torch and the weights {weights} beside it.

    network = Network()
    scores = network(images, timesteps={timesteps})      # after each step, (T, B, classes)
    predictions = scores[-1].argmax(1)

Images are (B, {shape}), preprocessed as in training; they enter as a current in every step.
"""

import hashlib
import io
from pathlib import Path

import torch
import torch.nn.functional as F

DIGEST = "{digest}"  # SHA-256 of the weights


class Network(torch.nn.Module):
    def __init__(self, weights=Path(__file__).with_suffix(".pt")):
        super().__init__()
        stored = Path(weights).read_bytes()
        if hashlib.sha256(stored).hexdigest() != DIGEST:
            raise ValueError(f"{{weights}}: not the weights that were exported with {{__file__}}. Export again")
        for name, tensor in torch.load(io.BytesIO(stored), weights_only=True).items():
            self.register_buffer(name, tensor)

    @torch.no_grad()
    def forward(self, images, timesteps):
        """Scores of the classes after each step; divided by the number of steps, the trained network's."""
        x0 = {entrance}
        total, scores = 0.0, []
{before}
        for t in range(timesteps):
{step}
            scores.append(total)
        return {scores}
'''


def write_module(network: Network, path: str | PathLike[str]) -> list[str]:
    """Write a converted network as a Python file with an ``nn.Module``, and its weights beside it, ending in ``.pt``.

    The module has the time loop inside, and gives the scores of ``simulate`` with constant input: on a quantized
    network to the last bit. Half precision is written in float32. It holds the digest of its weights, and refuses
    others: those of an export that ended between the two files, killed or on a full disk.

    Args:
        network: converted.
        path: ends in ``.py``.
    Returns:
        a sentence for the user.
    Raises:
        ConversionError: potentials that start at random, or an operation that does not run on spikes.
        FileError: the path does not end in .py, or cannot be written.
    """
    path = Path(path)
    if path.suffix != ".py":
        raise FileError(f"{path}: is to hold a Python module. Give a name that ends in .py")
    network = mixing_as_layer(network.widened())
    numbers = {node.name: number for number, node in enumerate(network.nodes)}
    tensors: dict[str, Tensor] = {}
    before: list[str] = []
    step: list[str] = []
    moving = changing(network)
    for node in network.nodes[1:]:
        number, inputs = numbers[node.name], [f"x{numbers[name]}" for name in node.inputs]
        shape = network.shapes[node.inputs[0]]
        if isinstance(node.op, ops.WinnerPool):
            step.append(f"{_pool(node.op, number, inputs[0], node.name in moving)}  # {node.name!r}")
        else:
            step.append(f"{_line(node, number, inputs, shape, tensors)}  # {node.name!r}")
        if node.name in moving:
            before += _before(node, number, tensors)
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, buffer)
    stored = buffer.getvalue()
    timesteps = set_for(network.provenance) or 64
    source = TEMPLATE.format(
        timesteps=timesteps,
        digest=hashlib.sha256(stored).hexdigest(),
        version=version("equispike"),
        weights=ascii(path.with_suffix(".pt").name),
        shape=", ".join(map(str, network.input.shape)),
        entrance=_entrance(network),
        before="\n".join(f"        {line}" for line in before),
        step="\n".join(f"            {line}" for lines in step for line in lines.split("\n")),
        scores=_scores(network.readout),
    )
    write_bytes(path.with_suffix(".pt"), stored)
    write_bytes(path, source.encode())
    entry = (
        f"from {path.stem} import Network"
        if path.stem.isidentifier()
        else f"from importlib import import_module; Network = import_module({path.stem!r}).Network"
    )
    return [
        f"Needs torch alone, and {path.with_suffix('.pt').name} beside it: {entry}; "
        f"Network()(images, timesteps={timesteps}) gives the scores."
    ]


def _scores(op: ops.Readout) -> str:
    """Scores of the sums after each step: see ``functional.coding.delayed``."""
    if not op.delay:
        return "torch.stack(scores)"
    early = f"min(int({op.delay!r} * t), t - 1)"
    window = f"scores[t - 1] - (scores[{early} - 1] if {early} else 0.0)"
    return f"torch.stack([({window}) * (t / (t - {early})) for t in range(1, timesteps + 1)])"


def _before(node: Node, number: int, tensors: dict[str, Tensor]) -> list[str]:
    """Values that are carried from step to step, before the first one."""
    if isinstance(node.op, ops.WinnerPool):
        return [f"s{number}, m{number} = 0.0, 0.0"]
    if not isinstance(node.op, ops.Neuron):
        return []
    first = start(node.name, node.op)
    if isinstance(first, Tensor):
        tensors[f"start{number}"] = first
    potential = f"self.start{number}" if isinstance(first, Tensor) else f"{first} * self.threshold{number}"
    return [f"v{number} = {potential}", *([f"c{number} = 0.0"] if node.op.signed else [])]


def changing(network: Network) -> set[str]:
    """Nodes whose values change from step to step with constant input: neurons, and what is computed from them."""
    moving: set[str] = set()
    for node in network.nodes[1:]:
        if isinstance(node.op, ops.Neuron | ops.Readout) or not moving.isdisjoint(node.inputs):
            moving.add(node.name)
    return moving


def _pool(op: ops.WinnerPool, number: int, x: str, moving: bool) -> str:
    """The maximum of what stays the same; of spikes, the growth of the largest sum."""
    pool = f"F.max_pool{len(op.kernel)}d"
    options = f"{op.kernel}, {op.stride}, {op.padding}, {op.dilation}, {op.ceil_mode}"
    if not moving:
        return f"x{number} = {pool}({x}, {options})"
    sums, most = f"s{number}", f"m{number}"
    return (
        f"{sums} = {sums} + {x}.double()\n{most}, before = {pool}({sums}, {options}), {most}\n"
        f"x{number} = ({most} - before).to({x}.dtype)"
    )


def _entrance(network: Network) -> str:
    op: ops.Input = network.input
    grid = "" if op.step is None else f".div({op.step!r}).round().mul({op.step!r}).clamp({-op.scale!r}, {op.scale!r})"
    return f"images.to({network.dtype}){grid}.mul({op.amplitude / op.scale!r})"


def start(name: str, op: ops.Neuron) -> float | Tensor:
    """Potential of a neuron layer before the first step: a fraction of the threshold, or one per channel.

    Raises:
        ConversionError: it has no threshold yet, or starts at random.
    """
    calibrated(name, op)
    if isinstance(op.v_init, Tensor):
        return op.v_init
    if op.v_init == "uniform":
        raise ConversionError(f"{name}: its potentials start at random. Convert with a fixed v_init")
    return op.v_init


def rows(op: ops.Neuron, shape: tuple[int, ...]) -> Tensor | None:
    """The drive of a layer of this shape, step by step, so that it can be added: (S, C, 1, ...)."""
    return None if op.drive is None else op.drive.view(*op.drive.shape, *(1,) * (len(shape) - 1))


def _line(node: Node, number: int, inputs: list[str], shape: tuple[int, ...], tensors: dict[str, Tensor]) -> str:
    """The line of code for one node in a step; ``shape`` is its first input's."""
    op, x = node.op, inputs[0]

    def kept(name: str, tensor: Tensor | None) -> str:
        if tensor is None:
            return "None"
        tensors[f"{name}{number}"] = tensor
        return f"self.{name}{number}"

    if isinstance(op, ops.Conv | ops.Linear):
        weights = f"{x}, {kept('weight', op.weight)}, {kept('bias', op.bias)}"
        if isinstance(op, ops.Linear):
            return f"x{number} = F.linear({weights})"
        options = f"{op.stride}, {op.padding}, {op.dilation}, {op.groups}"
        return f"x{number} = F.conv{op.weight.ndim - 2}d({weights}, {options})"
    if isinstance(op, ops.AvgPool):
        options = f"{op.kernel}, {op.stride}, {op.padding}, {op.ceil_mode}, {op.count_include_pad}"
        return f"x{number} = F.avg_pool{len(op.kernel)}d({x}, {options})"
    if isinstance(op, ops.Flatten):
        return f"x{number} = {x}.flatten(1)"
    if isinstance(op, ops.Sparse):
        parts = f"b[:, :, s] * w for s, w in zip({kept('source', op.source)}, {kept('weight', op.weight)}, strict=True)"
        bias = "" if op.bias is None else f" + {kept('bias', op.bias)}"
        return f"b = {x}.reshape(len({x}), -1, {op.size})\nx{number} = sum({parts}).reshape(-1, *{op.shape}){bias}"
    if isinstance(op, ops.Pad):
        axes = reversed(list(zip(op.before, op.after, strict=True)))
        amounts, spread = [n for ends in axes for n in ends], ""
        if any(op.between):
            sizes = [(n - 1) * (zeros + 1) + 1 for n, zeros in zip(shape, op.between, strict=True)]
            places = ", ".join(f"::{zeros + 1}" for zeros in op.between)
            spread = f"s{number} = {x}.new_zeros(len({x}), *{sizes})\ns{number}[:, {places}] = {x}\n"
        return f"{spread}x{number} = F.pad({f's{number}' if spread else x}, {amounts})"
    if isinstance(op, ops.Add | ops.Concat):
        terms = [x if c == 1.0 else f"{x} * {c!r}" for x, c in zip(inputs, op.coefficients, strict=True)]
        return (
            f"x{number} = {' + '.join(terms)}"
            if isinstance(op, ops.Add)
            else f"x{number} = torch.cat([{', '.join(terms)}], 1)"
        )
    if isinstance(op, ops.Readout):
        return f"total = total + {x}.double() * {op.scale!r}"
    if not isinstance(op, ops.Neuron):
        raise ConversionError(not_spiking(node))
    threshold, amplitude = calibrated(node.name, op)
    theta, u = kept("threshold", threshold), f"v{number}"
    size = "" if bool((amplitude == 1).all()) else f" * {kept('amplitude', amplitude)}"
    if (drive := rows(op, shape)) is not None:
        x = f"({x} + {kept('drive', drive)}[min(t, {len(drive) - 1})])"
    fire = f"{u} = {u} + {x}\nx{number} = ({u} >= {theta}).to({u}.dtype)"
    if op.signed:
        sent = f"c{number}"
        fire += f" - (({u} < 0) & ({sent} > 0)).to({u}.dtype)\n{sent} = {sent} + x{number}"
    fire += "\n"
    reset = f"{u} = {u} - {theta} * x{number}" if op.reset == "subtract" else f"{u} = {u} * (1 - x{number})"
    return f"{fire}{reset}" + (f"\nx{number} = x{number}{size}" if size else "")
