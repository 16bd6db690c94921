"""Networks and trained weights as safetensors files with a JSON header.

The header holds ``format`` and ``version``, the description, and a SHA-256 digest over description and tensors; a file
that is truncated, altered, foreign or newer is refused in one line. Nothing in a file is ever executed.
"""

import dataclasses
import hashlib
import json
import math
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from equispike.arguments import checked
from equispike.errors import FileError
from equispike.files.disk import DAMAGED, reading, write_bytes
from equispike.functional.inputs import all_finite
from equispike.graph import ops
from equispike.graph.network import LARGEST, Network, Node

_VERSION = 1
TRAINED_ONLY = ops.MaxPool, ops.LeakyReLU, ops.Affine
OPS: dict[str, type[ops.Op]] = {op.__name__: op for op in typing.get_args(ops.Op) if op not in TRAINED_ONLY}
"""Operations of converted networks, by name."""
POSITIVE: dict[type, tuple[str, ...]] = {
    ops.Input: ("scale", "amplitude", "step"),
    ops.Neuron: ("threshold", "amplitude", "ceiling", "levels"),
}
ADDED: dict[type, dict[str, object]] = {
    ops.Input: {"step": None},
    ops.Pad: {"between": []},
    ops.Neuron: {"drive": None, "spikes": "binary", "levels": None},
    ops.Readout: {"mix": None, "shift": None, "delay": 0.0},
}
"""Fields that the first files of this version lack, and what they mean there."""
PLACES = ("source",)
"""Fields of whole numbers."""

CONTIGUOUS: Any = torch.contiguous_format  # untyped in torch
Format = Literal["equispike.network", "equispike.model", "equispike.training"]
KINDS: dict[str, str] = {
    "equispike.network": "a converted network",
    "equispike.model": "a trained model",
    "equispike.training": "an interrupted training",
}
"""Kinds of files in words."""
_OTHERWISE: dict[Format, str] = {
    "equispike.network": "Convert the model first, and keep that with es.save",
    "equispike.model": "Give the file that training wrote",
    "equispike.training": "Leave --resume out to begin anew",
}
"""What to do where a file is of another kind than these."""


