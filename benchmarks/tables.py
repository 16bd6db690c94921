"""The part that scripts which write docs/tables share."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from pathlib import Path

from equispike.files.disk import write_bytes
from experiments.entry import markdown


def parser(description: str | None, name: str) -> ArgumentParser:
    """Options of a script that writes this table."""
    made = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, default=Path(f"docs/tables/{name}.md"))
    return made


def write_table(
    out: Path, conditions: str, header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1
) -> None:
    """Print rows as they come, then replace a file by the conditions and a table; the first columns hold words."""
    lines = [header]
    for row in rows:
        lines.append(row)
        print(" | ".join(row), flush=True)
    write_bytes(out, f"{conditions}\n\n{markdown(lines, words)}\n".encode())
