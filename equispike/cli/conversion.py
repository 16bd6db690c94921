"""Commands that judge, convert and evaluate models."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from cyclopts import Parameter
from rich.table import Table

from equispike.cli.shared import (
    DataSet,
    Device,
    Folder,
    Normalise,
    Seed,
    Source,
    is_nir,
    out,
    print_runs,
    progress,
    read_data,
    read_model,
    read_network,
    require_device,
    require_positive,
    require_writable,
    up_to,
)
from equispike.errors import ConversionError, EquispikeError

if TYPE_CHECKING:
    from equispike.calibrate.method import Method
    from equispike.graph.lossy import LossyPass
    from equispike.graph.network import Network
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
class Thresholds:
    """How ``convert`` and ``diagnose`` are to set thresholds: a method, and options of it."""

    method: Annotated[
        Literal["datanorm", "modelnorm", "spikenorm", "rmp", "ratenorm"] | None,
        Parameter(
            help="How thresholds are set: from activations, weights, received spikes, or those, scaled; ratenorm takes "
            "those that were learnt in training. Default: ratenorm if the model has such, else datanorm."
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
        Parameter(help="spikenorm, rmp: thresholds of residual blocks; unity is the paper's. Default: measured."),
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
        from equispike.calibrate.spike_norm import RMP, SpikeNorm

        steps, rule = self.observe or 2500, self.residual or "measured"
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
    """What commands may replace, because it has no exact counterpart in spikes."""

    max_pool_to_avg: Annotated[
        bool, Parameter(help="Replace max pools by average pools: changes the trained network.", negative="")
    ] = False
    max_pool_to_winner: Annotated[
        bool, Parameter(help="Let max pools pass the spikes of the input that spiked most so far.", negative="")
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


Output = Annotated[int | None, Parameter(help="Which of several outputs of the model, from 0. Default: its only one.")]
ResetRule = Annotated[Literal["subtract", "zero"] | None, Parameter(help="Default: the method's own.")]
CalibrationImages = Annotated[int, Parameter(help="Training images to calibrate with.")]
CoderName = Annotated[
    Literal["constant", "poisson"], Parameter(help="Pixels as constant currents, or as random spikes.")
]


def check(
    source: Source,
    shape: Annotated[
        tuple[str, ...] | None,
        Parameter(
            consume_multiple=True,
            negative="",
            help="Shape of one image, e.g. --shape 3 32 32; of several inputs, a word for each: --shape 3x32x32 20. "
            "Default: that of the data or of the file, or 1 28 28.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        Parameter(
            help="Data set from whose training images the number of time-steps is predicted: mnist-sample, mnist, "
            "cifar10 or cifar100. Default: noise, which predicts worse."
        ),
    ] = None,
    lossy: Lossy = Lossy(),
    output: Output = None,
    normalise: Normalise = None,
    data_folder: Folder = None,
) -> None:
    """Judge every operation of a model: exact, approximate or refused, why, and what to do; and predict how many
    time-steps it will need.

    Exits with 2 if the model does not convert as it is.

    Example: equispike check mnist-cnn --data mnist-sample
    """
    import torch

    from equispike.checking import HEADER
    from equispike.checking import check as run
    from equispike.graph.network import Network
    from equispike.graph.program import Program

    asked = shapes_in(shape or ())
    if shape and data:
        raise EquispikeError("--shape: the data say what an image is. Give one of --shape and --data")
    model, card = read_model(source, output)
    if data:
        example = read_data(card, data, normalise, data_folder)[0].train.take(64).floats()
    else:
        own = [model.input.shape] if isinstance(model, Network) else model.shapes if isinstance(model, Program) else []
        example = tuple(torch.zeros(2, *features) for features in asked or own or [(1, 28, 28)])
    report = run(model, example, lossy.passes, output)
    table = Table(*HEADER)
    for row in report.rows:
        table.add_row(*row.cells)
    out.print(table)
    if not report.convertible:
        raise ConversionError(f"{source}: does not convert as it is; see the rows that say refused")
    out.print(report.prediction)
    out.print(f"{source}: converts.")


def shapes_in(words: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Numbers are the shape of one input; words such as 3x32x32, or 20 beside them, are the shapes of several.

    >>> shapes_in(("3", "32", "32")), shapes_in(("3x32x32", "20"))
    ([(3, 32, 32)], [(3, 32, 32), (20,)])
    """
    parts = [words] if all("x" not in word for word in words) else [word.split("x") for word in words]
    try:
        found = [tuple(int(number) for number in part if number) for part in parts]
    except ValueError as error:
        raise EquispikeError(
            f"--shape: {error}. Give numbers, 3 32 32, or words for several inputs, 3x32x32 20"
        ) from error
    if words and not all(found):
        raise EquispikeError("--shape: an input without numbers. Give e.g. 3 32 32")
    for shape in found:
        require_positive(shape=min(shape, default=1))
    return [shape for shape in found if shape]


