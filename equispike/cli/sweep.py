"""The command that runs a grid of settings."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from equispike.cli.method import NOTHING, OWNERS, CalibrationImages, Lossy, Output, ThresholdOptions
from equispike.cli.shared import (
    ALONE,
    OWN,
    Data,
    Hands,
    out,
    print_runs,
    progress,
    require_positive,
    require_writable,
    up_to,
)
from equispike.cli.source import Source, name_of, read_model
from equispike.errors import EquispikeError

if TYPE_CHECKING:
    from equispike.calibrate.method import Method
    from equispike.zoo.data import Dataset

Many = Parameter(consume_multiple=True, negative="")
MethodName = Literal["datanorm", "modelnorm", "spikenorm", "rmp", "ratenorm"]


def sweep_command(
    source: Source,
    /,
    *,
    out_file: Annotated[
        Path, Parameter(name="--out", help="SQLite file for the points. Those that it holds already are not run again.")
    ] = Path("sweep.sqlite"),
    methods: Annotated[
        tuple[MethodName, ...],
        Many,
        Parameter(name="--method", help="Ways to set thresholds, as in convert."),
    ] = ("datanorm",),
    percentiles: Annotated[
        tuple[float, ...],
        Many,
        Parameter(
            name="--percentile",
            help="datanorm: percentiles of the activations; default 99.9.",
        ),
    ] = (),
    scales: Annotated[
        tuple[float, ...],
        Many,
        Parameter(
            name="--scale",
            help="rmp: factors on the thresholds; default: one is chosen on validation images.",
        ),
    ] = (),
    observe: Annotated[
        int | None, Parameter(help="spikenorm, rmp: steps for which each layer is observed. Default 2,500.")
    ] = None,
    coders: Annotated[
        tuple[Literal["constant", "poisson"], ...],
        Many,
        Parameter(name="--coder", help="Constant currents or random spikes."),
    ] = ("constant",),
    resets: Annotated[
        tuple[Literal["subtract", "zero"], ...],
        Many,
        Parameter(name="--reset", help="Default: each method's own."),
    ] = (),
    v_inits: Annotated[
        tuple[float | Literal["uniform"], ...],
        Many,
        Parameter(
            name="--v-init",
            help="Potential at the start, as a fraction of the threshold; or uniform, drawn for each neuron.",
        ),
    ] = (0.0,),
    delays: Annotated[
        tuple[float, ...],
        Many,
        Parameter(
            name="--delay",
            help="Share of the steps, the first ones, that scores leave out; 0.5 helps deep networks.",
        ),
    ] = (0.0,),
    bits: Annotated[
        tuple[int, ...],
        Many,
        Parameter(help="Round to integers of so many bits, 4 to 16; 0: do not."),
    ] = (0,),
    seeds: Annotated[
        tuple[int, ...],
        Many,
        Parameter(name="--seed", help="Of random input and initial potentials."),
    ] = (0,),
    timesteps: Annotated[int, Parameter(help="Steps T of each simulation; every smaller T comes with it.")] = 128,
    part: Annotated[
        Literal["validation", "test"],
        Parameter(help="Images to simulate. A setting that was chosen on test images looks better than it is."),
    ] = "validation",
    images: Annotated[int, Parameter(help="The first so many of them.")] = 200,
    calibration: CalibrationImages = 256,
    lossy: Lossy = NOTHING,
    output: Output = None,
    csv: Annotated[Path | None, Parameter(help="Write every point and step to this CSV file too.")] = None,
    given: Data = OWN,
    hands: Hands = ALONE,
) -> None:
    """Run every combination of the given settings: accuracy and spike rate of each, at every T.

    Each point is stored when it is done: interrupt it at any time and start it again, or add settings later. 'equispike
    report' draws the file.

    Example: equispike sweep mnist-cnn --percentile 99 99.9 100 --v-init 0 0.5 --timesteps 64 --out sweep.sqlite
    """
    require_positive(images=images, calibration=calibration, timesteps=timesteps, observe=observe)
    require_writable(out_file, csv)
    on = hands.on
    options = {"percentile": percentiles, "scale": scales, "observe": () if observe is None else (observe,)}
    for name, values in options.items():
        if values and not set(methods) & set(OWNERS[name]):
            raise EquispikeError(f"--{name}: is for --method {' or '.join(OWNERS[name])}")
    from equispike.files.store import Store
    from equispike.functional.coding import Constant, Poisson
    from equispike.results import write_csv
    from equispike.sweep import Point
    from equispike.sweep import sweep as run

    model, card = read_model(source, output)
    splits, _ = given.read(card)
    judged = up_to(splits.validation if part == "validation" else splits.test, images)
    points = [
        Point(method, Constant() if coder == "constant" else Poisson(), reset, v_init, number or None, seed, delay)
        for method, coder, reset, v_init, delay, number, seed in itertools.product(
            [built for name in methods for built in _built(name, options, splits)],
            *(coders, resets or (None,), v_inits, delays, bits, seeds),
        )
    ]
    with progress():
        found = run(
            model, up_to(splits.train, calibration), judged, points, timesteps, out_file, name_of(card, source),
            lossy.passes,
            lambda number, known: out.print(f"{number} points, of which {out_file} holds {known}"), output, on,
        )  # fmt: skip
    for document in found:
        title = (
            f"{document['network']}: accuracy (%) on {document['images']:,} images of {document['data']} after T steps"
        )
        print_runs(document["runs"], f"{title}; trained: {document['ann_accuracy']:.2%}")
    if csv is not None:
        out.print(f"{csv}: {write_csv(Store(out_file), csv):,} lines")
    out.print(f"{out_file}: draw it with: equispike report {out_file}")


def _built(name: MethodName, given: Mapping[str, tuple[float, ...]], splits: "Dataset") -> "Iterator[Method]":
    """A method with every combination of those options that are its own."""
    own = {option: values for option, values in given.items() if values and name in OWNERS[option]}
    for chosen in itertools.product(*own.values()):
        options: dict[str, Any] = dict(zip(own, chosen, strict=True))
        method = ThresholdOptions(name, **options).build(splits, 0)
        assert method is not None
        yield method
