"""The papers behind the methods, as data: for ``equispike cite``, results, and the page of the bibliography."""

from collections.abc import Iterable
from dataclasses import dataclass

from equispike.errors import EquispikeError


@dataclass(frozen=True)
class Paper:
    """A published source.

    Fields:
        authors: "Family, Given" of each, as far as the initials are known.
        venue: journal or conference.
        article: True for a journal.
        volume, number, pages: of the venue; empty where there is none.
        doi: without the address in front.
        used: what of it is here, in Markdown.
    """

    authors: tuple[str, ...]
    title: str
    venue: str
    year: int
    doi: str
    used: str
    article: bool = False
    volume: str = ""
    number: str = ""
    pages: str = ""

    @property
    def short(self) -> str:
        """E.g. "Han et al., 2020"."""
        first, *others = self.authors
        return f"{first.partition(',')[0]}{' et al.' if others else ''}, {self.year}"


PAPERS: dict[str, Paper] = {
    "horowitz2014": Paper(
        ("Horowitz, M.",),
        "Computing's energy problem (and what we can do about it)",
        "IEEE International Solid-State Circuits Conference",
        2014,
        "10.1109/ISSCC.2014.6757323",
        "the joules of `analysis.energy`.",
    ),
    "diehl2015": Paper(
        ("Diehl, P. U.", "Neil, D.", "Binas, J.", "Cook, M.", "Liu, S.-C.", "Pfeiffer, M."),
        "Fast-classifying, high-accuracy spiking deep networks through weight and threshold balancing",
        "International Joint Conference on Neural Networks",
        2015,
        "10.1109/IJCNN.2015.7280696",
        "`DataNorm()`, `ModelNorm`.",
    ),
    "rueckauer2017": Paper(
        ("Rueckauer, B.", "Lungu, I.-A.", "Hu, Y.", "Pfeiffer, M.", "Liu, S.-C."),
        "Conversion of continuous-valued deep networks to efficient event-driven networks for image classification",
        "Frontiers in Neuroscience",
        2017,
        "10.3389/fnins.2017.00682",
        "percentiles, reset by subtraction, analog input.",
        article=True,
        volume="11",
        pages="682",
    ),
    "sengupta2019": Paper(
        ("Sengupta, A.", "Ye, Y.", "Wang, R.", "Liu, C.", "Roy, K."),
        "Going deeper in spiking neural networks: VGG and residual architectures",
        "Frontiers in Neuroscience",
        2019,
        "10.3389/fnins.2019.00095",
        "`SpikeNorm`, `Poisson`, the constrained networks of the zoo.",
        article=True,
        volume="13",
        pages="95",
    ),
    "kim2020": Paper(
        ("Kim, S.", "Park, S.", "Na, B.", "Yoon, S."),
        "Spiking-YOLO: spiking neural network for energy-efficient object detection",
        "AAAI Conference on Artificial Intelligence",
        2020,
        "10.1609/aaai.v34i07.6787",
        "`DataNorm(per_channel=True)`.",
        volume="34",
        number="07",
        pages="11270--11277",
    ),
    "han2020": Paper(
        ("Han, B.", "Srinivasan, G.", "Roy, K."),
        "RMP-SNN: residual membrane potential neuron for enabling deeper high-accuracy and low-latency spiking neural "
        "network",
        "IEEE/CVF Conference on Computer Vision and Pattern Recognition",
        2020,
        "10.1109/CVPR42600.2020.01357",
        "`RMP`, the spike rate (equation 8).",
        pages="13558--13567",
    ),
    "ding2021": Paper(
        ("Ding, J.", "Yu, Z.", "Tian, Y.", "Huang, T."),
        "Optimal ANN-SNN conversion for fast and accurate inference in deep spiking neural networks",
        "International Joint Conference on Artificial Intelligence",
        2021,
        "10.24963/ijcai.2021/321",
        "`RateNorm`, the rate inference loss, K and Omega, the power model, the architecture of `mnist-cnn`.",
    ),
    "li2021": Paper(
        ("Li, Y.", "Deng, S.", "Dong, X.", "Gong, R.", "Gu, S."),
        "A free lunch from ANN: towards efficient, accurate spiking neural networks calibration",
        "International Conference on Machine Learning",
        2021,
        "10.48550/arXiv.2106.06984",
        "`Bias` and `Potential`.",
    ),
    "wu2024": Paper(
        ("Wu, X.", "Bojkovic, V.", "Gu, B.", "Suo, K.", "Zou, K."),
        "FTBC: forward temporal bias correction for optimizing ANN-SNN conversion",
        "European Conference on Computer Vision",
        2024,
        "10.1007/978-3-031-72890-7_10",
        "`StepBias`.",
        pages="155--173",
    ),
    "salmon2011": Paper(
        ("Salmon, J. K.", "Moraes, M. A.", "Dror, R. O.", "Shaw, D. E."),
        "Parallel random numbers: as easy as 1, 2, 3",
        "International Conference for High Performance Computing, Networking, Storage and Analysis",
        2011,
        "10.1145/2063384.2063405",
        "Philox 4x32-10, from which every draw comes.",
    ),
}

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
    return tuple(sorted(keys, key=lambda key: PAPERS[key].year))


def bibtex(key: str) -> str:
    """The BibTeX entry of a paper.

    >>> print(bibtex("diehl2015").splitlines()[0])
    @inproceedings{diehl2015,
    """
    paper = PAPERS[key]
    fields = {
        "author": " and ".join(paper.authors),
        "title": "{" + paper.title + "}",
        "journal" if paper.article else "booktitle": paper.venue,
        "year": str(paper.year),
        "volume": paper.volume,
        "number": paper.number,
        "pages": paper.pages,
        "doi": paper.doi,
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{'article' if paper.article else 'inproceedings'}{{{key},", *lines, "}"])


def page() -> str:
    """The bibliography in Markdown."""
    return "\n\n".join(_paragraph(paper) for paper in PAPERS.values())


def _paragraph(paper: Paper) -> str:
    names = ", ".join(" ".join(reversed(author.split(", "))) for author in paper.authors)
    numbers = f" {paper.volume}" + (f"({paper.number})" if paper.number else "") if paper.volume else ""
    pages = (":" if paper.volume else ", ") + paper.pages.replace("--", "-") if paper.pages else ""
    link = f"[doi:{paper.doi}](https://doi.org/{paper.doi})"
    return f"**{paper.short}.** {names}. *{paper.title}.* {paper.venue}{numbers}{pages}. {link}. Here: {paper.used}"
