"""Files of torch.export: the network is the program's; whatever is broken or hostile is one line, and no code runs."""

import io
import json
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from command import exit_code
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import EXAMPLES, damaged
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import equispike as es
from equispike.graph import pt2_archive
from equispike.graph.from_pt2 import read
from equispike.graph.network import Network
from equispike.graph.trace import examine
from equispike.zoo.models import build

shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
IMAGE = (4, 8, 8)


def exported(model: nn.Module, *shape: int) -> Any:
    images = torch.zeros(2, *(shape or IMAGE))
    return torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))


def saved(program: Any, path: Path) -> Path:
    torch.export.save(program, path)
    return path


class Forward(nn.Module):
    """A module from a function of its submodules and the images."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **submodules: nn.Module) -> None:
        super().__init__()
        self._forward = forward
        for name, module in submodules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


class Awkward(nn.Module):
    """Calls in place, parts, shapes computed in the graph, tied modules, weights computed from weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding="same"), nn.ConvTranspose2d(2, 2, 3, padding=1)
        self.n, self.relu, self.drop = nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout2d()
        self.head = weight_norm(nn.Linear(80, 3))
        self.mean = nn.Buffer(torch.rand(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x - self.mean
        y = self.n(self.a(x))
        self.relu(y)  # y is another from here on
        y = self.relu(self.drop(self.a(y)))
        y += x
        first, rest = y.clamp_(0, 4).split([1, 3], 1)
        one, two = torch.cat([first, rest], 1).split(2, 1)
        z = self.b(F.interpolate(F.avg_pool2d(two, 2), scale_factor=2))
        z = torch.cat([F.relu6(one), F.hardtanh(z, 0, 2, inplace=True)], 1).to(x.dtype)
        z = F.max_pool2d(F.pad(z, (1, 1, 0, 0)), 2).reshape(x.size(0), -1)
        return torch.log_softmax(self.head(z), 1)


def trained() -> nn.Module:
    torch.manual_seed(0)
    model = Awkward().eval()
    nn.init.uniform_(model.n.weight, 0.5, 2.0)
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "awkward": (trained, IMAGE),
    "mnist-cnn-rnl": (lambda: build("mnist-cnn-rnl"), (1, 28, 28)),
    "mnist-resnet8": (lambda: build("mnist-resnet8"), (1, 28, 28)),
}


def assert_same(a: Network, b: Network, names: bool = True) -> None:
    assert [type(node.op) for node in a] == [type(node.op) for node in b]
    assert not names or [(node.name, node.inputs) for node in a] == [(node.name, node.inputs) for node in b]
    for one, other in zip(a, b, strict=True):
        for field, value in vars(one.op).items():
            also = getattr(other.op, field)
            assert torch.equal(value, also) if isinstance(value, Tensor) else value == also, (one.name, field)


@pytest.mark.parametrize(
    ("name", "decomposed"), [("awkward", False), ("awkward", True), ("mnist-cnn-rnl", True), ("mnist-resnet8", False)]
)
def test_a_file_gives_the_network_of_its_program(tmp_path: Path, name: str, decomposed: bool) -> None:
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model, images = make().eval(), torch.rand(3, *shape)
    program = exported(model, *shape).run_decompositions({})
    expected, known = examine(program, images)
    path = saved(program if decomposed else exported(model, *shape), tmp_path / "m.pt2")
    network, found = examine(read(path), images)
    assert network is not None
    assert expected is not None
    functions = name == "awkward"  # two of a meaning may have changed places: reshape and view, dropout and clone
    assert_same(network, expected, names=not functions)
    assert functions or found == known
    scores = torch.log_softmax(network(images), 1) if functions else network(images)
    assert torch.allclose(scores, model(images), atol=1e-5)


def test_chunks_of_different_sizes_arrive(tmp_path: Path) -> None:
    model, images = Forward(lambda m, x: torch.cat(x.chunk(3, 1)[::-1], 1).relu()), torch.randn(3, 5)
    network = es.trace(read(saved(exported(model, 5), tmp_path / "m.pt2")), images)
    assert torch.equal(network(images), model(images))


def test_layers_of_a_file_convert_and_run(tmp_path: Path) -> None:
    images = torch.rand(8, *IMAGE)
    program = read(saved(exported(trained()), tmp_path / "m.pt2"))
    assert program.shapes == [IMAGE]
    assert [row.operation for row in es.check(program, images).rows if row.converts == "refused"] == ["max_pool2d"]
    network = es.convert(program, images, lossy=[es.max_pool_to_winner])
    assert es.simulate(network, images, 8).readout.shape == (8, 8, 3)
    with pytest.raises(es.ConversionError, match=r"of shapes \[\(4, 8, 8\)\], not of \[\(4, 8, 9\)\]"):
        es.check(program, torch.rand(2, 4, 8, 9))


def test_commands_take_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = saved(exported(build("mnist-cnn-bn").eval(), 1, 28, 28), tmp_path / "m.pt2")
    assert exit_code("check", str(model)) == 0
    assert "converts." in capsys.readouterr().out
    assert exit_code("convert", str(model), "--images", "8", "--out", str(tmp_path / "n.safetensors")) == 0
    assert es.load(tmp_path / "n.safetensors").neurons.keys() >= {"features.2"}


def refused(path: Path, message: str, shape: tuple[int, ...] = IMAGE) -> None:
    with pytest.raises((es.ConversionError, es.FileError), match=message) as caught:
        es.trace(read(path), torch.zeros(2, *shape))
    assert "\n" not in str(caught.value)


def changed_behind_its_back(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    y.flatten(1).relu_()
    return m.h(y.flatten(1))


LINES = {"a": nn.Conv2d(4, 2, 3), "h": nn.Linear(72, 3)}
MODELS_REFUSED: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "a sigmoid": (lambda m, x: m.h(m.a(x).sigmoid_().flatten(1)), r"sigmoid \(sigmoid\): not piecewise linear"),
    "a view changed in place": (changed_behind_its_back, r"changed in place by way of another tensor\. Save program"),
    "numbers from nothing": (lambda m, x: m.h(m.a(x).flatten(1)) + torch.rand(3), "computed without the images"),
    "a part of the batch": (lambda m, x: m.h(m.a(x).relu().flatten(1) / x.shape[0]), "how many images are in a batch"),
    "a batch in the features": (lambda m, x: m.h(m.a(x).relu().view(-1, 36).repeat(1, 2)), "mixes the images"),
    "several outputs": (lambda m, x: (m.a(x).relu().flatten(1), m.h(m.a(x).flatten(1))), "the model returns 2 values"),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS_REFUSED)
def test_models_that_do_not_convert_are_refused_by_name(tmp_path: Path, name: str) -> None:
    forward, message = MODELS_REFUSED[name]
    refused(saved(exported(Forward(forward, **LINES).eval()), tmp_path / "m.pt2"), message)


def test_one_of_several_outputs_of_a_file_is_chosen(tmp_path: Path) -> None:
    model = Forward(lambda m, x: (m.a(x).sigmoid(), m.h(m.a(x).relu().flatten(1))), **LINES).eval()
    path, images = saved(exported(model), tmp_path / "m.pt2"), torch.rand(2, *IMAGE)
    assert torch.allclose(es.trace(read(path), images, output=1)(images), model(images)[1])
    assert exit_code("check", str(path), "--output", "1") == 0
    assert exit_code("check", str(path)) == 2


def test_programs_of_other_inputs_or_in_training_are_refused(tmp_path: Path) -> None:
    model, images, path = nn.Sequential(nn.Dropout(), nn.ReLU()), torch.zeros(2, 4), tmp_path / "m.pt2"
    refused(saved(exported(model, 4), path), r"0 \(Dropout\): drops at random", (4,))
    refused(saved(torch.export.export(model.eval(), (images,)), path), "Export it with a free batch size", (4,))
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("width")}
    refused(saved(torch.export.export(model, (images,), dynamic_shapes=(free,)), path), "with a fixed size", (4,))
    norm = nn.BatchNorm1d(4)
    refused(saved(exported(norm, 4), path), "has no running statistics", (4,))


