"""Trained models in files: weights with a card that tells how they came about."""
# pyright: reportUnknownMemberType=false
# (some of torch's own signatures lack types)

import copy
import os
import subprocess
import zipfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from equispike.errors import EquispikeError, FileError, one_line
from equispike.files.checkpoint import read_tensors, write_tensors
from equispike.nn import with_levels
from equispike.provenance import versions
from equispike.zoo.data import load as load_data
from equispike.zoo.models import MODELS, build
from equispike.zoo.train import accuracy_of

CHECKOUT = root / "weights" if ((root := Path(__file__).parents[2]) / "pyproject.toml").is_file() else None
"""Weights that are too large for the package lie here, in a checkout."""
MOST_LOST = 0.001
"""Share of the validation images that rounding may cost."""
_SCALES = ":scales"
"""Ending of the names of what integers are multiplied by; no module has such a name."""


def save_model(
    path: str | os.PathLike[str], name: str, model: nn.Module, card: Mapping[str, Any], rounded: bool = False
) -> None:
    """Write the weights of a zoo network, atomically.

    Args:
        name: of the network in the zoo.
        card: data, recipe, seed, accuracies, ...; JSON-able; of layers with levels, "levels". "versions" are added, and
            "commit" in a checkout of equispike.
        rounded: write weights as integers of 8 bits, a quarter of the size; they come back as of :func:`in_8_bits`.
    """
    commit = _commit()
    card = {**({"commit": commit} if commit else {}), "versions": versions(), **card}
    state = model.state_dict()
    tensors = _packed(state) if rounded else state
    write_tensors(path, "equispike.model", {"name": name, "card": card}, tensors)


def in_8_bits(model: nn.Module) -> nn.Module:
    r"""A copy whose weights are rounded to 8 bits per output channel; biases, batch norm and thresholds stay.

    .. math:: s_c = \max |w_c| / 127, \qquad w_c \leftarrow s_c \, \mathrm{round}(w_c / s_c)
    """
    model = copy.deepcopy(model)
    model.load_state_dict(_unpacked(_packed(model.state_dict())))
    return model


def keep(source: str | os.PathLike[str], folder: Path | None = None, data_folder: Path | None = None) -> Path:
    """Write the weights of a trained zoo network in 8 bits where :func:`load_model` finds them by name.

    The card then tells the accuracy on the validation part before and after rounding, and of the rounded weights the
    accuracy on the test images, which are read once, after that decision.

    Args:
        source: a file that ``equispike train`` wrote; its card names data and network.
        folder: where to; in a checkout of equispike by default its ``weights``.
        data_folder: of the data set that the network was trained on.
    Returns:
        the file written.
    Raises:
        FileError: the file is not readable, or its card names no data; there is no checkout and no folder given.
        EquispikeError: rounding costs more than MOST_LOST of the validation accuracy.
    """
    folder = folder or CHECKOUT
    if folder is None:
        raise FileError("weights: there is no checkout of equispike to keep them in. Name a folder")
    model, card = load_model(source)
    if "data" not in card:
        raise FileError(f"{source}: does not say what it was trained on. Keep a file that 'equispike train' wrote")
    data = load_data(str(card["data"]), data_folder, bool(card.get("normalised", False)))
    after = in_8_bits(model)
    was, now = accuracy_of(model, data.validation), accuracy_of(after, data.validation)
    if now < was - MOST_LOST - 1e-9:
        raise EquispikeError(
            f"{source}: rounding costs {was - now:.2%} of the accuracy on {len(data.validation):,} validation images, "
            f"and at most {MOST_LOST:.1%} are allowed. Keep the file as it is"
        )
    name, told = str(card.pop("name")), {"bits": 8, "validation_accuracy_before": was, "validation_accuracy": now}
    card |= {"rounded": told, "test_accuracy": accuracy_of(after, data.test), "test_images": len(data.test)}
    path = folder / f"{name}.safetensors"
    save_model(path, name, model, card, rounded=True)
    return path


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
    """Fill a module with the weights in a file of safetensors or of ``torch.save``, in place; no code in it is run.

    Names that all begin with "module." or "_orig_mod.", as DataParallel and torch.compile leave them, lose that.

    Raises:
        FileError: the file is missing, damaged, of another kind, or does not fit.
    """
    tensors = _weights(Path(path))
    for wrapper in ("_orig_mod.", "module.", "_orig_mod."):
        if tensors and all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = one_line(error, 200)
        raise FileError(f"{path}: does not fit the model: {reason}") from error


