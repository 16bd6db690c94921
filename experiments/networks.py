"""The networks that experiments convert: trained ones of the zoo, files, a control, and ResNets that others trained."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

import equispike as es
from equispike.conversion import digest
from equispike.zoo.data import Dataset, default_folder, load
from equispike.zoo.models import MODELS, build
from equispike.zoo.store import load_model, load_weights
from equispike.zoo.unbias import folded
from experiments.he import MEAN, SOURCE, STD, resnet

STRANGERS = {"he-resnet20": (20, "he_resnet20_cifar10"), "he-resnet56": (56, "he_resnet56_cifar10")}
"""Depth and name of the file, by name."""
WITHOUT_CEILINGS = {"vgg16-biased-cifar10": ("vgg16-slim-rnl-cifar10", "vgg16-cifar10")}
"""A trained network whose Rate Norm layers become ReLUs, and a network with the same layers, by name: a control that
keeps biases, in the form in which training without them begins."""


@dataclass(frozen=True)
class Trained:
    """A trained network with its data. The name of one from a file is the file's: others may be of the same kind."""

    name: str
    model: nn.Module
    data: Dataset
    card: dict[str, Any]

    @property
    def told(self) -> dict[str, Any]:
        """For the record."""
        training = {name: self.card[name] for name in ("name", "seed", "test_accuracy", "recipe") if name in self.card}
        return {"network": self.name, "weights": digest(self.model), "data": self.data.name, "training": training}


def find(source: str, data: str | None = None, folder: Path | None = None) -> Trained:
    """The trained network and its data.

    Args:
        source: a name of the zoo whose weights are in the package or the checkout; a file of ``equispike train``; one
            of WITHOUT_CEILINGS; or "he-resnet20", "he-resnet56", with "=FILE" if the file is not in the folder models
            of the data folder.
        data: another data set than the network's card names.
        folder: of data sets, as for ``zoo.data.load``.
    Raises:
        EquispikeError: there are no weights; the message says how to come by them.
        DataError: the data set is missing.
    """
    name, _, path = source.partition("=")
    if name in STRANGERS:
        return _strangers(name, path, folder)
    if source in WITHOUT_CEILINGS:
        trained = find(WITHOUT_CEILINGS[source][0], data, folder)
        model = folded(trained.model, build(WITHOUT_CEILINGS[source][1])).eval()
        return replace(trained, name=source, model=model)
    try:
        model, card = load_model(source)
    except es.FileError as error:
        if source not in MODELS:
            raise
        remedy = f"then add --network {source}.safetensors. Or put another network in its place with --network"
        raise es.EquispikeError(f"{error}; {remedy}") from error
    found = read_data(data or str(card["data"]).partition("/")[0], folder, bool(card.get("normalised")))
    return Trained(Path(source).name.removesuffix(".safetensors"), model, found, card)


def _strangers(name: str, path: str, folder: Path | None) -> Trained:
    depth, file = STRANGERS[name]
    weights = Path(path) if path else (folder or default_folder()) / "models" / f"{file}.safetensors"
    if not weights.is_file():
        raise es.FileError(f"{weights}: no such file. {SOURCE}; or name the file: --network {name}=FILE")
    model = resnet(depth)
    load_weights(model, weights)
    plain = read_data("cifar10", folder, False)
    parts = {part: replace(getattr(plain, part), mean=MEAN, std=STD) for part in ("train", "validation", "test")}
    return Trained(name, model.eval(), replace(plain, **parts), {"recipe": "trained by others"})


read_data = lru_cache(maxsize=3)(load)
"""``zoo.data.load``; the last ones are kept, since entry after entry asks for the same."""