# Broken and hostile files


@cache
def whole() -> bytes:
    model = nn.Sequential(
        *(nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(18, 3)),
    )
    with tempfile.TemporaryDirectory() as folder:
        return saved(exported(model.eval()), Path(folder, "m.pt2")).read_bytes()


Members = dict[str, bytes]


def rewritten(path: Path, change: Callable[[Members, Any, Any], object]) -> Path:
    """The file with members, graph and list of weights changed."""
    with zipfile.ZipFile(io.BytesIO(whole())) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    model, weights = "m/models/model.json", "m/data/weights/model_weights_config.json"
    graph, config = json.loads(members[model]), json.loads(members[weights])
    before = members[model], members[weights]
    change(members, graph, config["config"])
    if before == (members.get(model), members.get(weights)):
        members |= {model: json.dumps(graph).encode(), weights: json.dumps(config).encode()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def calls(graph: Any) -> Any:
    return graph["graph_module"]["graph"]["nodes"]


def replaced(member: str, content: bytes) -> Callable[[Members, Any, Any], None]:
    return lambda members, graph, weights: members.__setitem__(member, content)


def in_graph(change: Callable[[Any], object]) -> Callable[[Members, Any, Any], None]:
    def act(members: Members, graph: Any, weights: Any) -> None:
        change(graph)

    return act


def in_weight(**meta: Any) -> Callable[[Members, Any, Any], None]:
    def act(members: Members, graph: Any, weights: Any) -> None:
        weights["0.weight"]["tensor_meta"] |= meta

    return act


def ints(*values: int) -> list[dict[str, int]]:
    return [{"as_int": value} for value in values]


def call(target: str, *arguments: Any, out: str = "conv2d") -> dict[str, Any]:
    inputs = [{"name": "x", "arg": argument, "kind": 1} for argument in arguments]
    return {"target": target, "inputs": inputs, "outputs": [{"as_tensor": {"name": out}}], "metadata": {}}


def first(target: str, *arguments: Any) -> Callable[[Members, Any, Any], None]:
    """Another call in the place of the first."""
    return in_graph(lambda graph: calls(graph).__setitem__(0, call(target, *arguments)))


def values(graph: Any) -> Any:
    return graph["graph_module"]["graph"]["tensor_values"]


class Payload:
    def __reduce__(self) -> Any:
        return os.system, ("touch hacked",)


X, W = ({"as_tensor": {"name": name}} for name in ("input", "p_0_weight"))
CODE = "__import__('os').system('touch hacked')"
HOSTILE: dict[str, tuple[Callable[[Members, Any, Any], object], str]] = {
    "a pickle for a weight": (
        lambda m, g, w: (m.__setitem__("m/data/weights/weight_0", pickle.dumps(Payload())),
                         w["0.weight"].__setitem__("use_pickle", True)), "stored as a pickle, which can run code"),
    "an operation that reads files": (
        first("torch.ops.aten.from_file.default", {"as_string": "/etc/passwd"}), "computed without the images"),
    "an operation that is none": (first("os.system", {"as_string": "touch hacked"}), "computed without the images"),
    "an operation that is none, of the images": (first("os.system", X), r"no translation into integrate-and-fire"),
    "a weight of terabytes": (
        in_weight(sizes=ints(2**20, 2**20), strides=ints(2**20, 1)), "claims more numbers than the 72"),
    "a weight of terabytes without strides": (
        in_weight(sizes=ints(2**20, 2**20, 1, 1), strides=ints(0, 0, 0, 0)), "claims more numbers than the 72"),
    "a weight that reaches over its end": (in_weight(strides=ints(36, 9, 3, 2)), "claims more numbers than the 72"),
    "a weight from over its end": (in_weight(storage_offset={"as_int": 1}), "claims more numbers than the 72"),
    "a size below zero": (in_weight(sizes=ints(2, 4, -3, -3)), "-3 is no size"),
    "a size that is code": (in_weight(sizes=[{"as_expr": {"expr_str": CODE}}]), "as_expr where as_int is expected"),
    "a weight of objects": (in_weight(dtype=9), "of a type that no weight of a network has"),
    "a weight that is not there": (lambda m, g, w: w.pop("0.weight"), "0.weight"),
    "a weight in no file": (lambda m, g, w: w["0.weight"].__setitem__("path_name", "../../x"), "no item named"),
    "a newer layout": (in_graph(lambda g: g["schema_version"].__setitem__("minor", 99)), r"version 0, 8\.99, which is"),
    "another layout": (in_graph(lambda g: g["schema_version"].__setitem__("major", 9)), "with torch.export.load"),
    "another archive": (replaced("m/archive_version", b"1"), r"version 1, 8\.20, which is not known"),
    "another order of bytes": (replaced("m/byteorder", b"big"), "not in little-endian order"),
    "the layout of old": (replaced("serialized_exported_program.json", b"{}"), "the layout of torch before 2.8"),
    "no model": (lambda m, g, w: m.pop("m/models/model.json"), "holds 0 models"),
    "a JSON without end": (replaced("m/models/model.json", b"[" * 100_000), "cannot be read"),
    "a JSON of nothing": (replaced("m/models/model.json", b"[]"), "cannot be read"),
    "a JSON cut off": (replaced("m/models/model.json", b'{"graph_module": {'), "cannot be read"),
    "a call of what comes later": (in_graph(lambda g: calls(g).reverse()), "is read and does not come before"),
    "a circle": (first("torch.ops.aten.relu.default", {"as_tensor": {"name": "conv2d"}}), "does not come before"),
    "a name twice": (in_graph(lambda g: calls(g).insert(0, calls(g)[0])), "conv2d is given twice"),
    "features that lie": (
        in_graph(lambda g: values(g)["conv2d"]["sizes"].__setitem__(slice(1, None), ints(2, 9, 9))),
        r"the program says features of shape \(2, 9, 9\), and gives \(2, 6, 6\)"),
    "features of terabytes": (
        in_graph(lambda g: values(g)["conv2d"].__setitem__("sizes", ints(2**20, 2**20, 2**20))), "mixes the images"),
    "features below zero": (
        in_graph(lambda g: values(g)["conv2d"].__setitem__("sizes", ints(-1, 2))), "-1 is no size"),
    "a kernel that fills the memory": (
        first("torch.ops.aten.upsample_nearest2d.default", X, {"as_ints": [2**20, 2**20]}), "out of proportion"),
    "zeros that fill the memory": (
        first("torch.ops.aten.constant_pad_nd.default", X, {"as_ints": [2**30, 0, 2**30]}), "does not fit its input"),
    "products of weights that fill the memory": (
        lambda m, g, w: (
            m.__setitem__("m/data/weights/weight_0", bytes(4 * 2**16)),
            w["0.weight"]["tensor_meta"].update(sizes=ints(2**16, 1), strides=ints(1, 1)),
            calls(g).__setitem__(0, call("torch.ops.aten.matmul.default", W, {"as_tensor": {"name": "t"}})),
            calls(g).insert(0, call("torch.ops.aten.t.default", W, out="t"))), "is out of proportion"),
    "arguments that do not fit": (first("torch.ops.aten.conv2d.default", X), "arguments that do not fit"),
    "arguments of other types": (
        first("torch.ops.aten.conv2d.default", X, W, {"as_none": True}, {"as_ints": ["1", "1"]}), "as_ints is"),
    "a function for an argument": (
        first("torch.ops.higher_order.cond", X, {"as_graph": {"name": "g", "graph": {}}}), "of the kind as_graph"),
    "a call that gives nothing": (
        in_graph(lambda g: calls(g)[0].__setitem__("outputs", [])), r"aten.conv2d.default: gives no tensor"),
    "an image that is no tensor": (
        in_graph(lambda g: g["graph_module"]["signature"]["input_specs"][-1].__setitem__(
            "user_input", {"arg": {"as_int": 3}})), "as_int where as_tensor is expected"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_line(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, message = HOSTILE[name]
    monkeypatch.chdir(tmp_path)
    refused(rewritten(tmp_path / "m.pt2", change), message)
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt2"]


def test_expressions_in_a_file_are_compared_and_not_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(members: Members, graph: Any, weights: Any) -> None:
        text = json.dumps(graph).replace(values(graph)["input"]["sizes"][0]["as_expr"]["expr_str"], CODE)
        members["m/models/model.json"] = text.encode()

    monkeypatch.chdir(tmp_path)
    path = rewritten(tmp_path / "m.pt2", change)
    (tmp_path / "n.pt2").write_bytes(whole())
    a, b = (es.trace(read(name), torch.zeros(2, *IMAGE)) for name in (path, tmp_path / "n.pt2"))
    assert_same(a, b)
    assert not Path("hacked").exists()


def test_zip_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("m/archive_version"), "0")
        archive.writestr("m/models/model.json", bytes(2**20))
    refused(path, "models/model.json is compressed, which torch does not do")
    whole_size = len(whole())
    data = bytearray(whole())  # a member that claims to be larger than the file, at both of its places
    size = int.to_bytes(zipfile.ZipFile(io.BytesIO(whole())).getinfo("m/models/model.json").file_size, 4, "little")
    path.write_bytes(bytes(data).replace(size, (2**31).to_bytes(4, "little")))
    assert path.stat().st_size == whole_size
    refused(path, "claims more bytes than the file holds")
    monkeypatch.setattr(pt2_archive, "LONGEST", 100)
    path.write_bytes(whole())
    refused(path, "out of proportion")


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "missing.pt2", "no such file")
    for content in (b"", b"PK\x03\x04", b"\x80\x04cos\nsystem\n(S'touch hacked'\ntR.", b"x" * 10_000):
        (tmp_path / "m.pt2").write_bytes(content)
        refused(tmp_path / "m.pt2", "cannot be read as a program of torch.export")


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    for end in range(0, len(whole()), len(whole()) // 40):
        (tmp_path / "m.pt2").write_bytes(whole()[:end])
        refused(tmp_path / "m.pt2", "cannot be read as a program of torch.export")


def read_or_refused(path: Path) -> None:
    message = "was read"
    try:
        program = read(path)
        examine(program, torch.zeros(2, *program.shapes[0]))
    except (es.FileError, es.ConversionError) as error:
        message = str(error)
    assert "\n" not in message


@given(damaged(whole))
@settings(shared_folder, max_examples=EXAMPLES // 2)
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.pt2").write_bytes(content)
    read_or_refused(tmp_path / "m.pt2")


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in nested JSON: what holds it, and its key."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [place for key in keys for place in ((value, key), *places(value[key]))]


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(), st.text(max_size=5), st.just([]), st.just({}),
    st.sampled_from(["torch.ops.aten.cat.default", "input", "p_0_weight", "as_int", 7]),
)  # fmt: skip


@given(st.data())
@settings(shared_folder, max_examples=EXAMPLES // 4)
def test_graphs_with_anything_in_them_are_read_or_refused_in_one_line(tmp_path: Path, data: Any) -> None:
    def change(members: Members, graph: Any, weights: Any) -> None:
        everything = [*places(graph["graph_module"]), *places(weights)]
        for _ in range(data.draw(st.integers(1, 3))):
            holder, key = everything[data.draw(st.integers(0, len(everything) - 1))]
            if data.draw(st.booleans()):
                holder[key] = data.draw(JUNK)
            else:  # what stands elsewhere
                other, there = everything[data.draw(st.integers(0, len(everything) - 1))]
                holder[key] = json.loads(json.dumps(other[there]))

    read_or_refused(rewritten(tmp_path / "m.pt2", change))