def convert(
    source: Source,
    out_file: Annotated[Path, Parameter(name="--out", help="File for the converted network.")] = Path(
        "network.safetensors"
    ),
    thresholds: Thresholds = Thresholds(),
    reset: ResetRule = None,
    readout: Annotated[Literal["potential", "spikes"] | None, Parameter(help="Default: the method's own.")] = None,
    lossy: Lossy = Lossy(),
    output: Output = None,
    data: DataSet = None,
    normalise: Normalise = None,
    images: CalibrationImages = 256,
    seed: Seed = 0,
    data_folder: Folder = None,
) -> None:
    """Turn a trained model into a spiking network: weights carry over, each layer gets a firing threshold.

    Example: equispike convert mnist-cnn --method rmp --scale 0.8 --observe 128 --out net.safetensors
    """
    require_positive(images=images)
    require_writable(out_file)
    thresholds.check()
    from dataclasses import replace

    from equispike.conversion import convert as run
    from equispike.export.checkpoint import save

    trained, card = read_model(source, output)
    splits, stated = read_data(card, data, normalise, data_folder)
    with progress():
        network = run(
            trained, splits.train.take(images).batches(100), thresholds.build(splits, seed), reset=reset,
            readout=readout, lossy=lossy.passes, output=output,
        )  # fmt: skip
    network = replace(network, provenance={**network.provenance, "name": name_of(card, source), **stated})
    save(network, out_file)
    out.print(str(network))
    for change in cast("list[str]", network.provenance["changes"]):
        out.print(f"changed: {change}")
    if thresholds.method == "rmp" and thresholds.scale is None:
        out.print(f"scale {network.provenance['scale']} chosen on validation images")
    used = network.provenance
    out.print(f"{out_file}: {used['method']}, reset {used['reset']}, readout {used['readout']}")


def diagnose(
    source: Source,
    timesteps: Annotated[int, Parameter(help="Steps T of the simulation.")] = 64,
    thresholds: Thresholds = Thresholds(),
    reset: ResetRule = None,
    lossy: Lossy = Lossy(),
    output: Output = None,
    coder: CoderName = "constant",
    data: DataSet = None,
    normalise: Normalise = None,
    images: CalibrationImages = 256,
    judged: Annotated[int, Parameter(help="Validation images to simulate; test images stay unseen.")] = 200,
    seed: Seed = 0,
    data_folder: Folder = None,
) -> None:
    """Say why a converted network loses accuracy: each layer's error by cause, and what was measured to help.

    Example: equispike diagnose mnist-cnn --percentile 90 --timesteps 32
    """
    require_positive(images=images, judged=judged, timesteps=timesteps)
    thresholds.check()
    from equispike.diagnosis import diagnose as run
    from equispike.functional.coding import Constant, Poisson

    model, card = read_model(source, output)
    splits, _ = read_data(card, data, normalise, data_folder)
    validation = up_to(splits.validation, judged)
    with progress():
        found = run(
            model, splits.train.take(images).batches(100), validation.floats(), validation.labels,
            thresholds.build(splits, seed), timesteps,
            Constant() if coder == "constant" else Poisson(), seed, reset=reset, lossy=lossy.passes, output=output,
        )  # fmt: skip
    layers = Table("layer", "inherited", "clipping", "quantisation", "unevenness", "in all", "its own largest")
    for row in found.layers:
        layers.add_row(row.layer, *(f"{part:.1%}" for part in row[1:]), row.largest)
    out.print(layers)
    out.print("root mean squares, as shares of the trained rates'; inherited comes from earlier layers")
    if found.remedies:
        remedies = Table("remedy", "accuracy", "spike rate")
        remedies.add_row("as asked for", f"{found.accuracy:.2%}", f"{found.spike_rate:.2f} %")
        for remedy in found.remedies:
            remedies.add_row(remedy.name, f"{remedy.accuracy:.2%}", f"{remedy.spike_rate:.2f} %")
        out.print(remedies)
    out.print(found.sentence)


