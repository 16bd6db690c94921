"""Things that commands share: consoles, options, and the way to models and data. torch is loaded when needed."""

import os
import re
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from cyclopts import Parameter
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from equispike.cli.source import imported
from equispike.errors import EquispikeError, FileError, warn

if TYPE_CHECKING:
    from equispike.workers import Workers
    from equispike.zoo.data import Dataset, Part
    from equispike.zoo.train import Progress as Training

# not squeezed into 80 columns where no terminal says how wide it is
out = Console(highlight=False, markup=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
FIRST, HEADING = 24, 14
"""Letters that a table's first column and the headers of numbers have at least before they are broken."""
_DATA_SETS = (
    "mnist-sample (in the package), mnist, cifar10, cifar100 or imagenet (in --data-folder); a folder of pictures in "
    "train/CLASS/ and val/CLASS/, by its path or a URL that fsspec opens; or package.module:factory or "
    "FILE.py:factory, a Python function that returns (train, test), Datasets or DataLoaders of (image, label) pairs."
)
TrainingData = Annotated[
    str, Parameter(help="Data set: mnist-sample (in the package), mnist, cifar10, cifar100 or imagenet.")
]
Folder = Annotated[
    Path | None,
    Parameter(
        help="Folder with the data sets, as torchvision leaves them. "
        "Default: $EQUISPIKE_DATA or ~/.cache/equispike; filled by download where empty."
    ),
]
Device = Annotated[
    Literal["cpu", "cuda"],
    Parameter(help="Where to simulate: cpu, or cuda for an NVIDIA GPU (see the pages on speed)."),
]
_MOST = 10**9
"""Of anything that is counted."""
Seed = Annotated[int, Parameter(help="Seed of everything that is drawn.")]


@Parameter(name="*")
@dataclass(frozen=True)
class Hands:
    """Who does the work."""

    workers: Annotated[
        int | None, Parameter(help="Share the work among so many processes of this machine. Results are the same.")
    ] = None
    cluster: Annotated[
        str | None,
        Parameter(
            help="Share the work in a Ray cluster: auto for the one that this machine belongs to, or its address. "
            "Needs equispike[ray]; the data have to be on every machine."
        ),
    ] = None

    @property
    def on(self) -> "Workers | None":
        """Who works; None for this process."""
        if self.workers is not None and self.cluster is not None:
            raise EquispikeError("--workers, --cluster: say one of them")
        require_positive(workers=self.workers)
        if self.workers is None and self.cluster is None:
            return None
        from equispike.workers import Processes, Ray

        return Ray(self.cluster) if self.workers is None else Processes(self.workers)


ALONE = Hands()


@Parameter(name="*")
@dataclass(frozen=True)
class Data:
    """Images that commands work on."""

    data: Annotated[
        str | None,
        Parameter(
            help=f"Data set: {_DATA_SETS} Default: what the model was trained on (of mnist, the sample in the "
            "package), as far as it says so."
        ),
    ] = None
    size: Annotated[
        int | None, Parameter(help="Height and width of images from a folder of pictures. Default 224.")
    ] = None
    normalise: Annotated[
        bool | None,
        Parameter(
            help="Subtract each channel's mean over the training images and divide by its deviation. Default: as the "
            "model was trained, as far as it says so."
        ),
    ] = None
    data_folder: Folder = None

    def read(self, known: "Mapping[str, Any]") -> "tuple[Dataset, dict[str, Any]]":
        """The data set asked for, or else the one that a card or a network names; and what was taken.

        Images have their channels last where the network's own "shape" has.
        """
        from equispike.zoo.data.own import channels_last

        dataset, stated = self._read(known)
        if (shape := known.get("shape")) is None:
            return dataset, stated
        given = tuple(dataset.train.take(1).floats().shape[1:])
        last = len(given) > 1 and shape == (*given[1:], given[0]) != given
        return channels_last(dataset) if last else dataset, stated

    def _read(self, known: "Mapping[str, Any]") -> "tuple[Dataset, dict[str, Any]]":
        require_positive(size=self.size)
        from equispike.zoo.data import NAMES, load
        from equispike.zoo.data.own import from_folder, from_loaders

        if self.data is None and "data" not in known:
            warn(
                "--data: nothing says what the model was trained on, so mnist-sample is taken. "
                "Say which images it is for"
            )
        own = known.get("data", "mnist-sample")
        name = self.data or ("mnist-sample" if own == "mnist" else str(own))
        normalised = bool(known.get("normalised", False)) if self.normalise is None else self.normalise
        stated: dict[str, Any] = {"data": name, "normalised": normalised}
        pictures = name not in NAMES and ("://" in name or (":" not in name and os.path.isdir(name)))
        if self.size is not None and not pictures:
            raise EquispikeError(f"--size: is for --data with a folder of pictures, and {name} is none")
        if pictures:
            stated["size"] = self.size or int(known.get("size", 224))
            dataset = from_folder(name, stated["size"])
        elif ":" in name:
            dataset = from_loaders(name, imported(name))
        else:
            return load(name, self.data_folder, normalised), stated
        return dataset.normalised() if normalised else dataset, stated


OWN = Data()


def hint_at_images(trained: float, stated: "Mapping[str, Any]") -> None:
    """Say what to look at where the trained network itself is mostly wrong: its images may be others than in training.

    Args:
        trained: its accuracy.
        stated: how the images were taken, as :meth:`Data.read` tells it.
    """
    if trained < 0.5:
        other = "--no-normalise" if stated.get("normalised") else "--normalise"
        warn(
            f"the trained network itself is right on {trained:.1%} of the images, so the conversion is not to blame. "
            f"Were they the same in its training? See --data and {other}"
        )


def in_options(text: str) -> str:
    """A remedy as it is written in Python, in the words of the command line.

    >>> in_options("Pass lossy=[es.max_pool_to_avg], or method=DataNorm(percentile=99.9, per_channel=True), v_init=0.5")
    'Pass --max-pool-to-avg, or --percentile 99.9 --per-channel, --v-init 0.5'
    >>> in_options("correct=[StepBias(8)] helps most")
    '--correct step-bias --timesteps 8 helps most'
    >>> in_options("convert(timesteps=8)")
    'equispike convert --timesteps 8'
    """
    for pattern, option in _OPTIONS:
        text = re.sub(pattern, option, text)
    return text


_OPTIONS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"(lossy=)?\[es\.(\w+)\]", lambda found: f"--{found[2].replace('_', '-')}"),
    (r"es\.convert\(model, batches, method=\.\.\.\)", "equispike convert"),
    (r"(?:es\.)?convert\(timesteps=(\d+)\)", r"equispike convert --timesteps \1"),
    (r"method=DataNorm\(percentile=([\d.]+)\)", r"--percentile \1"),
    (r"method=DataNorm\(percentile=([\d.]+), per_channel=True\)", r"--percentile \1 --per-channel"),
    (r"correct=\[StepBias\((\d+)\)\]", r"--correct step-bias --timesteps \1"),
    (r"correct=\[Bias\((\d+)\)\]", r"--correct bias --timesteps \1"),
    (r"\bes\.(\w+Norm|RMP)\(\)", lambda found: f"--method {found[1].lower()}"),
    (
        r"\b(v_init|delay|timesteps|reset|readout|scale|percentile|spikes)=['\"]?([\w.]+)['\"]?",
        lambda found: f"--{found[1].replace('_', '-')} {found[2]}",
    ),
)


