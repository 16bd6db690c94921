"""NIR files: round trips spike for spike, what other tools find in them, and files that are broken or hostile."""

import itertools
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from strategies import EXAMPLES, SEARCH, damaged, dyadic, images_for, networks

import equispike as es
from equispike import errors
from equispike.files import hdf5
from equispike.files.nir import identifiers, read_nir, write_nir
from equispike.files.nir_lowering import lower
from equispike.graph.network import Network, Node
from equispike.graph.ops import Add, AvgPool, Concat, Conv, Flatten, Input, Linear, Neuron, Pad, Readout

h5py = pytest.importorskip("h5py")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child process for each file takes longer than the tests; searches for files that stop it are to have one."""
    if not SEARCH:
        monkeypatch.setattr(hdf5, "read_hdf5", hdf5.contents)


shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def chain(shape: tuple[int, ...], *ops: Any) -> Network:
    """Operations one after the other, in the type of float32, quantized."""
    one = torch.ones(())
    ops = tuple(Neuron(one, one) if op is Neuron else op for op in ops)
    nodes = [Node("input", Input(shape))]
    for number, op in enumerate((*ops, Readout())):
        name = f"{number}" if number < len(ops) else "readout"
        nodes.append(Node(name, op, (nodes[-1].name,)))
    return es.quantize(Network(tuple(nodes)), 8, per_channel=False)


def conv(*weight: int, stride: int = 1, padding: tuple[int, int] = (0, 0), groups: int = 1) -> Conv:
    return Conv(dyadic(1, *weight), dyadic(2, weight[0]), (stride, stride), padding, (1, 1), groups)


def small() -> Network:
    tail = (Flatten(), Linear(dyadic(3, 4, 12), dyadic(4, 4)))
    return chain((2, 4, 4), conv(3, 2, 3, 3, padding=(1, 1)), Neuron, AvgPool((2, 2), (2, 2), (0, 0)), *tail)


def same_spikes(a: Network, b: Network, images: torch.Tensor, timesteps: int = 8) -> None:
    before, after = (es.simulate(network, images, timesteps, engine="layerwise") for network in (a, b))
    assert torch.equal(after.readout, before.readout)
    for name, count in before.counts.items():
        assert torch.equal(after.counts[name].flatten(1), count.flatten(1)), name


# Out and in


@given(networks(form="any", ceilings=False, plain=True), st.data(), st.sampled_from(["portable", "compact"]))
@settings(shared_folder, max_examples=12)
def test_a_quantized_network_comes_back_spike_for_spike(tmp_path: Path, network: Network, data: Any, profile) -> None:
    path = tmp_path / "n.nir"
    try:
        network = es.quantize(network, 8, per_channel=profile == "compact")
        write_nir(network, path, profile)
    except es.ConversionError:
        assume(False)
    again = read_nir(path)
    assert again.provenance == json.loads(json.dumps(dict(network.provenance)))
    assert {name: op.reset for name, op in again.neurons.items()} == {n: op.reset for n, op in network.neurons.items()}
    same_spikes(network, again, data.draw(images_for(network)))


@pytest.mark.parametrize("profile", ["portable", "compact"])
def test_a_float_network_comes_back_to_rounding(tmp_path: Path, profile) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        *(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.AvgPool2d(2)),
        *(torch.nn.Conv2d(4, 4, 3, groups=4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16, 3)),
    ).double()
    images = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    network = es.convert(model, images, es.DataNorm(per_channel=True))
    notes = write_nir(network, tmp_path / "n.nir", profile)
    again = read_nir(tmp_path / "n.nir")
    runs = [es.simulate(n, images, 64).readout[-1] / 64 for n in (network, again)]
    assert torch.allclose(*runs, atol=1e-9)
    assert any("zeros between the channels: 3" in note for note in notes)
    assert any(note.startswith("Feed image x ") for note in notes)


ONE = (1, 1)
KERNELS = {
    "wide": ((2, 5, 6), conv(3, 2, 1, 3)),
    "high, with padding and stride": ((2, 6, 6), conv(3, 2, 5, 3, stride=2, padding=(2, 1))),
    "odd and even, where the stride leaves room": ((2, 4, 6), conv(3, 2, 4, 3, stride=3)),
    "groups": ((4, 5, 5), conv(4, 2, 3, 3, groups=2)),
    "depthwise with two each": ((2, 5, 5), conv(4, 1, 3, 3, groups=2)),
    "dilated": ((2, 7, 7), Conv(dyadic(1, 3, 2, 3, 1), None, ONE, (2, 0), (2, 2))),
    "one dimension": ((2, 9), Conv(dyadic(1, 3, 2, 4), None, (2,), (1,), (1,))),
    "zeros and cuts": ((2, 5, 5), Pad((1, 2, 0), (0, -1, 1))),
    "zeros on one side": ((2, 5, 5), Pad((0, 1, 1), (0, 0, 0))),
    "a stride": ((2, 5, 5), AvgPool((1, 1), (2, 2), (0, 0))),
    "a pool that does not halve": ((2, 6, 6), AvgPool((3, 3), (1, 1), (0, 0))),
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("profile", ["portable", "compact"])
def test_kernels_become_square_and_pools_sums(tmp_path: Path, name: str, profile) -> None:
    shape, op = KERNELS[name]
    network = chain(shape, op, Neuron, Flatten())
    lowered, _ = lower(chain(shape, op, Neuron), profile)
    for node in lowered:
        if isinstance(node.op, Conv):
            assert len(set(node.op.weight.shape[2:])) == 1
            assert node.op.groups == 1 or profile == "compact"
    write_nir(network, tmp_path / "n.nir", "compact")
    same_spikes(network, read_nir(tmp_path / "n.nir"), dyadic(7, 3, *shape, low=0))
    same_spikes(chain(shape, op, Neuron), lowered, dyadic(7, 3, *shape, low=0))


def test_what_has_no_square_kernel_or_no_convolution_is_refused(tmp_path: Path) -> None:
    for op in (conv(3, 2, 2, 3), Pad((0, 1, 0), (0, 0, 0))):
        with pytest.raises(es.ConversionError, match=r"^0 \((Conv|Pad)\): .*square"):
            write_nir(chain((2, 5, 5), op, Neuron, Flatten()), tmp_path / "n")
    with pytest.raises(es.ConversionError, match=r"^0 \(Pad\): puts zeros between positions"):
        write_nir(chain((2, 5, 5), Pad((0, 0, 0), (0, 0, 0), (0, 1, 1)), Neuron, Flatten()), tmp_path / "n")
    with pytest.raises(es.ConversionError, match=r'2 \(Flatten\): .*Export with the profile "compact"'):
        write_nir(chain((2, 5, 5), conv(3, 2, 3, 3), Neuron, Flatten()), tmp_path / "n")
    assert not list(tmp_path.iterdir())


def branching() -> Network:
    """Sums of sums, a term twice, a weighted one, features side by side, and a sum as the readout."""
    one = torch.ones(())
    nodes = (
        Node("input", Input((2, 4, 4))),
        Node("a-1", conv(2, 2, 3, 3, padding=(1, 1)), ("input",)),
        Node("a 1", Neuron(one, one), ("a-1",)),
        Node("twice", Add((1.0, 1.0)), ("a 1", "a 1")),
        Node("sum", Add((1.0, 0.5)), ("a-1", "twice")),
        Node("more", Add((1.0, -1.0)), ("sum", "a 1")),
        Node("for", Neuron(one, one), ("more",)),
        Node("cat", Concat((1.0, 2.0)), ("for", "input")),
        Node("output", conv(2, 4, 4, 4), ("cat",)),
        Node("flat", Flatten(), ("output",)),
        Node("l", Linear(dyadic(9, 3, 2), None), ("flat",)),
        Node("m", Linear(dyadic(8, 3, 2), None), ("flat",)),
        Node("scores", Add((1.0, 1.0)), ("l", "m")),
        Node("readout", Readout(), ("scores",)),
    )
    return es.quantize(Network(nodes), 8, per_channel=False)


@pytest.mark.parametrize("profile", ["portable", "compact"])
def test_sums_and_names_that_nir_does_not_have_come_back(tmp_path: Path, profile) -> None:
    network = branching()
    write_nir(network, tmp_path / "n.nir", profile)
    again = read_nir(tmp_path / "n.nir")
    assert list(again.thresholds) == ["a 1", "for"]
    same_spikes(network, again, dyadic(7, 3, 2, 4, 4, low=0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_written_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    network = chain((12,), Linear(dyadic(3, 8, 12), dyadic(4, 8)), Neuron, Linear(dyadic(5, 3, 8), None))
    network = network.to(torch.float32)
    write_nir(network.to(dtype), tmp_path / "n.nir")
    again = read_nir(tmp_path / "n.nir")
    assert again.dtype == torch.float32
    same_spikes(network.to(dtype).to(torch.float32), again, dyadic(7, 3, 12, low=0))


def test_every_identifier_is_one_and_none_is_taken_twice() -> None:
    names = list(identifiers(branching()).values())
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in names)
    assert names.count("output") == 1


@pytest.mark.parametrize("profile", ["portable", "compact"])
@pytest.mark.parametrize("make", [small, branching])
def test_nir_itself_opens_the_files_and_agrees_with_the_shapes(tmp_path: Path, make, profile) -> None:
    library = pytest.importorskip("nir")
    network = make()
    write_nir(network, tmp_path / "n.nir", profile)
    graph = library.read(tmp_path / "n.nir")
    assert isinstance(graph.nodes["output"], library.Output)
    assert tuple(graph.nodes["output"].output_type["output"]) == network.shapes["readout"]
    kinds = {type(node).__name__ for node in graph.nodes.values()}
    if profile == "portable":
        assert kinds <= {"Input", "Conv2d", "IF", "Flatten", "Output"}
        flattened = [node for node in graph.nodes.values() if isinstance(node, library.Flatten)]
        assert all(np.prod(node.input_type["input"][1:]) == 1 for node in flattened)
    elif make is small:
        assert kinds == {"Input", "Conv2d", "IF", "SumPool2d", "Flatten", "Affine", "Output"}
    for node in graph.nodes.values():
        if isinstance(node, library.IF):
            assert (node.r == 1).all()
            assert node.v_threshold.shape == tuple(node.input_type["input"])


def test_the_file_says_what_nir_cannot(tmp_path: Path) -> None:
    notes = write_nir(small(), tmp_path / "n.nir")
    with h5py.File(tmp_path / "n.nir") as file:
        assert file["node/metadata/note"].asstr()[()] == " ".join(notes)
        assert all("v_reset" not in node for node in file["node/nodes"].values())
    assert any("set v_reset = None on every IFNode" in note for note in notes)
    hard = small().replace_ops({"1": Neuron(torch.ones(()), torch.ones(()), reset="zero", v_init=0.5)})
    notes = write_nir(hard, tmp_path / "n.nir")
    assert not any("subtract" in note for note in notes)
    assert any("Potentials start above zero" in note for note in notes)
    again = read_nir(tmp_path / "n.nir").neurons["1"]
    assert (again.reset, again.v_init) == ("zero", 0.5)
    late = small().replace_ops({"readout": Readout(delay=0.5)})
    assert any("scores of the last T - floor(0.5 T) alone" in note for note in write_nir(late, tmp_path / "n.nir"))
    assert read_nir(tmp_path / "n.nir").readout.delay == 0.5


@pytest.mark.parametrize("profile", ["portable", "compact"])
def test_weights_of_a_quantized_network_are_whole_numbers_of_its_bits(tmp_path: Path, profile) -> None:
    write_nir(small(), tmp_path / "n.nir", profile)
    with h5py.File(tmp_path / "n.nir") as file:
        weights = [node["weight"][()] for node in file["node/nodes"].values() if "weight" in node]
        biases = [node["bias"][()] for node in file["node/nodes"].values() if "bias" in node]
    assert weights
    assert all((values == values.round()).all() for values in (*weights, *biases))
    assert max(np.abs(values).max() for values in weights) <= 127


def test_a_network_without_thresholds_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    nodes = (Node("input", Input((3,))), Node("n", Neuron(), ("input",)), Node("readout", Readout(), ("n",)))
    with pytest.raises(es.ConversionError, match="n: has no threshold yet"):
        write_nir(Network(nodes), tmp_path / "n.nir")
    assert not list(tmp_path.iterdir())


# Files of others


def build(path: Path, nodes: dict[str, dict[str, Any]], edges: list[tuple[str, str]] | None = None) -> Path:
    """A NIR file by hand; without edges, nodes follow each other."""
    names = list(nodes)
    with h5py.File(path, "w") as file:
        graph = file.create_group("node")
        graph["type"] = "NIRGraph"
        pairs = list(itertools.pairwise(names)) if edges is None else edges
        graph.create_dataset("edges", data=pairs, dtype=h5py.string_dtype())
        for name, fields in nodes.items():
            group = graph.create_group(f"nodes/{name}")
            for key, value in fields.items():
                group[key] = value
    return path


def neurons(*shape: int, **fields: Any) -> dict[str, Any]:
    ones = np.ones(shape, dtype=np.float32)
    return {"type": "IF", "r": ones * 1e4, "v_threshold": ones, "v_reset": 0 * ones, **fields}


def convolution(**fields: Any) -> dict[str, Any]:
    weight = dyadic(1, 4, 2, 3, 3, dtype=torch.float32).numpy()
    sizes = {"stride": [1, 1], "padding": [0, 0], "dilation": 1, "groups": 1}
    return {"type": "Conv2d", "weight": weight, "bias": np.zeros(4, dtype=np.float32), **sizes, **fields}


def foreign(**changed: dict[str, Any]) -> dict[str, dict[str, Any]]:
    nodes = {
        "input": {"type": "Input", "shape": [2, 8, 8]},
        "conv": convolution(),
        "fire": neurons(4, 6, 6),
        "sums": {"type": "SumPool2d", "kernel_size": [2, 2], "stride": [2, 2], "padding": [0, 0]},
        "means": {"type": "AvgPool2d", "kernel_size": [3, 3], "stride": [3, 3], "padding": [0, 0]},
        "flat": {"type": "Flatten", "start_dim": 0, "end_dim": -1},
        "scale": {"type": "Scale", "scale": np.arange(1, 5, dtype=np.float32)},
        "line": {"type": "Linear", "weight": np.eye(3, 4, dtype=np.float32)},
        "out": {"type": "Output", "shape": [3]},
    }
    return {name: {**fields, **changed.get(name, {})} for name, fields in nodes.items()}


def test_a_file_of_another_tool_becomes_a_network(tmp_path: Path) -> None:
    path = build(tmp_path / "n.nir", foreign())
    network = read_nir(path)
    assert list(network.neurons) == ["fire"]
    assert network.neurons["fire"].reset == "zero"
    assert read_nir(path, reset="subtract").neurons["fire"].reset == "subtract"
    images = dyadic(3, 2, 2, 8, 8, low=0, dtype=torch.float32)
    weight = torch.from_numpy(convolution()["weight"])
    v, total = torch.zeros(2, 4, 6, 6), torch.zeros(2, 3)
    for _ in range(8):  # the file, written out
        v = v + torch.nn.functional.conv2d(images, weight)
        spikes = (v >= 1).float()
        v = v * (1 - spikes)
        pooled = torch.nn.functional.avg_pool2d(torch.nn.functional.avg_pool2d(spikes, 2) * 4, 3)
        total += pooled.flatten(1)[:, :3] * torch.tensor([1.0, 2.0, 3.0])
    assert torch.allclose(es.simulate(network, images, 8).readout[-1], total, atol=1e-5)


@pytest.mark.parametrize("values", [{"padding": "same"}, {"padding": "valid"}, {"padding": [1, 0]}, {"groups": 2}])
def test_convolutions_of_other_tools_arrive(tmp_path: Path, values: dict[str, Any]) -> None:
    if "groups" in values:
        values = {**values, "weight": np.ones((4, 1, 3, 3), dtype=np.float32)}
    rows, columns = {"same": (8, 8), "valid": (6, 6)}.get(str(values.get("padding")), (6, 6))
    rows += 2 if values.get("padding") == [1, 0] else 0
    nodes = {
        "input": {"type": "Input", "shape": [2, 8, 8]},
        "conv": convolution(**values),
        "n": neurons(4, rows, columns),
        "out": {"type": "Output", "shape": [4, rows, columns]},
    }
    assert read_nir(build(tmp_path / "n.nir", nodes)).shapes["n"] == (4, rows, columns)


REFUSED: dict[str, tuple[dict[str, dict[str, Any]], str]] = {
    "a leaky neuron": ({"fire": {"type": "LIF"}}, r"fire \(LIF\): only integrate-and-fire neurons"),
    "a node that nobody knows": ({"conv": {"type": "Delay"}}, r"conv \(Delay\): this kind of node cannot be read"),
    "thresholds per neuron": ({"fire": {"v_threshold": np.arange(144.0).reshape(4, 6, 6) + 1}}, "inside a channel"),
    "thresholds below zero": ({"fire": {"v_threshold": -np.ones((4, 6, 6))}}, "not above zero"),
    "thresholds of another shape": ({"fire": {"v_threshold": np.arange(1.0, 4.0)}}, "for features"),
    "another potential of reset": ({"fire": {"v_reset": np.ones((4, 6, 6))}}, "resets to another potential"),
    "r that differs": ({"fire": {"r": np.arange(144.0).reshape(4, 6, 6)}}, "r differs"),
    "weights that are no numbers": ({"line": {"weight": np.full((3, 4), np.nan)}}, "weight: holds NaN or infinity"),
    "infinite weights": ({"line": {"weight": np.full((3, 4), np.inf)}}, "weight: holds NaN or infinity"),
    "weights of another shape": ({"line": {"weight": np.ones((3, 5))}}, r"line \(Linear\): "),
    "weights as text": ({"line": {"weight": "many"}}, "weight holds no numbers"),
    "weights of complex numbers": ({"line": {"weight": np.ones((3, 4), dtype=complex)}}, "neither text nor numbers"),
    "strides of zero": ({"conv": {"stride": [0, 1]}}, "is no size"),
    "strides of halves": ({"conv": {"stride": [1.5, 1]}}, "is no size"),
    "three strides": ({"conv": {"stride": [1, 1, 1]}}, "stride has 3 numbers"),
    "padding by name, in vain": ({"conv": {"padding": "same", "stride": [2, 2]}}, "Give it as numbers"),
    "padding that fills the memory": ({"conv": {"padding": [2**20, 2**20]}}, "features of shape .* out of proportion"),
    "a huge pool": ({"sums": {"kernel_size": [2**20, 2**20]}}, "out of proportion"),
    "a shape below zero": ({"input": {"shape": [2, -8, 8]}}, "is no size"),
    "half a flattening": ({"flat": {"start_dim": 1}}, "only all of them convert"),
    "a second input": ({"conv": {"type": "Input", "shape": [2, 8, 8]}}, "Only one input"),
    "a graph inside": ({"conv": {"type": "NIRGraph"}}, "Write the network as one graph"),
}  # fmt: skip


def refused(path: Path, message: str | None = None) -> None:
    with pytest.raises(es.FileError, match=message) as caught:
        read_nir(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line_that_names_the_node(tmp_path: Path, name: str) -> None:
    changed, message = REFUSED[name]
    refused(build(tmp_path / "n.nir", foreign(**changed)), message)


EDGES = {
    "a cycle": ([("input", "conv"), ("conv", "fire"), ("fire", "conv"), ("fire", "out")], r"cycle, .*conv.* -> "),
    "an edge to nowhere": ([("input", "nobody")], "leads from input to nobody"),
    "an edge twice": ([("input", "conv"), ("input", "conv")], "two edges lead from input to conv"),
    "a node without input": ([("conv", "fire"), ("fire", "out")], "nothing leads to it|before any input"),
    "no edges": ([], "nothing leads to it|before any input"),
}


@pytest.mark.parametrize("name", EDGES)
def test_graphs_that_do_not_run_forward_are_refused(tmp_path: Path, name: str) -> None:
    edges, message = EDGES[name]
    nodes = {key: value for key, value in foreign().items() if key in ("input", "conv", "fire", "out")}
    refused(build(tmp_path / "n.nir", nodes, edges), message)


def tamper(path: Path, change: Callable[[Any], None]) -> Path:
    build(path, foreign())
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def replaced(key: str, **options: Any) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        del file[key]
        file.create_dataset(key, **options)

    return change


def linked(key: str, link: Any) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        del file[key]
        file[key] = link

    return change


WEIGHT = "node/nodes/line/weight"
HOSTILE = {
    "a shape of terabytes with nothing behind": (
        replaced(WEIGHT, shape=(2**20, 2**20), dtype="f8", chunks=(64, 64)), "claims more than"),
    "a name of gigabytes": (replaced("node/nodes/line/type", shape=(2**40,), dtype="S8", chunks=(64,)), "claims more"),
    "a link to another file": (linked(WEIGHT, h5py.ExternalLink("/etc/passwd", "/x")), "link to another place"),
    "a link to a place": (linked(WEIGHT, h5py.SoftLink("/node/nodes/conv/weight")), "link to another place"),
    "data in another file": (
        replaced(WEIGHT, shape=(3, 4), dtype="f4", external=[("/etc/passwd", 0, 48)]), "lies in another file"),
    "a group in a circle": (lambda file: linked("node/nodes", file["node"])(file), "edge|group|cannot be read"),
    "no nodes": (lambda file: file.__delitem__("node/nodes"), "nodes: is missing"),
    "no graph": (lambda file: file.__delitem__("node"), "node: is missing"),
    "nothing in a field": (replaced(WEIGHT, data=h5py.Empty("f4")), "holds no value"),
    "metadata that is no JSON": (lambda file: file.create_dataset("node/metadata/equispike", data="{"), "cannot be"),
    "metadata of another kind": (lambda file: file.create_dataset("node/metadata/equispike", data="[1]"), "no JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    change, message = HOSTILE[name]
    refused(tamper(tmp_path / "n.nir", change), message)


def test_what_unfolds_to_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = replaced(WEIGHT, data=np.zeros((2**9, 2**9), dtype="f4"), compression="gzip", chunks=(2**9, 2**9))
    path = tamper(tmp_path / "n.nir", bomb)
    refused(path, "does not fit")  # it is small enough to be read
    monkeypatch.setattr(hdf5, "read_hdf5", hdf5.contents)  # in a search too: a child knows nothing of the next line
    monkeypatch.setattr(hdf5, "MOST_BYTES", 2**19)
    assert path.stat().st_size < 2**17
    refused(path, "claims more than a file of this size may hold")


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    for content in (b"", b"\x89HDF\r\n\x1a\n", b"\x80\x04cos\nsystem\n(S'touch hacked'\ntR.", b"x" * 10_000):
        (tmp_path / "n.nir").write_bytes(content)
        refused(tmp_path / "n.nir")


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    whole = build(tmp_path / "n.nir", foreign()).read_bytes()
    for end in range(0, len(whole), len(whole) // 40):
        (tmp_path / "t.nir").write_bytes(whole[:end])
        refused(tmp_path / "t.nir")


@cache
def whole() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_nir(small(), Path(folder, "whole.nir"), "compact")
        return Path(folder, "whole.nir").read_bytes()


@given(damaged(whole))
@settings(shared_folder, max_examples=EXAMPLES // 2)
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.nir"
    path.write_bytes(content)
    message = f"{path}: was read"
    try:
        read_nir(path)
    except es.FileError as error:
        message = str(error)
    assert "\n" not in message
    assert message.startswith(str(path))


def test_without_h5py_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(errors, "import_module", missing)
    for act in (lambda: write_nir(small(), tmp_path / "n"), lambda: hdf5.contents(tmp_path / "n")):
        with pytest.raises(es.EquispikeError, match=r"Install equispike\[nir\]"):
            act()


class ChannelsLast(torch.nn.Module):
    """As Keras writes networks: images (B, height, width, channels), and features flattened in that order."""

    def __init__(self, behind: int = 0) -> None:
        super().__init__()
        self.pad = torch.nn.ZeroPad2d((0, behind, 0, behind))
        self.conv, self.head = torch.nn.Conv2d(2, 4, 3), torch.nn.Linear(4 * (3 + behind) * (4 + behind), 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(self.pad(x.permute(0, 3, 1, 2)))).permute(0, 2, 3, 1).flatten(1))


@pytest.mark.parametrize(("profile", "behind"), [("portable", 0), ("compact", 0), ("portable", 1)])
def test_channels_that_come_last_are_moved_before_and_into_the_weights(tmp_path: Path, profile, behind: int) -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 5, 6, 2)
    network = es.quantize(es.convert(ChannelsLast(behind), images), 8, per_channel=False)
    notes = write_nir(network, tmp_path / "last.nir", profile)
    assert any("Feed images as 2 x 5 x 6" in note for note in notes)
    again = read_nir(tmp_path / "last.nir")
    assert again.input.shape == (2, 5, 6)
    moved = es.simulate(again, images.permute(0, 3, 1, 2), 16)
    run = es.simulate(network, images, 16)
    assert torch.equal(moved.readout, run.readout)
    assert [int(count.sum()) for count in moved.counts.values()] == [int(count.sum()) for count in run.counts.values()]


def test_a_move_that_others_read_too_is_still_refused(tmp_path: Path) -> None:
    class Mirrored(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.Conv2d(2, 1, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(x)).flip(3)).flatten(1)

    network = es.convert(Mirrored(), torch.rand(4, 1, 5, 5))
    with pytest.raises(es.ConversionError, match="for which NIR has no node"):
        write_nir(network, tmp_path / "mirrored.nir")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"correct": [es.StepBias(2)]}, "a drive by step; .*Bias in the place of StepBias"),
        ({"correct": [es.Potential(2)]}, "potentials per channel; .*without Potential"),
        ({"spikes": "signed"}, "signed spikes; .*spikes='binary'"),
    ],
)
def test_what_nir_cannot_state_is_refused_with_the_ways_there_are(tmp_path: Path, options: Any, words: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    network = es.convert(model, torch.rand(8, 3), **options)
    with pytest.raises(errors.ConversionError, match=words):
        write_nir(network, tmp_path / "network.nir")
