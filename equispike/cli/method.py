"""Options of the commands that convert: how thresholds are set, and what may be replaced."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from equispike.cli.shared import require_positive, up_to
from equispike.errors import EquispikeError

if TYPE_CHECKING:
    from equispike.calibrate.method import Method
    from equispike.graph.lossy import LossyPass
    from equispike.zoo.data import Dataset

OWNERS = {
    "percentile": ("datanorm",),
    "per_channel": ("datanorm",),
    "scale": ("rmp",),
    "observe": ("spikenorm", "rmp"),
    "residual": ("spikenorm", "rmp"),
}
"""Methods that an option is for."""


@Parameter(name="*")
@dataclass(frozen=True)
class ThresholdOptions:
    """The way for ``convert`` and ``diagnose`` to set thresholds: a method, and options of it."""

    method: Annotated[
        Literal["datanorm", "modelnorm", "spikenorm", "rmp", "ratenorm"] | None,
        Parameter(
            help="How thresholds are set: from activations, weights, received spikes, or those, scaled; ratenorm takes "
            "those that were learnt in training. Default: datanorm with --percentile 99 --per-channel --v-init 0.5; "
            "ratenorm if layers were trained with levels."
        ),
    ] = None
    percentile: Annotated[
        float | None, Parameter(help="datanorm: percentile of the activations; 100 is the maximum. Default 99.9.")
    ] = None
    per_channel: Annotated[bool | None, Parameter(help="datanorm: one threshold per channel.")] = None
    scale: Annotated[
        float | None, Parameter(help="rmp: factor on the thresholds, up to 1. Default: chosen on validation images.")
    ] = None
    observe: Annotated[
        int | None, Parameter(help="spikenorm, rmp: steps for which each layer is observed. Default 2,500.")
    ] = None
    residual: Annotated[
        Literal["measured", "unity"] | None,
        Parameter(
            help="spikenorm, rmp: thresholds of residual blocks; unity, the paper's and the default, is much sooner."
        ),
    ] = None

    @property
    def owner(self) -> str | None:
        """The method asked for; datanorm if its options are given alone."""
        asked = [name for name in OWNERS if getattr(self, name) is not None]
        return self.method or ("datanorm" if any("datanorm" in OWNERS[name] for name in asked) else None)

    def check(self) -> None:
        """EquispikeError for an option of another method, or one out of range."""
        require_positive(observe=self.observe)
        for name, owners in OWNERS.items():
            if getattr(self, name) is not None and self.owner not in owners:
                raise EquispikeError(f"--{name.replace('_', '-')}: is for --method {' or '.join(owners)}")

    def build(self, splits: "Dataset", seed: int) -> "Method | None":
        """The method; None leaves the choice to convert."""
        from equispike.calibrate.data_norm import DataNorm, ModelNorm
        from equispike.calibrate.rate_norm import RateNorm
        from equispike.calibrate.rmp import RMP
        from equispike.calibrate.spike_norm import SpikeNorm

        steps, rule = self.observe or 2500, self.residual or "unity"
        match self.owner:
            case "datanorm":
                return DataNorm(99.9 if self.percentile is None else self.percentile, bool(self.per_channel))
            case "modelnorm":
                return ModelNorm()
            case "spikenorm":
                return SpikeNorm(steps, seed=seed, residual=rule)
            case "rmp":
                validation = up_to(splits.validation, 500).batches(100)
                return RMP(self.scale, steps, seed=seed, validation=validation, residual=rule)
            case "ratenorm":
                return RateNorm()
            case _:
                return None


@Parameter(name="*")
@dataclass(frozen=True)
class Lossy:
    """Operations that commands may replace, because they have no exact counterpart in spikes."""

    max_pool_to_avg: Annotated[
        bool, Parameter(help="Replace max pools by average pools: changes the trained network.", negative="")
    ] = False
    max_pool_to_winner: Annotated[
        bool, Parameter(help="Let max pools pass the growth of the largest count of spikes.", negative="")
    ] = False
    leaky_relu_to_pairs: Annotated[
        bool, Parameter(help="Replace leaky ReLUs by two neurons, one for each sign.", negative="")
    ] = False

    @property
    def passes(self) -> "list[LossyPass]":
        from equispike.graph import lossy

        if self.max_pool_to_avg and self.max_pool_to_winner:
            raise EquispikeError("--max-pool-to-winner: max pools become average pools. Give one of the two")
        return [getattr(lossy, option.name) for option in fields(self) if getattr(self, option.name)]


USUAL, NOTHING = ThresholdOptions(), Lossy()
Output = Annotated[int | None, Parameter(help="Which of several outputs of the model, from 0. Default: its only one.")]
ResetRule = Annotated[Literal["subtract", "zero"] | None, Parameter(help="Default: the method's own.")]


@Parameter(name="*")
@dataclass(frozen=True)
class ForSteps:
    """Options of ``convert`` for a stated number of time-steps."""

    timesteps: Annotated[
        int | None,
        Parameter(
            help="Convert for so many steps: thresholds and a correction are chosen for them, without labels; or, with "
            "--correct, those corrections are set for them."
        ),
    ] = None
    correct: Annotated[
        tuple[Literal["bias", "step-bias", "potential", "ridge-readout"], ...],
        Parameter(
            consume_multiple=True,
            negative="",
            help="Bring spikes nearer to the trained network, for --timesteps: by a constant drive, a drive for each "
            "step, or initial potentials; ridge-readout: by a map of the scores.",
        ),
    ] = ()
    spikes: Annotated[
        Literal["binary", "signed"],
        Parameter(help="signed: neurons take back spikes that were too many; for soft reset."),
    ] = "binary"

    def options(self) -> "dict[str, Any]":
        """Arguments of ``convert``. EquispikeError for corrections without steps."""
        require_positive(timesteps=self.timesteps)
        if not self.correct:
            return {"timesteps": self.timesteps, "spikes": self.spikes}
        if self.timesteps is None:
            raise EquispikeError("--correct: is for a number of steps. Give --timesteps too")
        from equispike.calibrate import corrections

        kinds = {
            "bias": corrections.Bias,
            "step-bias": corrections.StepBias,
            "potential": corrections.Potential,
            "ridge-readout": corrections.RidgeReadout,
        }
        return {"correct": [kinds[name](self.timesteps) for name in self.correct], "spikes": self.spikes}


ANY = ForSteps()
Start = Annotated[
    float | Literal["uniform"] | None,
    Parameter(
        name="--v-init",
        help="Potential at the start, as a fraction of the threshold; or uniform, drawn for each neuron. Default: 0.5 "
        "where no method is named or with --timesteps, else 0.",
    ),
]
Delay = Annotated[
    float | None,
    Parameter(
        help="Share of the steps, the first ones, that scores leave out: in deep networks they mislead. Chosen with "
        "--timesteps. Default otherwise: 0.5 in networks of 8 neuron layers and more where no method is named, else 0."
    ),
]
CalibrationImages = Annotated[int, Parameter(help="Training images to calibrate with.")]
CoderName = Annotated[
    Literal["constant", "poisson"], Parameter(help="Pixels as constant currents, or as random spikes.")
]
