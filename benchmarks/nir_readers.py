"""Do other tools make the same spikes of a NIR file? Neuron by neuron, as they read it and with the known corrections.

Writes docs/tables/nir_readers.md. The tools have to be installed: nox -s nir
"""

import itertools
import tempfile
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

import equispike as es
from benchmarks import tables
from benchmarks.verify import READERS, verify
from equispike.files.nir import write_nir
from equispike.zoo.data import load
from equispike.zoo.store import load_model

NETWORKS = {"mnist-cnn": "mnist-sample", "mnist-cnn-bn": "mnist-sample", "resnet20-cifar10": "cifar10"}
RESETS = {"spikingjelly": "subtract", "sinabs": "subtract", "norse": "zero"}
BITS, IMAGES, TIMESTEPS, CALIBRATION = 8, 8, 32, 128
HEADER = ("network", "profile", "reset", "tool", "as it reads the file", "with corrections", "scores with corrections")


def rows(name: str, data_folder: Path | None) -> Iterator[tuple[str, ...]]:
    model, card = load_model(name)
    data = load(NETWORKS[name], data_folder, card.get("normalised", False))
    calibration = data.train.take(CALIBRATION).batches(32)
    networks = {r: es.convert(model, calibration, es.DataNorm(99.9), reset=r) for r in set(RESETS.values())}
    images = data.test.take(IMAGES).floats()
    with tempfile.TemporaryDirectory() as folder:
        for profile, reader in itertools.product(("portable", "compact"), filter(find_spec, READERS)):
            path, reset = Path(folder, "network.nir"), RESETS[reader]
            write_nir(es.quantize(networks[reset], BITS, per_channel=False), path, profile)
            plain, corrected = (verify(path, images, TIMESTEPS, reader, c) for c in (False, True))
            cells = (f"{c.differing:,} of {c.neurons:,} neurons differ" for c in (plain, corrected))
            scores = "equal" if corrected.scores_differ == 0 else f"{100 * corrected.scores_differ:.2f} % differ"
            yield name, profile, "soft" if reset == "subtract" else "hard", corrected.reader, *cells, scores


def main() -> None:
    """Compare, and write the table."""
    parser = tables.parser(__doc__, "nir_readers")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--data-folder", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    conditions = (
        f"Written by `benchmarks/nir_readers.py`: {IMAGES} test images, constant input, T = {TIMESTEPS}, "
        f"`DataNorm(99.9)` on {CALIBRATION} training images, "
        f"`quantize(bits={BITS}, per_channel=False)`, CPU, torch {torch.__version__}. A neuron of one image differs if "
        "its spikes over all steps differ in number."
    )
    lines = (line for name in arguments.networks for line in rows(name, arguments.data_folder))
    tables.write_table(arguments.out, conditions, HEADER, lines, words=len(HEADER))


if __name__ == "__main__":
    main()
