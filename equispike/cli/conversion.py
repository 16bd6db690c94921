"""Commands that judge, convert and evaluate models."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

from cyclopts import Parameter
from rich.table import Table

from equispike.cli.shared import (
    DataSet,
    Folder,
    Normalise,
    Seed,
    Source,
    out,
    print_results,
    progress,
    read_data,
    read_model,
    require_positive,
    require_writable,
    up_to,
)
from equispike.errors import ConversionError, EquispikeError

if TYPE_CHECKING:
    from equispike.calibrate.method import Method
    from equispike.graph.network import Network
    from equispike.zoo.data import Dataset

_OPTIONS = {
    "datanorm": ("percentile", "per_channel"),
    "spikenorm": ("observe", "residual"),
    "rmp": ("scale", "observe", "residual"),
}


def check(
    source: Source,
    shape: Annotated[
        tuple[int, ...], Parameter(consume_multiple=True, negative="", help="Shape of one image, e.g. --shape 1 28 28.")
    ] = (1, 28, 28),
) -> None:
    """List every operation of a model: does it convert, how, or why not and what to do. Nothing is computed.

    Exits with 2 if the model does not convert as it is.

    Example: equispike check mnist-cnn --shape 1 28 28
    """
    import torch

    from equispike.conversion import check as run

    require_positive(**{f"shape[{i}]": n for i, n in enumerate(shape)})
    report = run(read_model(source)[0], torch.zeros(2, *shape))
    table = Table("layer", "operation", "converts", "how, or why not and what to do")
    for finding in report:
        table.add_row(*finding)
    out.print(table)
    if not report.convertible:
        raise ConversionError(f"{source}: does not convert as it is; see the rows that say no or lossy")
    out.print(f"{source}: converts.")


def convert(
    source: Source,
    out_file: Annotated[Path, Parameter(name="--out", help="File for the converted network.")] = Path(
        "network.safetensors"
    ),
    method: Annotated[
        Literal["datanorm", "modelnorm", "spikenorm", "rmp", "ratenorm"] | None,
        Parameter(
            help="How thresholds are set: from activations, weights, received spikes, or those, scaled; ratenorm takes "
            "those that were learnt in training. Default: ratenorm if the model has such, else datanorm."
        ),
    ] = None,
    percentile: Annotated[
        float | None, Parameter(help="datanorm: percentile of the activations; 100 is the maximum. Default 99.9.")
    ] = None,
    per_channel: Annotated[bool | None, Parameter(help="datanorm: one threshold per channel.")] = None,
    scale: Annotated[
        float | None,
        Parameter(help="rmp: factor on the thresholds, up to 1. Default: chosen on validation images."),
    ] = None,
    observe: Annotated[
        int | None, Parameter(help="spikenorm, rmp: steps for which each layer is observed. Default 2,500.")
    ] = None,
    residual: Annotated[
        Literal["measured", "unity"] | None,
        Parameter(help="spikenorm, rmp: thresholds of residual blocks; unity is the paper's. Default: measured."),
    ] = None,
    reset: Annotated[Literal["subtract", "zero"] | None, Parameter(help="Default: the method's own.")] = None,
    readout: Annotated[Literal["potential", "spikes"] | None, Parameter(help="Default: the method's own.")] = None,
    max_pool_to_avg: Annotated[
        bool, Parameter(help="Replace max pools by average pools: changes the network.")
    ] = False,
    data: DataSet = None,
    normalise: Normalise = None,
    images: Annotated[int, Parameter(help="Training images to calibrate with.")] = 256,
    seed: Seed = 0,
    data_folder: Folder = None,
) -> None:
    """Turn a trained model into a spiking network: weights carry over, each layer gets a firing threshold.

    Example: equispike convert mnist-cnn --method rmp --scale 0.8 --observe 128 --out net.safetensors
    """
    require_positive(images=images, observe=observe)
    require_writable(out_file)
    from dataclasses import replace

    from equispike.calibrate.data_norm import DataNorm, ModelNorm
    from equispike.calibrate.rate_norm import RateNorm
    from equispike.calibrate.spike_norm import RMP, SpikeNorm
    from equispike.conversion import convert as run
    from equispike.export.checkpoint import save
    from equispike.graph.lossy import max_pool_to_avg as to_average

    given = {"percentile": percentile, "per_channel": per_channel, "scale": scale, "observe": observe}
    given = {name: value for name, value in {**given, "residual": residual}.items() if value is not None}
    if method is None and given.keys() & {"percentile", "per_channel"}:
        method = "datanorm"
    for name in given:
        if name not in _OPTIONS.get(method or "", ()):
            owners = " or ".join(owner for owner, names in _OPTIONS.items() if name in names)
            raise EquispikeError(f"--{name.replace('_', '-')}: is for --method {owners}")
    trained, card = read_model(source)
    splits, stated = read_data(card, data, normalise, data_folder)
    steps, rule = observe or 2500, residual or "measured"
    validation = up_to(splits.validation, 500).batches(100)
    chosen: dict[str | None, Callable[[], Method | None]] = {
        None: lambda: None,
        "datanorm": lambda: DataNorm(99.9 if percentile is None else percentile, bool(per_channel)),
        "modelnorm": ModelNorm,
        "spikenorm": lambda: SpikeNorm(steps, seed=seed, residual=rule),
        "rmp": lambda: RMP(scale, steps, seed=seed, validation=validation, residual=rule),
        "ratenorm": RateNorm,
    }
    calibration = splits.train.take(images).batches(100)
    with progress():
        network = run(
            trained, calibration, chosen[method](), reset=reset, readout=readout,
            lossy=[to_average] if max_pool_to_avg else [],
        )  # fmt: skip
    network = replace(network, provenance={**network.provenance, **stated})
    save(network, out_file)
    out.print(str(network))
    for change in cast("list[str]", network.provenance["changes"]):
        out.print(f"changed: {change}")
    if method == "rmp" and scale is None:
        out.print(f"scale {network.provenance['scale']} chosen on validation images")
    used = network.provenance
    out.print(f"{out_file}: {used['method']}, reset {used['reset']}, readout {used['readout']}")


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
    coder: Annotated[
        Literal["constant", "poisson"], Parameter(help="Pixels as constant currents, or as random spikes.")
    ] = "constant",
    runs: Annotated[int, Parameter(help="Repeats with other seeds; mean and deviation are shown.")] = 1,
    seed: Seed = 0,
    engine: Annotated[
        Literal["auto", "events", "layerwise", "stepwise"], Parameter(help="stepwise is the slow reference.")
    ] = "auto",
    json_file: Annotated[Path | None, Parameter(name="--json", help="Write every number to this file.")] = None,
    plot: Annotated[Path | None, Parameter(help="Draw accuracy and spike rate against T to this PNG.")] = None,
    data_folder: Folder = None,
) -> None:
    """Simulate a converted network on test images: accuracy and spike rate after every step.

    Example: equispike evaluate network.safetensors --timesteps 64 --images 200 --plot accuracy.png
    """
    require_positive(timesteps=timesteps, runs=runs, images=images)
    require_writable(json_file, plot)
    from equispike.analysis.accuracy import evaluate as run
    from equispike.analysis.accuracy import latency
    from equispike.conversion import versions
    from equispike.functional.coding import Constant, Poisson
    from equispike.results import Result, write_json

    name = Path(source).name
    with progress():
        loaded, splits = _converted(source, data, data_folder)
        test = splits.test if images is None else splits.test.take(images)
        coding = Constant() if coder == "constant" else Poisson()
    evaluation = run(loaded, test.batches(100), timesteps, coding, seed, runs, engine)
    result = Result(str(loaded.provenance.get("name", name)), str(coding), loaded, evaluation)
    trained = f"{evaluation.trained:.2%}"
    print_results([result], f"Accuracy (%) on {len(test):,} images of {test.name} after T steps; trained: {trained}")
    if len(evaluation.seeds) > 1:
        out.print(f"mean of {len(evaluation.seeds)} seeds; deviation at T: {float(evaluation.std[-1]):.2%}")
    within = latency(evaluation.mean, evaluation.trained - 0.01)
    reached = "not reached" if within is None else f"from step {within} on"
    out.print(f"within 1 point of the trained network: {reached}. {evaluation.seconds:.1f} s simulated")
    if json_file is not None:
        content = {"ann_accuracy": evaluation.trained, "images": len(test), "data": test.name}
        write_json(json_file, {**content, "runs": [result.to_json()], "versions": versions(), "device": "cpu"})
    if plot is not None:
        from equispike.analysis.plots import accuracy_and_spike_rate
        from equispike.demo import curve

        accuracy_and_spike_rate([curve(result)], evaluation.trained, f"{name} on {test.name}", plot)


def _converted(source: str, data: str | None, folder: Path | None) -> "tuple[Network, Dataset]":
    """A network from its file, or from a trained model with the default method; and its data set."""
    from dataclasses import replace

    from equispike.conversion import convert as run
    from equispike.export.checkpoint import kind_of, load

    if ":" not in source and kind_of(source) == "equispike.network":
        network = load(source)
        return network, read_data(network.provenance, data, None, folder)[0]
    model, card = read_model(source)
    splits, stated = read_data(card, data, None, folder)
    network = run(model, splits.train.take(min(256, len(splits.train))).batches(100))
    return replace(network, provenance={**network.provenance, **stated}), splits
