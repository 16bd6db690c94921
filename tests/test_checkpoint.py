"""Files: round trips bit for bit; and whatever is wrong with one, a FileError in one line and nothing else."""

import dataclasses
import json
import os
import pickle
import stat
import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as to_bytes
from safetensors.torch import save_file
from strategies import EXAMPLES, damaged, dyadic, images_for, networks, seeds
from torch import Tensor

import equispike as es
from equispike.files import checkpoint
from equispike.graph.network import Network, Node
from equispike.graph.ops import Affine, Conv, Flatten, Input, Linear, Neuron, Readout
from equispike.provenance import as_data
from equispike.zoo.models import build
from equispike.zoo.store import bundled, in_8_bits, load_model, save_model

shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def small() -> Network:
    theta = dyadic(1, 3, 1, 1, low=1)
    nodes = (
        Node("input", Input((2, 4, 4), 2.0, 2.0)),
        Node("conv", Conv(dyadic(2, 3, 2, 3, 3), dyadic(3, 3), (1, 1), (1, 1), (1, 1)), ("input",)),
        Node("n", Neuron(theta, theta, 6.0, "zero", "uniform"), ("conv",)),
        Node("flat", Flatten(), ("n",)),
        Node("out", Linear(dyadic(4, 5, 48), None), ("flat",)),
        Node("readout", Readout(0.5), ("out",)),
    )
    return Network(nodes, {"method": "DataNorm()", "scale": 1.0, "changes": ["a", "b"], "versions": {"x": "1"}})


def same(a: Network, b: Network) -> None:
    assert a.provenance == b.provenance
    assert [(n.name, n.inputs, type(n.op)) for n in a] == [(n.name, n.inputs, type(n.op)) for n in b]
    for mine, other in zip(a, b):
        for field in dataclasses.fields(mine.op):
            x, y = getattr(mine.op, field.name), getattr(other.op, field.name)
            if isinstance(x, Tensor):
                assert x.dtype == y.dtype
                assert torch.equal(x, y)
            else:
                assert (x, type(x)) == (y, type(y)), f"{mine.name}.{field.name}"