@checked
def save(network: Network, path: str | os.PathLike[str]) -> None:
    """Write a converted network, atomically: a file of this name is replaced whole or stays as it was.

    Raises:
        FileError: the network holds operations that are not part of a converted one, or the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    nodes: list[dict[str, Any]] = []
    for number, node in enumerate(network.nodes):
        if type(node.op).__name__ not in OPS:
            raise FileError(
                f"{node.name} ({type(node.op).__name__}): is not part of a converted network; convert first"
            )
        fields: dict[str, Any] = {}
        for field in dataclasses.fields(node.op):
            value = getattr(node.op, field.name)
            if isinstance(value, Tensor):
                tensors[f"{number}.{field.name}"] = value
                value = {"tensor": f"{number}.{field.name}"}
            fields[field.name] = value
        nodes.append({"name": node.name, "op": type(node.op).__name__, "inputs": node.inputs, "fields": fields})
    write_tensors(path, "equispike.network", {"nodes": nodes, "provenance": dict(network.provenance)}, tensors)


@checked
def load(path: str | os.PathLike[str]) -> Network:
    """Read a converted network. FileError in one line if the file is missing, damaged or not one of these."""
    description, tensors = read_tensors(path, "equispike.network")
    with reading(path, "does not describe a network"):
        nodes = tuple(_node(item, tensors) for item in description["nodes"])
        network = Network(nodes, _mapping("provenance", description["provenance"]))
        for name, shape in network.shapes.items():
            if math.prod(shape) > LARGEST:
                raise ValueError(f"{name}: features of shape {shape} are out of proportion")
        return network


def write_tensors(
    path: str | os.PathLike[str], kind: Format, description: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write tensors with a description (JSON-able) as a file of this kind, atomically."""
    try:
        text = json.dumps(description, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise FileError(f"{path}: its provenance or card cannot be written as JSON: {error}") from error
    # copies, since safetensors refuses tensors that share memory, as tied weights do
    tensors = {name: tensor.detach().cpu().clone(memory_format=CONTIGUOUS) for name, tensor in tensors.items()}
    header = {"format": kind, "version": str(_VERSION), "description": text, "sha256": _digest(text, tensors)}
    write_bytes(Path(path), to_bytes(tensors, header))


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """The kind that a safetensors file states: "equispike.network", ...; "pt" or "" in those of other programs.

    None if it is no such file at all.
    """
    if not os.path.isfile(path):  # a device would be read without end
        return None
    try:
        opened: Any = safe_open(str(path), framework="pt")
        with opened as file:
            metadata: dict[str, str] = file.metadata() or {}
            return metadata.get("format", "")
    except (SafetensorError, OSError, ValueError):  # ValueError: no name of a file
        return None


def read_tensors(path: str | os.PathLike[str], kind: Format) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description and the tensors of a file of this kind. FileError, in one line, for anything else."""
    with reading(path, "is not a readable safetensors file, or truncated"):
        try:
            opened: Any = safe_open(str(path), framework="pt")
            with opened as file:
                header: dict[str, str] = file.metadata() or {}
                found, version = header.get("format"), header.get("version")
                if found != kind:
                    is_now = KINDS.get(found or "", "a safetensors file of another program")
                    raise FileError(f"{path}: is {is_now}, not {KINDS[kind]}. {_OTHERWISE[kind]}")
                if version != str(_VERSION):
                    raise FileError(f"{path}: has version {version}; this release reads {_VERSION}. Upgrade equispike")
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in list(file.keys())}
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        text, digest = header["description"], header["sha256"]
    if digest != _digest(text, tensors):
        raise FileError(f"{path}: its contents do not match its digest: the file was altered. {DAMAGED}")
    with reading(path, "has no readable description"):
        return _mapping("description", json.loads(text)), tensors


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _mapping(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {value!r} is not of type dict")
    return cast("dict[str, Any]", value)


def _node(item: Any, tensors: Mapping[str, Tensor]) -> Node:
    kind = OPS[item["op"]]
    hints = typing.get_type_hints(kind)
    given = {**ADDED.get(kind, {}), **_mapping(f"{item['name']}.fields", item["fields"])}
    if given.keys() != hints.keys():
        raise ValueError(f"{item['name']}: fields {sorted(given)} where {sorted(hints)} are expected")
    fields = {name: _value(f"{item['name']}.{name}", hint, given[name], tensors) for name, hint in hints.items()}
    for name in POSITIVE.get(kind, ()):
        if fields[name] is not None and not bool(torch.as_tensor(fields[name] > 0).all()):
            raise ValueError(f"{item['name']}.{name}: is not above zero")
    return Node(str(item["name"]), kind(**fields), tuple(str(name) for name in item["inputs"]))


def _value(where: str, hint: Any, value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """A JSON value as the type that the field declares; ValueError if it is not of that type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if Tensor in (hint, *arguments) and isinstance(value, dict):
        tensor = tensors[_mapping(where, value)["tensor"]]
        if tensor.is_floating_point() == (where.rpartition(".")[2] in PLACES) or not all_finite(tensor):
            raise ValueError(f"{where}: holds NaN, infinity or numbers of another type")
        return tensor
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            try:
                return _value(where, option, value, tensors)
            except ValueError:
                continue
    elif origin is Literal and value in arguments:
        return value
    elif origin is tuple and isinstance(value, list):
        return tuple(_value(where, arguments[0], v, tensors) for v in cast("list[Any]", value))
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    elif (hint is int or hint is bool or hint is type(None)) and type(value) is hint:
        return cast("int | bool | None", value)
    raise ValueError(f"{where}: {value!r} is not of type {hint}")
