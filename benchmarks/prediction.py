"""The number of time-steps that `check` predicts, against the number that is needed.

Trained models, by name or file. Writes docs/tables/prediction.md.
"""

import torch

from benchmarks import tables
from equispike.analysis.accuracy import evaluate, latency
from equispike.checking import check
from equispike.conversion import convert
from equispike.zoo import data, store

MODELS = "mnist-cnn", "mnist-cnn-bn", "mnist-cnn-rnl", "resnet20-cifar10", "resnet20-bn-cifar10"
HEADER = "model", "predicted, training images", "predicted, noise", "needed", "images", "trained", "at the predicted T"


def row(name: str, images: int, timesteps: int) -> tuple[str, ...]:
    model, card = store.load_model(name)
    splits = data.load(str(card["data"]), normalised=bool(card.get("normalised")))
    example = splits.train.take(64).floats()
    predicted, guessed = check(model, example).timesteps, check(model, torch.zeros_like(example)).timesteps
    network = convert(model, splits.train.take(256).batches(64))
    found = evaluate(network, splits.validation.take(images).batches(100), timesteps)
    needed = latency(found.mean, found.trained - 0.01)
    there = f"{float(found.mean[predicted - 1]):.2%}" if predicted and predicted <= timesteps else ""
    cells = name, predicted, guessed, needed or f"above {timesteps}", images, f"{found.trained:.2%}", there
    return tuple(map(str, cells))


def main() -> None:
    parser = tables.parser(__doc__, "prediction")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--images", type=int, default=1000, help="of the validation part")
    parser.add_argument("--timesteps", type=int, default=512)
    arguments = parser.parse_args()
    conditions = (
        f"Written by `benchmarks/prediction.py`. Predicted T, from 64 training images or noise; needed T: the "
        f"first after which accuracy stays within 1 point of the trained network's, on {arguments.images:,} validation "
        f"images, up to T = {arguments.timesteps}; default method, 256 calibration images, constant input, "
        f"one run, CPU, torch {torch.__version__}."
    )
    rows = (row(name, arguments.images, arguments.timesteps) for name in arguments.models)
    tables.write_table(arguments.out, conditions, HEADER, rows)


if __name__ == "__main__":
    main()
