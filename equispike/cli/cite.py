"""cite: the papers behind methods."""

from typing import Annotated

from cyclopts import Parameter

from equispike.cli.shared import out


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
