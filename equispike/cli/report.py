"""Commands that show results: the demonstration, a page of any runs, and the papers behind methods."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from equispike.cli.shared import Seed, out, print_runs, progress, require_positive, require_writable, training_to


def report_command(
    runs: Annotated[
        list[Path],
        Parameter(
            help="Files from 'equispike evaluate --json' or 'equispike sweep', or folders from 'equispike demo'.",
            negative="",
            consume_multiple=True,
        ),
    ],
    /,
    *,
    out_file: Annotated[Path, Parameter(name="--out", help="The HTML file.")] = Path("report.html"),
) -> None:
    """Make one page of results: accuracy, spikes and energy at every T, and, where 'evaluate --closer' looked, layers
    and decisions.

    The page is a single file that needs no network. Runs of different networks or data can stand on one page, which
    then says so.

    Example: equispike report rmp.json datanorm.json --out report.html
    """  # fmt: skip
    require_writable(out_file)
    from equispike.report.page import write_report

    number = write_report(runs, out_file)
    out.print(f"{out_file}: {number} run{'s' if number > 1 else ''}. Open it in a browser")


def demo_command(
    *,
    out_folder: Annotated[Path, Parameter(name="--out", help="Folder for results; made if absent.")] = Path(
        "equispike-demo"
    ),
    images: Annotated[int, Parameter(help="Test digits to simulate, up to 2,000.")] = 500,
    timesteps: Annotated[int, Parameter(help="Steps T of the simulation.")] = 128,
    seed: Seed = 0,
) -> None:
    """Train on real digits, convert with every method, simulate, and show what was kept.

    Takes about two minutes on two cores. Writes report.html, a page of all results, and results.json,
    accuracy.png, the trained model and a converted network.

    Example: equispike demo --out my-demo
    """
    require_positive(images=images, timesteps=timesteps)
    require_writable(out_folder / "results.json")
    from equispike.report.demo import demo as run
    from equispike.report.page import write_report

    with progress() as show:
        trained, results = run(out_folder, images, timesteps, seed, training_to(show))
    print_runs(
        [result.curves for result in results],
        f"Accuracy (%) on {images:,} test digits after T steps; trained network: {trained:.1%}",
    )
    out.print(
        "A spiking network answers at every step: more steps, more spikes, better answers. Lower thresholds (RMP with "
        "a smaller scale) answer sooner and spike more, until neurons fire in every step and accuracy falls."
    )
    write_report([out_folder / "results.json"], out_folder / "report.html")
    out.print(f"Figure: {out_folder / 'accuracy.png'}   all numbers: {out_folder / 'results.json'}")
    out.print(f"Everything on one page, to open in a browser: {out_folder / 'report.html'}")


def cite_command(
    *methods: Annotated[
        str, Parameter(help="datanorm, modelnorm, spikenorm, rmp, ratenorm or poisson; default all of them.")
    ],
) -> None:
    """Print the BibTeX entries of the papers behind methods.

    Example: equispike cite rmp spikenorm
    """
    from equispike.report.bibliography import METHODS, bibtex, papers_of

    for key in papers_of(methods or METHODS):
        out.print(f"{bibtex(key)}\n")
