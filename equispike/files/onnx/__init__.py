"""ONNX files: trained networks read from them, converted networks written with the time loop inside."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equispike.errors import ConversionError, FileError
from equispike.files.disk import reading, write_bytes
from equispike.files.onnx.reader import GraphReader, model_of
from equispike.files.onnx.writer import PROVENANCE, GraphWriter
from equispike.graph.network import Network
from equispike.graph.ops import AvgPool, Conv
from equispike.graph.units import mixing_as_layer
from equispike.provenance import set_for

LARGEST_FILE = 2**31 - 2**20
"""Bytes of weights; an ONNX file with its weights inside ends at 2 GiB."""


def read_onnx(path: str | PathLike[str], output: int | None = None) -> Network:
    """The trained network in an ONNX file, without thresholds, as ``trace`` gives it for a module.

    Args:
        path: of a model in evaluation mode of images (B, *features) of a fixed shape, in one input or several, that
            gives class scores (B, classes), or other values (B, *outputs).
        output: which of several outputs, from 0. What no other output needs is left out.
    Raises:
        FileError: the file is missing, damaged or no ONNX model, keeps weights in other files, or is what
            ``write_onnx`` made of a converted network.
        ConversionError: names the operations that cannot be translated, the reason and the remedy.
    """
    model = _model(path)
    if _told(model) is not None:
        raise FileError(
            f"{path}: is a converted network with its time loop, for ONNX Runtime. "
            "Give the file that it was exported from"
        )
    with reading(path, "cannot be read as an ONNX network", verdicts=True):
        return GraphReader(model.graph, output).network()


def provenance_in(path: str | PathLike[str]) -> dict[str, Any] | None:
    """The provenance of the converted network in a file of ``write_onnx``; None of any other ONNX file.

    Raises:
        FileError: the file is missing, damaged or no ONNX model.
    """
    told = _told(_model(path))
    with reading(path, "does not tell where its network comes from"):
        return None if told is None else dict(json.loads(told))


def _model(path: str | PathLike[str]) -> Any:
    with reading(path, "is not a readable ONNX file, or truncated"):
        return model_of(Path(path).read_bytes())


def _told(model: Any) -> str | None:
    """The entry that ``write_onnx`` puts into a file."""
    return next((str(entry.value) for entry in model.metadata_props if entry.key == PROVENANCE), None)


def write_onnx(network: Network, path: str | PathLike[str]) -> list[str]:
    """Write a converted network as an ONNX file, atomically.

    Its inputs are ``images``, (B, *features), float32, preprocessed as in training, as a current in every step; and
    ``timesteps``, T, one integer. Its outputs are ``scores``, (T, B, classes), float64, after each step those of
    ``simulate``, and for each neuron layer ``spikes.NAME``, (B, *features), its spikes over all steps. On a quantized
    network in float32 both are exact, scores once they are rounded to float32. Runtimes have no convolutions in
    float64: a network that holds some is written in float32, and the sentences say so. Half precision is written in
    float32 as well.

    Args:
        network: converted.
        path: file to write; usually named ``.onnx``.
    Returns:
        sentences for the user.
    Raises:
        ConversionError: no thresholds, potentials that start at random, an operation that does not run on spikes, or
            weights beyond the 2 GiB of such a file.
        FileError: the file cannot be written.
    """
    notes = [
        "Needs onnxruntime alone: onnxruntime.InferenceSession(FILE).run(['scores'], {'images': images, "
        f"'timesteps': numpy.array({set_for(network.provenance) or 64})}}) gives the scores after each step; "
        "outputs spikes.NAME, the spikes of a layer."
    ]
    if network.dtype.itemsize < 4:
        network = network.widened()
        notes.append("This network is in half precision: it was written in float32, which holds the same weights.")
    if network.dtype == torch.float64 and any(isinstance(node.op, Conv | AvgPool) for node in network):
        network = network.to(torch.float32)
        notes.append(
            "This network is in float64, in which runtimes have no convolutions: it was written in float32, where "
            "its sums are rounded. Quantize with fewer bits for the same spikes."
        )
    network = mixing_as_layer(network)
    tensors = [value for node in network for value in vars(node.op).values() if isinstance(value, Tensor)]
    if sum(t.numel() * t.element_size() for t in tensors) > LARGEST_FILE:
        raise ConversionError("its weights take more than the 2 GiB that an ONNX file holds. Export to torch instead")
    write_bytes(Path(path), GraphWriter(network).model().SerializeToString())
    return notes
