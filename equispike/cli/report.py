"""The command that makes a page of results."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from equispike.cli.shared import out, require_writable


def report(
    runs: Annotated[
        list[Path],
        Parameter(
            help="Files from 'equispike evaluate --json' or 'equispike sweep', or folders from 'equispike demo'.",
            negative="",
            consume_multiple=True,
        ),
    ],
    out_file: Annotated[Path, Parameter(name="--out", help="The HTML file.")] = Path("report.html"),
) -> None:
    """Make one page of any runs: what was lost, accuracy, spikes and energy at every T, layers, and how it decides.

    The page is a single file that needs no network. Runs of different networks or data can stand on one page, which
    then says so.

    Example: equispike report rmp.json datanorm.json --out report.html
    """  # fmt: skip
    require_writable(out_file)
    from equispike.report.page import write_report

    number = write_report(runs, out_file)
    out.print(f"{out_file}: {number} run{'s' if number > 1 else ''}. Open it in a browser")
