"""The command line: one command per verb. torch is imported only by commands that compute."""

import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from equispike.errors import ConversionError, EquispikeError, FileError

if TYPE_CHECKING:
    from torch import nn

    from equispike.calibrate.method import Method
    from equispike.graph.network import Network
    from equispike.zoo.data import Dataset, Part
    from equispike.zoo.train import Progress as Training

app = App(
    name="equispike",
    help=(
        "Run a trained ReLU network as spikes, and know what was lost.\n\n"
        "A trained image classifier becomes a network of integrate-and-fire neurons: weights carry over, each layer "
        "gets a firing threshold, and spike rates stand for activations. Start with: equispike demo"
    ),
    suppress_keyboard_interrupt=False,  # main says what became of the files
)
# not squeezed into 80 columns where no terminal says how wide it is
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False, soft_wrap=True)

TrainingData = Annotated[
    str,
    Parameter(
        help="Data set: mnist-sample (in the package), mnist, cifar10, cifar100; or imagenet, any pictures in "
        "train/CLASS/ and val/CLASS/ of --data-folder."
    ),
]
DataSet = Annotated[
    str | None,
    Parameter(
        help="Data set: mnist-sample (in the package), mnist, cifar10 or cifar100. Default: what the model was trained "
        "on (of mnist, the sample in the package), as far as it says so."
    ),
]
Normalise = Annotated[
    bool | None,
    Parameter(
        help="Subtract each channel's mean over the training images and divide by its deviation. Default: as the model "
        "was trained, as far as it says so."
    ),
]
Folder = Annotated[
    Path | None,
    Parameter(
        help="Folder with the data sets, as torchvision leaves them. "
        "Default: $EQUISPIKE_DATA or ~/.cache/equispike; filled by download where empty."
    ),
]
Source = Annotated[
    str,
    Parameter(
        help="The trained model: a name (mnist-cnn, mnist-cnn-bn), a file from 'equispike train', or "
        "package.module:factory, a Python function without arguments that returns the module."
    ),
]
Seed = Annotated[int, Parameter(help="Seed of everything that is drawn.")]


_OPTIONS = {
    "datanorm": ("percentile", "per_channel"),
    "spikenorm": ("observe", "residual"),
    "rmp": ("scale", "observe"),
}


@app.command
def demo(
    out_folder: Annotated[Path, Parameter(name="--out", help="Folder for results; made if absent.")] = Path(
        "equispike-demo"
    ),
    images: Annotated[int, Parameter(help="Test digits to simulate, up to 2,000.")] = 500,
    timesteps: Annotated[int, Parameter(help="Steps T of the simulation.")] = 128,
    seed: Seed = 0,
) -> None:
    """Train on real digits, convert with every method, simulate, and show what was kept.

    Takes about two minutes on two cores. Writes results.json, accuracy.png, the trained model and a converted network.

    Example: equispike demo --out my-demo
    """
    _require_positive(images=images, timesteps=timesteps)
    _require_writable(out_folder / "results.json")
    from equispike.demo import demo as run

    with _progress() as training:
        trained, results = run(out_folder, images, timesteps, seed, training)
    _print_results(results, f"Accuracy (%) on {images:,} test digits after T steps; trained network: {trained:.1%}")
    out.print(
        "A spiking network answers at every step: more steps, more spikes, better answers. Lower thresholds (RMP with "
        "a smaller scale) answer sooner and spike more, until neurons fire in every step and accuracy falls."
    )
    out.print(f"Figure: {out_folder / 'accuracy.png'}   all numbers: {out_folder / 'results.json'}")


