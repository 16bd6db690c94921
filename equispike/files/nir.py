"""NIR files (Neuromorphic Intermediate Representation) for other tools; reading them back, and those of other tools.

A NIR file is a graph in HDF5. Its integrate-and-fire neuron fires above the threshold and resets to a fixed potential;
soft reset, and a spike at the threshold itself, cannot be stated. So the file says them in its metadata, and
``write_nir`` returns what each reader will make of it.
"""

import io
import json
import keyword
import re
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equispike.files import hdf5
from equispike.files.disk import reading, write_bytes
from equispike.files.nir_lowering import Profile, is_sum_pool, lower
from equispike.files.nir_reading import METADATA, network_of
from equispike.functional.integrate import Reset
from equispike.graph.network import Network, Node
from equispike.graph.ops import Add, Conv, Flatten, Input, Linear, Neuron, Readout

_VERSION = "1.0.4"
"""Of the format: what the oldest reader that opens these files calls itself."""


def write_nir(network: Network, path: str | PathLike[str], profile: Profile = "portable") -> list[str]:
    """Write a converted network as a NIR file, atomically, for nir 1.0.4 and later.

    Spikes stay what they are, exactly so on a quantized network. For "portable", quantize with ``per_channel=False``:
    one threshold per layer is what most readers take. Half precision is written in float32.

    Args:
        network: converted, quantized or not.
        path: file to write; usually named ``.nir``.
        profile: "portable" has convolutions and neurons only, with one threshold per layer, grouped convolutions
            written out, and linear layers behind them as convolutions (a network of vectors keeps its linear layers);
            "compact" has sum pools, flattening, linear layers and a threshold per channel.
    Returns:
        sentences for the user: how to feed the network, what each reader does with it, and what grew or was rounded.
    Raises:
        ConversionError: the network has no thresholds, or an operation without such a form.
        FileError: the file cannot be written.
    """
    h5py = hdf5.package()
    lowered, notes = lower(network.widened(), profile)
    notes = [*_instructions(lowered), *notes]
    names = identifiers(lowered)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("version", data=_VERSION)
        graph = file.create_group("node")
        edges = list(_edges(lowered, names))
        graph.create_dataset("type", data="NIRGraph")
        graph.create_dataset("edges", data=edges, dtype=h5py.string_dtype())
        metadata = graph.create_group("metadata")
        metadata.create_dataset("note", data=" ".join(notes))
        metadata.create_dataset(METADATA, data=json.dumps(_metadata(lowered, names), sort_keys=True))
        nodes = graph.create_group("nodes")
        for node in lowered.nodes:
            if not isinstance(node.op, Add):
                _write_fields(nodes.create_group(names[node.name]), _fields(lowered, node))
    write_bytes(Path(path), buffer.getvalue())
    return notes


def read_nir(path: str | PathLike[str], reset: Reset | None = None) -> Network:
    """The network in a NIR file. Spikes have size 1; a step lasts 1 / r, so that a neuron integrates its input once.

    A file of this package gives back the network that was written, in the operations of its profile: spike for spike if
    it is quantized. In a file of another tool neurons fire at their threshold, not only above it.

    Args:
        path: the file.
        reset: "subtract" (soft) or "zero" (hard); default what this package wrote into the file, else "zero", which is
            all that NIR can state.
    Raises:
        FileError: in one line, what cannot be read: the file is damaged, has cycles, shapes that do not fit, numbers
            that are not finite, several inputs or outputs, or nodes of other kinds.
    """
    with reading(path, "cannot be read as a NIR network"):
        return network_of(hdf5.read_hdf5(Path(path)), reset)


def _instructions(network: Network) -> list[str]:
    """List what a user has to do so that a reader gives the same spikes."""
    op = network.input
    factor = op.amplitude / op.scale
    notes = ["A step lasts 1 (in SpikingJelly: dt=1), and biases are a current in every step."]
    if op.step is not None:
        notes.append(f"Feed round(image / {op.step:g}) as the current of every step, at most {op.amplitude:g} in size.")
    elif factor != 1.0:
        notes.append(f"Feed image x {factor:.9g} as the current of every step.")
    resets = {neuron.reset for neuron in network.neurons.values()}
    if "subtract" in resets:
        notes += [
            "This network resets by subtraction, which NIR cannot state.",
            "SpikingJelly reads a reset to zero: set v_reset = None on every IFNode.",
            "sinabs subtracts, but lets a neuron spike several times a step and bounds its potential from below: set "
            "spike_fn = SingleSpike and min_v_mem = None on every IAFSqueeze.",
            "Tools that follow NIR to the letter reset to zero, and spike less.",
        ]
    if any(isinstance(node.op, Add) for node in network):
        notes.append(
            "sinabs and Norse run branches that meet in the wrong order: sort the model's execution_order so that each "
            "node comes behind those that lead to it."
        )
    if "zero" in resets:
        notes.append(
            "Neurons reset to zero, as SpikingJelly reads them; in sinabs set spike_fn = SingleSpike, min_v_mem = None "
            "and reset_fn = MembraneReset() on every IAFSqueeze. Norse reads them so too."
        )
    notes.append(
        "Neurons fire at their threshold, as in SpikingJelly and sinabs. NIR says above it, and so does Norse: take "
        "the next smaller number for v_th on every IAFCell."
    )
    if delay := network.readout.delay:
        notes.append(f"After T steps add up the scores of the last T - floor({delay:g} T) alone: earlier ones mislead.")
    if not all(neuron.at_rest for neuron in network.neurons.values()):
        notes.append("Potentials start above zero here (v_init), and at zero in every reader: set them before the run.")
    return notes


