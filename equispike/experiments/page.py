"""The results in a folder as one Markdown page."""

import os
from pathlib import Path
from typing import Any

from equispike.errors import FileError
from equispike.experiments.catalogue import CATALOGUE
from equispike.experiments.entry import markdown, table
from equispike.files.disk import write_bytes
from equispike.results import read_json

HEAD = """# Results

Tables and figures of the papers, recomputed, beside the published numbers; [Reproduce](reproduce.md) tells how. This
page is written by `equispike reproduce --page` from the files that the experiments left.

- Columns that end in "(paper)" are published, by the source named under the heading. All others were measured here, on
  the network, images and steps that stand there. Where another network stands in for the paper's, only the order of the
  rows can be compared, not the numbers.
- "T=16" is the accuracy in percent after 16 steps, "spiking" after all; "trained" is the trained network on the same
  images; "loss" is the difference, in points. Spike rate: percent of neurons that spike in a step, over all T steps.
- Poisson rows of several seeds are means. Constant input draws nothing: one run is all there is.
"""


def write_page(folder: Path, path: Path) -> int:
    """Write the page of all results in a folder, in the catalogue's order; returns how many there were.

    Raises:
        FileError: there are none, or one is not what ``reproduce`` wrote, or the page cannot be written.
    """
    found = [folder / f"{name}.json" for name in CATALOGUE if (folder / f"{name}.json").is_file()]
    if not found:
        raise FileError(f"{folder}: holds no results. Run equispike reproduce NAME --out {folder} first")
    sections = [_section(file, path.parent) for file in found]
    write_bytes(path, "\n".join([HEAD, *sections]).encode())
    return len(found)


def _section(file: Path, beside: Path) -> str:
    try:
        content: dict[str, Any] = read_json(file)
        source = f"{content['source']}. " if content["source"] else ""
        used = content["versions"]
        picture = os.path.relpath(file.with_suffix(".png"), beside)
        parts = [
            f"## {content['title']}",
            f"{source}`{content['command']}`",
            f"{content['note']}. CPU, torch {used['torch']}, equispike {used['equispike']}.",
            *content["remarks"],
            markdown(table(content["lines"])),
        ]
        if file.with_suffix(".png").is_file():
            parts.append(f"![{content['title']}]({picture})")
    except (KeyError, TypeError) as error:
        raise FileError(f"{file}: is not a result of equispike reproduce: {error}. Delete it") from error
    return "\n\n".join(parts) + "\n"
