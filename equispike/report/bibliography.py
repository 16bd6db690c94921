"""The papers behind the methods: for ``equispike cite``, results, and the page of the bibliography.

They stand in ``papers.bib``, whose notes tell what of each paper is here.
"""

import re
from collections.abc import Iterable, Mapping
from importlib import resources

from equispike.errors import EquispikeError

_TEXT = resources.files("equispike.report").joinpath("papers.bib").read_text(encoding="utf-8")
_ENTRIES: dict[str, str] = {entry[2]: entry[0] for entry in re.finditer(r"^@(\w+)\{(\w+),.*?^\}$", _TEXT, re.M | re.S)}
PAPERS: dict[str, Mapping[str, str]] = {
    key: {name: value.strip("{}") for name, value in re.findall(r"^  (\w+) = \{(.*)\},$", entry, re.M)}
    for key, entry in _ENTRIES.items()
}
"""Fields of each paper as BibTeX names them, by key."""

METHODS: dict[str, tuple[str, ...]] = {
    "datanorm": ("diehl2015", "rueckauer2017", "kim2020"),
    "modelnorm": ("diehl2015",),
    "spikenorm": ("sengupta2019",),
    "rmp": ("han2020",),
    "ratenorm": ("ding2021",),
    "poisson": ("sengupta2019", "salmon2011"),
}
"""Papers of each method, and of Poisson input, by the name that the command line has for it."""


def papers_of(methods: Iterable[str]) -> tuple[str, ...]:
    """Keys of the papers of these methods, each once, in the order of the years.

    Args:
        methods: names from ``METHODS``, in any case; what follows a bracket is ignored, as in "RMP(scale=0.8)".

    >>> papers_of(["RMP(scale=0.8)", "SpikeNorm"])
    ('sengupta2019', 'han2020')
    """
    keys: set[str] = set()
    for method in methods:
        name = method.partition("(")[0].lower()
        if name not in METHODS:
            raise EquispikeError(f"{method}: no method has this name. Choose from {', '.join(METHODS)}")
        keys.update(METHODS[name])
    return tuple(sorted(keys, key=lambda key: PAPERS[key]["year"]))


def bibtex(key: str) -> str:
    """The BibTeX entry of a paper, without its note.

    >>> print(bibtex("diehl2015").splitlines()[0])
    @inproceedings{diehl2015,
    """
    return re.sub(r"^  note = .*\n", "", _ENTRIES[key], flags=re.M)


def short(key: str) -> str:
    """The paper in a few words, e.g. "Han et al., 2020"."""
    first, *others = PAPERS[key]["author"].split(" and ")
    return f"{first.partition(',')[0]}{' et al.' if others else ''}, {PAPERS[key]['year']}"


def page() -> str:
    """The bibliography in Markdown."""
    return "\n\n".join(map(_paragraph, PAPERS))


def _paragraph(key: str) -> str:
    paper = PAPERS[key]
    volume, number, pages = (paper.get(name, "") for name in ("volume", "number", "pages"))
    names = ", ".join(" ".join(reversed(author.split(", "))) for author in paper["author"].split(" and "))
    venue = paper.get("journal") or paper["booktitle"]
    numbers = f" {volume}" + (f"({number})" if number else "") if volume else ""
    pages = (":" if volume else ", ") + pages.replace("--", "-") if pages else ""
    link = f"[doi:{paper['doi']}](https://doi.org/{paper['doi']})"
    return f"**{short(key)}.** {names}. *{paper['title']}.* {venue}{numbers}{pages}. {link}. Here: {paper['note']}"
