"""Experiments as data, and what becomes of their outcomes: a table, JSON, a figure as PNG and as PDF."""

import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import equispike as es
from equispike.analysis.plots import Panel, panels
from equispike.functional.coding import Coder
from equispike.provenance import versions
from equispike.report.bibliography import bibtex, short
from equispike.results import read_json, write_json
from equispike.workers import Workers

Value = float | str | Sequence[float] | None
"""A number, words, a mean with its standard deviation, or nothing."""
Figures = Mapping[str, Value]
"""Values by column."""

POISSON, CONSTANT = es.Poisson(1.0), es.Constant()
CODERS: Mapping[str, Coder] = {"poisson": POISSON, "constant": CONSTANT}


@dataclass(frozen=True)
class Conditions:
    """All that the rows of one table share, so that they differ in what the table is about.

    Fields:
        coder: of test images, and of the calibration images of a method that simulates. Poisson draws with p = |x|, as
            in the papers, or p = |x| / max |x| where inputs exceed 1.
        readout: "potential" of the last layer, or "spikes" of output neurons.
        timesteps: T.
        images: test images, the first ones; all if there are fewer.
        calibration_images: training images, the first ones.
        observed_steps: for which SpikeNorm and RMP observe each layer.
        seeds: runs of what is drawn; one where nothing is.
        device: where the simulation runs.
    """

    coder: Literal["poisson", "constant"]
    readout: Literal["potential", "spikes"]
    timesteps: int
    images: int = 10_000
    calibration_images: int = 256
    observed_steps: int = 2500
    seeds: int = 1
    device: str = "cpu"

    def __str__(self) -> str:
        coder = {"poisson": "signed Poisson input", "constant": "constant input"}[self.coder]
        runs = f", {self.seeds} runs" if self.seeds > 1 and self.coder == "poisson" else ""
        return (
            f"{coder}, read out by {self.readout}, {self.calibration_images:,} calibration images; methods that observe"
            f" spikes do so for {self.observed_steps:,} steps; T = {self.timesteps:,}, {self.images:,} test "
            f"images{runs}, {self.device}"
        )


@dataclass(frozen=True)
class Job:
    """An entry's conditions and networks as the user wants them, and where files lie.

    Fields:
        networks: names or files, as ``networks.find`` takes them.
        data: of the networks, in place of what their cards name.
        out: folder of the results.
        data_folder: of data sets, as for ``zoo.data.load``.
        on: who simulates; None for this process. Results are the same.
    """

    conditions: Conditions
    networks: tuple[str, ...] = ()
    data: str | None = None
    out: Path = Path("results")
    data_folder: Path | None = None
    on: Workers | None = None


@dataclass(frozen=True)
class Line:
    """One row of a table: our figures, and the published ones in columns of the same names."""

    label: str
    ours: Figures
    published: Figures = field(default_factory=dict[str, Value])


@dataclass(frozen=True)
class Outcome:
    """Everything that an experiment found.

    Fields:
        lines: its table.
        figure: its panels.
        note: networks and data.
        remarks: what the numbers say, in sentences.
        numbers: everything else, for the JSON file.
        shared: conditions of all rows in words, where the table is about one of them.
    """

    lines: Sequence[Line]
    figure: Sequence[Panel]
    note: str
    remarks: Sequence[str] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    shared: str = ""


@dataclass(frozen=True)
class Entry:
    """A table or figure of a paper, or an experiment of our own.

    Fields:
        name: what the command line calls it.
        title: what it shows.
        run: computes it.
        conditions: as in the paper; T alone where ``networks`` is empty.
        networks: the paper's, by their names in the zoo; a user may put others in their place.
        paper, place: key of its paper in ``report.bibliography.PAPERS``, and where the published figures stand.
        cites: keys of the papers of the methods that it uses.
    """

    name: str
    title: str
    run: Callable[[Job], Outcome]
    conditions: Conditions
    networks: tuple[str, ...] = ()
    paper: str = ""
    place: str = ""
    cites: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """E.g. "Han et al., 2020, table 1"."""
        return f"{short(self.paper)}, {self.place}" if self.paper else ""

    def heading(self, job: "Job") -> str:
        """The title; other networks than the entry's own stand in place of those that it names before a colon."""
        if not (others := other_networks(self, job)):
            return self.title
        names, (before, _, what) = ", ".join(dict.fromkeys(map(stem, others))), self.title.rpartition(": ")
        return f"{names}: {what}" if before else f"{what} ({names})"

    def job(self, networks: Sequence[str] = (), changes: Mapping[str, Any] | None = None, **where: Any) -> Job:
        """The entry's conditions with these changes, for these networks or its own.

        Raises:
            EquispikeError: not as many networks as the entry has, or changes of conditions that it does not have.
        """
        changes = given(changes or {})
        if networks and len(networks) != len(self.networks):
            raise es.EquispikeError(
                f"--network: {self.name} is about {len(self.networks)} networks, not {len(networks)}. Name as many, "
                "or leave the option out"
            )
        if not self.networks and (unknown := changes.keys() - {"timesteps"}):
            raise es.EquispikeError(f"--{min(unknown)}: {self.name} is about no network. Leave the option out")
        return Job(replace(self.conditions, **changes), tuple(networks) or self.networks, **where)