def refused(path: Path, message: str | None = None, read: Callable[[Path], object] = es.load) -> None:
    with pytest.raises(es.FileError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def attempt(path: Path, read: Callable[[Path], Any] = es.load) -> Any:
    """What is in the file, or None if it was refused as it should be."""
    message, read_value = "", None
    try:
        read_value = read(path)
    except es.FileError as error:
        message = str(error)
    assert read_value is not None or str(path) in message
    assert "\n" not in message
    return read_value


# Round trips


@given(networks(form="any"), st.data())
@settings(shared_folder, max_examples=40)
def test_a_network_comes_back_bit_for_bit(tmp_path: Path, network: Network, data: Any) -> None:
    network = dataclasses.replace(network, provenance={"method": "m", "scale": 0.1, "changes": ["ü\n", None, True]})
    path = tmp_path / "network.safetensors"
    es.save(network, path)
    loaded = es.load(path)
    same(loaded, network)
    images = data.draw(images_for(network))
    before, after = (es.simulate(n, images, 8, es.Poisson()) for n in (network, loaded))
    assert torch.equal(after.readout, before.readout)
    assert all(torch.equal(after.counts[name], count) for name, count in before.counts.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_point_type_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    es.save(small().to(dtype), tmp_path / "n")
    same(es.load(tmp_path / "n"), small().to(dtype))


def test_networks_without_thresholds_and_views_of_memory_come_back(tmp_path: Path) -> None:
    network = small().replace_ops({"n": Neuron(), "out": Linear(dyadic(0, 48, 5).t(), dyadic(0, 9)[:5])})
    es.save(network, tmp_path / "n")
    same(es.load(tmp_path / "n"), network)


def test_a_converted_model_keeps_its_provenance(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    network = es.convert(model, torch.rand(8, 4), es.DataNorm(99.0), v_init=0.5)
    es.save(network, tmp_path / "n")
    loaded = es.load(str(tmp_path / "n"))
    same(loaded, network)
    assert loaded.provenance["method"] == as_data(es.DataNorm(99.0))
    assert loaded.provenance["versions"] == network.provenance["versions"]


def test_tensors_that_share_memory_are_saved_each(tmp_path: Path) -> None:
    """As tied weights do, and a threshold that is the amplitude."""
    weight = dyadic(0, 4, 4)
    nodes = [Node("input", Input((4,)))]
    for n in range(2):
        nodes.append(Node(f"l{n}", Linear(weight, weight[0]), (nodes[-1].name,)))
    network = Network((*nodes, Node("readout", Readout(), ("l1",))))
    es.save(network, tmp_path / "n")
    same(es.load(tmp_path / "n"), network)


# Damage


@cache
def good() -> bytes:
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    path = folder / f"checkpoint-{os.getpid()}"
    es.save(small(), path)
    data = path.read_bytes()
    path.unlink()
    return data


def loads_or_refuses(path: Path, data: bytes) -> None:
    """Damage that does not matter (white space, say) may load, to the same network; all else is a FileError."""
    path.write_bytes(data)
    if (loaded := attempt(path)) is not None:
        same(loaded, small())


@given(damaged(good))
@settings(shared_folder, max_examples=EXAMPLES)
def test_damage_is_noticed(tmp_path: Path, data: bytes) -> None:
    loads_or_refuses(tmp_path / "n", data)


@given(st.data())
@settings(shared_folder, max_examples=60)
def test_truncated_and_extended_files_are_noticed(tmp_path: Path, data: Any) -> None:
    path = tmp_path / "n"
    header = 8 + struct.unpack("<Q", good()[:8])[0]
    end = data.draw(st.one_of(st.integers(0, 16), st.integers(0, header), st.integers(header, len(good()) - 1)))
    path.write_bytes(good()[:end])
    refused(path)
    path.write_bytes(good() + data.draw(st.binary(min_size=1, max_size=9)))
    refused(path)


@given(st.binary(max_size=200))
@settings(shared_folder, max_examples=100)
def test_any_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "n").write_bytes(data)
    refused(tmp_path / "n")


def test_a_flipped_bit_in_a_weight_is_told_from_the_digest(tmp_path: Path) -> None:
    data = bytearray(good())
    data[-1] ^= 1
    (tmp_path / "n").write_bytes(data)
    refused(tmp_path / "n", "do not match its digest")


def test_what_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    refused(path, "no such file")
    refused(tmp_path, "no such file")
    path.write_bytes(b"")
    refused(path, "not a readable safetensors file")
    path.write_bytes(pickle.dumps({"weight": [1.0]}))
    refused(path, "not a readable safetensors file")
    torch.save({"weight": torch.ones(2)}, path)
    refused(path, "not a readable safetensors file")
    save_file({"weight": torch.ones(2)}, path)
    refused(path, "is a safetensors file of another program, not a converted network")
    save_file({"weight": torch.ones(2)}, path, {"format": "pt"})
    refused(path, "is a safetensors file of another program")
    save_model(path, "mnist-cnn", build("mnist-cnn"), {})
    refused(path, "is a trained model, not a converted network. Convert the model first")


def test_nothing_in_a_pickle_is_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "run"),)

    (tmp_path / "file").write_bytes(pickle.dumps(Trap()))
    refused(tmp_path / "file", "not a readable")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("version", ["2", "0", "1.5", ""])
def test_other_versions_are_refused(tmp_path: Path, version: str) -> None:
    path = tmp_path / "n"
    path.write_bytes(to_bytes({"x": torch.ones(1)}, {"format": "equispike.network", "version": version}))
    refused(path, f"has version {version}; this release reads 1")


@pytest.mark.parametrize("key", ["format", "version", "description", "sha256"])
def test_incomplete_headers_are_refused(tmp_path: Path, key: str) -> None:
    header = {"format": "equispike.network", "version": "1", "description": "{}", "sha256": ""}
    del header[key]
    (tmp_path / "n").write_bytes(to_bytes({"x": torch.ones(1)}, header))
    refused(tmp_path / "n")


# Files with a right digest and wrong contents


def forge(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], Any] | str) -> None:
    """The small network's file after a change of its description or tensors, with a digest that fits."""
    held: dict[str, Any] = {}

    def keep(_: Any, __: Any, description: Any, tensors: Any) -> None:
        held.update(description=json.loads(json.dumps(description)), tensors=dict(tensors))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write_tensors", keep)
        es.save(small(), path)
    if isinstance(change, str):
        text = change
    else:
        change(held["description"], held["tensors"])
        text = json.dumps(held["description"])
    tensors = {name: tensor.clone() for name, tensor in held["tensors"].items()}
    digest = checkpoint._digest(text, tensors)
    header = {"format": "equispike.network", "version": "1", "description": text, "sha256": digest}
    path.write_bytes(to_bytes(tensors, header))


def node(description: dict[str, Any], name: str) -> dict[str, Any]:
    return next(item for item in description["nodes"] if item["name"] == name)


def setting(name: str, field: str, value: Any) -> Callable[[Any, Any], None]:
    return lambda d, _: node(d, name)["fields"].__setitem__(field, value)


