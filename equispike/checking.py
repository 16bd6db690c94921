"""check(): would a model convert, how, and how many time-steps would it need?"""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equispike.analysis.prediction import MOST_STEPS, useful_timesteps
from equispike.arguments import checked
from equispike.conversion import Model, convert
from equispike.errors import CalibrationError
from equispike.functional.inputs import Images, join_inputs
from equispike.graph.fold import early_max_pools
from equispike.graph.lossy import LossyPass
from equispike.graph.network import Network
from equispike.graph.reading.program import check_chosen
from equispike.graph.reading.terms import SPOKEN, VERDICTS, Finding, Verdict, verdict
from equispike.graph.reading.trace import examine
from equispike.shown import frame, html_table

NOISE_IMAGES = 8
"""Images of noise from which T is predicted where there are no others."""


@dataclass(frozen=True)
class Row:
    """One line of a report: uses of an operation that fare alike, and the layers that they are in."""

    operation: str
    count: int
    converts: Verdict
    why: str
    remedy: str
    layers: tuple[str, ...]

    @property
    def cells(self) -> tuple[str, ...]:
        """Cells of a table, in the order of ``HEADER``; of many layers the first."""
        more = f" and {self.count - 2} more" if self.count > 2 else ""
        return self.operation, str(self.count), self.converts, self.why, self.remedy, ", ".join(self.layers[:2]) + more


HEADER = "operation", "count", "converts", "why", "remedy", "layers"
EARLY = "of constant currents, in front of neurons"
_WIDTHS = 20, 5, 11, 36, 36, 30


@dataclass(frozen=True, repr=False)
class Report:
    """The operations of a model, and whether they convert. Printing it gives a table.

    Attributes:
        rows: operations, in the order in which they run first.
        timesteps: predicted smallest useful T, see ``analysis.prediction``; None if nothing could be predicted.
        basis: in words, what the prediction rests on, or why there is none.
    """

    rows: tuple[Row, ...]
    timesteps: int | None
    basis: str

    @property
    def convertible(self) -> bool:
        """Tell whether ``convert`` takes the model as it is."""
        return all(row.converts != "refused" for row in self.rows)

    @property
    def prediction(self) -> str:
        """The predicted T as a sentence."""
        if self.timesteps is None:
            return f"No T predicted: {self.basis}."
        return f"Predicted smallest useful T: {self.timesteps}, {self.basis}."

    def __repr__(self) -> str:
        refused = sum(row.count for row in self.rows if row.converts == "refused")
        verdict = "converts" if self.convertible else f"{refused} operations refused"
        return f"Report({verdict}, {len(self.rows)} kinds of operations, timesteps={self.timesteps})"

    def _repr_html_(self) -> str:
        return html_table(self.prediction, HEADER, (row.cells for row in self.rows))

    def to_frame(self) -> Any:
        """One row per operation and verdict, as a pandas data frame."""
        return frame({name: [getattr(row, name) for row in self.rows] for name in HEADER})

    def __str__(self) -> str:
        rows = [
            [textwrap.wrap(cell, w) or [""] for cell, w in zip(row.cells, _WIDTHS, strict=True)] for row in self.rows
        ]
        rows.insert(0, [[name.capitalize()] for name in HEADER])
        widths = [max(len(line) for row in rows for line in row[column]) for column in range(len(HEADER))]
        lines = list[str]()
        for row in rows:
            for i in range(max(map(len, row))):
                cells = (cell[i] if i < len(cell) else "" for cell in row)
                lines.append("  ".join(f"{cell:{w}}" for cell, w in zip(cells, widths, strict=True)).rstrip())
        return "\n".join([*lines, self.prediction])


@checked
def check(model: Model, example: Images, lossy: Iterable[LossyPass] = (), output: int | None = None) -> Report:
    """Judge every operation of a model: exact, approximate or refused, why, and the remedy; and predict T.

    Args:
        model: any module of image tensors, or a program that ``torch.export`` made of one, or a program or network
            that was read from a file; it is not changed.
        example: a batch of images of the right shape; for a model of several inputs a tuple of them. T is predicted
            from these, calibrated on themselves; if they are all alike, as zeros are, from noise of mean 0 and
            deviation 1.
        lossy: passes that ``convert`` is to be called with; applied if nothing else is refused.
        output: as for ``convert``.
    Raises:
        ConversionError: ``torch.export`` cannot read the model at all.
    """
    if isinstance(model, Network):
        check_chosen(model, output)
        network, found = model, _findings(model)
    else:
        network, found = examine(model, example, output)
    if network is not None:
        network, found = _passed(network, found, lossy)
    if network is not None and not network.neurons and all(finding.verdict != "refused" for finding in found):
        found.append(Finding("(model)", "-", "refused", "no ReLU: nothing would spike", "Train with ReLU"))
    rows = _grouped(found)
    if network is None or any(row.converts == "refused" for row in rows):
        return Report(rows, None, "the model does not convert as it is")
    return Report(rows, *_predicted(network, join_inputs(example)))


def _passed(network: Network, found: list[Finding], lossy: Iterable[LossyPass]) -> tuple[Network, list[Finding]]:
    """The network behind the passes that ``convert`` applies, and what is then to be said of its layers."""
    network, early = early_max_pools(network)
    said: dict[str, tuple[Verdict, str]] = dict.fromkeys(early, ("exact", EARLY))
    for lossy_pass in lossy:
        network, changes = lossy_pass(network)
        said |= {change.layer: ("approximate", change.text) for change in changes}
    return network, [Finding(f.layer, f.operation, *said[f.layer]) if f.layer in said else f for f in found]


def _grouped(found: list[Finding]) -> tuple[Row, ...]:
    layers: dict[tuple[str, Verdict, str, str], list[str]] = {}
    for f in found:
        layers.setdefault((f.operation, f.verdict, f.why, f.remedy), []).append(f.layer)
    return tuple(Row(key[0], len(names), *key[1:], tuple(names)) for key, names in layers.items())


def _findings(network: Network) -> list[Finding]:
    known = (node for node in network if type(node.op) in VERDICTS)
    kinds = ((node, type(node.op)) for node in known)
    return [Finding(node.name, SPOKEN.get(kind, kind.__name__), *verdict(node.op)) for node, kind in kinds]


def _predicted(network: Network, example: Tensor) -> tuple[int | None, str]:
    images, source = example, f"from the {len(example)} images given"
    if len(example) < 2 or bool((example == example[:1]).all()):
        noise = torch.randn(NOISE_IMAGES, *network.input.shape, generator=torch.Generator().manual_seed(0))
        images, source = noise, f"from {NOISE_IMAGES} images of noise; images of the training data predict better"
    try:
        timesteps = useful_timesteps(convert(network, images), images)
    except CalibrationError as error:
        return None, f"{source}: {error}"
    return timesteps, source if timesteps else f"{source}: it is above {MOST_STEPS}, or all scores are alike"
