"""What the commands share: consoles, options, and how they find models and data. torch is loaded when needed."""

import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, cast

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from equispike.errors import EquispikeError, FileError

if TYPE_CHECKING:
    from equispike.conversion import Model
    from equispike.graph.network import Network
    from equispike.zoo.data import Dataset, Part
    from equispike.zoo.train import Progress as Training

# not squeezed into 80 columns where no terminal says how wide it is
out = Console(highlight=False, markup=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
TrainingData = Annotated[
    str,
    Parameter(
        help="Data set: mnist-sample (in the package), mnist, cifar10, cifar100; or imagenet, any pictures in "
        "train/CLASS/ and val/CLASS/ of --data-folder."
    ),
]
DataSet = Annotated[
    str | None,
    Parameter(
        help="Data set: mnist-sample (in the package), mnist, cifar10 or cifar100. Default: what the model was trained "
        "on (of mnist, the sample in the package), as far as it says so."
    ),
]
Normalise = Annotated[
    bool | None,
    Parameter(
        help="Subtract each channel's mean over the training images and divide by its deviation. Default: as the model "
        "was trained, as far as it says so."
    ),
]
Folder = Annotated[
    Path | None,
    Parameter(
        help="Folder with the data sets, as torchvision leaves them. "
        "Default: $EQUISPIKE_DATA or ~/.cache/equispike; filled by download where empty."
    ),
]
Source = Annotated[
    str,
    Parameter(
        help="The trained model: a name (mnist-cnn, mnist-cnn-bn, mnist-cnn-rnl, resnet20-cifar10), a file from "
        "'equispike train', an ONNX file, or package.module:factory, a Python function without arguments that returns "
        "the module, or a program of torch.export; package.module:factory@weights.safetensors fills it with "
        "these weights."
    ),
]
Device = Annotated[
    Literal["cpu", "cuda"],
    Parameter(help="Where to simulate: cpu, or cuda for an NVIDIA GPU (see the pages on speed)."),
]
Seed = Annotated[int, Parameter(help="Seed of everything that is drawn.")]


def read_model(source: str, output: int | None = None) -> "tuple[Model, dict[str, Any]]":
    """The trained model that a source names, and its card; user code is imported only for package.module:factory.

    An ONNX file is read for one output; of other models the output is chosen when they are traced.
    """
    module, colon, factory = source.partition(":")
    factory, _, weights = factory.partition("@")
    if source.endswith(".onnx"):
        from equispike.files.onnx import read_onnx

        return read_onnx(source, output), {}
    if source.endswith(".pt2"):
        raise FileError(
            f"{source}: a program of torch.export.save, and loading one can run code from the file. If you trust it, "
            "write a function that returns torch.export.load(FILE), and give package.module:factory"
        )
    if not colon:
        from equispike.zoo.store import load_model

        return load_model(source)
    from importlib import import_module

    from torch import nn
    from torch.export import ExportedProgram

    sys.path.insert(0, "")
    try:
        model = getattr(import_module(module), factory)()
    except (ImportError, AttributeError, ValueError) as error:
        raise FileError(f"{source}: cannot be imported: {error}. Give package.module:factory") from error
    if not isinstance(model, nn.Module | ExportedProgram):
        raise FileError(f"{source}: returned a {type(cast('object', model)).__name__}, not a torch.nn.Module")
    if weights:
        if isinstance(model, ExportedProgram):
            raise FileError(f"{source}: returned a program, which has its weights. Leave {weights} out")
        from equispike.zoo.store import load_weights

        load_weights(model, weights)
    return model, {}


def is_nir(source: str) -> bool:
    """Whether a file is read as NIR: by its name."""
    return Path(source).suffix == ".nir"


def read_network(source: str) -> "Network":
    """The converted network in a file of this package, or in a NIR file."""
    from equispike.files import checkpoint
    from equispike.files.nir import read_nir

    return read_nir(source) if is_nir(source) else checkpoint.load(source)


def name_of(card: "dict[str, Any]", source: str) -> str:
    """The network's own name, or that of its file."""
    return str(card.get("name", Path(source).name))


def read_data(
    known: "Mapping[str, Any]", data: str | None, normalise: bool | None, folder: Path | None
) -> "tuple[Dataset, dict[str, Any]]":
    """The data set asked for, or else the one that a card or a network names; and what was taken, for the record."""
    from equispike.zoo.data import load

    own = known.get("data", "mnist-sample")
    name = data or ("mnist-sample" if own == "mnist" else str(own))
    normalised = bool(known.get("normalised", False)) if normalise is None else normalise
    return load(name, folder, normalised), {"data": name, "normalised": normalised}


def up_to(part: "Part", n: int) -> "Part":
    """The first n images, or all if there are fewer."""
    return part.take(min(n, len(part)))


def require_positive(**values: int | None) -> None:
    """EquispikeError, naming the option, for a number below 1."""
    for name, value in values.items():
        if value is not None and value < 1:
            raise EquispikeError(f"--{name}: {value} is less than 1")


def require_writable(*paths: Path | None) -> None:
    """Refuse places that cannot be written before any work is done; leaves no file behind."""
    import tempfile

    for path in filter(None, paths):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path.parent).close()
        except OSError as error:
            raise FileError(f"{path}: cannot be written: {error.strerror}. Choose another place") from error
        if path.is_dir():
            raise FileError(f"{path}: is a folder. Give a file name")


def require_device(device: str) -> None:
    """Refuse a GPU where torch finds none."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise EquispikeError("--device: torch finds no GPU here (torch.cuda.is_available() is false). Use cpu")


def print_runs(runs: list[dict[str, Any]], title: str) -> None:
    """The table of several evaluations, as ``Result.curves`` or a file has them."""
    from equispike.results import table

    print_table(table(runs), title, words=3)


def print_table(rows: Sequence[Sequence[str]], title: str, words: int = 1, no_wrap: bool = True) -> None:
    """A header and rows; columns of numbers, those behind the first of words, to the right."""
    header, *body = rows
    grid = Table(title=title, title_justify="left")
    for number, name in enumerate(header):
        grid.add_column(name, justify="left" if number < words else "right", no_wrap=no_wrap)
    for row in body:
        grid.add_row(*row)
    out.print(grid)


class Show(Protocol):
    """What long work reports to: what it does, how much of it is done, of how much; and a longer text, if there is."""

    def __call__(self, label: str, done: int, total: int, text: str = "") -> None: ...


@contextmanager
def progress() -> Generator[Show]:
    """Bars with the time left on a terminal, for all work inside; else silence."""
    from equispike.progress import reporting

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), console=err, transient=True, disable=not err.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def show(label: str, done: int, total: int, text: str = "") -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=total or None)
            visible = not total or done < total
            bars.update(tasks[label], completed=done, visible=visible, description=text or label)

        with reporting(show):
            yield show


def training_to(show: Show) -> "Callable[[Training], None]":
    """What a training reports its steps to."""

    def report(state: "Training") -> None:
        text = f"training: epoch {state.epoch.number} of {state.epochs}, loss {state.epoch.loss:.3f}"
        show("training", state.step, state.steps, text)

    return report
