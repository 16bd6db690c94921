"""Commands for the papers: their tables and figures recomputed, and how to cite them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.table import Table

from equispike.cli.shared import Folder, out, print_table, progress, require_positive, require_writable
from equispike.errors import EquispikeError

if TYPE_CHECKING:
    from equispike.experiments.networks import Setting


def reproduce(
    *names: Annotated[str, Parameter(help="Entries of the catalogue, or all. Without names, the catalogue is shown.")],
    size: Annotated[
        Literal["small", "full"],
        Parameter(help="small: networks in the package, few images, minutes; full: as in the paper."),
    ] = "small",
    out_folder: Annotated[
        Path, Parameter(name="--out", help="Folder for NAME.json, NAME.png and NAME.pdf; made if absent.")
    ] = Path("results"),
    weights: Annotated[
        Path | None,
        Parameter(help="Folder with trained networks, NAME.safetensors. Default: networks, in the folder of results."),
    ] = None,
    network: Annotated[
        str | None, Parameter(help="Another trained network, by name or file, for an entry that has one.")
    ] = None,
    images: Annotated[int | None, Parameter(help="First test images to use. Default: the size's.")] = None,
    timesteps: Annotated[int | None, Parameter(help="Steps T. Default: the size's.")] = None,
    observe: Annotated[
        int | None, Parameter(help="Steps for which SpikeNorm and RMP observe each layer. Default: the size's.")
    ] = None,
    page: Annotated[Path | None, Parameter(help="Write all results in the folder as a Markdown page.")] = None,
    data_folder: Folder = None,
) -> None:
    """Recompute tables and figures of the papers, beside the published numbers.

    What is there already, with the same size, network, images and steps, is not computed again; what was interrupted
    goes on. Published numbers stand in columns of their own.

    Example: equispike reproduce han-figures-3d-4c ding-theorem-2 --out results
    """
    require_positive(images=images, timesteps=timesteps, observe=observe)
    require_writable(out_folder / "results.json", page)
    from equispike.experiments.catalogue import CATALOGUE, chosen
    from equispike.experiments.networks import Setting
    from equispike.experiments.page import write_page

    setting = Setting(size, out_folder, data_folder, weights, network, images, timesteps, observe)
    entries = chosen(names)
    if network is not None and len(entries) != 1:
        raise EquispikeError("--network: is for one entry at a time. Name it")
    failures: list[str] = []
    for entry in entries:
        try:
            _show(entry.name, setting)
        except EquispikeError as error:
            if len(entries) == 1:
                raise
            failures.append(entry.name)
            out.print(f"\n{entry.name}: {error}")
    if page is not None:
        out.print(f"{page}: {write_page(out_folder, page)} results")
    elif not names:
        shown = Table("entry", "shows", "source")
        for entry in CATALOGUE.values():
            shown.add_row(entry.name, entry.title, entry.source or "equispike")
        out.print(shown)
    if failures:
        raise EquispikeError(f"{len(failures)} of {len(entries)} entries could not be run: {', '.join(failures)}")


def _show(name: str, setting: "Setting") -> None:
    """One entry, computed or from its file, as a table."""
    from equispike.experiments.catalogue import CATALOGUE
    from equispike.experiments.entry import result, table

    with progress():
        content, again = result(CATALOGUE[name], setting)
    title = f"{content['title']}" + (f" ({content['source']})" if content["source"] else "")
    print_table(table(content["lines"]), title, no_wrap=False)
    out.print(f"{content['note']}.")
    for remark in content["remarks"]:
        out.print(remark)
    state = "were there" if again else f"written after {content['seconds']:.0f} s"
    out.print(f"{setting.out / name}.json, .png and .pdf {state}\n")


def cite(
    *methods: Annotated[
        str, Parameter(help="datanorm, modelnorm, spikenorm, rmp, ratenorm or poisson; default all of them.")
    ],
) -> None:
    """Print the BibTeX entries of the papers behind methods.

    Example: equispike cite rmp spikenorm
    """
    from equispike.bibliography import METHODS, bibtex, papers_of

    for key in papers_of(methods or METHODS):
        out.print(f"{bibtex(key)}\n")