def up_to(part: "Part", n: int) -> "Part":
    """The first n images, or all if there are fewer."""
    return part.take(min(n, len(part)))


def require_positive(**values: int | None) -> None:
    """EquispikeError, naming the option, for a number below 1 or out of all proportion."""
    for name, value in values.items():
        if value is not None and not 1 <= value <= _MOST:
            reason = "less than 1" if value < 1 else f"more than {_MOST:,}"
            raise EquispikeError(f"--{name.replace('_', '-')}: {value} is {reason}")


def require_writable(*paths: Path | None) -> None:
    """Refuse places that cannot be written before any work is done; leaves no file behind."""
    import tempfile

    for path in filter(None, paths):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path.parent).close()
        except OSError as error:
            raise FileError(f"{path}: cannot be written: {error.strerror}. Choose another place") from error
        if os.path.isdir(path):
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


def print_table(rows: Sequence[Sequence[str]], title: str, words: int = 1) -> None:
    """A header and rows; columns of numbers, those behind the first of words, to the right.

    Where a line is too long, headers and the first column are broken. No number is lost: rather is the table wider than
    the terminal.
    """
    grid = _grid(rows, title, words)
    if _width(grid) > out.width:
        grid = _grid(rows, title, words, HEADING)
    widest = max(len(first) for first, *_ in rows)
    least = _width(grid) - max(0, widest - FIRST)
    Console(file=out.file, highlight=False, markup=False, soft_wrap=True, width=max(out.width, least)).print(grid)


def _grid(rows: Sequence[Sequence[str]], title: str, words: int, heading: int = 10_000) -> Table:
    """The table, with headers of numbers broken at so many letters, or at as many as the longest number has."""
    header, *body = rows
    grid = Table(title=title, title_justify="left")
    for number, (name, *cells) in enumerate(zip(header, *body, strict=True)):
        broken = name if number < words else "\n".join(wrap(name, max([heading, *map(len, cells)])))
        grid.add_column(broken, justify="left" if number < words else "right", no_wrap=number > 0)
    for row in body:
        grid.add_row(*row)
    return grid


def _width(grid: Table) -> int:
    """Letters in a line of the table where nothing is broken."""
    return Measurement.get(out, out.options.update_width(10_000), grid).maximum


class Show(Protocol):
    """A reporter of long work: what it does, how much of it is done, of how much; and a longer text, if there is."""

    def __call__(self, label: str, done: int, total: int, text: str = "") -> None: ...


@contextmanager
def progress() -> Generator[Show]:
    """Bars with the time left on a terminal, for all work inside; else silence."""
    from equispike.progress import reporting, silent

    if not err.is_terminal:  # rich before 15 writes an empty line where it shows nothing
        with reporting(silent):
            yield silent
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), console=err, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(label: str, done: int, total: int, text: str = "") -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=total or None)
            visible = not total or done < total
            bars.update(tasks[label], completed=done, visible=visible, description=text or label)

        with reporting(show):
            yield show


def training_to(show: Show) -> "Callable[[Training], None]":
    """A reporter of a training's steps."""

    def report(state: "Training") -> None:
        text = f"training: epoch {state.epoch.number} of {state.epochs}, loss {state.epoch.loss:.3f}"
        show("training", state.step, state.steps, text)

    return report
