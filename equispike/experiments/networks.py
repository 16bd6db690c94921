"""The networks that experiments convert: those of the papers, and smaller ones that stand in for them."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from torch import nn

from equispike.errors import EquispikeError
from equispike.zoo.data import Dataset, load
from equispike.zoo.models import build
from equispike.zoo.recipes import RECIPES
from equispike.zoo.store import bundled, load_model, save_model
from equispike.zoo.train import card, train

Size = Literal["small", "full"]


@dataclass(frozen=True)
class Amount:
    """How much is computed.

    Fields:
        images: test images, the first ones; None for all.
        timesteps: T.
        calibration: training images, the first ones.
        observe: steps for which SpikeNorm and RMP observe each layer. With a hard reset spikes get rarer from layer to
            layer: behind twenty layers 256 steps can pass without one.
        seeds: of Poisson input; one where nothing is drawn.
    """

    images: int | None
    timesteps: int
    calibration: int
    observe: int
    seeds: int = 1


@dataclass(frozen=True)
class Setting:
    """What the user asks for.

    Fields:
        size: "small", minutes on two cores, or "full", as in the paper.
        out: folder of the results.
        data_folder: of the data sets, as for ``zoo.data.load``.
        weights: folder with trained networks, NAME.safetensors; default ``out`` / "networks".
        network: a name or file in place of the network of an experiment that has one.
        images, timesteps, observe: in place of the size's own numbers (see :class:`Amount`).
    """

    size: Size = "small"
    out: Path = Path("results")
    data_folder: Path | None = None
    weights: Path | None = None
    network: str | None = None
    images: int | None = None
    timesteps: int | None = None
    observe: int | None = None

    @property
    def folder(self) -> Path:
        """Where trained networks are looked for."""
        return self.weights or self.out / "networks"


@dataclass(frozen=True)
class Wanted:
    """A network of a paper, what stands in for it, and how much is computed with it at full size."""

    full: str
    small: str
    amount: Amount


SMALL = {
    "mnist-cnn": Amount(200, 128, 64, 64),
    "mnist-cnn-rnl": Amount(200, 128, 64, 64),
    "mnist-resnet8": Amount(100, 128, 32, 64),
    "mnist-resnet8-junctions": Amount(100, 128, 32, 64),
    "mnist-resnet8-basic": Amount(100, 128, 32, 64),
    "resnet20-cifar10": Amount(10, 256, 32, 1024),
}
"""How much is computed at size small, by network."""

OTHER = Amount(20, 128, 64, 64)
"""... with a network that the user names."""

RESIDUAL = {"epochs": 6, "lr": 0.1, "standardise": True}
"""What training on the digits in the package changes in the recipe "demo" for residual networks without batch norm."""


@dataclass(frozen=True)
class Ready:
    """A trained network with its data; what was asked of it, and what a reader must be told."""

    name: str
    model: nn.Module
    card: dict[str, Any]
    data: Dataset
    amount: Amount
    note: str


def ready(wanted: Wanted, setting: Setting) -> Ready:
    """The network for this size with its data.

    A network for digits is trained on those in the package if it has no weights yet: that takes a minute.

    Raises:
        EquispikeError: it has no weights yet; the message names the command that trains it.
        DataError: its data set is missing.
    """
    small = setting.size == "small"
    name = wanted.small if small else wanted.full
    source = setting.network or _source(name, setting)
    model, card = load_model(source)
    name = str(card["name"])
    amount = (SMALL.get(name, OTHER)) if small else wanted.amount
    images = setting.images or amount.images
    data_name = _data_name(str(card.get("data", _data_of(name))), setting.size)
    data = read_data(data_name, setting.data_folder, bool(card.get("normalised", False)))
    images = len(data.test) if images is None else min(images, len(data.test))
    amount = Amount(
        images,
        setting.timesteps or amount.timesteps,
        min(amount.calibration, len(data.train)),
        setting.observe or amount.observe,
        amount.seeds,
    )
    stands_in = "" if name == wanted.full else f"{name} stands in for the paper's {wanted.full}; "
    note = f"{stands_in}{images:,} of {len(data.test):,} test images of {data.name}, T = {amount.timesteps:,}"
    return Ready(name, model, card, data, amount, note)


read_data = lru_cache(maxsize=2)(load)
"""``zoo.data.load``; the last two are kept, since entry after entry asks for the same."""


def _source(name: str, setting: Setting) -> str:
    path = setting.folder / f"{name}.safetensors"
    if path.is_file():
        return str(path)
    if bundled(name).is_file():
        return name
    if setting.size == "small":
        _train(name, path)
        return str(path)
    data = _data_of(name)
    recipe = ("ding-" if "rnl" in name or "preact" in name else "sengupta-") + data.rstrip("10")
    recipe = {"mnist": "mnist"}.get(data, recipe)
    folder = " --data-folder FOLDER" if data == "imagenet" else ""
    raise EquispikeError(
        f"{name}: has no trained weights in {setting.folder}. Train it: equispike train --model {name} --data {data} "
        f"--recipe {recipe}{folder} --out {path}; or choose --size small"
    )


def _train(name: str, path: Path) -> None:
    digits, recipe = read_data("mnist-sample"), RECIPES["demo"]
    recipe = replace(recipe, **RESIDUAL) if "resnet" in name else recipe
    run = train(build(name), digits.train, digits.validation, recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(path, name, run.model, card(run, digits, recipe, 0))


def _data_of(name: str) -> str:
    """The data set that a network of the zoo is made for, from its name."""
    return "mnist" if name.startswith("mnist") else name.rpartition("-")[2]


def _data_name(known: str, size: Size) -> str:
    """At size small, the digits in the package serve for all of MNIST."""
    return "mnist-sample" if known == "mnist" and size == "small" else known