@app.command
def train(
    out_file: Annotated[Path, Parameter(name="--out", help="File for the trained weights.")] = Path(
        "model.safetensors"
    ),
    model: Annotated[
        str, Parameter(help="Network, e.g. mnist-cnn, vgg16-cifar10, resnet20-cifar10; 'equispike models' lists them.")
    ] = "mnist-cnn",
    data: TrainingData = "mnist-sample",
    recipe: Annotated[
        str, Parameter(help="How to train, e.g. demo, mnist, sengupta-cifar-fast; 'equispike models' lists them.")
    ] = "demo",
    epochs: Annotated[int | None, Parameter(help="Passes over the training images; default the recipe's.")] = None,
    resume: Annotated[bool, Parameter(help="Go on with a training that was interrupted.")] = False,
    device: Annotated[Literal["cpu", "cuda"], Parameter(help="Where to train; for several GPUs use torchrun.")] = "cpu",
    bfloat16: Annotated[bool, Parameter(help="Mixed precision; faster on GPUs and on CPUs made for it.")] = False,
    compile_model: Annotated[
        bool, Parameter(name="--compile", help="Fuse operations with torch.compile; needs a C++ compiler.")
    ] = False,
    seed: Seed = 0,
    data_folder: Folder = None,
) -> None:
    """Train one of the papers' networks. The best epoch on validation images is kept; test images are read once.

    After every epoch the state is kept in OUT.training (and a line of JSON in OUT.jsonl), so that a training that was
    killed goes on with --resume as if nothing had been.

    Example: equispike train --data mnist --recipe mnist --out mnist.safetensors
    """
    from equispike.zoo.recipes import RECIPES

    if recipe not in RECIPES:
        raise EquispikeError(f"recipe {recipe!r}: unknown. Known recipes: {', '.join(RECIPES)}")
    _require_positive(epochs=epochs)
    _require_writable(out_file)
    from dataclasses import asdict, replace

    from equispike.conversion import versions
    from equispike.zoo.data import load
    from equispike.zoo.models import build
    from equispike.zoo.parallel import processes, rank
    from equispike.zoo.store import save_model
    from equispike.zoo.train import Machine, accuracy
    from equispike.zoo.train import train as run

    how = RECIPES[recipe] if epochs is None else replace(RECIPES[recipe], epochs=epochs)
    splits = load(data, data_folder)
    splits = splits.normalised() if how.normalise else splits
    checkpoint, machine = out_file.with_suffix(".training"), Machine(bfloat16, compile_model)
    with _progress() as training, processes(device) as place:
        untrained = build(model, seed).to(place)
        report = training if not rank() else None
        trained = run(untrained, splits.train, splits.validation, how, seed, report, checkpoint, resume, machine)
        test_accuracy, first = accuracy(trained.model, splits.test), not rank()
    if not first:
        return
    card = {
        "data": data,
        "normalised": how.normalise,
        "training_images": len(splits.train),
        "recipe": repr(how),
        "seed": seed,
        "best": asdict(trained.best),
        "test_accuracy": test_accuracy,
        "test_images": len(splits.test),
        "machine": {"device": device, **asdict(machine)},
        "versions": versions(),
    }
    save_model(out_file, model, trained.model, card)
    checkpoint.unlink()
    out.print(
        f"{out_file}: best epoch {trained.best.number}, validation {trained.best.validation_accuracy:.2%}, "
        f"test {card['test_accuracy']:.2%} of {len(splits.test):,} images"
    )


@app.command
def models() -> None:
    """List the networks and the recipes that 'equispike train' knows.

    Example: equispike models
    """
    from equispike.zoo.models import MODELS
    from equispike.zoo.recipes import RECIPES
    from equispike.zoo.store import bundled

    table = Table("network", "weights in the package")
    for name in MODELS:
        path = bundled(name)
        table.add_row(name, "yes" if path.is_file() else "")
    out.print(table)
    recipes = Table("recipe", "what it is")
    for name, how in RECIPES.items():
        recipes.add_row(name, repr(how).removeprefix("Recipe(").removesuffix(")"))
    out.print(recipes)


@app.command
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

    _require_positive(**{f"shape[{i}]": n for i, n in enumerate(shape)})
    report = run(_model(source)[0], torch.zeros(2, *shape))
    table = Table("layer", "operation", "converts", "how, or why not and what to do")
    for finding in report:
        table.add_row(*finding)
    out.print(table)
    if not report.convertible:
        raise ConversionError(f"{source}: does not convert as it is; see the rows that say no or lossy")
    out.print(f"{source}: converts.")


@app.command
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
        Parameter(help="spikenorm: thresholds of residual blocks; unity is the paper's. Default: measured."),
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
    _require_positive(images=images, observe=observe)
    _require_writable(out_file)
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
    trained, card = _model(source)
    splits, stated = _splits(card, data, normalise, data_folder)
    steps = observe or 2500
    chosen: dict[str | None, Callable[[], Method | None]] = {
        None: lambda: None,
        "datanorm": lambda: DataNorm(99.9 if percentile is None else percentile, bool(per_channel)),
        "modelnorm": ModelNorm,
        "spikenorm": lambda: SpikeNorm(steps, seed=seed, residual=residual or "measured"),
        "rmp": lambda: RMP(scale, steps, seed=seed, validation=_first(splits.validation, 500).batches(100)),
        "ratenorm": RateNorm,
    }
    calibration = splits.train.take(images).batches(100)
    with _progress():
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


