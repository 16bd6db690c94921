"""bench: how fast a network runs here, beside a plain torch loop and other packages."""

from typing import Annotated, Literal

from cyclopts import Parameter

from equispike.cli.evaluation import converted
from equispike.cli.shared import DataSet, Folder, out, progress, require_positive
from equispike.errors import EquispikeError


def bench(
    source: Annotated[
        str, Parameter(help="A file from 'equispike convert'; or a trained model, by name or file, as for 'evaluate'.")
    ] = "mnist-cnn",
    data: DataSet = None,
    timesteps: Annotated[int, Parameter(help="Steps T of the simulation.")] = 64,
    batch: Annotated[int, Parameter(help="Test images that run together.")] = 1,
    engine: Annotated[
        tuple[Literal["auto", "events", "layerwise", "stepwise"], ...],
        Parameter(help="Engines to time; repeat the option for several.", consume_multiple=True),
    ] = ("layerwise", "events", "auto"),
    rate: Annotated[
        float | None,
        Parameter(
            help="Move the thresholds until each layer spikes at about so many percent of its chances: to compare "
            "networks at equal rates. What it then computes is not what was trained."
        ),
    ] = None,
    repeats: Annotated[int, Parameter(help="Turns of each contender, of 50 ms or one run.")] = 5,
    threads: Annotated[int | None, Parameter(help="Threads; default: torch's own number.")] = None,
    peers: Annotated[
        bool, Parameter(help="Time SpikingJelly, snnTorch and Sinabs too, those of them that are installed.")
    ] = True,
    data_folder: Folder = None,
) -> None:
    """Time the simulation of a network: our engines, a plain torch loop, and other packages where they are installed.

    Everyone runs the same thresholds and images with constant input, and is timed only if its spikes agree with those
    of the plain loop. They take turns, so that a busy machine slows all of them alike; on one thread, the processor
    time (cpu s) is what a machine would take that nobody else uses. The last line is everything as JSON.

    Example: equispike bench mnist-cnn --batch 8 --timesteps 64 --threads 1
    """
    require_positive(timesteps=timesteps, batch=batch, repeats=repeats, threads=threads)
    if rate is not None and not 0 < rate < 100:
        raise EquispikeError(f"--rate: {rate} is not between 0 and 100 percent")
    import json

    import torch

    from equispike import bench as timing
    from equispike import peers as others

    if threads is not None:
        torch.set_num_threads(threads)
    with progress():
        network, splits = converted(source, data, data_folder)
        images = splits.test.take(batch).floats()
        if rate is not None:
            network = timing.with_spike_rate(network, splits.train.take(4).floats(), rate)
        contenders = timing.contenders(network, images, timesteps, engine)
        if peers:
            contenders.update(others.contenders(network, images, timesteps))
        timings = timing.in_turns(contenders, repeats, tolerance=0.01)
        work = timing.work(network, images, timesteps)
    own = {"network": source, "data": splits.name, "peers": others.installed() if peers else {}}
    conditions = timing.conditions(network, images, timesteps)
    out.print(
        f"{source}, {batch} images of {splits.name}, T = {timesteps}, spike rate {work.spike_rate:.1f} %, "
        f"threads: {conditions['threads']}",
    )
    out.print(timing.table(timings, work))
    out.print(json.dumps(timing.summary(timings, work, {**own, **conditions})))
