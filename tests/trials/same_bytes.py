"""The same command twice writes the same files, byte for byte, but for dates and durations inside.

``python tests/trials/same_bytes.py --tries 36`` runs each command in two folders, in turn; ``--tries`` counts pairs.
"""

from collections.abc import Iterator
from pathlib import Path

from commands import COMMANDS, finish, fresh, prepared, results
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


def pairs(given: Path, names: tuple[str, ...]) -> Iterator[Attempt]:
    """Run each command twice, in folders that hold what another one does."""
    for command in names:
        folders = [fresh(given, given.with_name(place)) for place in ("one", "other")]
        for folder in folders:
            finish(COMMANDS[command], folder)
        wrong = differing(*folders)
        yield Attempt(command, f"differ: {wrong}" if wrong else "the same", not wrong)


def run(tries: int, seed: int) -> Iterator[Attempt]:
    """Run so many pairs, each command in its turn, from the one that the seed says."""
    names = tuple(COMMANDS)
    with prepared() as given:
        yield from pairs(given, tuple(names[number % len(names)] for number in range(seed, seed + tries)))


if __name__ == "__main__":
    script(__name__, "commands run twice", 3 * len(COMMANDS), run)
