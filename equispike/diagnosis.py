"""Why accuracy was lost, and what helps: causes by layer, and remedies that were measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equispike.analysis.accuracy import accuracy
from equispike.analysis.causes import Causes, causes
from equispike.arguments import checked
from equispike.batches import Batches
from equispike.calibrate.choice import LONGEST_TABLE
from equispike.calibrate.corrections import Bias, StepBias
from equispike.calibrate.data_norm import DataNorm
from equispike.calibrate.method import Method
from equispike.conversion import DEFAULT, Converter, Model
from equispike.functional.coding import Coder, predict
from equispike.functional.inputs import Images, join_inputs
from equispike.graph.network import Network, without_output_neurons
from equispike.progress import track
from equispike.provenance import as_data
from equispike.shown import frame, html_table
from equispike.simulation.run import Run, simulate

SMALL = 0.005
"""A loss of accuracy that needs no remedy."""

EXPLANATIONS = {
    "clipping": "more current comes in than one spike per step can hand on: its threshold is too low",
    "quantisation": "spikes are whole, and too few of them fit into the steps: its threshold is too high for so few",
    "unevenness": "its input arrives in bursts, and spikes come too early or too late to count",
}


class Remedy(NamedTuple):
    """A change to the conversion or the simulation, and what it gave on the same images."""

    name: str
    accuracy: float
    spike_rate: float


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis:
    """The loss of a conversion: where, why, and what was measured to help.

    Attributes:
        trained: accuracy of the trained network.
        accuracy, spike_rate: of the converted one after T steps; the rate in percent.
        timesteps: T.
        images: how many the figures are of.
        layers: the error of each layer by cause.
        remedies: best first; empty where little was lost.
    """

    trained: float
    accuracy: float
    spike_rate: float
    timesteps: int
    images: int
    layers: tuple[Causes, ...]
    remedies: tuple[Remedy, ...]

    def __repr__(self) -> str:
        return f"Diagnosis({self.sentence})"

    def _repr_html_(self) -> str:
        layers = ((row.layer, *(f"{part:.1%}" for part in row[1:]), row.largest) for row in self.layers)
        remedies = ((r.name, f"{r.accuracy:.2%}", f"{r.spike_rate:.2f} %") for r in self.remedies)
        return html_table(self.sentence, (*Causes._fields, "largest"), layers) + html_table(
            "Remedies that were measured", Remedy._fields, remedies
        )

    def to_frame(self) -> Any:
        """One row per layer: its error by cause, as a pandas data frame."""
        return frame({name: [getattr(row, name) for row in self.layers] for name in Causes._fields})

    @property
    def worst(self) -> Causes:
        """The layer that loses most itself, apart from what it inherits."""
        return max(self.layers, key=lambda row: row.lost)

    @property
    def sentence(self) -> str:
        """The finding in words."""
        lost = self.trained - self.accuracy
        fact = (
            f"After {self.timesteps} steps {self.accuracy:.1%} of {self.images:,} images are right, and "
            f"{self.trained:.1%} by the trained network."
        )
        if lost <= SMALL:
            return f"{fact} Little is lost."
        cause = self.worst.largest
        where = (
            f"{self.worst.layer} loses most, by {cause} ({self.worst.lost:.0%} of its rates): {EXPLANATIONS[cause]}."
        )
        best = self.remedies[0]
        if best.accuracy <= self.accuracy:
            return f"{fact} {where} None of the remedies tried helped; train the network for conversion."
        return f"{fact} {where} Of the remedies tried, {best.name} helps most: {best.accuracy:.1%}."


@checked
def diagnose(
    model: Model,
    calibration: Batches | Tensor,
    images: Images,
    labels: Tensor,
    method: Method | None = None,
    timesteps: int = 64,
    coder: Coder | None = None,
    seed: int = 0,
    **options: Any,
) -> Diagnosis:
    """Convert a model, find where its rates go wrong, and measure remedies where accuracy was lost.

    Args:
        model: the trained network.
        calibration: training images.
        images, labels: of a validation part, (B, *features), or a tuple of several inputs, and (B,). A remedy is chosen
            by them, so they must not be those that the final accuracy is measured on.
        method: as in ``convert``.
        timesteps, coder, seed: as in ``simulate``.
        options: other arguments of ``convert``, e.g. ``reset`` and ``v_init``.
    Raises:
        as ``convert`` and ``simulate``.
    """

    def measured(network: Network, timesteps: int) -> tuple[Run, float, float]:
        run = simulate(network, images, timesteps, coder, seed)
        return run, float(accuracy(run, labels)[-1]), float(run.spike_rate[-1])

    images = join_inputs(images)
    convert = Converter(model, calibration, options.pop("lossy", ()), options.pop("output", None))
    asked: dict[str, Any] = {"method": method, **options}
    network = convert(**asked)
    run, reached, rate = measured(network, timesteps)
    with torch.no_grad():
        scores = without_output_neurons(network)(run.task.still)
    trained = float((predict(scores.movedim(1, -1))[0].cpu() == labels.cpu()).double().mean())
    layers = tuple(causes(run))
    remedies: list[Remedy] = []
    if trained - reached > SMALL:
        tried = _remedies(network, layers, timesteps)
        for name, change in track(tried.items(), "trying remedies", len(tried)):
            steps = change.pop("simulated", timesteps)
            _, *helped = measured(convert(**{**asked, **change}), steps)
            remedies.append(Remedy(name, *helped))
    remedies.sort(key=lambda remedy: (-remedy.accuracy, remedy.spike_rate))
    return Diagnosis(trained, reached, rate, timesteps, len(images), layers, tuple(remedies))


def _remedies(network: Network, layers: Sequence[Causes], timesteps: int) -> dict[str, dict[str, Any]]:
    """Name what may help, with the arguments that change; what is done already is left out.

    The cause of most of the error decides which corrections are measured.
    """
    told = network.provenance
    tried: dict[str, dict[str, Any]] = {f"timesteps={4 * timesteps}": {"simulated": 4 * timesteps}}
    kept = {name: told[name] for name in ("v_init", "delay") if told.get(name)}  # a named method would have none
    said = "".join(f", {name}={value!r}" for name, value in kept.items())
    if "delay" not in kept:
        tried["delay=0.5"] = {"delay": 0.5}
    if "v_init" not in kept:
        tried["v_init=0.5"] = {"v_init": 0.5}
    if told["reset"] == "zero":
        tried["reset='subtract'"] = {"reset": "subtract"}
    for candidate in (DataNorm(100.0), DataNorm(99.9), DEFAULT, DataNorm(99.9, per_channel=True)):
        if as_data(candidate) != told["method"]:
            fields = f"percentile={candidate.percentile:g}" + ", per_channel=True" * candidate.per_channel
            tried[f"method=DataNorm({fields}){said}"] = {"method": candidate, **kept}
    return tried | _corrections(network, layers, timesteps)


def _corrections(network: Network, layers: Sequence[Causes], timesteps: int) -> dict[str, dict[str, Any]]:
    """Corrections that fit the cause of most of the error, by name.

    A mean error of whole spikes is what a drive takes away; for unevenness it changes from step to step, or spikes
    that came too early are taken back. Clipping needs other thresholds. Up to LONGEST_TABLE steps ``convert`` is asked
    to choose thresholds and correction together, which takes as long as some twenty other remedies.
    """
    told = network.provenance
    totals = {cause: sum(getattr(row, cause) ** 2 for row in layers) for cause in EXPLANATIONS}
    largest = max(totals, key=lambda cause: totals[cause])
    few = timesteps <= LONGEST_TABLE
    tried: dict[str, dict[str, Any]] = {}
    if few and "corrections" not in told:
        chosen = {"method": None, "v_init": None, "delay": None, "timesteps": timesteps}
        tried[f"convert(timesteps={timesteps})"] = chosen
    if largest != "clipping" and told["v_init"] != "uniform" and "corrections" not in told:
        correction = StepBias(timesteps) if few and largest == "unevenness" else Bias(timesteps)
        tried[f"correct=[{type(correction).__name__}({timesteps})]"] = {"correct": [correction]}
    if largest == "unevenness" and told["reset"] == "subtract" and told.get("spikes") != "signed":
        tried["spikes='signed'"] = {"spikes": "signed"}
    return tried
