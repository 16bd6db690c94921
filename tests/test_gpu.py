"""The GPU's kernels against the event-driven engine, bit for bit; in Triton's interpreter where there is no GPU.

Sums of integers are exact, so both spike alike on any network, not only on those whose weights lie on a grid.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import images_for, networks, seeds
from test_events import WIDE, conv, image_network
from test_simulate import same

import equispike as es
from equispike.graph.network import Network, Node
from equispike.graph.ops import Add, AvgPool, Flatten, Linear, Neuron, Readout, map_tensors
from equispike.simulation import cpu
from equispike.simulation import plan as planning
from equispike.simulation import run as running
from equispike.simulation.gpu import engine as on_gpu
from equispike.simulation.task import Replay, Task, watch
from equispike.simulation.trains import pack

pytest.importorskip("triton")
ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"

from equispike.simulation.gpu import layers as gpu  # noqa: E402

pytestmark = pytest.mark.skipif(not cpu.installed(), reason="installed without a compiler: nothing to compare with")
T = 7
EXAMPLES = int(os.environ.get("EQUISPIKE_EXAMPLES", "8"))
coders = st.sampled_from([es.Constant(), es.Poisson(), es.Poisson(scale=0.5)])


@pytest.fixture(autouse=True)
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine runs in the interpreter too, if it is asked for by name."""
    if not ON_GPU:
        monkeypatch.setitem(running.ENGINES, "gpu", planning.ByPlan(gpu.TensorCores()))


def agree(network: Network, images: torch.Tensor, coder: Any = None, seed: int = 0, **options: Any) -> None:
    kept = {key: options.get(key, ()) for key in ("trains", "potentials")}
    reference = es.simulate(network, images, T, coder, seed, engine="events", **kept)
    same(es.simulate(network.to(DEVICE), images, T, coder, seed, engine="gpu", **options), reference)


def rough(network: Network, seed: int) -> Network:
    """Weights that lie on no grid."""
    draw = torch.Generator().manual_seed(seed)

    def change(x: torch.Tensor) -> torch.Tensor:
        return x * (1 + 0.1 * torch.rand(x.shape, generator=draw)) if x.ndim > 1 else x

    return network.rewrite(
        lambda node: node if isinstance(node.op, Neuron) else Node(node.name, map_tensors(node.op, change), node.inputs)
    )


@given(
    networks(form="any", drives=False, signed=False),
    st.data(),
    coders,
    seeds,
    st.sampled_from([1, 2, 7]),
    st.integers(1, T),
    st.booleans(),
)
@settings(max_examples=EXAMPLES)
def test_the_gpu_is_the_event_driven_engine_spike_for_spike(
    network: Any, data: Any, coder: Any, seed: int, batch: int, chunk: int, together: bool
) -> None:
    network = network.to(torch.float32)
    images = data.draw(images_for(network))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "LONGEST", chunk)
        patch.setattr(gpu, "processors", lambda _: 0 if together else 10**9)
        patch.setattr(gpu, "SUMS", data.draw(st.sampled_from([1, 2**28])))
        agree(network, images, coder, seed, batch_size=batch)
        if coder != es.Constant():  # else torch's sums of the first layer differ
            kept = {key: data.draw(st.sets(st.sampled_from([*network.neurons]))) for key in ("trains", "potentials")}
            agree(rough(network, seed), images, coder, seed, batch_size=batch, **kept)


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("together", [True, False])
def test_wide_layers(name: str, together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "processors", lambda _: 0 if together else 10**9)
    network = image_network(*WIDE[name])
    agree(network, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), es.Poisson(scale=2.0))


@pytest.mark.parametrize("bits", [4, 8, 12, 16])
def test_weights_of_one_to_three_digits(bits: int) -> None:
    network = es.quantize(image_network(conv(0, 20, 3, 3), conv(2, 40, 20, 3)), bits)
    agree(network, torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(bits)))


def test_what_a_byte_cannot_count_is_computed_densely() -> None:
    network = image_network(conv(0, 16, 3, 3), AvgPool((16, 16), (16, 16), (0, 0)), size=16)
    *before, flat, head, readout = network.nodes
    pooled = before[-2]
    assert isinstance(pooled.op, AvgPool)
    wide = Network((*before[:-1], Node("flat", Flatten(), (pooled.name,)), head, readout))
    assert flat.name == "flat"
    agree(wide, torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))


def test_residual_sums_add_identities_in_the_order_of_the_core() -> None:
    theta = torch.tensor(1.0)
    network = image_network(conv(0, 24, 3, 3), conv(2, 24, 24, 3), size=6)
    *before, flat, head, readout = network.nodes
    junction = [
        Node("sum", Add((1.0, 1.0, 0.3)), ("op1", "n0", "n1")),
        Node("joint", Neuron(theta * 0.7, theta), ("sum",)),
    ]
    nodes = (*before, *junction, Node(flat.name, flat.op, ("joint",)), head, readout)
    agree(Network(nodes), torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(0)), es.Poisson(scale=2.0))