def result(entry: Entry, job: Job) -> tuple[dict[str, Any], bool]:
    """The content of the JSON file in ``job.out``, and whether it was there; if not, the entry is run first.

    Pictures are written beside it, as PNG and PDF.

    Raises:
        FileError, DataError, ...: what the entry needs is not there.
    """
    path = job.out / f"{file_name(entry, job)}.json"
    if path.is_file():
        content = read_json(path)
        if content.get("command") == command(entry, job):
            return content, True
    job.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    outcome = entry.run(job)
    heading = entry.heading(job)
    title = "\n".join([heading, *textwrap.wrap(outcome.note, 55 * min(3, len(outcome.figure)))])
    panels(outcome.figure, title, [path.with_suffix(suffix) for suffix in (".png", ".pdf")])
    cited = dict.fromkeys(key for key in (entry.paper, *entry.cites) if key)
    content = {
        "name": entry.name,
        "title": heading,
        "source": entry.source,
        "command": command(entry, job),
        "note": outcome.note,
        "conditions": asdict(job.conditions) if entry.networks else {"timesteps": job.conditions.timesteps},
        "all rows": outcome.shared or (str(job.conditions) if entry.networks else ""),
        "remarks": list(outcome.remarks),
        "lines": [asdict(line) for line in outcome.lines],
        "numbers": dict(outcome.numbers),
        "cite": {key: bibtex(key) for key in cited},
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_json(path, content)
    return content, False


def changed(entry: Entry, job: Job) -> dict[str, Any]:
    """The conditions that are not the entry's own."""
    own, here = asdict(entry.conditions), asdict(job.conditions)
    return {name: value for name, value in here.items() if value != own[name]}


def other_networks(entry: Entry, job: Job) -> list[str]:
    """The networks that are not the entry's own: their names in the zoo, or of their files without folders."""
    networks = () if job.networks == entry.networks else job.networks
    return [Path(name.partition("=")[0]).name for name in networks]


def stem(network: str) -> str:
    """The name of a network or of its file, without the file's ending."""
    return network.removesuffix(".safetensors")


def command(entry: Entry, job: Job) -> str:
    """The line to type for this result; where files lie is left out."""
    words = [f"--network {name}" for name in other_networks(entry, job)]
    words += [f"--data {job.data}"] if job.data else []
    words += [f"--{name.replace('_', '-')} {value}" for name, value in changed(entry, job).items()]
    return " ".join(["python -m experiments", entry.name, *words])


def file_name(entry: Entry, job: Job) -> str:
    """The entry's name, with other networks, coder and readout than its own."""
    words = list(map(stem, other_networks(entry, job)))
    words += [str(value) for name, value in changed(entry, job).items() if name in ("coder", "readout")]
    return "-".join([entry.name, *words])


def table(lines: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Header and rows of the ``lines`` of a result: each of our columns, and the paper's beside it if it has one."""
    ours = list(dict.fromkeys(column for line in lines for column in line["ours"]))
    published = list(dict.fromkeys(column for line in lines for column in line["published"]))
    columns: list[tuple[str, str]] = []
    for column in [*ours, *(column for column in published if column not in ours)]:
        columns += [("ours", column)] * (column in ours) + [("published", column)] * (column in published)
    header = ["", *(column if whose == "ours" else f"{column} (paper)" for whose, column in columns)]
    rows = [[line["label"], *(cell(line[whose].get(column)) for whose, column in columns)] for line in lines]
    return [header, *rows]


def cell(value: Value) -> str:
    """A value as it stands in a table."""
    if value is None:
        return ""
    if isinstance(value, str | int):
        return str(value)
    if not isinstance(value, float):
        return " ± ".join(map(cell, value))
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def markdown(rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A table in Markdown: columns of numbers, those behind the first of words, to the right."""
    header, *body = rows
    lines = [header, ["---"] * words + ["--:"] * (len(header) - words), *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def numbers(values: Tensor) -> list[float]:
    """A tensor's values, flat."""
    return [float(value) for value in values.flatten()]


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keep those that are not None."""
    return {name: value for name, value in options.items() if value is not None}