def replacing(name: str, key: str, value: Any) -> Callable[[Any, Any], None]:
    return lambda d, _: node(d, name).__setitem__(key, value)


def padding(before: list[Any], after: list[Any]) -> Callable[[Any, Any], None]:
    return lambda d, _: node(d, "flat").update(op="Pad", fields={"before": before, "after": after})


def growing(description: dict[str, Any], _: Any) -> None:
    """Nothing but a number says how large the features are."""
    node(description, "conv")["fields"]["padding"] = [2**20, 2**20]
    node(description, "readout")["inputs"] = ["flat"]
    description["nodes"].remove(node(description, "out"))


def tensor(name: str, value: Tensor) -> Callable[[Any, Any], None]:
    return lambda _, tensors: tensors.__setitem__(name, value)


FORGERIES: dict[str, tuple[Any, str]] = {
    "nothing changed": (lambda d, t: None, "does not describe a network"),
    "unknown op": (replacing("n", "op", "Exec"), "Exec"),
    "op of the wrong kind": (replacing("n", "op", ["Neuron"]), "does not describe a network"),
    "no op": (lambda d, t: node(d, "n").pop("op"), "op"),
    "op that is not converted": (replacing("n", "op", "MaxPool"), "MaxPool"),
    "extra field": (setting("n", "leak", 0.5), "leak"),
    "missing field": (lambda d, t: node(d, "n")["fields"].pop("reset"), "reset"),
    "fields are a list": (replacing("n", "fields", [1, 2]), "does not describe a network"),
    "unknown reset": (setting("n", "reset", "half"), r"n\.reset: 'half'"),
    "text for a number": (setting("n", "ceiling", "6"), r"n\.ceiling: '6'"),
    "number for a text": (setting("n", "reset", 1), r"n\.reset: 1"),
    "bool for a number": (setting("readout", "scale", True), r"readout\.scale: True"),
    "float for an integer": (setting("conv", "groups", 1.0), r"conv\.groups: 1\.0"),
    "number for a tuple": (setting("conv", "stride", 1), r"conv\.stride: 1"),
    "infinite number": (setting("readout", "scale", float("inf")), r"readout\.scale: inf"),
    "NaN": (setting("input", "scale", float("nan")), r"input\.scale: nan"),
    "huge number": (setting("readout", "scale", 10**400), "too large"),
    "number for a tensor": (setting("out", "weight", 1.0), r"out\.weight: 1\.0"),
    "tensor that is not there": (setting("out", "weight", {"tensor": "9.weight"}), r"9\.weight"),
    "tensor without a name": (setting("out", "weight", {}), "tensor"),
    "cyclic inputs": (replacing("conv", "inputs", ["flat"]), "conv: reads flat, which does not come before it"),
    "reads itself": (replacing("conv", "inputs", ["conv"]), "conv: reads conv"),
    "unknown input": (replacing("conv", "inputs", ["nobody"]), "conv: reads nobody"),
    "no input": (replacing("conv", "inputs", []), r"conv \(Conv\): has 0 inputs"),
    "two inputs": (replacing("flat", "inputs", ["n", "conv"]), "has 2 inputs"),
    "inputs are a number": (replacing("conv", "inputs", 3), "does not describe a network"),
    "duplicate names": (lambda d, t: d["nodes"].insert(1, d["nodes"][0]), "does not describe a network"),
    "two nodes of one name": (replacing("flat", "name", "n"), "n: two nodes have this name|n: reads n"),
    "no nodes": (lambda d, t: d.__setitem__("nodes", []), "one input"),
    "nodes are missing": (lambda d, t: d.pop("nodes"), "nodes"),
    "nodes are a number": (lambda d, t: d.__setitem__("nodes", 3), "does not describe a network"),
    "a node is a text": (lambda d, t: d.__setitem__("nodes", ["n"]), "does not describe a network"),
    "no readout": (lambda d, t: d["nodes"].pop(), "one readout"),
    "provenance is missing": (lambda d, t: d.pop("provenance"), "provenance"),
    "provenance is a list": (lambda d, t: d.__setitem__("provenance", [1]), "provenance"),
    "NaN tensor": (
        tensor("4.weight", torch.full((5, 48), torch.nan)),
        r"out\.weight: holds NaN, infinity or numbers of ano",
    ),
    "infinite tensor": (tensor("1.bias", torch.full((3,), torch.inf)), r"conv\.bias: holds NaN"),
    "integer tensor": (tensor("1.bias", torch.ones(3, dtype=torch.int64)), r"conv\.bias: holds NaN"),
    "8-bit floats": (tensor("1.bias", torch.ones(3).to(torch.float8_e4m3fn)), "does not describe"),
    "tensor of a wrong shape": (tensor("4.weight", torch.ones(5, 47).double()), r"out \(Linear\): does not fit"),
    "threshold of a wrong shape": (tensor("2.threshold", torch.ones(2, 1, 1).double()), r"n \(Neuron\)"),
    "threshold of zero": (tensor("2.threshold", torch.zeros(3, 1, 1).double()), r"n\.threshold"),
    "negative amplitude": (tensor("2.amplitude", -torch.ones(3, 1, 1).double()), r"n\.amplitude"),
    "input scale of zero": (setting("input", "scale", 0.0), r"input\.scale"),
    "huge shape": (setting("input", "shape", [2, 10**9, 10**9]), "does not describe a network"),
    "shape beyond 64 bits": (setting("input", "shape", [2**70, 4, 4]), "does not describe a network"),
    "negative shape": (setting("input", "shape", [2, -4, 4]), "does not describe a network"),
    "empty shape": (setting("input", "shape", []), "does not describe a network"),
    "stride of zero": (setting("conv", "stride", [0, 0]), "does not describe a network"),
    "padding beyond 64 bits": (setting("conv", "padding", [2**70, 0]), "does not describe a network"),
    "padding of too few axes": (padding([1], [1]), r"flat \(Pad\): does not fit"),
    "padding of the images": (padding([1, 0, 0, 0], [0, 0, 0, 0]), r"flat \(Pad\): does not fit"),
    "padding that cuts all off": (padding([-3, 0, 0], [0, 0, 0]), r"flat \(Pad\): leaves nothing"),
    "padding that fills the memory": (growing, "conv: features of shape .* are out of proportion"),
    "padding of a part": (padding([0.5, 0, 0], [0, 0, 0]), r"flat\.before: 0\.5"),
    "padding beyond memory": (padding([2**62, 0, 0], [0, 0, 0]), r"flat \(Pad\): does not fit"),
    "padding of more than 64 bits": (padding([2**70, 0, 0], [0, 0, 0]), r"flat \(Pad\): does not fit"),
    "groups of zero": (setting("conv", "groups", 0), "does not describe a network"),
    "number of 5000 digits": ('{"nodes": ' + "1" * 5000 + ', "provenance": {}}', "no readable description"),
    "deep nesting": ("[" * 100_000, "no readable description"),
    "description is a list": ("[]", "description"),
    "description is not JSON": ("nodes", "has no readable description"),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_a_description_that_makes_no_network_is_refused(tmp_path: Path, case: str) -> None:
    change, message = FORGERIES[case]
    forge(tmp_path / "n", change)
    if case == "nothing changed":
        same(es.load(tmp_path / "n"), small())
    else:
        refused(tmp_path / "n", message)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["n", "conv", "out"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["tensor", "a"]), inner, max_size=2),
    max_leaves=5,
)