def torch_file(path: str | os.PathLike[str]) -> str | None:
    """Tell a file of torch's own, by its first bytes and names: "weights" or "TorchScript"; None if it is neither."""
    if not os.path.isfile(path):  # a device would be read without end
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):  # the third: of a version to come
        return None
    if "data.pkl" not in names:
        return None
    return "TorchScript" if "constants.pkl" in names else "weights"


def _weights(path: Path) -> dict[str, Tensor]:
    if not os.path.isfile(path):
        raise FileError(f"{path}: no such file")
    kind = torch_file(path)
    if kind == "TorchScript":
        raise FileError(f"{path}: is a TorchScript file. Save the module's state_dict() instead, with torch.save")
    try:
        if kind is None:
            return load(path.read_bytes())
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise FileError(f"{path}: is not a readable safetensors file, or truncated: {reason}") from error
    except Exception as error:  # torch's reader raises errors of many types
        raise FileError(
            f"{path}: holds more than weights, or is damaged. Save the module's state_dict() alone, with torch.save"
        ) from error
    whole = cast("dict[object, Any]", content) if isinstance(content, dict) else {}
    keys = "state_dict", "model_state_dict", "model", "net"
    items: dict[object, object] = next((whole[key] for key in keys if isinstance(whole.get(key), dict)), whole)
    if not items or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in items.items()):
        raise FileError(f"{path}: holds no state_dict. Save the module's state_dict(), with torch.save")
    return cast("dict[str, Tensor]", items)


def bundled(name: str) -> Path:
    """Where the weights of that network are, if they come with equispike: in the package, or else in the checkout."""
    packaged = Path(str(files("equispike.zoo") / "weights" / f"{name}.safetensors"))
    return packaged if packaged.is_file() or CHECKOUT is None else CHECKOUT / packaged.name


def how_to_train(name: str) -> str:
    """The command that trains this network."""
    data = next((part for part in ("cifar100", "cifar10", "imagenet") if name.endswith(part)), "mnist")
    normed = any(part in name for part in ("-bn-", "-rnl-", "preact"))
    recipe = {
        "mnist": "mnist",
        "imagenet": "sengupta-imagenet-fast",
    }.get(data, ("cifar-resnet" if "resnet" in name else "cifar-grow") if normed else "sengupta-cifar-fast")
    folder = " --data-folder FOLDER" if data == "imagenet" else ""
    return f"equispike train --model {name} --data {data}{folder} --recipe {recipe} --out {name}.safetensors"


def _packed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of two or more dimensions as integers of 8 bits, each with the scales of its channels beside it."""
    packed: dict[str, Tensor] = {}
    for name, value in state.items():
        if value.ndim < 2 or not value.is_floating_point():
            packed[name] = value
            continue
        scales = value.abs().flatten(1).amax(1).view(-1, *[1] * (value.ndim - 1)) / 127
        scales = scales.where(scales > 0, 1.0)
        packed[name] = (value / scales).round().clamp(-127, 127).to(torch.int8)
        packed[name + _SCALES] = scales
    return packed


def _unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that such integers stand for, to the last bit the same wherever they are read."""
    return {
        name: value.to(tensors[name + _SCALES].dtype) * tensors[name + _SCALES] if name + _SCALES in tensors else value
        for name, value in tensors.items()
        if not name.endswith(_SCALES)
    }


def load_model(source: str | os.PathLike[str]) -> tuple[nn.Module, dict[str, Any]]:
    """A trained network in eval mode, and its card, with the network's name in it.

    Args:
        source: a file that :func:`save_model` wrote, or the name of a network whose weights come with equispike: in
            the package "mnist-cnn", "mnist-cnn-bn" and "mnist-cnn-rnl", trained on 55,000 MNIST training images (so the
            validation part of mnist-sample is not held out for them; test digits are), and "resnet20-cifar10", on
            45,000 of CIFAR-10; in a checkout also those in its folder ``weights``.
    Raises:
        FileError: the file is missing, damaged, or does not fit the network that it names; or there are no weights of
            that name: the message has the command that trains it.
    """
    path = bundled(str(source)) if str(source) in MODELS and bundled(str(source)).is_file() else Path(source)
    if str(source) in MODELS and not path.is_file():
        raise FileError(f"{source}: no trained weights come with it. Train it: {how_to_train(str(source))}")
    description, tensors = read_tensors(path, "equispike.model")
    try:
        model, levels = build(str(description["name"])), description["card"].get("levels")
        model = model if levels is None else with_levels(model, int(levels))
        model.load_state_dict(_unpacked(tensors))
        return model.eval(), {**cast("dict[str, Any]", description["card"]), "name": str(description["name"])}
    except (LookupError, RuntimeError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        reason = one_line(error, 200)
        raise FileError(f"{path}: does not fit the network it names: {reason}") from error
