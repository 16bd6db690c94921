"""Commands that train networks, or list what can be trained."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.table import Table

from equispike.cli.shared import (
    OWN,
    Data,
    Folder,
    Seed,
    TrainingData,
    out,
    progress,
    require_positive,
    require_writable,
    training_to,
)
from equispike.cli.source import read_model
from equispike.errors import EquispikeError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from equispike.zoo.data import Part
    from equispike.zoo.recipes import Recipe


def train_command(
    *,
    out_file: Annotated[Path, Parameter(name="--out", help="File for the trained weights.")] = Path(
        "model.safetensors"
    ),
    model: Annotated[
        str | None,
        Parameter(
            help="Network, e.g. vgg16-cifar10; 'equispike models' lists them. Default mnist-cnn, or that of --start."
        ),
    ] = None,
    start: Annotated[
        str | None,
        Parameter(
            help="Begin with the weights of this trained model, a name or a file, not random ones. With a --model that "
            "has Rate Norm layers where this one has ReLUs, its largest activations become their thresholds. With one "
            "without bias and batch norm, and a recipe for it, batch norm is folded and biases shrink to nothing."
        ),
    ] = None,
    levels: Annotated[
        int | None,
        Parameter(help="Train on with activations of so many levels, to answer after as many steps; needs --start."),
    ] = None,
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
    plot: Annotated[Path | None, Parameter(help="Draw loss and accuracy against epochs to this PNG.")] = None,
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
    require_positive(epochs=epochs, levels=levels)
    require_writable(out_file, plot)
    from dataclasses import asdict, replace

    from equispike.zoo.data import load
    from equispike.zoo.parallel import processes, rank
    from equispike.zoo.store import save_model
    from equispike.zoo.train import Acceleration, card
    from equispike.zoo.train import train as run

    how = RECIPES[recipe] if epochs is None else replace(RECIPES[recipe], epochs=epochs)
    splits = load(data, data_folder, how.normalise)
    checkpoint, machine = out_file.with_suffix(".training"), Acceleration(bfloat16, compile_model)
    with progress() as show, processes(device) as place:
        name, untrained, history = _beginning(model, start, levels, how, seed, splits.train)
        report = None if rank() else training_to(show)
        trained = run(
            untrained.to(place), splits.train, splits.validation, how, seed, report, checkpoint, resume, machine
        )
        told, first = card(trained, splits, how, seed), not rank()
    if not first:
        return
    told |= {"machine": {"device": device, **asdict(machine)}, **history}
    save_model(out_file, name, trained.model, told)
    checkpoint.unlink()
    if plot is not None:
        from equispike.analysis.plots import training as draw

        accuracies = {
            "training images": [epoch.train_accuracy for epoch in trained.history],
            "validation images": [epoch.validation_accuracy or 0.0 for epoch in trained.history],
        }
        draw([epoch.loss for epoch in trained.history], accuracies, f"{name} on {data}, {recipe}", plot)
    out.print(
        f"{out_file}: best epoch {trained.best.number}, validation {trained.best.validation_accuracy:.2%}, "
        f"test {told['test_accuracy']:.2%} of {len(splits.test):,} images"
    )


def _beginning(
    model: str | None, start: str | None, levels: int | None, how: "Recipe", seed: int, train: "Part"
) -> tuple[str, "nn.Module", dict[str, object]]:
    """Name and weights to begin with, and what the card is to say about them."""
    from equispike.nn import from_relu, rate_norms, with_levels
    from equispike.zoo.models import build
    from equispike.zoo.store import load_model
    from equispike.zoo.unbias import folded

    if start is None:
        if levels is not None:
            raise EquispikeError("--levels: trains a trained network on. Name it with --start")
        name = model or "mnist-cnn"
        return name, build(name, seed), {}
    trained, card = load_model(start)
    name = model or str(card["name"])
    if card.get("normalised", False) != how.normalise:
        raise EquispikeError(
            f"--start: {start} was trained on images that were {'' if not how.normalise else 'not '}normalised. "
            f"Choose a recipe with normalise={not how.normalise}"
        )
    if name != card["name"]:
        wanted = build(name)
        if how.unbias:
            return name, folded(trained, wanted).train(), {"started_from": card}
        if rate_norms(trained) or not rate_norms(wanted) or _weights(trained) != _weights(wanted):
            raise EquispikeError(
                f"--start: {start} is a {card['name']}, and no {name} without its Rate Norm layers. Leave out --model"
            )
        trained = from_relu(trained, [images for images, _ in train.batches(500)])
    told: dict[str, object] = {"started_from": card}
    if levels is not None:
        trained, told = (
            with_levels(trained, levels, train.sample(min(len(train), 256)).floats()),
            told | {"levels": levels},
        )
    elif "levels" in card:
        told["levels"] = card["levels"]
    return name, trained.train(), told


def _weights(model: "nn.Module") -> "dict[str, torch.Size]":
    """Shapes of all that is learnt or measured, but for Rate Norm layers."""
    own = (".running_max", ".p")
    return {name: value.shape for name, value in model.state_dict().items() if not name.endswith(own)}


def lower_thresholds_command(
    source: Annotated[str, Parameter(help="A model trained with Rate Norm layers: a name ending in -rnl, or a file.")],
    /,
    *,
    out_folder: Annotated[Path, Parameter(name="--out", help="Folder for the models and the table.")] = Path("lowered"),
    lambdas: Annotated[
        tuple[float, ...],
        Parameter(consume_multiple=True, negative="", help="Weights of speed against accuracy; one model for each."),
    ] = (0.03, 0.1, 0.5),
    steps: Annotated[int, Parameter(help="Steps of learning, of 128 images each.")] = 200,
    shared: Annotated[bool, Parameter(help="One factor for all layers, or one for each.")] = True,
    maxima_move: Annotated[
        bool,
        Parameter(
            help="The layers' largest inputs follow what the lowered thresholds make of them, as in the paper, or stay "
            "as trained."
        ),
    ] = True,
    batch_norm_moves: Annotated[
        bool, Parameter(help="Batch norm follows the lowered thresholds too, or stays as trained.")
    ] = True,
    tolerance: Annotated[
        float, Parameter(help="Validation accuracy that speed may cost, e.g. 0.005 for half a point.")
    ] = 0.005,
    bfloat16: Annotated[bool, Parameter(help="Learn in mixed precision.")] = False,
    given: Data = OWN,
    seed: Seed = 0,
) -> None:
    """Lower the learnt thresholds of a trained Rate Norm network, so that it answers in fewer steps.

    Writes a model for each lambda and trade_off.json, and marks the fastest one within the tolerance.

    Example: equispike lower-thresholds mnist-cnn-rnl --out lowered
    """
    require_positive(steps=steps)
    require_writable(out_folder / "trade_off.json")
    from dataclasses import asdict

    from torch import nn

    from equispike.provenance import versions
    from equispike.results import write_json
    from equispike.zoo.rate_inference import Settings, recipe_of
    from equispike.zoo.rate_inference import lower_thresholds as run
    from equispike.zoo.store import save_model

    model, card = read_model(source)
    if not isinstance(model, nn.Module):
        raise EquispikeError(f"{source}: holds a network that cannot be trained. Give a file from 'equispike train'")
    if "name" not in card:  # a file of weights names the network that they belong to
        raise EquispikeError(
            f"{source}: is none of the networks that 'equispike models' lists, so no file could say what its weights "
            "belong to. In Python, zoo.rate_inference.lower_thresholds takes any module with Rate Norm layers"
        )
    splits, stated = given.read(card)
    with progress():
        moves = {"maxima_move": maxima_move, "batch_norm_moves": batch_norm_moves}
        settings = Settings(steps=steps, shared=shared, recipe=recipe_of(card), **moves)
        curve = run(model, splits.train, splits.validation, lambdas, settings, seed, bfloat16)
    chosen = curve.choose(tolerance)
    table = Table("lambda", "validation", "mean Omega", "p", "model")
    points: list[dict[str, object]] = []
    for point in (curve.trained, *curve.points):
        path = out_folder / f"lambda-{point.lambda_:g}.safetensors"
        lowered = {"lambda": point.lambda_, "omega": point.omega, "validation_accuracy": point.validation_accuracy}
        save_model(path, str(card["name"]), curve.at(point), {**card, **stated, "lowered": lowered})
        points.append({**asdict(point), "file": path.name, "chosen": point is chosen})
        factors = sorted(set(point.p.values()))
        span = f"{factors[0]:.3f}" + (f" to {factors[-1]:.3f}" if len(factors) > 1 else "")
        mark = "  (chosen)" if point is chosen else ""
        numbers = (f"{point.lambda_:g}", f"{point.validation_accuracy:.2%}", f"{point.omega:.2f}", span)
        table.add_row(*numbers, f"{path}{mark}")
    content = {"model": source, **stated, "seed": seed, "settings": asdict(settings), "tolerance": tolerance}
    write_json(out_folder / "trade_off.json", {**content, "points": points, "versions": versions()})
    out.print(table)


def keep_command(
    source: Annotated[Path, Parameter(help="Trained weights: a file from 'equispike train'.")],
    /,
    *,
    folder: Annotated[
        Path | None, Parameter(help="Where to keep them; default the folder weights of the checkout.")
    ] = None,
    data_folder: Folder = None,
) -> None:
    """Keep trained weights in 8 bits where they are found by the network's name, if that costs no accuracy.

    Accuracy is compared on the validation images; the test images are read once, for the card.

    Example: equispike keep vgg16-slim-rnl-cifar10.safetensors
    """
    from equispike.zoo.store import keep as run
    from equispike.zoo.store import load_model

    path = run(source, folder, data_folder)
    card = load_model(path)[1]
    before, after = (card["rounded"][name] for name in ("validation_accuracy_before", "validation_accuracy"))
    out.print(
        f"{path}: {path.stat().st_size / 2**20:.1f} MiB; validation {before:.2%} before, {after:.2%} after rounding, "
        f"test {card['test_accuracy']:.2%} of {card['test_images']:,} images"
    )


def models_command() -> None:
    """List the networks and the recipes that 'equispike train' knows.

    Example: equispike models
    """
    from equispike.zoo.models import MODELS
    from equispike.zoo.recipes import RECIPES
    from equispike.zoo.store import CHECKOUT, bundled

    table = Table("network", "weights")
    for name in MODELS:
        path = bundled(name)
        table.add_row(name, ("in the checkout" if path.parent == CHECKOUT else "yes") if path.is_file() else "")
    out.print(table)
    recipes = Table("recipe", "what it is")
    for name, how in RECIPES.items():
        recipes.add_row(name, repr(how).removeprefix("Recipe(").removesuffix(")"))
    out.print(recipes)
