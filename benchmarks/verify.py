"""Does another tool make the same spikes of a NIR file? Loaded there, run on the same images, counted neuron by neuron.

The tools are not dependencies of this package: ``nox -s nir`` makes an environment with them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from equispike.errors import EquispikeError, SimulationError
from equispike.files.nir import identifiers, read_nir
from equispike.graph.network import Network
from equispike.simulation.run import simulate

Outcome = tuple[dict[str, Tensor], Tensor]
"""Spikes of each neuron over all steps by NIR name, (B, *features), and the sum of the outputs, (B, classes)."""


@dataclass(frozen=True)
class Comparison:
    """A file in another tool, against this package.

    Attributes:
        reader: the tool and its version.
        neurons, differing: neurons of all images, and those whose spikes over all steps differ in number.
        spikes, expected: of all neurons and images, there and here.
        scores_differ: share of the class scores that are not the same number.
    """

    reader: str
    neurons: int
    differing: int
    spikes: int
    expected: int
    scores_differ: float


def verify(
    path: str | PathLike[str], images: Tensor, timesteps: int, reader: str, corrected: bool = True
) -> Comparison:
    """Load a NIR file of this package in another tool, and compare spike counts neuron by neuron.

    Args:
        path: written by ``equispike.files.nir.write_nir``.
        images: (B, *features), preprocessed as in training; constant input.
        timesteps: T.
        reader: "spikingjelly", "sinabs" or, for networks that reset to zero, "norse"; it must be installed.
        corrected: with what ``write`` says has to be set, or as the tool reads the file.
    Raises:
        FileError: the file is not one of these.
        SimulationError: potentials start above zero, which no reader knows; soft reset, of which norse knows nothing;
            or the images do not fit.
        EquispikeError: no such reader, or it is not installed.
    """
    if reader not in READERS:
        raise EquispikeError(f"reader: {reader!r} is not known. Choose from {', '.join(READERS)}")
    try:
        import_module(reader)
    except ImportError as error:
        raise EquispikeError(f"reader: {reader} is not installed here. 'nox -s nir' makes an environment") from error
    network = read_nir(path)
    if started := [name for name, op in network.neurons.items() if not op.at_rest]:
        raise SimulationError(f"{started[0]}: its potential starts above zero. Convert with v_init=0 to compare")
    here = simulate(network, images, timesteps)
    soft = all(op.reset == "subtract" for op in network.neurons.values())
    with torch.no_grad():
        currents = network.input(network.check_images(images))
        counts, scores = READERS[reader](str(path), network, currents, timesteps, soft, corrected)
    differing = neurons = spikes = 0
    names = identifiers(network)
    for name, expected in here.counts.items():
        found = counts[names[name]].reshape(expected.shape)
        differing += int((found != expected).sum())
        neurons += expected.numel()
        spikes += int(found.sum())
    expected_spikes = sum(int(count.sum()) for count in here.counts.values())
    own = here.readout[-1].double()
    differ = (scores.reshape(own.shape) * network.readout.scale != own).double().mean()
    return Comparison(f"{reader} {version(reader)}", neurons, differing, spikes, expected_spikes, float(differ))


def _spikingjelly(
    path: str, network: Network, currents: Tensor, timesteps: int, soft: bool, corrected: bool
) -> Outcome:
    exchange: Any = import_module("spikingjelly.activation_based.nir_exchange")
    neuron: Any = import_module("spikingjelly.activation_based.neuron")
    model = exchange.import_from_nir(path, dt=1.0, dtype=network.dtype)
    for module in model.modules():
        if isinstance(module, neuron.IFNode) and soft and corrected:
            module.v_reset = None
    counts = _counted(model, network)
    state, total = None, torch.zeros(())
    for _ in range(timesteps):
        output, state = model(currents, state)
        total = total + output.double()
    return counts, total


def _sinabs(path: str, network: Network, currents: Tensor, timesteps: int, soft: bool, corrected: bool) -> Outcome:
    nir: Any = import_module("nir")
    activation: Any = import_module("sinabs.activation")
    layers: Any = import_module("sinabs.layers")
    model = import_module("sinabs.nir").from_nir(nir.read(path), batch_size=len(currents))
    for module in model.modules():
        if isinstance(module, layers.IAFSqueeze) and corrected:
            module.spike_fn, module.min_v_mem = activation.SingleSpike, None
            module.reset_fn = activation.MembraneSubtract() if soft else activation.MembraneReset()
    model = model.to(network.dtype)
    counts = _counted(model, network, timesteps)
    outputs = _outputs(model, network, corrected)
    model(currents.repeat_interleave(timesteps, 0))  # sinabs takes the steps of an image together
    scores = outputs[-1].double().flatten(1)
    return counts, scores.view(-1, timesteps, scores.shape[1]).sum(1)


def _norse(path: str, network: Network, currents: Tensor, timesteps: int, soft: bool, corrected: bool) -> Outcome:
    """Image by image, without a dimension for the batch, which its ``Flatten`` would take for one of the features."""
    if soft and corrected:
        raise SimulationError(
            "norse resets to zero alone, and this network subtracts. Convert with reset='zero' to compare"
        )
    nir: Any = import_module("nir")
    model = import_module("norse.torch").from_nir(nir.read(path), dt=1.0).to(network.dtype)
    cell: Any = import_module("norse.torch.module.iaf").IAFCell
    for module in model.modules():
        if isinstance(module, cell):
            below = module.p.v_th.to(network.dtype)
            if corrected:  # it fires above the threshold
                below = torch.nextafter(below, torch.zeros_like(below))
            module.p = module.p._replace(v_th=below, v_reset=torch.zeros_like(below))
    found: list[dict[str, Tensor]] = []
    totals: list[Tensor] = []
    counts, outputs = _counted(model, network), _outputs(model, network, corrected)
    for image in currents:
        state = None
        for _ in range(timesteps):
            _, state = model(image, state)
        found.append(dict(counts))
        totals.append(torch.stack(outputs).double().sum(0))
        counts.clear()
        outputs.clear()
    return {name: torch.stack([counts[name] for counts in found]) for name in found[0]}, torch.stack(totals)


def _outputs(model: Any, network: Network, corrected: bool) -> list[Tensor]:
    """Outputs of the node for the output, filled up when the model runs; the model returns the node that ran last.

    nirtorch's loader runs a branch that meets another one too late; corrected, nodes come behind those they read.
    """
    if corrected:
        names = identifiers(network)
        places = {names[node.name]: place for place, node in enumerate(network) if node.name in names}
        order: list[Any] = list(model.execution_order)
        model.execution_order = sorted(order, key=lambda node: places[str(node.name)])
    outputs: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Tensor) -> None:
        outputs.append(output)

    model.get_submodule("output").register_forward_hook(keep)
    return outputs


def _counted(model: torch.nn.Module, network: Network, steps: int = 1) -> dict[str, Tensor]:
    """Spike counts by layer, which fill up when the model runs; of each image, ``steps`` steps lie together."""
    counts: dict[str, Tensor] = {}

    def count(name: str) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Tensor | tuple[Tensor, object]) -> None:
            spikes = output[0] if isinstance(output, tuple) else output
            own = spikes.view(-1, steps, *spikes.shape[1:]).sum(1).to(torch.int64)
            counts[name] = counts[name] + own if name in counts else own

        return hook

    names = identifiers(network)
    for name in network.neurons:
        model.get_submodule(names[name]).register_forward_hook(count(names[name]))
    return counts


READERS: Mapping[str, Callable[[str, Network, Tensor, int, bool, bool], Outcome]] = {
    "spikingjelly": _spikingjelly,
    "sinabs": _sinabs,
    "norse": _norse,
}