def test_a_run_goes_on_where_another_stopped() -> None:
    network = image_network(conv(0, 24, 3, 3), size=6).to(DEVICE)
    images = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    whole = es.simulate(network, images, 20, engine="gpu")
    stopped = es.simulate(network, images, 20, engine="gpu", stop=es.Stable(100))
    same(stopped, whole)


@pytest.mark.parametrize("network", [image_network(conv(0, 70, 3, 3), conv(2, 24, 70, 3), size=6)])
def test_trains_are_kept_and_replayed_as_bits(network: Network) -> None:
    images = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    run = images, torch.arange(3), T, es.Poisson(), 0
    trains = {name: torch.zeros(T, 3, *shape, dtype=torch.uint8) for name, shape in {"n0": (36, 16)}.items()}
    seen: dict[str, list[torch.Tensor]] = {"cpu": [], "gpu": [], "replayed": []}

    def look(machine: Any, task: Task, found: list[torch.Tensor], **replay: Any) -> None:
        watch(planning.ByPlan(machine), task, 2**16, lambda _, value: found.append(value), Replay(**replay))

    look(cpu.Cpu(), Task(network, *run), seen["cpu"])
    there = Task(network.to(DEVICE), images.to(DEVICE), torch.arange(3, device=DEVICE), *run[2:])
    look(gpu.TensorCores(), there, seen["gpu"], keep=trains)
    look(gpu.TensorCores(), there, seen["replayed"], given=trains)
    expected = torch.cat(seen["cpu"])
    assert torch.equal(torch.cat(seen["gpu"]).cpu(), expected)
    assert torch.equal(torch.cat(seen["replayed"]).cpu(), expected)
    assert trains["n0"].any()


def test_poisson_spikes_are_those_of_the_coder() -> None:
    images = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    for seed in (0, 1, 2**40 + 3, 2**64 - 1):
        coder, numbers = es.Poisson(scale=1.5), torch.tensor([7, 2**32 - 1])
        network = image_network(conv(0, 4, 3, 3), size=5)
        first = Network((network.nodes[0], Node("readout", Readout(), ("input",))))
        assert first.shapes["readout"] == (3, 5, 5)
        limits = coder.limits(images, network.input.scale).to(DEVICE)
        trains = [torch.zeros(4, 2, 25, 16, dtype=torch.int8, device=DEVICE) for _ in range(2)]
        gpu.kernels.draw[(1,)](
            limits, numbers.to(DEVICE), seed, 9, 4, *trains, 2, 25, 3, 16, 1024
        )  # fmt: skip
        currents = coder.encode(images, numbers, range(9, 13), seed, network.input.scale, 1.0)
        for train, fires in zip(trains, (currents > 0, currents < 0), strict=True):
            found = train[..., :3].permute(0, 1, 3, 2).reshape(4, 2, 3, 5, 5)
            assert torch.equal(found.cpu().bool(), fires)
            assert torch.equal(pack(found.bool()).cpu(), pack(fires))


def test_networks_that_it_cannot_run_are_refused() -> None:
    network = image_network(conv(0, 4, 3, 3), size=5).to(torch.float64)
    assert not on_gpu.able(network)
    with pytest.raises(es.SimulationError, match="float32 on an NVIDIA GPU"):
        on_gpu.Gpu().begin(Task(network, torch.zeros(1, 3, 5, 5), torch.arange(1), 1, es.Constant(), 0), 2**20)
    assert isinstance(network["head"].op, Linear)
    with pytest.raises(es.SimulationError, match=r"batch_size: .* at most 5,"):
        on_gpu._check_batch(network, 2**31 // 400 + 1)


class Elsewhere:
    """A layer of a machine whose tensors are nowhere, so that one made on the CPU by mistake is found out."""

    def __init__(self, current: Any, network: Network, choose: bool, *neurons: Any) -> None:
        tensors = [term.weight for term in (*current.gathers, *current.taps)]
        tensors += [] if current.bias is None else [current.bias]
        assert all(tensor.device == network.device for tensor in tensors)


class Nowhere(gpu.TensorCores):
    Layer = Elsewhere

    def suits(self, current: Any) -> bool:
        return True


@given(networks(form="any", drives=False, signed=False), st.sampled_from([0.0, 0.5, None]))
@settings(max_examples=EXAMPLES)
def test_plans_stay_on_the_networks_device(network: Network, spike: float | None) -> None:
    made = planning.plan.__wrapped__(Nowhere(), network.to("meta"), spike)
    assert made.actions


SHARED = {"89": 99 * 1024, "90": 227 * 1024}
"""Bytes of shared memory that a block may have, by compute capability (CUDA C++ Programming Guide, table 27)."""


def test_kernels_compile_for_chips_that_are_not_here(tmp_path: Path) -> None:
    pytest.importorskip("triton", minversion="3.7", reason="that of the extra gpu")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    script = Path(__file__).with_name("compiled_kernels.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    for chip, kernels in json.loads(done.stdout).items():
        assert len(kernels) == 11
        for name, shared in kernels.items():
            assert shared <= SHARED[chip], f"{name} on {chip}: {shared} bytes"
