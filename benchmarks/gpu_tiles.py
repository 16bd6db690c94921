"""Which tiles suit a GPU? Every layer of a network with each of several tiles, in both kernels that multiply.

`fire` makes products and neurons together, `sums` the products alone. Prints the best, then one line of JSON.

    python -m benchmarks.gpu_tiles --network vgg16 --bits 8
"""

import argparse
import json
import multiprocessing
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from equispike.conversion import convert
from equispike.graph.exact import quantize
from equispike.simulation import plan
from equispike.simulation.gpu import layers as gpu
from equispike.simulation.gpu.layers import Tiles
from equispike.simulation.state import Driven
from equispike.simulation.trains import extent, padded

WIDE = [
    *(Tiles(128, 128, 64, 8, stages) for stages in (4, 6)),
    Tiles(128, 128, 128, 8, 5),
    Tiles(64, 128, 64, 4, 6),
    Tiles(64, 256, 64, 8, 5),
    *(Tiles(128, 64, 64, 8, stages) for stages in (4, 6)),
    Tiles(128, 64, 128, 8, 5),
    Tiles(128, 64, 64, 4, 6),
    Tiles(64, 64, 64, 4, 6),
    Tiles(64, 64, 128, 4, 5),
    Tiles(128, 32, 64, 4, 6),
]
NARROW = {
    cols: [
        *(Tiles(128, cols, deep, 4, stages) for deep in (32, 64) for stages in (4, 6)),
        Tiles(256, cols, 32, 8, 5),
        Tiles(64, cols, 32, 4, 5),
    ]
    for cols in (16, 32)
}


def candidates(channels: int) -> list[Tiles]:
    return NARROW[channels] if channels in NARROW else [t for t in WIDE if t.cols <= max(64, channels)]


def currents(name: str, bits: int | None) -> dict[str, Any]:
    """The currents of a network's layers that the tensor cores compute, and the network."""
    from benchmarks.networks import model_and_data

    model, data, _ = model_and_data(name, None)
    with torch.no_grad():
        network = convert(model, data.train.take(32).floats())
    network = quantize(network, bits, per_channel=False) if bits else network
    network = network.to("cuda")
    found: dict[str, Any] = {}

    class Spy(gpu.GpuLayer):
        def __init__(self, current: Any, network: Any, *others: Any) -> None:
            super().__init__(current, network, *others)
            if (len(self.gathers) == 1 and self.positions > 1) or self.channels > 256:
                found[f"{len(found)}"] = current

    class Spying(gpu.TensorCores):
        Layer = Spy

    plan.plan.__wrapped__(Spying(), network, 0.0)
    return {"network": network, "currents": found}


def layers(name: str, bits: int | None, batch: int, steps: int) -> Any:
    """Each distinct layer with each tile, ready to run."""
    known = currents(name, bits)
    seen = set[Any]()
    usual = gpu.tiles
    for current in known["currents"].values():
        channels, rows, cols = extent(current.shape)
        term = current.gathers[0]
        key = current.shape, term.extent, term.weight.shape
        if key in seen:
            continue
        seen.add(key)
        for tiles in candidates(padded(channels)):
            gpu.tiles = lambda *_, tiles=tiles: tiles
            threshold = torch.ones(padded(channels), device="cuda")
            layer = gpu.GpuLayer(current, known["network"], neurons=Driven(threshold, "subtract"))
            gpu.tiles = usual
            inputs, height, width = term.extent
            train = (torch.rand(steps, batch, height * width, padded(inputs), device="cuda") < 0.04).to(torch.int8)
            spikes = torch.empty(steps, batch, rows * cols, padded(channels), dtype=torch.int8, device="cuda")
            v = torch.zeros(spikes.shape[1:], device="cuda")
            state: Any = SimpleNamespace(trains=dict.fromkeys({term.train, *layer.taps.trains}, train))
            state.base = lambda layer: layer.bias
            macs = steps * batch * rows * cols * channels * (term.weight.shape[0] * inputs)
            runs = {
                "fire": partial(layer.fire, state, spikes, v),
                "sums": partial(layer.sums, [layer.spikes(state, gather) for gather in layer.gathers]),
            }
            yield key, tiles, len(layer.gathers[0].digits), macs, runs


def warm(job: tuple[str, int | None, int, int]) -> None:
    """Compile a share of all kernels, into the cache on the disk."""
    name, bits, part, parts = job
    for n, (_, _, _, _, runs) in enumerate(layers(name, bits, 16, 8)):
        if n % parts == part:
            for run in runs.values():
                try:
                    run()
                except Exception as error:  # too many registers or too much shared memory: not a candidate
                    print("left out:", str(error)[:80])


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["vgg16", "resnet20", "cnn7"], default="vgg16")
    parser.add_argument("--bits", type=int)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--timesteps", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=12)
    arguments = parser.parse_args()
    given = arguments.network, arguments.bits
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        pool.map(warm, [(*given, part, arguments.jobs) for part in range(arguments.jobs)])
    from triton.testing import do_bench

    rows: list[dict[str, Any]] = []
    for key, tiles, digits, macs, runs in layers(*given, arguments.batch, arguments.timesteps):
        for kernel, run in runs.items():
            try:
                ms = do_bench(run, warmup=5, rep=20, return_mode="median")
            except Exception as error:
                print(key, tiles, kernel, str(error)[:80])
                continue
            tops = 2 * macs * digits / ms / 1e9
            rows.append(
                {"layer": str(key), "digits": digits, "kernel": kernel, "tiles": vars(tiles), "ms": ms, "tops": tops}
            )
    for layer in dict.fromkeys(row["layer"] for row in rows):
        for kernel in ("fire", "sums"):
            own = sorted((r for r in rows if r["layer"] == layer and r["kernel"] == kernel), key=lambda r: r["ms"])
            shown = "; ".join(
                f"{'/'.join(map(str, r['tiles'].values()))} {r['ms']:.3f} ms {r['tops']:.0f}" for r in own[:4]
            )
            print(f"{layer} x{own[0]['digits']} {kernel}: {shown}" if own else f"{layer} {kernel}: none")
    print(json.dumps({"network": arguments.network, "bits": arguments.bits, "batch": arguments.batch, "rows": rows}))


if __name__ == "__main__":
    main()
