"""Points of a sweep in an SQLite file: each is there whole as soon as it was simulated, and none is simulated twice."""

import csv
import io
import json
import sqlite3
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import stdev
from typing import Any, cast

from equispike.errors import FileError
from equispike.files.disk import write_bytes

Conditions = Mapping[str, str | int | float | None]
"""All that a point depends on."""

ID, VERSION = 0x65717370, 1  # "eqsp", where SQLite files say whose they are
MAGIC = b"SQLite format 3\0"
_TABLE = "CREATE TABLE points (conditions TEXT PRIMARY KEY, document TEXT NOT NULL)"


def is_points(path: Path) -> bool:
    """Whether a file is an SQLite file, by its first bytes."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def missing(path: Path, points: Sequence[Conditions]) -> list[int]:
    """Numbers of the points that the file does not hold yet; the file need not exist.

    Raises:
        FileError: it is no such file.
    """
    there = path.exists() and path.stat().st_size > 0  # a process that was killed may have left an empty file
    known = {key for (key,) in _rows(path, "conditions")} if there else set[str]()
    return [number for number, conditions in enumerate(points) if _key(conditions) not in known]


def add(path: Path, conditions: Conditions, document: Mapping[str, Any]) -> None:
    """Store a point: all of it or, if the process dies, nothing.

    Args:
        document: of one run, as ``results.document`` makes it.
    Raises:
        FileError: the file cannot be written, or is of another kind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    row = _key(conditions), json.dumps(document)
    with _opened(path, f"{path}: cannot be written. Choose another place or free some space") as connection:
        connection.execute("BEGIN IMMEDIATE")
        if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            connection.execute(f"PRAGMA application_id = {ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute(_TABLE)
        _check(connection, path)
        connection.execute("INSERT OR REPLACE INTO points VALUES (?, ?)", row)
        connection.execute("COMMIT")


def read(path: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Conditions and document of every point, in the order of their conditions.

    Raises:
        FileError: the file is missing, damaged or of another kind.
    """
    if not path.is_file():
        raise FileError(f"{path}: no such file")
    try:
        return [(json.loads(key), json.loads(document)) for key, document in _rows(path, "conditions, document")]
    except (ValueError, TypeError, RecursionError) as error:
        raise FileError(f"{path}: holds a damaged point: {error}. Delete the file and sweep again") from error


def documents(path: Path, wanted: Sequence[Conditions] | None = None) -> list[dict[str, Any]]:
    """What ``equispike report`` reads: a document for each network and images; seeds of one point become one run.

    Args:
        wanted: the points, in the order of the runs; default all.
    Raises:
        FileError: as for :func:`read`, or points do not hold what they should.
    """
    found = {_key(conditions): (conditions, document) for conditions, document in read(path)}
    chosen = found if wanted is None else [_key(conditions) for conditions in wanted]
    try:
        seeds: dict[str, list[dict[str, Any]]] = {}
        for conditions, document in (found[key] for key in chosen):
            seeds.setdefault(_key({**conditions, "seed": None}), []).append(document)
        together: dict[str, dict[str, Any]] = {}
        for same in seeds.values():
            about = _key({name: value for name, value in same[0].items() if name != "runs"})
            together.setdefault(about, {**same[0], "runs": []})["runs"].append(_over_seeds(same))
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise FileError(f"{path}: holds a damaged point: {error!r}. Delete the file and sweep again") from error
    return list(together.values())


def write_csv(path: Path, out: Path) -> int:
    """Write one line for each point and step: conditions, then accuracy and spike rate up to that step.

    Returns:
        number of lines below the header.
    Raises:
        FileError: as for :func:`read`, or ``out`` cannot be written.
    """
    found = read(path)
    names = list(dict.fromkeys(name for conditions, _ in found for name in conditions))
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([*names, "trained_accuracy", "t", "accuracy", "spike_rate_percent"])
    count = 0
    for conditions, document in found:
        run = document["runs"][0]
        start = [*(conditions.get(name) for name in names), run["trained_accuracy"]]
        for row in zip(run["timesteps"], run["accuracy"], run["spike_rate"], strict=True):
            lines.writerow([*start, *row])
            count += 1
    write_bytes(out, text.getvalue().encode())
    return count


def _key(conditions: Conditions) -> str:
    return json.dumps(conditions, sort_keys=True)


def _over_seeds(same: list[dict[str, Any]]) -> dict[str, Any]:
    runs = [document["runs"][0] for document in same]
    if len(runs) == 1:
        return runs[0]
    deviations = [stdev(at) for at in zip(*(run["accuracy"] for run in runs), strict=True)]
    return {**_mean(runs), "accuracy_std": deviations, "seeds": [seed for run in runs for seed in run["seeds"]]}


def _mean(values: Sequence[Any]) -> Any:
    """The mean of numbers; of lists and mappings that of what they hold; of anything else the first."""
    first = values[0]
    if isinstance(first, dict):
        return {name: _mean([value[name] for value in values]) for name in cast("dict[str, Any]", first)}
    if isinstance(first, list):
        return [_mean(parts) for parts in zip(*values, strict=True)]
    numbers = all(isinstance(value, int | float) for value in values)
    return sum(values) / len(values) if numbers and any(value != first for value in values) else first


def _rows(path: Path, columns: str) -> list[tuple[str, ...]]:
    with _opened(path, f"{path}: is damaged. Delete it and sweep again", "ro") as connection:
        _check(connection, path)
        return connection.execute(f"SELECT {columns} FROM points ORDER BY conditions").fetchall()


@contextmanager
def _opened(path: Path, complaint: str, mode: str = "rwc") -> Generator[sqlite3.Connection]:
    """A connection for which whatever a hostile file may hold besides tables has no effect."""
    address = f"{path.absolute().as_uri()}?mode={mode}"
    try:
        with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            yield connection
    except sqlite3.Error as error:
        raise FileError(f"{complaint} ({error})") from error


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """FileError unless the file is one of ours: made by us, with our table as we made it and nothing else."""
    marks = [connection.execute(f"PRAGMA {mark}").fetchone()[0] for mark in ("application_id", "user_version")]
    schema = connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    if marks[0] != ID or schema != [(_TABLE,)]:
        raise FileError(f"{path}: is no file of 'equispike sweep'. Choose another one")
    if marks[1] != VERSION:
        raise FileError(f"{path}: has version {marks[1]}; this release reads {VERSION}. Sweep again into another file")
