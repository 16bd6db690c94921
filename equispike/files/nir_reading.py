"""Networks from NIR files, of this or other tools: convolutions, linear layers, pools, integrate-and-fire neurons."""

import json
import math
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from equispike.errors import EquispikeError
from equispike.files.hdf5 import Fields
from equispike.functional.integrate import Reset
from equispike.graph.fold import fold_affine
from equispike.graph.network import LARGEST, Network, Node, shape_of
from equispike.graph.ops import Add, Affine, AvgPool, Conv, Flatten, Input, Linear, Neuron, Op, Readout

METADATA = "equispike"
"""Name of the metadata entry that holds, as JSON, what NIR has no field for."""

NEURONS = "LIF", "CubaLIF", "LI", "CubaLI", "I", "Threshold"
"""Neurons of NIR that do not integrate and fire alone."""


def network_of(file: Fields, reset: Reset | None) -> Network:
    """The network that the fields of a NIR file describe. ValueError and others say what is in the way."""
    root = _group(file, "node")
    if root.get("type") != "NIRGraph":
        raise ValueError("it holds no graph")
    own = _own(_group(root, "metadata")) if "metadata" in root else {}
    nodes = _group(root, "nodes")
    fields = {name: _group(nodes, name) for name in nodes}
    sources = _sources(fields, root["edges"])
    assembly = _Assembly(own, reset)
    for name in _order(sources):
        assembly.add(name, fields[name], sources[name])
    network = Network((*assembly.nodes, *assembly.last), _mapping(own, "provenance"))
    doubles = any(array.dtype == np.float64 for node in fields.values() for array in node.values() if _is_array(array))
    return fold_affine(network.to(torch.float64 if doubles else torch.float32))


def _group(parent: Fields, name: str) -> Fields:
    found = parent.get(name)
    if not isinstance(found, dict):
        raise ValueError(f"{name}: is missing, or no group")
    return cast("Fields", found)


def _own(metadata: Fields) -> dict[str, Any]:
    """Read what this package wrote beside the graph; empty for files of others."""
    text = metadata.get(METADATA)
    found: Any = json.loads(text) if isinstance(text, str) else {}
    if not isinstance(found, dict):
        raise ValueError("its metadata is no JSON object")
    return cast("dict[str, Any]", found)


def _sources(fields: Mapping[str, Fields], edges: Any) -> dict[str, list[str]]:
    sources: dict[str, list[str]] = {name: [] for name in fields}
    for edge in np.asarray(edges).reshape(-1, 2).tolist():
        source, target = (end.decode() if isinstance(end, bytes) else str(end) for end in edge)
        if source not in fields or target not in fields:
            raise ValueError(f"an edge leads from {source} to {target}, and one of them is no node")
        if source in sources[target]:
            raise ValueError(f"two edges lead from {source} to {target}")
        sources[target].append(source)
    return sources


def _order(sources: Mapping[str, list[str]]) -> list[str]:
    try:
        return list(TopologicalSorter(sources).static_order())
    except CycleError as error:
        cycle = " -> ".join(cast("list[str]", error.args[1]))
        raise ValueError(f"its graph has a cycle, {cycle}: only feed-forward networks can be read") from error


