"""The part that scripts which write docs/tables share."""

from collections.abc import Sequence
from pathlib import Path

from equispike.files.disk import write_bytes
from experiments.entry import markdown


def write_table(out: Path, conditions: str, rows: Sequence[Sequence[str]], words: int = 1) -> None:
    """Replace a file by the conditions and a table: a header and rows, of which the first columns hold words."""
    write_bytes(out, f"{conditions}\n\n{markdown(rows, words)}\n".encode())
