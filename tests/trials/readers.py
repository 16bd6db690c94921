"""Hostile files end in success or in one line, in bounded memory and time, whatever reads them.

``python tests/trials/readers.py --tries 20000 --seed 0`` damages small whole files of every kind that is read: bytes
changed, cut out, filled or copied; JSON and ONNX graphs with senseless values in well-formed files, digests made anew.
Each is read in a child process with a bound on its memory, and within some seconds. NIR files, which a process of their
own reads, are one in 500.
"""

import json
import os
import pickle
import random
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from shared import Attempt, draws, script
from torch import nn

import equispike as es
from equispike.errors import EquispikeError
from equispike.files import checkpoint
from equispike.files.nir import read_nir, write_nir
from equispike.files.onnx import provenance_in, read_onnx, write_onnx
from equispike.files.store import Store, is_store
from equispike.report.page import write_report
from equispike.results import Result, document, write_json
from equispike.zoo.data.folder import read_folder
from equispike.zoo.data.formats import read_idx, read_pickle
from equispike.zoo.store import load_model, load_weights

sys.path.insert(0, str(Path(__file__).parent.parent))
from strategies import wounded

PATIENCE = 20
"""Seconds for a file."""
ROOM = 2**30
"""Bytes that reading one may take beside what the process has."""

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 7, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "0", "x" * 300, "\x00", "\ud800", "a\nb", "../../etc/passwd", "Neuron", "subtract", [], {}, [[]], [0, -1]),
    *({"tensor": "0.weight"}, {"name": "DataNorm"}, [1e400, 1], ["x"] * 9),
)
KINDS = "Conv Gemm MatMul Relu Reshape Flatten Transpose Slice Pad Resize Split Concat Loop If Softmax".split()  # noqa: SIM905

Reader = Callable[[Path], object]


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(18, 3))


def drawn(path: Path) -> object:
    """The page of run files, as ``equispike report`` makes it."""
    return write_report([path], path.with_name("page.html"))


def kept(path: Path) -> object:
    """The points in a store, as ``equispike report`` and ``info`` read them."""
    return Store(path).read() if is_store(path) else None


def pictures(path: Path) -> object:
    """A picture as the only one of its class."""
    return read_folder(path.parent.parent.parent, "pictures", size=8, workers=0)[1].floats()


def files(folder: Path) -> dict[str, Reader]:
    """Small whole files of every kind, and what reads them."""
    torch.manual_seed(0)
    net, x = model().eval(), torch.rand(12, 1, 6, 6)
    network = es.convert(net, x, correct=[es.Bias(4)])
    es.save(network, folder / "network.safetensors")
    write_nir(network, folder / "network.nir")
    write_onnx(network, folder / "converted.onnx")
    free = {"dynamo": False, "dynamic_axes": {"input": [0]}, "input_names": ["input"]}
    torch.onnx.export(net, (x,), folder / "trained.onnx", **free)
    torch.save(net.state_dict(), folder / "weights.pth")
    save_file(net.state_dict(), folder / "weights.safetensors")
    part = [(x, torch.arange(12) % 3)]
    evaluated = es.evaluate(network, part, timesteps=4)
    runs = document([Result(network, es.Constant(), evaluated, None)], "net", "digits", ("a", "b", "c"))
    write_json(folder / "runs.json", runs)
    Store(folder / "points.sqlite").point({"method": "DataNorm", "timesteps": 4}, lambda: runs)
    (folder / "idx").write_bytes(b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (2, 3, 4)) + bytes(24))
    (folder / "batch").write_bytes(pickle.dumps({b"data": np.zeros((2, 12), np.uint8), b"labels": [0, 1]}, protocol=2))
    (folder / "packaged.safetensors").write_bytes(load_packaged())
    for ending in ("png", "jpg"):
        for place in ("train", "val"):
            path = folder / ending / place / "a" / f"0.{ending}"
            path.parent.mkdir(parents=True)
            Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(path)
    return {
        "network.safetensors": es.load,
        "packaged.safetensors": load_model,
        "weights.safetensors": lambda path: load_weights(model(), path),
        "weights.pth": lambda path: load_weights(model(), path),
        "trained.onnx": read_onnx,
        "converted.onnx": provenance_in,
        "network.nir": read_nir,
        "runs.json": drawn,
        "points.sqlite": kept,
        "idx": partial(read_idx, ndim=3),
        "batch": read_pickle,
        "png/val/a/0.png": pictures,
        "jpg/val/a/0.jpg": pictures,
    }


