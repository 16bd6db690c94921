"""Commands for the trials that run them whole: small ones, each in a fork of this process and a folder of its own.

A fork has torch loaded already, so that a command takes as long as its work.
"""

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import equispike as es
from equispike.cli import main
from equispike.files.checkpoint import KINDS, kind_of, read_tensors
from equispike.files.store import Store
from equispike.zoo import data
from equispike.zoo.store import load_model

FEW = ["--images", "20"]
COMMANDS: dict[str, list[str]] = {
    "convert": ["convert", "mnist-cnn", *FEW, "--out", "out.safetensors"],
    "convert for 4 steps": ["convert", "mnist-cnn", *FEW, "--timesteps", "4", "--out", "out.safetensors"],
    "convert by RMP": ["convert", "mnist-cnn", "--method", "rmp", "--scale", "0.6", "--observe", "8", *FEW,
                       "--out", "out.safetensors"],
    "evaluate": ["evaluate", "given.safetensors", "--timesteps", "8", *FEW, "--json", "out.json", "--closer"],
    "evaluate with Poisson input": ["evaluate", "given.safetensors", "--timesteps", "8", "--coder", "poisson", *FEW,
                                    "--json", "out.json"],
    "sweep": ["sweep", "mnist-cnn", "--percentile", "99", "100", "--v-init", "0", "0.5", "--timesteps", "8", *FEW,
              "--calibration", "20", "--out", "out.sqlite", "--csv", "out.csv"],
    "train": ["train", "--epochs", "3", "--resume", "--out", "out.safetensors"],
    "report": ["report", "given.json", "--out", "out.html"],
    "export to NIR": ["export", "given.safetensors", "--to", "nir", "--out", "out.nir"],
    "export to ONNX": ["export", "given.safetensors", "--to", "onnx", "--out", "out.onnx"],
    "export to torch": ["export", "given.safetensors", "--to", "torch", "--out", "out.py"],
}  # fmt: skip
PASSING = "date", "seconds", "images_per_second", "simulation_seconds"
"""What differs from run to run."""


def prepare(folder: Path) -> Path:
    """Make a folder with what the commands are given; trainings see few images from now on."""
    folder.mkdir()
    whole = data.load("mnist-sample")
    few = replace(whole, train=whole.train.take(640), validation=whole.validation.take(100), test=whole.test.take(100))
    data.load = lambda *_: few  # type: ignore[assignment]
    model, _ = load_model("mnist-cnn")
    es.save(es.convert(model, whole.train.take(20).floats(), timesteps=4), folder / "given.safetensors")
    pid = start(COMMANDS["evaluate"], folder)
    assert os.waitpid(pid, 0)[1] == 0, (folder / "said").read_text()
    (folder / "out.json").rename(folder / "given.json")
    (folder / "said").unlink()
    return folder


@contextlib.contextmanager
def prepared() -> Generator[Path]:
    """What ``prepare`` makes, as long as the context lasts; forks compute on one thread."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        yield prepare(Path(name) / "given")


def fresh(given: Path, folder: Path) -> Path:
    """A new folder with the same."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(given, folder)
    return folder


def start(line: list[str], folder: Path, ready: Callable[[], None] = lambda: None, said_to: str = "said") -> int:
    """Run a command in a fork, within a folder; its number. What it says stands in the file ``said_to``."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.chdir(folder)
        torch.set_num_threads(1)
        sys.argv = ["equispike", *line]
        shared = sys.modules["equispike.cli.shared"]
        with open(said_to, "w") as said:
            shared.err.file, shared.out.file = said, io.StringIO()
            ready()
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                code = _code(line)
    except KeyboardInterrupt:  # a signal between the command's end and the moment from which none counts
        code = 0
    finally:
        os._exit(code)


def _code(line: list[str]) -> int:
    try:
        main(line)
    except SystemExit as end:
        return int(end.code or 0)
    except KeyboardInterrupt:  # when all was done
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return 0


def finish(line: list[str], folder: Path) -> float:
    """Run a command to its end; its seconds. RuntimeError if it fails."""
    began = time.perf_counter()
    _, status = os.waitpid(start(line, folder), 0)
    if status:
        raise RuntimeError(f"exit {os.waitstatus_to_exitcode(status)}: {(folder / 'said').read_text()[:300]}")
    return time.perf_counter() - began


def results(folder: Path) -> dict[str, Any]:
    """What the files hold that a command wrote, but for dates and durations. ValueError if one is half a file."""
    names = [path.name for path in folder.iterdir() if path.name.startswith("out") and path.suffix != ".part"]
    known = [name for name in names if not name.endswith(("-wal", "-shm"))]
    return {name: _content(folder / name) for name in sorted(known)}


def _content(path: Path) -> Any:
    if path.suffix == ".json":
        return _lasting(json.loads(path.read_text()))
    if path.suffix == ".sqlite":
        return {json.dumps(point.asked): _lasting(point.found) for point in Store(path).read()} if whole(path) else {}
    if path.suffix == ".csv":
        rows = csv.DictReader(path.read_text().splitlines())
        return [{name: value for name, value in row.items() if name not in PASSING} for row in rows]
    if path.suffix == ".jsonl":
        return [_lasting(json.loads(line)) for line in path.read_text().splitlines()]
    if (kind := kind_of(path)) in KINDS:
        described, tensors = read_tensors(path, kind)  # type: ignore[arg-type]
        return _lasting(described), {name: value.numpy().tobytes() for name, value in tensors.items()}
    if path.suffix == ".py":
        compile(path.read_text(), path.name, "exec")
    return path.read_bytes()


def whole(path: Path) -> bool:
    """Tell a store that is more than a file without contents, which SQLite makes first."""
    return path.stat().st_size > 0


def _lasting(found: Any) -> Any:
    if isinstance(found, Mapping):
        return {key: _lasting(value) for key, value in found.items() if key not in PASSING}
    return [_lasting(value) for value in found] if isinstance(found, list) else found
