"""The same command twice writes the same files, byte for byte, but for dates and durations inside.

``python tests/trials/same_bytes.py --tries 36`` runs each command in two folders, in turn; ``--tries`` counts pairs.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from commands import COMMANDS, finish, fresh, prepare, results
from shared import Attempt, script

from equispike.files.checkpoint import kind_of

DATED = ".json", ".jsonl", ".sqlite", ".csv"
"""Files that hold dates or durations, as cards of trained models do: what else they hold is compared. Of all others
every byte."""


def differing(one: Path, other: Path) -> list[str]:
    """Names of the files that differ, or are in one folder only."""
    mine, theirs = results(one), results(other)
    names = {name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)}
    plain = [name for name in mine if not name.endswith(DATED) and kind_of(one / name) != "equispike.model"]
    return sorted(names | {name for name in plain if (one / name).read_bytes() != (other / name).read_bytes()})


def run(tries: int, seed: int, names: tuple[str, ...] = tuple(COMMANDS)) -> Iterator[Attempt]:
    """Run so many pairs, each command in its turn, from the one that the seed says."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "given").mkdir()
        given = prepare(Path(name) / "given")
        for number in range(seed, seed + tries):
            command = names[number % len(names)]
            folders = [fresh(given, Path(name) / place) for place in ("one", "other")]
            for folder in folders:
                finish(COMMANDS[command], folder)
            wrong = differing(*folders)
            yield Attempt(command, f"differ: {wrong}" if wrong else "the same", not wrong)


if __name__ == "__main__":
    script(__name__, "commands run twice", 3 * len(COMMANDS), run)
