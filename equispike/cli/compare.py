"""compare: this package's conversion beside another's."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from equispike.cli.shared import (
    DataSet,
    Folder,
    Normalise,
    Source,
    out,
    print_table,
    progress,
    read_data,
    read_model,
    require_positive,
    require_writable,
    up_to,
)
from equispike.errors import ConversionError, EquispikeError


def compare(
    source: Source,
    timesteps: Annotated[int, Parameter(help="Steps T of the simulation.")] = 128,
    percentile: Annotated[
        float, Parameter(help="Thresholds: that percentile of the activations, in both; 100 is the maximum.")
    ] = 99.9,
    data: DataSet = None,
    normalise: Normalise = None,
    images: Annotated[int | None, Parameter(help="First test images to use; default all.")] = None,
    calibration: Annotated[int, Parameter(help="Training images to calibrate with.")] = 256,
    threads: Annotated[int | None, Parameter(help="Threads; default: torch's own number.")] = None,
    json_file: Annotated[Path | None, Parameter(name="--json", help="Write every number to this file.")] = None,
    data_folder: Folder = None,
) -> None:
    """Convert a model here and with SpikingJelly's own converter, and set the two beside each other.

    Same model, calibration images, percentile, test images and steps: accuracy after each step, spikes, processor time.
    SpikingJelly's network is then given our thresholds, which shows whether it spikes as ours does. SpikingJelly has to
    be installed; 'nox -s compare -- MODEL' makes an environment with it.

    Example: equispike compare mnist-cnn --timesteps 64 --images 200
    """
    require_positive(timesteps=timesteps, images=images, calibration=calibration, threads=threads)
    if not 0 < percentile <= 100:
        raise EquispikeError(f"--percentile: {percentile} is not above 0 and up to 100")
    require_writable(json_file)
    import torch
    from torch import nn

    from equispike.converters import compare as run
    from equispike.results import chosen_steps, write_json

    if threads is not None:
        torch.set_num_threads(threads)
    model, card = read_model(source)
    if not isinstance(model, nn.Module):
        raise ConversionError(f"{source}: SpikingJelly converts torch modules alone. Give package.module:factory")
    splits, _ = read_data(card, data, normalise, data_folder)
    test = splits.test if images is None else splits.test.take(images)
    with progress():
        held = up_to(splits.train, calibration).batches(100)
        found = run(model, held, test.batches(100), timesteps, percentile)
    shown = chosen_steps(timesteps)
    rows = [["converter", *(f"T={t}" for t in shown), "spikes/image", "convert s", "simulate s"]]
    for side in (found.ours, found.theirs):
        accuracies = (f"{side.accuracy[t - 1]:.2%}" for t in shown)
        seconds = f"{side.converting:.2f}", f"{side.simulating:.2f}"
        rows.append([side.name, *accuracies, f"{side.spikes:,.0f}", *seconds])
    judged_on = f"{found.images:,} images of {splits.name}"
    print_table(rows, f"{source}: accuracy (%) on {judged_on} after T steps; trained: {found.trained:.2%}")
    out.print(f"seconds of processor time, threads: {torch.get_num_threads()}")
    out.print(
        f"with our thresholds, {found.differing:,} of {found.neurons:,} neurons spike another number of times there",
    )
    if json_file is not None:
        known = {"model": source, "data": splits.name, "percentile": percentile, "calibration_images": calibration}
        write_json(json_file, {**known, **found.to_json()})
