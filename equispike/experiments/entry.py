"""What an experiment is, and what becomes of its outcome: a table, JSON, a figure as PNG and as PDF."""

import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equispike.analysis.plots import Panel, panels
from equispike.bibliography import PAPERS, bibtex
from equispike.errors import EquispikeError
from equispike.experiments.networks import Setting
from equispike.results import read_json, write_json
from equispike.versions import versions

Figures = Mapping[str, float | str | None]
"""Numbers, or words, by column; None where there is none."""


@dataclass(frozen=True)
class Line:
    """One row of a table: our figures, and the published ones in columns of the same names."""

    label: str
    ours: Figures
    published: Figures = field(default_factory=dict[str, float | str | None])


@dataclass(frozen=True)
class Outcome:
    """What an experiment found.

    Fields:
        lines: its table.
        figure: its panels.
        note: data, number of images, T, and what is smaller than in the paper.
        remarks: what the numbers say, in sentences.
        conditions: all that the result depends on.
        numbers: everything else, for the JSON file.
    """

    lines: tuple[Line, ...]
    figure: tuple[Panel, ...]
    note: str
    remarks: tuple[str, ...] = ()
    conditions: Mapping[str, Any] = field(default_factory=dict[str, Any])
    numbers: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Entry:
    """A table or figure of a paper, or an experiment of our own.

    Fields:
        name: what ``equispike reproduce`` calls it.
        title: what it shows.
        run: computes it.
        paper: key of its paper in ``bibliography.PAPERS``; empty for our own.
        place: in the paper, e.g. "table 1": where the published figures stand.
        cites: keys of the papers of the methods that it uses.
        networks: how many networks it compares; a user may replace one.
    """

    name: str
    title: str
    run: Callable[[Setting], Outcome]
    paper: str = ""
    place: str = ""
    cites: tuple[str, ...] = ()
    networks: int = 1

    @property
    def source(self) -> str:
        """E.g. "Han et al., 2020, table 1"."""
        return f"{PAPERS[self.paper].short}, {self.place}" if self.paper else ""


def result(entry: Entry, setting: Setting) -> tuple[dict[str, Any], bool]:
    """What NAME.json in ``setting.out`` holds, and whether it was there; if not, the entry is run first.

    NAME.png and NAME.pdf are written beside it.

    Raises:
        EquispikeError: a network was named for an entry that has none, or several.
        FileError, DataError, ...: what the entry needs is not there.
    """
    if setting.network is not None and entry.networks != 1:
        raise EquispikeError(
            f"--network: {entry.name} is about {entry.networks or 'no'} network{'s' * (entry.networks > 1)}. Leave it "
            "out, or name an entry about one"
        )
    path = setting.out / f"{entry.name}.json"
    if path.is_file():
        content = read_json(path)
        if _given(content.get("asked", {})) == asked(setting):
            return content, True
    setting.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    outcome = entry.run(setting)
    title = "\n".join([entry.title, *textwrap.wrap(outcome.note, 55 * min(3, len(outcome.figure)))])
    panels(outcome.figure, title, [path.with_suffix(suffix) for suffix in (".png", ".pdf")])
    cited = dict.fromkeys(key for key in (entry.paper, *entry.cites) if key)
    content = {
        "name": entry.name,
        "title": entry.title,
        "source": entry.source,
        "asked": asked(setting),
        "note": outcome.note,
        "remarks": list(outcome.remarks),
        "lines": [
            {"label": line.label, "ours": dict(line.ours), "published": dict(line.published)} for line in outcome.lines
        ],
        "conditions": dict(outcome.conditions),
        "numbers": dict(outcome.numbers),
        "cite": {key: bibtex(key) for key in cited},
        "versions": versions(),
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "command": command(entry, setting),
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_json(path, content)
    return content, False


def command(entry: Entry, setting: Setting) -> str:
    """What to type for this result; where files lie is left out."""
    options = (f"--{name} {value}" for name, value in asked(setting).items())
    return " ".join(["equispike reproduce", entry.name, *options])


def asked(setting: Setting) -> dict[str, Any]:
    """What tells one run of an entry from another: an entry that was run so is not run again."""
    network = None if setting.network is None else Path(setting.network).name
    numbers = {name: getattr(setting, name) for name in ("images", "timesteps", "observe")}
    return _given({"size": setting.size, "network": network, **numbers})


def table(lines: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Header and rows of the ``lines`` of a result: each of our columns, and the paper's beside it if it has one."""
    ours = list(dict.fromkeys(column for line in lines for column in line["ours"]))
    published = list(dict.fromkeys(column for line in lines for column in line["published"]))
    columns: list[tuple[str, str]] = []
    for column in [*ours, *(column for column in published if column not in ours)]:
        columns += [("ours", column)] * (column in ours) + [("published", column)] * (column in published)
    header = ["", *(column if whose == "ours" else f"{column} (paper)" for whose, column in columns)]
    rows = [[line["label"], *(_cell(line[whose].get(column)) for whose, column in columns)] for line in lines]
    return [header, *rows]


def numbers(values: Tensor) -> list[float]:
    """A tensor's values, flat."""
    return [float(value) for value in values.flatten()]


def markdown(rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A table in Markdown: columns of numbers, those behind the first of words, to the right."""
    header, *body = rows
    lines = [header, ["---"] * words + ["--:"] * (len(header) - words), *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _cell(value: float | str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str | int):
        return str(value)
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"