@app.command
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
        Literal["auto", "layerwise", "stepwise"], Parameter(help="stepwise is the slow reference.")
    ] = "auto",
    json_file: Annotated[Path | None, Parameter(name="--json", help="Write every number to this file.")] = None,
    plot: Annotated[Path | None, Parameter(help="Draw accuracy and spike rate against T to this PNG.")] = None,
    data_folder: Folder = None,
) -> None:
    """Simulate a converted network on test images: accuracy and spike rate after every step.

    Example: equispike evaluate network.safetensors --timesteps 64 --images 200 --plot accuracy.png
    """
    _require_positive(timesteps=timesteps, runs=runs, images=images)
    for path in (json_file, plot):
        if path is not None:
            _require_writable(path)
    from equispike.analysis.accuracy import evaluate as run
    from equispike.analysis.accuracy import latency
    from equispike.conversion import versions
    from equispike.functional.coding import Constant, Poisson
    from equispike.results import Result, write_json

    name = Path(source).name
    with _progress():
        loaded, splits = _converted(source, data, data_folder)
        test = splits.test if images is None else splits.test.take(images)
        coding = Constant() if coder == "constant" else Poisson()
    evaluation = run(loaded, test.batches(100), timesteps, coding, seed, runs, engine)
    result = Result(str(loaded.provenance.get("name", name)), str(coding), loaded, evaluation)
    trained = f"{evaluation.trained:.2%}"
    _print_results([result], f"Accuracy (%) on {len(test):,} images of {test.name} after T steps; trained: {trained}")
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


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Bad input of any kind ends in one line on standard error and exit code 2."""
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except (EquispikeError, CycloptsError) as error:
        err.print(f"equispike: {' '.join(str(error).split())}", markup=False)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("equispike: interrupted; nothing half written was left behind")
        sys.exit(130)


def _model(source: str) -> "tuple[nn.Module, dict[str, Any]]":
    """The trained model that a source names, and its card; user code is imported only for package.module:factory."""
    module, colon, factory = source.partition(":")
    if not colon:
        from equispike.zoo.store import load_model

        return load_model(source)
    from importlib import import_module

    from torch import nn

    sys.path.insert(0, "")
    try:
        model = getattr(import_module(module), factory)()
    except (ImportError, AttributeError, ValueError) as error:
        raise FileError(f"{source}: cannot be imported: {error}. Give package.module:factory") from error
    if not isinstance(model, nn.Module):
        raise FileError(f"{source}: returned a {type(cast('object', model)).__name__}, not a torch.nn.Module")
    return model, {}


def _splits(
    known: "Mapping[str, Any]", data: str | None, normalise: bool | None, folder: Path | None
) -> "tuple[Dataset, dict[str, Any]]":
    """The data set asked for, or else the one that a card or a network names; and what was taken, for the record."""
    from equispike.zoo.data import load

    own = known.get("data", "mnist-sample")
    name = data or ("mnist-sample" if own == "mnist" else str(own))
    normalised = bool(known.get("normalised", False)) if normalise is None else normalise
    splits = load(name, folder)
    return splits.normalised() if normalised else splits, {"data": name, "normalised": normalised}


def _converted(source: str, data: str | None, folder: Path | None) -> "tuple[Network, Dataset]":
    """A network from its file, or from a trained model with the default method; and its data set."""
    from dataclasses import replace

    from equispike.conversion import convert as run
    from equispike.export.checkpoint import kind_of, load

    if ":" not in source and kind_of(source) == "equispike.network":
        network = load(source)
        return network, _splits(network.provenance, data, None, folder)[0]
    model, card = _model(source)
    splits, stated = _splits(card, data, None, folder)
    network = run(model, splits.train.take(min(256, len(splits.train))).batches(100))
    return replace(network, provenance={**network.provenance, **stated}), splits


def _first(part: "Part", n: int) -> "Part":
    return part.take(min(n, len(part)))


def _require_positive(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise EquispikeError(f"--{name}: {value} is less than 1")


def _require_writable(path: Path) -> None:
    """Refuse a place that cannot be written before any work is done; leaves no file behind."""
    import tempfile

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror}. Choose another place") from error
    if path.is_dir():
        raise FileError(f"{path}: is a folder. Give a file name")


def _print_results(results: list[Any], title: str) -> None:
    from equispike.results import table

    header, *rows = table(results)
    grid = Table(title=title, title_justify="left")
    for number, name in enumerate(header):
        grid.add_column(name, justify="left" if number < 3 else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    out.print(grid)


@contextmanager
def _progress() -> "Generator[Callable[[Training], None]]":
    """Bars with the time left on a terminal, for all work inside; else silence. Yields what trainings report to."""
    from equispike.progress import reporting

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), console=err, transient=True, disable=not err.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def show(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=total or None)
            bars.update(tasks[label], completed=done, visible=not total or done < total)

        def training(state: "Training") -> None:
            epoch = state.epoch
            show("training", state.step, state.steps)
            text = f"training: epoch {epoch.number} of {state.epochs}, loss {epoch.loss:.3f}"
            bars.update(tasks["training"], description=text)

        with reporting(show):
            yield training


if __name__ == "__main__":
    main()