class _Assembly:
    """The network as it is read, node after node. ``last``: the readout, which comes behind all others."""

    def __init__(self, own: dict[str, Any], reset: Reset | None) -> None:
        self.own, self.reset = own, reset
        self.nodes: list[Node] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.last: list[Node] = []
        self.names: dict[str, str] = {}
        self.r: float | None = None

    def add(self, name: str, fields: Fields, sources: list[str]) -> None:
        """Append what a node of the file does; those that lead to it have been added. ValueError names it."""
        kind = fields.get("type")
        self.names[name] = own = str(_mapping(self.own, "names").get(name, name))
        try:
            if kind == "Input":
                self._input(own, fields, sources)
            elif not sources:
                raise ValueError("nothing leads to it")
            else:
                self._add(name, own, str(kind), fields, self._source(own, sources))
        except KeyError as error:
            raise ValueError(f"{own} ({kind}): has no field {error}") from error
        except (EquispikeError, ValueError, TypeError, RuntimeError) as error:
            raise ValueError(f"{own} ({kind}): {error}") from error

    def _input(self, name: str, fields: Fields, sources: list[str]) -> None:
        if self.nodes or sources:
            raise ValueError("is a second input, or something leads to it. Only one input can be read")
        shape = tuple(_whole(n) for n in _array(fields, "shape").reshape(-1))
        own = _mapping(self.own, "input")
        step = own.get("step")
        scale, amplitude = (_positive(own.get(key, 1.0)) for key in ("scale", "amplitude"))
        self._append(Node(name, Input(shape, scale, amplitude, None if step is None else _positive(step))))

    def _source(self, name: str, sources: list[str]) -> str:
        """Find what leads to a node, as one node: terms of a sum are added up."""
        if not self.nodes:
            raise ValueError("comes before any input")
        if len(sources) == 1:
            return self.names[sources[0]]
        taken = {node.name for node in self.nodes} | set(_mapping(self.own, "names").values())
        total = f"{name}.sum"
        while total in taken:
            total += "_"
        self._append(Node(total, Add((1.0,) * len(sources)), tuple(self.names[s] for s in sources)))
        return total

    def _append(self, node: Node) -> None:
        self.shapes[node.name] = shape = shape_of(node, [self.shapes[source] for source in node.inputs])
        if math.prod(shape) > LARGEST:
            raise ValueError(f"features of shape {shape} are out of proportion")
        self.nodes.append(node)

    def _add(self, name: str, own: str, kind: str, fields: Fields, source: str) -> None:
        shape = self.shapes[source]
        if kind == "Output":
            if self.last:
                raise ValueError("is a second output. Only one can be read")
            if len(shape) > 1:
                self.last.append(Node(f"{own}.flat", Flatten(), (source,)))
                source = self.last[-1].name
            scale, delay = _positive(self.own.get("readout", 1.0)), self.own.get("delay", 0.0)
            if not isinstance(delay, int | float) or not 0 <= delay < 1:
                raise ValueError(f"delay {delay!r} is no share of the steps")
            self.last.append(Node(own, Readout(scale, delay=float(delay)), (source,)))
            return
        op = self._neuron(name, fields, shape) if kind == "IF" else _operation(kind, fields, shape)
        if op is not None:
            self._append(Node(own, op, (source,)))
        else:
            self.names[name] = source

    def _neuron(self, name: str, fields: Fields, shape: tuple[int, ...]) -> Neuron:
        r, threshold = _tensor(fields, "r"), _tensor(fields, "v_threshold")
        if bool((r != r.flatten()[0]).any()) or (self.r not in (None, float(r.flatten()[0]))):
            raise ValueError("r differs between neurons. Scale the weights instead, and give all the same r")
        self.r = _positive(float(r.flatten()[0]))
        own = _mapping(_mapping(self.own, "neurons"), name)
        reset = self.reset or own.get("reset", "zero")
        if reset not in ("subtract", "zero"):
            raise ValueError(f"reset {reset!r} is neither subtract nor zero")
        if reset == "zero" and "v_reset" in fields and bool(_tensor(fields, "v_reset").any()):
            raise ValueError("resets to another potential than zero. Shift potentials and threshold so that it is zero")
        v_init = own.get("v_init", 0.0)
        if v_init != "uniform" and not (isinstance(v_init, int | float) and 0 <= v_init < 1):
            raise ValueError(f"v_init {v_init!r} is no fraction of the threshold")
        threshold = _per_channel(threshold, shape)
        if not bool((threshold > 0).all()):
            raise ValueError("a threshold is not above zero")
        return Neuron(threshold, torch.ones_like(threshold), None, reset, v_init)


