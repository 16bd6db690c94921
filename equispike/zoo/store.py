"""Trained models in files: weights with a card that tells how they came about."""

import os
import subprocess
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from equispike.errors import EquispikeError, FileError, one_line
from equispike.files.checkpoint import read_tensors, write_tensors
from equispike.versions import versions
from equispike.zoo.models import MODELS, build


def save_model(path: str | os.PathLike[str], name: str, model: nn.Module, card: Mapping[str, Any]) -> None:
    """Write the weights of a zoo network, atomically.

    Args:
        name: of the network in the zoo.
        card: data, recipe, seed, accuracies, ...; JSON-able. "versions" are added, and "commit" in a
            checkout of equispike.
    """
    commit = _commit()
    card = {**({"commit": commit} if commit else {}), "versions": versions(), **card}
    write_tensors(path, "equispike.model", {"name": name, "card": card}, model.state_dict())


def _commit() -> str:
    """Commit of the checkout that this file is part of, with a + if files differ from it; empty if there is none."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # else it is a checkout of something else
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "..") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Fill a module with the weights of a safetensors file, in place. FileError if they are damaged or do not fit."""
    if not Path(path).is_file():
        raise FileError(f"{path}: no such file")
    try:
        tensors = load(Path(path).read_bytes())
    except (SafetensorError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise FileError(f"{path}: is not a readable safetensors file, or truncated: {reason}") from error
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = one_line(error, 200)
        raise FileError(f"{path}: does not fit the model: {reason}") from error


def bundled(name: str) -> Path:
    """Where the package holds the weights of that network, if it does."""
    return Path(str(files("equispike.zoo") / "weights" / f"{name}.safetensors"))


def load_model(source: str | os.PathLike[str]) -> tuple[nn.Module, dict[str, Any]]:
    """A trained network in eval mode, and its card, with the network's name in it.

    Args:
        source: a file that :func:`save_model` wrote, or the name of a network whose weights the package holds:
            "mnist-cnn", "mnist-cnn-bn" and "mnist-cnn-rnl", trained on 55,000 MNIST training images (so the validation
            part of mnist-sample is not held out for them; test digits are), and "resnet20-cifar10", on 45,000 of
            CIFAR-10.
    Raises:
        FileError: the file is missing, damaged, or does not fit the network that it names.
    """
    path = bundled(str(source)) if str(source) in MODELS and bundled(str(source)).is_file() else Path(source)
    description, tensors = read_tensors(path, "equispike.model")
    try:
        model = build(str(description["name"]))
        model.load_state_dict(tensors)
        return model.eval(), {**cast("dict[str, Any]", description["card"]), "name": str(description["name"])}
    except (KeyError, RuntimeError, EquispikeError) as error:
        reason = one_line(error, 200)
        raise FileError(f"{path}: does not fit the network it names: {reason}") from error