def evaluate(
    source: Annotated[
        str,
        Parameter(
            help="A file from 'equispike convert'; or a trained model, by name or file, which is then converted with "
            "the default method and 256 training images first."
        ),
    ],
    data: DataSet = None,
    images: Annotated[int | None, Parameter(help="First test images to use; default all.")] = None,
    timesteps: Annotated[int, Parameter(help="Steps T of the simulation.")] = 128,
    coder: CoderName = "constant",
    runs: Annotated[int, Parameter(help="Repeats with other seeds; mean and deviation are shown.")] = 1,
    seed: Seed = 0,
    device: Device = "cpu",
    engine: Annotated[
        Literal["auto", "events", "gpu", "layerwise", "stepwise"],
        Parameter(
            help="events adds only where something spikes (on CPUs), gpu multiplies bytes on a GPU's tensor cores, "
            "layerwise is dense anywhere, stepwise the slow reference."
        ),
    ] = "auto",
    bits: Annotated[
        int | None, Parameter(help="Round weights and thresholds to integers of so many bits first, 4 to 16.")
    ] = None,
    stop: Annotated[
        Literal["certain"] | int | None,
        Parameter(
            help="End an image early: 'certain' once no class can overtake the first; or a number of steps for "
            "which its prediction has to stay the same."
        ),
    ] = None,
    json_file: Annotated[Path | None, Parameter(name="--json", help="Write every number to this file.")] = None,
    plot: Annotated[Path | None, Parameter(help="Draw accuracy and spike rate against T to this PNG.")] = None,
    data_folder: Folder = None,
) -> None:
    """Simulate a converted network on test images: accuracy and spike rate after every step.

    Example: equispike evaluate network.safetensors --timesteps 64 --images 200 --plot accuracy.png
    """
    require_positive(timesteps=timesteps, runs=runs, images=images)
    require_writable(json_file, plot)
    require_device(device)
    from equispike.analysis.accuracy import evaluate as run
    from equispike.analysis.accuracy import latency
    from equispike.analysis.closer import look_closer
    from equispike.functional.coding import Constant, Poisson
    from equispike.graph.exact import quantize
    from equispike.results import Result, document, short_method, write_json
    from equispike.simulation.early_exit import Certain, Stable
    from equispike.simulation.run import default_batch
    from equispike.versions import versions

    name = Path(source).name
    with progress():
        loaded, splits = converted(source, data, data_folder)
        test = splits.test if images is None else splits.test.take(images)
        coding = Constant() if coder == "constant" else Poisson()
        loaded = (loaded if bits is None else quantize(loaded, bits)).to(device)
        rule = Stable(stop) if isinstance(stop, int) else None if stop is None else Certain()
        evaluation = run(loaded, test.batches(default_batch(loaded)), timesteps, coding, seed, runs, engine, stop=rule)
        closer = None if json_file is None or rule is not None else look_closer(loaded, evaluation, test, coding, seed)
    method = short_method(loaded.provenance) + (f", {bits} bits" if bits else "")
    result = Result(method, str(coding), loaded, evaluation, closer)
    trained = f"{evaluation.trained:.2%}" + (f", with {bits} bits" if bits else "")
    title = f"{name}: accuracy (%) on {len(test):,} images of {test.name} after T steps; trained: {trained}"
    print_runs([result.curves], title)
    if len(evaluation.seeds) > 1:
        out.print(f"mean of {len(evaluation.seeds)} seeds; deviation at T: {float(evaluation.std[-1]):.2%}")
    within = latency(evaluation.mean, evaluation.trained - 0.01)
    reached = "not reached" if within is None else f"from step {within} on"
    out.print(f"within 1 point of the trained network: {reached}. {evaluation.seconds:.1f} s simulated")
    if rule is not None:
        out.print(f"stopped early: {evaluation.steps:.1f} steps on average. Later columns repeat the last prediction")
    if json_file is not None:
        trained_as = str(loaded.provenance.get("name", name))
        write_json(
            json_file, document([result], trained_as, test.name, test.classes, versions=versions(), device=device)
        )
    if plot is not None:
        from equispike.analysis.plots import accuracy_and_spike_rate
        from equispike.demo import curve

        accuracy_and_spike_rate([curve(result)], evaluation.trained, f"{name} on {test.name}", plot)


def converted(source: str, data: str | None, folder: Path | None) -> "tuple[Network, Dataset]":
    """A network from its file, or from a trained model with the default method; and its data set."""
    from dataclasses import replace

    from equispike.conversion import convert as run
    from equispike.export.checkpoint import kind_of

    if ":" not in source and (kind_of(source) == "equispike.network" or is_nir(source)):
        network = read_network(source)
        return network, read_data(network.provenance, data, None, folder)[0]
    model, card = read_model(source)
    splits, stated = read_data(card, data, None, folder)
    network = run(model, splits.train.take(min(256, len(splits.train))).batches(100))
    return replace(network, provenance={**network.provenance, "name": name_of(card, source), **stated}), splits


def name_of(card: "dict[str, Any]", source: str) -> str:
    """The network's own name, or that of its file."""
    return str(card.get("name", Path(source).name))