def _operation(kind: str, fields: Fields, shape: tuple[int, ...]) -> Op | None:
    """The operation of a node that has no state; None if it does nothing."""
    space = len(shape) - 1
    if kind in ("Conv1d", "Conv2d"):
        weight = _tensor(fields, "weight")
        if weight.ndim != {"Conv1d": 3, "Conv2d": 4}[kind]:
            raise ValueError(f"weight of {weight.ndim} dimensions")
        stride, dilation = (_sizes(fields, key, space, 1) for key in ("stride", "dilation"))
        padding = _padding(fields, weight, stride, dilation)
        return Conv(weight, _tensor(fields, "bias"), stride, padding, dilation, _whole(_array(fields, "groups")))
    if kind in ("Affine", "Linear"):
        weight = _tensor(fields, "weight")
        if weight.ndim != 2:
            raise ValueError(f"weight of {weight.ndim} dimensions where a matrix is expected")
        return Linear(weight, _tensor(fields, "bias") if kind == "Affine" else None)
    if kind == "Scale":
        scale = _per_channel(_tensor(fields, "scale"), shape).flatten().expand(shape[0]).clone()
        return Affine(scale, torch.zeros_like(scale))
    if kind in ("SumPool2d", "AvgPool2d"):
        kernel, stride = (_sizes(fields, key, 2, 1) for key in ("kernel_size", "stride"))
        padding = _sizes(fields, "padding", 2, 0)
        pool = AvgPool(kernel, stride, padding)
        if kind == "AvgPool2d":
            return pool
        if math.prod(kernel) * shape[0] > 2**24:
            raise ValueError(f"kernel_size {kernel} is out of proportion")
        return pool.sums(shape[0])
    if kind == "Flatten":
        first, end = (int(_array(fields, key).item()) for key in ("start_dim", "end_dim"))
        if range(len(shape))[first] != 0 or range(len(shape))[end] != len(shape) - 1:
            raise ValueError(f"flattens dimensions {first} to {end} of {shape}, and only all of them convert")
        return Flatten() if len(shape) > 1 else None
    if kind in NEURONS:
        raise ValueError("only integrate-and-fire neurons (IF) can be read: no leak, no synaptic current")
    raise ValueError("this kind of node cannot be read. Write the network as one graph of convolutions, pools and IF")


def _per_channel(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """One value () if all are the same, else one per channel, (C, 1, ...). ValueError if they differ inside one."""
    first = values.flatten()[0]
    if bool((values == first).all()):
        return first
    if tuple(values.shape) != shape:
        raise ValueError(f"values of shape {tuple(values.shape)} for features {shape}")
    channels = values.flatten(1)[:, 0] if values.ndim > 1 else values
    channels = channels.view(-1, *(1,) * (len(shape) - 1))
    if bool((values != channels).any()):
        raise ValueError("values differ inside a channel, and only one per channel can be read")
    return channels.clone()


def _padding(fields: Fields, weight: Tensor, stride: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    named = fields.get("padding")
    if not isinstance(named, str):
        return _sizes(fields, "padding", len(stride), 0)
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    if named == "valid":
        return (0,) * len(stride)
    if named != "same" or any(r % 2 for r in reach) or any(s != 1 for s in stride):
        raise ValueError(f"padding {named!r} with this kernel and stride. Give it as numbers")
    return tuple(r // 2 for r in reach)


def _mapping(owner: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = owner.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f"metadata {key} is no JSON object")
    return cast("dict[str, Any]", value)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def _array(fields: Fields, key: str) -> "np.ndarray[Any, Any]":
    value = fields[key]
    if not _is_array(value) or not value.size:
        raise ValueError(f"{key} holds no numbers")
    return cast("np.ndarray[Any, Any]", value)


def _tensor(fields: Fields, key: str) -> Tensor:
    value = _array(fields, key)
    kept = value if value.dtype in (np.float32, np.float64) else value.astype(np.float32)
    return torch.tensor(kept)


def _sizes(fields: Fields, key: str, dims: int, least: int) -> tuple[int, ...]:
    values = [_whole(n, least) for n in _array(fields, key).reshape(-1)]
    values = values * dims if len(values) == 1 else values
    if len(values) != dims:
        raise ValueError(f"{key} has {len(values)} numbers for {dims} dimensions of space")
    return tuple(values)


def _whole(value: Any, least: int = 1) -> int:
    number = float(np.asarray(value).item())
    if number != int(number) or not least <= number < 2**31:
        raise ValueError(f"{number:g} is no size")
    return int(number)


def _positive(value: Any) -> float:
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{value!r} is not a number above zero")
    return float(value)