def identifiers(network: Network) -> dict[str, str]:
    """A name for each node of the file that readers can use as a Python identifier."""
    names: dict[str, str] = {}
    for node in sorted((n for n in network.nodes if not isinstance(n.op, Add)), key=lambda n: n.name):
        name = "output" if isinstance(node.op, Readout) else re.sub(r"\W", "_", node.name, flags=re.ASCII)
        if keyword.iskeyword(name) or not name[:1].isalpha() or (name == "output" and node is not network.nodes[-1]):
            name = f"layer_{name}"
        taken, number = set(names.values()), 1
        unique = name
        while unique in taken:
            number += 1
            unique = f"{name}_{number}"
        names[node.name] = unique
    return names


def _edges(network: Network, names: dict[str, str]) -> Iterator[tuple[str, str]]:
    """A sum is no node: its terms all lead to whoever reads it."""
    for node in network.nodes:
        if not isinstance(node.op, Add):
            for name in node.inputs:
                source = network[name]
                terms = source.inputs if isinstance(source.op, Add) else (name,)
                yield from ((names[term], names[node.name]) for term in terms)


def _metadata(network: Network, names: dict[str, str]) -> dict[str, Any]:
    op = network.input
    return {
        "input": {"scale": op.scale, "amplitude": op.amplitude, "step": op.step},
        "readout": network.readout.scale,
        "delay": network.readout.delay,
        "names": {own: name for name, own in names.items()},
        "neurons": {names[n]: {"reset": op.reset, "v_init": op.v_init} for n, op in network.neurons.items()},
        "provenance": dict(network.provenance),
    }


def _fields(network: Network, node: Node) -> dict[str, Any]:
    """A node's fields as NIR names them: strings, numbers and arrays."""
    op, shape = node.op, network.shapes[node.name]
    if isinstance(op, Input):
        return {"type": "Input", "shape": _ints(shape)}
    before = network.shapes[node.inputs[0]]
    if isinstance(op, Readout):
        return {"type": "Output", "shape": _ints(shape)}
    if isinstance(op, Conv) and is_sum_pool(op):
        sizes = {"kernel_size": op.weight.shape[2:], "stride": op.stride, "padding": op.padding}
        return {"type": "SumPool2d", **{name: _ints(size) for name, size in sizes.items()}}
    if isinstance(op, Conv):
        one = len(before) == 2
        sizes = {"input_shape": before[1:], "stride": op.stride, "padding": op.padding, "dilation": op.dilation}
        fields = {name: size[0] if one else _ints(size) for name, size in sizes.items()}
        weights = {"weight": op.weight, "bias": _bias(op)}
        return {"type": "Conv1d" if one else "Conv2d", **fields, "groups": op.groups, **weights}
    if isinstance(op, Linear):
        return {"type": "Affine", "weight": op.weight, "bias": _bias(op)}
    if isinstance(op, Flatten):
        return {"type": "Flatten", "start_dim": 0, "end_dim": -1, "input_type": _ints(before)}
    assert isinstance(op, Neuron)
    assert op.threshold is not None
    # no v_reset: readers take a missing one for zeros, and the older ones know no such field
    return {"type": "IF", "r": torch.ones(shape, dtype=network.dtype), "v_threshold": op.threshold.expand(shape)}


def _bias(op: Conv | Linear) -> Tensor:
    """Zeros rather than none, which readers do not take."""
    return op.weight.new_zeros(op.weight.shape[0]) if op.bias is None else op.bias


def _ints(values: Sequence[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64)


def _write_fields(group: Any, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        if isinstance(value, Tensor):
            array = value.detach().cpu().contiguous().numpy()
            group.create_dataset(name, data=array, compression="gzip" if array.size > 64 else None)
        else:
            group.create_dataset(name, data=value)