def load_packaged() -> bytes:
    """A trained model's file with few weights in it: of the package's smallest."""
    from equispike.zoo.store import bundled

    return bundled("mnist-cnn").read_bytes()


def twisted(value: Any, draw: random.Random) -> Any:
    """Data of JSON in which one value, key or list is another one."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.08:
        return nested(draw) if draw.random() < 0.1 else draw.choice(VALUES)
    if isinstance(value, list):
        at = draw.randrange(len(value))
        if draw.random() < 0.1:
            return value[:at] + value[at + 1 :] if draw.random() < 0.5 else [*value, value[at]]
        return [*value[:at], twisted(value[at], draw), *value[at + 1 :]]
    key = draw.choice(sorted(value))
    if draw.random() < 0.1:
        rest = {name: item for name, item in value.items() if name != key}
        return rest if draw.random() < 0.5 else rest | {draw.choice(["", "name", "x\ny"]): value[key]}
    return {**value, key: twisted(value[key], draw)}


def nested(draw: random.Random) -> Any:
    """Lists in lists, as deep as JSON can still be written."""
    found: Any = 0
    for _ in range(draw.choice([9, 300])):
        found = [found]
    return found


def in_json(path: Path, draw: random.Random) -> bytes:
    if draw.random() < 0.02:
        return b"[" * 10**6
    return json.dumps(twisted(json.loads(path.read_text()), draw)).encode()


def in_checkpoint(kind: checkpoint.Format, path: Path, draw: random.Random) -> bytes:
    """A checkpoint of senseless contents whose digest is right."""
    described, tensors = checkpoint.read_tensors(path, kind)
    if draw.random() < 0.7:
        described = twisted(described, draw)
    if draw.random() < 0.4:
        name = draw.choice(sorted(tensors))
        shape = draw.choice([(), (0,), (1,), (3,), (2, 2), (1, 1, 1, 1), (2, 1, 3, 3)])
        dtype = draw.choice([torch.float32, torch.float64, torch.float16, torch.int64, torch.int8, torch.bool])
        tensors[name] = torch.full(shape, draw.choice([0.0, 1.0, -1.0])).to(dtype)
    other = path.with_name("digested")
    checkpoint.write_tensors(other, kind, described, tensors)
    return other.read_bytes()


def in_onnx(path: Path, draw: random.Random) -> bytes:
    """A well-formed ONNX file of a senseless graph."""
    import onnx

    found = onnx.load(path)
    graph = found.graph
    for _ in range(draw.randint(1, 3)):
        node = draw.choice(list(graph.node))
        number = draw.choice([-1, 0, 1, 2, 3, 2**31, 2**62, -(2**63)])
        match draw.choice(["kind", "input", "output", "attribute", "sizes", "shape", "drop", "twice"]):
            case "kind":
                node.op_type = draw.choice(KINDS)
            case "input" if node.input:
                node.input[draw.randrange(len(node.input))] = draw.choice(["", "input", "nowhere", node.output[0]])
            case "output" if node.output:
                node.output[0] = draw.choice(["", "input", "x\ny", graph.output[0].name])
            case "attribute" if node.attribute:
                given = draw.choice(list(node.attribute))
                given.i, given.name = number, draw.choice([given.name, "axis", "group"])
                if given.ints:
                    given.ints[draw.randrange(len(given.ints))] = number
            case "sizes" if graph.initializer:
                stored = draw.choice(list(graph.initializer))
                if stored.dims:
                    stored.dims[draw.randrange(len(stored.dims))] = number
                stored.data_type = draw.choice([stored.data_type, 1, 7, 8, 11, 99])
            case "shape":
                dims = graph.input[0].type.tensor_type.shape.dim
                dims[draw.randrange(len(dims))].dim_value = number
            case "drop":
                graph.node.remove(node)
            case _:
                graph.node.append(node)
        if not graph.node:
            break
    return found.SerializeToString()


SENSELESS: dict[str, Callable[[Path, random.Random], bytes]] = {
    "runs.json": in_json,
    "network.safetensors": partial(in_checkpoint, "equispike.network"),
    "packaged.safetensors": partial(in_checkpoint, "equispike.model"),
    "trained.onnx": in_onnx,
}
"""Files whose contents are also changed in well-formed files."""


def spliced(data: bytes, others: dict[str, bytes], draw: random.Random) -> bytes:
    """The front of one file and the rest of another."""
    other = others[draw.choice(sorted(others))]
    return data[: draw.randrange(len(data) + 1)] + other[draw.randrange(len(other) + 1) :][: 2**16]


class TooLong(BaseException):
    """A file was read for longer than a patient reader waits."""


def read(path: Path, reader: Reader) -> tuple[str, bool]:
    """How reading ends, and whether well."""

    def stop(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader(path)
    except EquispikeError as error:
        text = str(error)
        return ("refused", True) if "\n" not in text and text.isprintable() else (f"not one line: {text!r}", False)
    except TooLong:
        return f"took more than {PATIENCE} s", False
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]!r}", False
    finally:
        signal.alarm(0)
    return "read", True


def hostile(name: str, whole: dict[str, bytes], folder: Path, draw: random.Random) -> bytes:
    """A file of this name with senseless contents, or damaged, or grown together with another."""
    chance = draw.random()
    if name in SENSELESS and chance < 0.6:
        try:
            return SENSELESS[name](folder / "whole" / name, draw)
        except (EquispikeError, ValueError, TypeError, OverflowError, RecursionError):  # cannot even be written
            pass
    return spliced(whole[name], whole, draw) if chance > 0.95 else wounded(whole[name], draw)


def child(numbers: range, seed: int, folder: Path, readers: dict[str, Reader], out: int) -> None:
    """Read the files of these numbers, and write a line for each, before and after."""
    with open("/proc/self/statm") as statm:
        have = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (have + ROOM, have + ROOM))
    whole = {name: (folder / "whole" / name).read_bytes() for name in readers}
    names = [name for name in readers if name != "network.nir"]
    with os.fdopen(out, "w") as told:
        for number in numbers:
            draw = draws(seed, number)
            name = "network.nir" if number % 500 == 499 else draw.choice(names)
            path = folder / "hostile" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(("png", "jpg")):  # where the other part is whole
                path = folder / "whole" / name
            told.write(json.dumps([number, name]) + "\n")
            told.flush()
            try:
                path.write_bytes(hostile(name, whole, folder, draw))
                end, good = read(path, readers[name])
            finally:
                if name.endswith(("png", "jpg")):
                    path.write_bytes(whole[name])
            told.write(json.dumps([end, good]) + "\n")
            told.flush()


def run(tries: int, seed: int, block: int = 500) -> Iterator[Attempt]:
    """Read so many hostile files, in children that do not outlive a block of them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "whole").mkdir()
        readers = files(folder / "whole")
        for whole, reader in readers.items():
            end, good = read(folder / "whole" / whole, reader)
            assert good, (whole, end)
        first = 0
        while first < tries:
            lines = list(_in_a_child(range(first, min(tries, first + block)), seed, folder, readers))
            for tried, ended in zip(lines[::2], lines[1::2], strict=False):
                yield Attempt(f"seed {seed}, number {tried[0]}, {tried[1]}", *ended)
            if len(lines) % 2:
                tried = lines[-1]
                yield Attempt(f"seed {seed}, number {tried[0]}, {tried[1]}", "its process died", False)
            first = (lines[-1] if len(lines) % 2 else lines[-2])[0] + 1


def _in_a_child(numbers: range, seed: int, folder: Path, readers: dict[str, Reader]) -> Iterable[Any]:
    ours, theirs = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(ours)
        try:
            child(numbers, seed, folder, readers, theirs)
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as told:
        yield from map(json.loads, told)
    os.waitpid(process, 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    script(__name__, "hostile files", 20_000, run)