@given(st.data(), values)
@settings(shared_folder, max_examples=200)
def test_any_value_anywhere_loads_or_is_refused(tmp_path: Path, data: Any, value: Any) -> None:
    def change(description: Any, _: Any) -> None:
        place = description
        while True:
            key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else list(range(len(place)))))
            if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.integers(0, 3)) == 0:
                place[key] = value
                return
            place = place[key]

    forge(tmp_path / "n", change)
    loaded = attempt(tmp_path / "n")
    assert loaded is None or isinstance(loaded, Network)


# Writing


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Path]:
    """A file that must survive, alone in its folder."""
    path = tmp_path / "network"
    path.write_bytes(b"old")
    yield path
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_failure_midway_leaves_the_old_file(old: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(es.FileError, match="cannot be written: No space left on device"):
        es.save(small(), old)


def test_an_interruption_leaves_the_old_file(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        es.save(small(), old)


def test_what_cannot_be_described_leaves_the_old_file(old: Path) -> None:
    with pytest.raises(es.FileError, match="provenance"):
        es.save(dataclasses.replace(small(), provenance={"x": torch.ones(1)}), old)
    affine = Network(
        (*small().nodes[:-1], Node("a", Affine(torch.ones(5), torch.ones(5)), ("out",)), Node("r", Readout(), ("a",)))
    )
    with pytest.raises(es.FileError, match=r"a \(Affine\)"):
        es.save(affine, old)


def test_places_that_cannot_be_written_are_named(old: Path) -> None:
    with pytest.raises(es.FileError, match="cannot be written"):
        es.save(small(), old / "below")
    with pytest.raises(es.FileError, match="cannot be written"):
        es.save(small(), old.parent)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(es.FileError, match="cannot be written: Permission denied"):
        es.save(small(), tmp_path / "n")


def test_saving_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "n"
    for scale in (1.0, 2.0):
        es.save(small().replace_ops({"readout": Readout(scale)}), path)
        assert es.load(path)["readout"].op.scale == scale  # type: ignore[union-attr]
    assert list(path.parent.iterdir()) == [path]


# Models of the zoo


def test_models_come_back_bit_for_bit(tmp_path: Path) -> None:
    model = build("mnist-cnn-bn", seed=3)
    save_model(tmp_path / "m", "mnist-cnn-bn", model, {"seed": 3})
    loaded, card = load_model(tmp_path / "m")
    assert {"seed": 3, "name": "mnist-cnn-bn"}.items() <= card.items()
    assert {"seed", "name", "versions"} <= card.keys() <= {"seed", "name", "versions", "commit"}
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())


@given(st.sampled_from(["mnist-cnn-bn", "mnist-resnet8"]), seeds)
@settings(shared_folder, max_examples=10)
def test_models_in_8_bits_come_back_exactly_and_each_weight_moves_by_half_a_step_at_most(
    tmp_path: Path, name: str, seed: int
) -> None:
    model = build(name, seed)
    next(model.parameters()).data[0] = 0
    save_model(tmp_path / "m", name, model, {}, rounded=True)
    found = load_model(tmp_path / "m")[0].state_dict()
    expected = in_8_bits(model).state_dict()
    for path, value in model.state_dict().items():
        assert torch.equal(found[path], expected[path])
        if value.ndim < 2:
            assert torch.equal(found[path], value)
        for before, after in zip(value, found[path], strict=True) if value.ndim > 1 else ():
            assert float((before - after).abs().max()) <= float(before.abs().max()) / 254 * (1 + 1e-5)
    again = in_8_bits(in_8_bits(model)).state_dict()
    assert all(torch.allclose(again[path], value, rtol=1e-6) for path, value in expected.items())


@given(st.data())
@settings(shared_folder, max_examples=60)
def test_damaged_models_are_noticed(tmp_path: Path, data: Any) -> None:
    path = tmp_path / "m"
    if not path.exists():
        save_model(path, "mnist-cnn", build("mnist-cnn"), {"seed": 0})
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    altered = bytearray(whole)
    altered[data.draw(st.integers(0, header + 99))] ^= data.draw(st.integers(1, 255))
    for wounded in (whole[: data.draw(st.integers(0, len(whole) - 1))], bytes(altered)):
        (tmp_path / "damaged").write_bytes(wounded)
        if (loaded := attempt(tmp_path / "damaged", load_model)) is not None:
            expected, found = build("mnist-cnn").state_dict(), loaded[0].state_dict()
            assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("description", "tensors"),
    [
        ({"name": "mnist-cnn", "card": {}}, {"x": torch.ones(1)}),
        ({"name": "resnet", "card": {}}, {}),
        ({"name": ["mnist-cnn"], "card": {}}, {}),
        ({"card": {}}, {}),
        ({"name": "mnist-cnn"}, build("mnist-cnn").state_dict()),
        ({"name": "mnist-cnn", "card": [1]}, build("mnist-cnn").state_dict()),
        ({"name": "mnist-cnn", "card": {"levels": []}}, build("mnist-cnn").state_dict()),
    ],
)
def test_models_that_do_not_fit_their_name_are_refused(tmp_path: Path, description: Any, tensors: Any) -> None:
    checkpoint.write_tensors(tmp_path / "m", "equispike.model", description, tensors)
    refused(tmp_path / "m", "does not fit the network it names", load_model)


def test_networks_are_not_models(tmp_path: Path) -> None:
    es.save(small(), tmp_path / "n")
    refused(tmp_path / "n", "is a converted network, not a trained model", load_model)
    refused(tmp_path / "none", "no such file", load_model)


KEPT = (bundled("mnist-cnn").parent, bundled("vgg16-slim-rnl-cifar10").parent)
"""Folders of trained weights: the package's, and the checkout's."""


@pytest.mark.parametrize(
    "path", sorted(p for folder in KEPT for p in folder.glob("*.safetensors")), ids=lambda p: p.stem
)
def test_models_in_the_package_load_by_name_and_say_where_they_come_from(path: Path) -> None:
    model, card = load_model(path.stem)
    assert card["name"] == path.stem
    assert {"data", "recipe", "seed", "test_accuracy", "test_images"} <= card.keys()
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    packaged = path.parent == KEPT[0]
    assert path.stat().st_size < (1.5e6 if packaged else 40 * 2**20)
