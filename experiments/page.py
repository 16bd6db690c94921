"""The results in a folder as one Markdown page, with the papers' claims first."""

import os
from pathlib import Path
from typing import Any

import equispike as es
from equispike.files.disk import write_bytes
from equispike.results import read_json
from experiments.catalogue import CATALOGUE
from experiments.claims import VERDICTS, in_short, judged
from experiments.entry import markdown, table

HEAD = """# Results

The papers' claims, and what came of them here. Networks, images and conditions stand in the sections below;
[Reproduce](reproduce.md) tells how to run each again. `python -m experiments --page` writes this page from the files
that the experiments left.

{short}

"Holds" compares with the paper's own number, or with its words where it has none; "open" needs more steps. Input is
Poisson where it does not say constant, but for Ding's claims, which are about constant input.

## The claims, with their figures

Our networks are smaller or less accurate than the papers', and images fewer, where it says so: then sizes can be
compared, not decimals.

{full}

## How to read the tables

- Columns that end in "(paper)" are published, by the source named under the heading. All others were measured here.
- All rows of a table share what stands behind "All rows": they differ in what the first column names, and in nothing
  else.
- "T=16" is the accuracy in percent after 16 steps, "spiking" after all; "trained" is the trained network on the same
  images; "loss" is the difference, in points. Spike rate: percent of neurons that spike in a step, over all T steps.
- Several Poisson runs: mean ± standard deviation. Constant input draws nothing: one run is all there is.
- "Times sooner" compares the steps from which two rows stay at or above "level": the highest of 95, 90, 80 and 50 % of
  the trained accuracy that both keep. Of two networks the less accurate one counts.
"""


def write_page(folder: Path, path: Path) -> int:
    """Write the page of all results in a folder, in the catalogue's order; returns how many there were.

    Raises:
        FileError: there are none, or one is not what the experiments wrote, or the page cannot be written.
    """
    found = {file: read_json(file) for file in sorted(folder.glob("*.json"))}
    order = {name: number for number, name in enumerate(CATALOGUE)}
    for file, content in found.items():
        if not isinstance(content, dict) or content.get("name") not in order or "command" not in content:
            raise es.FileError(f"{file}: is not a result of an experiment. Delete it")
    if not found:
        raise es.FileError(f"{folder}: holds no results. Run python -m experiments NAME --out {folder} first")
    files = sorted(found, key=lambda file: order[found[file]["name"]])
    sections = [_section(file, found[file], path.parent) for file in files]
    claims = judged([found[file] for file in files])
    short = markdown([["claim", *(f"{verdict} on" for verdict in VERDICTS.values())], *in_short(claims)], words=4)
    full = markdown([["claim", "paper", "here", "", "on"], *(claim[:5] for claim in claims)], words=5)
    write_bytes(path, "\n".join([HEAD.format(short=short, full=full), *sections]).encode())
    return len(found)


def _section(file: Path, content: dict[str, Any], beside: Path) -> str:
    try:
        used = content["versions"]
        about = (
            f"{content['note']}. Threads: {content['threads']}, torch {used['torch']}, equispike {used['equispike']}."
        )
        parts = [
            f"## {content['title']}",
            (f"{content['source']}. " if content["source"] else "") + f"`{content['command']}`",
            about + (f" All rows: {content['all rows']}." if content["all rows"] else ""),
            *content["remarks"],
            markdown(table(content["lines"])),
        ]
    except (KeyError, TypeError) as error:
        raise es.FileError(f"{file}: is not a result of an experiment: {error}. Delete it") from error
    if file.with_suffix(".png").is_file():
        parts.append(f"![{content['title']}]({os.path.relpath(file.with_suffix('.png'), beside)})")
    return "\n\n".join(parts) + "\n"
