"""The command that evaluates converted networks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from equispike.cli.method import CoderName
from equispike.cli.shared import (
    ALONE,
    OWN,
    Data,
    Device,
    Hands,
    Seed,
    hint_at_images,
    out,
    print_runs,
    progress,
    require_device,
    require_positive,
    require_writable,
)
from equispike.cli.source import is_network, name_of, read_model, read_network
from equispike.errors import EquispikeError

if TYPE_CHECKING:
    from equispike.graph.network import Network
    from equispike.zoo.data import Dataset


def evaluate_command(
    source: Annotated[
        str,
        Parameter(
            help="A file from 'equispike convert'; or a trained model, by name or file, which is then converted with "
            "the default method and 256 training images first."
        ),
    ],
    /,
    *,
    given: Data = OWN,
    images: Annotated[int | None, Parameter(help="First test images to use; default all.")] = None,
    timesteps: Annotated[
        int | None,
        Parameter(help="Steps T of the simulation. Default: those that the network was converted for, or 128."),
    ] = None,
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
    closer: Annotated[
        bool,
        Parameter(
            help="With --json: look closer at 32 images, for what the report says of layers and decisions. Takes "
            "longer than the simulation.",
            negative="",
        ),
    ] = False,
    plot: Annotated[Path | None, Parameter(help="Draw accuracy and spike rate against T to this PNG.")] = None,
    hands: Hands = ALONE,
) -> None:
    """Simulate a converted network on test images: accuracy and spike rate after every step.

    Example: equispike evaluate network.safetensors --timesteps 64 --images 200 --plot accuracy.png
    """
    require_positive(timesteps=timesteps, runs=runs, images=images)
    if closer and (json_file is None or stop is not None):
        raise EquispikeError("--closer: is for --json, and for images that run all steps (without --stop)")
    require_writable(json_file, plot)
    require_device(device)
    on = hands.on
    from equispike.analysis.accuracy import evaluate as run
    from equispike.analysis.accuracy import latency
    from equispike.analysis.closer import look_closer
    from equispike.functional.coding import Constant, Poisson
    from equispike.graph.quantize import quantize
    from equispike.provenance import set_for
    from equispike.results import Result, document, write_json
    from equispike.simulation.run import default_batch
    from equispike.simulation.stop import Certain, Stable

    name = Path(source).name
    with progress():
        loaded, splits, stated = converted(source, given)
        timesteps = timesteps or set_for(loaded.provenance) or 128
        test = splits.test if images is None else splits.test.take(images)
        coding = Constant() if coder == "constant" else Poisson()
        loaded = (loaded if bits is None else quantize(loaded, bits)).to(device)
        rule = Stable(stop) if isinstance(stop, int) else None if stop is None else Certain()
        batches = test.batches(default_batch(loaded))
        evaluation = run(loaded, batches, timesteps, coding, seed, runs, engine, stop=rule, on=on)
        look = look_closer(loaded, evaluation, test, coding, seed) if closer else None
    result = Result(loaded, coding, evaluation, look, test.labels)
    trained = f"{evaluation.trained:.2%}" + (f", with {bits} bits" if bits else "")
    title = f"{name}: accuracy (%) on {len(test):,} images of {test.name} after T steps; trained: {trained}"
    print_runs([result.curves], title)
    if len(evaluation.seeds) > 1:
        out.print(f"mean of {len(evaluation.seeds)} seeds; deviation at T: {float(evaluation.std[-1]):.2%}")
    within = latency(evaluation.mean, evaluation.trained - 0.01)
    reached = "not reached" if within is None else f"from step {within} on"
    out.print(f"within 1 point of the trained network: {reached}. {evaluation.seconds:.1f} s simulated")
    hint_at_images(evaluation.trained, stated)
    if rule is not None:
        out.print(f"stopped early: {evaluation.steps:.1f} steps on average. Later columns repeat the last prediction")
    if json_file is not None:
        trained_as = str(loaded.provenance.get("name", name))
        write_json(json_file, document([result], trained_as, test.name, test.classes, device=device))
    if plot is not None:
        from equispike.analysis.plots import accuracy_and_spike_rate
        from equispike.report.demo import curve

        accuracy_and_spike_rate([curve(result)], evaluation.trained, f"{name} on {test.name}", plot)


def converted(source: str, given: Data) -> "tuple[Network, Dataset, dict[str, Any]]":
    """A network from its file, or from a trained model with the default method; its data, and how they were taken."""
    from dataclasses import replace

    from equispike.conversion import convert as run

    if is_network(source):
        network = read_network(source)
        return network, *given.read({**network.provenance, "shape": network.input.shape})
    model, card = read_model(source)
    splits, stated = given.read(card)
    network = run(model, splits.train.take(min(256, len(splits.train))).batches(100))
    return replace(network, provenance={**network.provenance, "name": name_of(card, source), **stated}), splits, stated
