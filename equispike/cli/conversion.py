"""Commands that judge and convert models, and say why a conversion loses accuracy."""

from pathlib import Path
from typing import Annotated, Any, Literal, cast

from cyclopts import Parameter
from rich.table import Table

from equispike.cli.method import (
    ANY,
    NOTHING,
    USUAL,
    CalibrationImages,
    CoderName,
    Delay,
    ForSteps,
    Lossy,
    Output,
    ResetRule,
    Start,
    ThresholdOptions,
)
from equispike.cli.shared import (
    ALONE,
    OWN,
    Data,
    Hands,
    Seed,
    hint_at_images,
    in_options,
    out,
    progress,
    require_positive,
    require_writable,
    up_to,
)
from equispike.cli.source import Source, name_of, read_model
from equispike.errors import ConversionError, EquispikeError


def check_command(
    source: Source,
    /,
    *,
    shape: Annotated[
        tuple[str, ...] | None,
        Parameter(
            consume_multiple=True,
            negative="",
            help="Shape of one image, e.g. --shape 3 32 32; of several inputs, a word for each: --shape 3x32x32 20. "
            "Default: that of the data or of the file, or 1 28 28.",
        ),
    ] = None,
    given: Data = OWN,
    lossy: Lossy = NOTHING,
    output: Output = None,
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
    from equispike.graph.reading.program import shapes_of
    from equispike.zoo.data import SHAPES

    asked = shapes_in(shape or ())
    if shape and given.data:
        raise EquispikeError("--shape: the data say what an image is. Give one of --shape and --data")
    model, card = read_model(source, output)
    if given.data:
        known, example = [()], up_to(given.read(card)[0].train, 64).floats()
    else:
        own = [model.input.shape] if isinstance(model, Network) else shapes_of(model)
        known = asked or own or [SHAPES[name] for name in [str(card.get("data"))] if name in SHAPES]
        example = tuple(torch.zeros(2, *features) for features in known or [SHAPES["mnist"]])
    try:
        with progress():
            report = run(model, example, lossy.passes, output)
    except ConversionError as error:
        if known:
            raise
        raise ConversionError(
            f"{source}: does not take images of 1 x 28 x 28, and nothing says what it does take. "
            "Say --shape, e.g. --shape 3 32 32, or --data"
        ) from error
    table = Table(*HEADER)
    for row in report.rows:
        table.add_row(*map(in_options, row.cells))
    out.print(table)
    if not report.convertible:
        raise ConversionError(f"{source}: does not convert as it is; see the rows that say refused")
    out.print(report.prediction)
    out.print(f"{source}: converts{'' if known else ', for images of 1 x 28 x 28; --shape and --data say others'}.")


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


def convert_command(
    source: Source,
    /,
    *,
    out_file: Annotated[Path, Parameter(name="--out", help="File for the converted network.")] = Path(
        "network.safetensors"
    ),
    thresholds: ThresholdOptions = USUAL,
    reset: ResetRule = None,
    v_init: Start = None,
    delay: Delay = None,
    steps: ForSteps = ANY,
    readout: Annotated[Literal["potential", "spikes"] | None, Parameter(help="Default: the method's own.")] = None,
    lossy: Lossy = NOTHING,
    output: Output = None,
    given: Data = OWN,
    images: CalibrationImages = 256,
    seed: Seed = 0,
    hands: Hands = ALONE,
) -> None:
    """Turn a trained model into a spiking network: weights carry over, each layer gets a firing threshold.

    --workers and --cluster share what datanorm measures; other methods are refused with them, and corrections are made
    in one process.

    Example: equispike convert mnist-cnn --timesteps 8 --out net.safetensors
    """
    require_positive(images=images)
    require_writable(out_file)
    thresholds.check()
    asked, on = steps.options(), hands.on
    from dataclasses import replace

    from equispike.conversion import convert as run
    from equispike.files.checkpoint import save
    from equispike.results import conversion

    trained, card = read_model(source, output)
    splits, stated = given.read(card)
    with progress():
        network = run(
            trained, up_to(splits.train, images).batches(100), thresholds.build(splits, seed), reset=reset,
            readout=readout, v_init=v_init, delay=delay, lossy=lossy.passes, output=output, on=on, **asked,
        )  # fmt: skip
    network = replace(network, provenance={**network.provenance, "name": name_of(card, source), **stated})
    save(network, out_file)
    out.print(str(network))
    for change in cast("list[str]", network.provenance["changes"]):
        out.print(f"changed: {change}")
    if thresholds.method == "rmp" and thresholds.scale is None:
        out.print(f"scale {network.provenance['scale']} chosen on validation images")
    used = network.provenance
    if "chosen" in used:
        tried = cast("dict[str, Any]", used["chosen"])
        out.print(
            f"Tried on {tried['held_out']} calibration images that were held out, best first. Relative error of the "
            f"scores after T = {tried['timesteps']}:"
        )
        for way in sorted([tried, *tried["others"]], key=lambda way: way["error"]):
            out.print(f"  {way['error']:.4f}  {way['method']}, correction {way['correction']}, delay {way['delay']:g}")
    out.print(f"{out_file}: {conversion(used)}, reset {used['reset']}, readout {used['readout']}")


def diagnose_command(
    source: Source,
    /,
    *,
    timesteps: Annotated[int, Parameter(help="Steps T of the simulation.")] = 64,
    thresholds: ThresholdOptions = USUAL,
    reset: ResetRule = None,
    v_init: Start = None,
    delay: Delay = None,
    lossy: Lossy = NOTHING,
    output: Output = None,
    coder: CoderName = "constant",
    given: Data = OWN,
    images: CalibrationImages = 256,
    judged: Annotated[int, Parameter(help="Validation images to simulate; test images stay unseen.")] = 200,
    seed: Seed = 0,
) -> None:
    """Say why a converted network loses accuracy: each layer's error by cause, and what was measured to help.

    Example: equispike diagnose mnist-cnn --percentile 90 --timesteps 32
    """
    require_positive(images=images, judged=judged, timesteps=timesteps)
    thresholds.check()
    from equispike.diagnosis import diagnose as run
    from equispike.functional.coding import Constant, Poisson

    model, card = read_model(source, output)
    splits, stated = given.read(card)
    validation = up_to(splits.validation, judged)
    with progress():
        found = run(
            model, up_to(splits.train, images).batches(100), validation.floats(), validation.labels,
            thresholds.build(splits, seed), timesteps,
            Constant() if coder == "constant" else Poisson(), seed, reset=reset,
            v_init=v_init, delay=delay, lossy=lossy.passes, output=output,
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
            remedies.add_row(in_options(remedy.name), f"{remedy.accuracy:.2%}", f"{remedy.spike_rate:.2f} %")
        out.print(remedies)
    out.print(in_options(found.sentence))
    hint_at_images(found.trained, stated)
