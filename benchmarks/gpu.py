"""Speed of a simulation on a GPU, beside SpikingJelly's multi-step mode and what the chip could do.

Same converted network, thresholds and images; contenders take turns. SpikingJelly runs as it comes (convolutions in
TF32, torch's default), and in half precision with channels last, which is faster and not exact: its spikes may differ
by as much as --tolerance allows. The last lines give the chip's measured rate of products of bytes, and of copies.

    python -m benchmarks.gpu --network vgg16 --batch 64 --timesteps 64 --rate 3.5
"""

import json
from typing import Any

import torch
from torch import Tensor

from benchmarks import options, peers, timing
from benchmarks.networks import asked_for
from equispike.graph.network import Network, Node
from equispike.graph.ops import Conv, map_tensors
from equispike.simulation import plan
from equispike.simulation.gpu import layers as gpu


def peaks() -> dict[str, float]:
    """Operations per second in products of 8-bit matrices, and bytes per second read and written by a copy."""
    from triton.testing import do_bench

    a, b = (torch.randint(-128, 128, (8192, 8192), dtype=torch.int8, device="cuda") for _ in range(2))
    source = torch.empty(2**32, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    product = do_bench(lambda: torch._int_mm(a, b.t()), return_mode="median")
    copy = do_bench(lambda: target.copy_(source), return_mode="median")
    return {"int8": 2 * 8192**3 / product * 1e3, "copy": 2 * len(source) / copy * 1e3}


def operations_per_step(network: Network) -> int:
    """Multiplications and additions of bytes that one step of an image takes, two for each digit of each weight."""
    wanted: Any = plan.plan(gpu, network, 0.0, choose=True)  # type: ignore[arg-type]
    layers = [a.run.keywords["layer"] for a in wanted.actions if "layer" in a.run.keywords]
    return sum(
        2 * layer.positions * layer.shape[0] * len(gather.where) * gather.inputs * len(gather.digits)
        for layer in layers
        for gather in layer.gathers
    )


def halved(network: Network, images: Tensor, steps: int) -> timing.Contender:
    """SpikingJelly's multi-step mode in half precision, channels last."""

    def change(node: Node) -> Node:
        op = node.op
        if isinstance(op, Conv):
            op = map_tensors(op, lambda x: x.to(memory_format=torch.channels_last) if x.ndim == 4 else x)
        return Node(node.name, op, node.inputs)

    run = peers.peer(network.rewrite(change), images, steps, peers.spikingjelly("m"), multi_step=True)

    def half() -> timing.Spikes:
        with torch.autocast("cuda", torch.float16):
            return run()

    return half


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    parser = options.parser(__doc__, network="vgg16", batch=64)
    parser.add_argument("--tolerance", type=float, default=0.1, help="of a layer's spikes")
    parser.add_argument("--only", nargs="*", help="names of contenders; the first is the reference for the spikes")
    arguments = parser.parse_args()
    network, images, source = asked_for(arguments)
    there, steps = network.to("cuda"), arguments.timesteps
    images = images.cuda()
    everyone = {
        "gpu": timing.ours(there, images, steps, "gpu"),
        "layerwise": timing.ours(there, images, steps, "layerwise"),
        **peers.contenders(there, images, steps),
        "spikingjelly-multi, half": halved(there, images, steps),
    }
    chosen = {name: everyone[name] for name in arguments.only or everyone}
    timings = timing.in_turns(chosen, arguments.repeats, arguments.tolerance)
    torch.cuda.reset_peak_memory_stats()
    everyone["gpu"]()
    peak = torch.cuda.max_memory_allocated()
    image_steps = len(images) * steps
    products = operations_per_step(there) * image_steps
    print(f"{arguments.network} ({source}), batch {len(images)}, T = {steps}; {torch.cuda.get_device_name()}")
    best = timings["gpu"].median
    for name, t in timings.items():
        rate = image_steps / t.median
        print(
            f"{name:>26}  {t.median:8.4f} s  {rate:12,.0f} image-steps/s  x{t.median / best:5.2f}  {t.disagreement:.3%}"
        )
    measured = {
        name: {"median": t.median, "seconds": list(t.seconds), "disagreement": t.disagreement}
        for name, t in timings.items()
    }
    limits = peaks()
    print(
        f"peak memory of gpu: {peak / 2**20:,.0f} MiB; products {products / best / 1e12:.0f} TOP/s, of "
        f"{limits['int8'] / 1e12:.0f} in a large matrix product; copies {limits['copy'] / 1e12:.2f} TB/s"
    )
    print(
        json.dumps(
            {
                "network": arguments.network,
                "weights": source,
                "rate": arguments.rate,
                "n": arguments.repeats,
                "gpu": torch.cuda.get_device_name(),
                "image_steps": image_steps,
                "peak_bytes": peak,
                **timing.conditions(there, images, steps),
                "peers": peers.installed(),
                "measured": measured,
                "products": products,
                "peaks": limits,
            }
        )
    )


if __name__ == "__main__":
    main()
