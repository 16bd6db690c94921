"""The command line: ``python -m experiments NAME... [options]``."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter
from rich.table import Table

import equispike as es
from equispike.cli.shared import (
    ALONE,
    Folder,
    Hands,
    err,
    out,
    print_table,
    progress,
    require_positive,
    require_writable,
)
from equispike.errors import one_line
from experiments.catalogue import CATALOGUE, chosen
from experiments.entry import Entry, Job, given, result, table
from experiments.page import write_page

app = App(name="python -m experiments", help_format="markdown")


@app.default
def run(
    *names: Annotated[str, Parameter(help="Entries of the catalogue, or all. Without names, the catalogue is shown.")],
    network: Annotated[
        tuple[str, ...],
        Parameter(
            help="Trained networks in place of the entry's own, as many as it has: a name of the zoo, a file of "
            "'equispike train', or he-resnet20, he-resnet56 (=FILE).",
            negative="",
            show_default=False,
        ),
    ] = (),
    data: Annotated[str | None, Parameter(help="Another data set than the network's card names.")] = None,
    images: Annotated[int | None, Parameter(help="First test images. Default here and below: the entry's.")] = None,
    timesteps: Annotated[int | None, Parameter(help="Steps T.")] = None,
    calibration_images: Annotated[int | None, Parameter(help="First training images to set thresholds with.")] = None,
    observed_steps: Annotated[
        int | None,
        Parameter(name=("--observed-steps", "--observe"), help="Steps for which SpikeNorm and RMP observe a layer."),
    ] = None,
    seeds: Annotated[int | None, Parameter(help="Runs of what is drawn.")] = None,
    coder: Annotated[Literal["poisson", "constant"] | None, Parameter(help="Input of all rows.")] = None,
    readout: Annotated[Literal["potential", "spikes"] | None, Parameter(help="Scores of all rows.")] = None,
    device: Annotated[str | None, Parameter(help="Where to simulate, e.g. cuda.")] = None,
    out_folder: Annotated[
        Path, Parameter(name="--out", help="Folder for NAME.json, NAME.png and NAME.pdf; made if absent.")
    ] = Path("results"),
    page: Annotated[Path | None, Parameter(help="Write all results in the folder as a Markdown page.")] = None,
    data_folder: Folder = None,
    hands: Hands = ALONE,
) -> None:
    """Recompute tables and figures of the papers, beside the published numbers.

    Defaults are the paper's: its network, all test images, its number of steps, which can take hours. Options make less
    of it, and the result says so. Rows that were simulated once are not simulated again, so what was interrupted goes
    on.

    Example: python -m experiments ding-theorem-2 --network mnist-cnn --images 16 --timesteps 128
    """
    numbers = {"images": images, "timesteps": timesteps, "calibration_images": calibration_images}
    numbers |= {"observed_steps": observed_steps, "seeds": seeds}
    require_positive(**numbers)
    require_writable(out_folder / "results.json", page)
    changes = {**numbers, "coder": coder, "readout": readout, "device": device}
    where = {"data": data, "out": out_folder, "data_folder": data_folder, "on": hands.on}
    failures: list[str] = []
    entries = chosen(names)
    for entry in entries:
        try:
            _show(entry, entry.job(network, given(changes), **where))
        except es.EquispikeError as error:
            if len(entries) == 1:
                raise
            failures.append(entry.name)
            out.print(f"\n{entry.name}: {error}")
    if page is not None:
        out.print(f"{page}: {write_page(out_folder, page)} results")
    elif not names:
        shown = Table("entry", "shows", "source", "networks")
        for entry in CATALOGUE.values():
            shown.add_row(entry.name, entry.title, entry.source or "equispike", ", ".join(entry.networks))
        out.print(shown)
    if failures:
        raise es.EquispikeError(f"{len(failures)} of {len(entries)} entries could not be run: {', '.join(failures)}")


def _show(entry: Entry, job: Job) -> None:
    """One entry, computed or from its file, as a table."""
    with progress():
        content, again = result(entry, job)
    title = f"{content['title']}" + (f" ({content['source']})" if content["source"] else "")
    print_table(table(content["lines"]), title)
    for sentence in (content["note"], content["all rows"] and f"All rows: {content['all rows']}", *content["remarks"]):
        if sentence:
            out.print(f"{sentence.removesuffix('.')}.")
    state = "were there" if again else f"written after {content['seconds']:.0f} s"
    out.print(f"{job.out}: JSON, PNG and PDF {state}\n")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Bad input ends in one line on standard error and exit code 2."""
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except (es.EquispikeError, CycloptsError) as error:
        err.print(f"experiments: {one_line(error, None)}")
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("experiments: interrupted; rows that are done are kept")
        sys.exit(130)


if __name__ == "__main__":
    main()
