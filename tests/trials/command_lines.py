"""Nonsense on the command line ends in one line on standard error and exit code 2; sense in 0.

``python tests/trials/command_lines.py --tries 5000 --seed 0`` draws lines from each command's own options, with values
that make sense and values that make none, and prints those that end in any other way. Lines that compute for long are
stopped after some seconds, and count as understood.
"""

import contextlib
import io
import random
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from shared import Attempt, script

import equispike as es
from equispike.cli import app, main
from equispike.zoo.data import load
from equispike.zoo.store import load_model

PATIENCE = 5
"""Seconds for a line."""
SENSE = "0 1 2 8 16 0.5 1.0 99.9 auto constant poisson datanorm rmp cpu zero certain nir onnx mnist-sample"
NONSENSE = (
    "-1 -0 1e9 1e400 nan inf -inf 1_000 0x10 None True [] {} 1,2 1;2 ../.. / /dev/null /dev/full ~ * $HOME ' \" "
    "-- - --- --help=1 --timesteps no/such/file a:b : :: os:getcwd os:nothing json:loads nosuch.module:factory "
    "mnist-cnn@x mnist-cnn: \u0663 \u00b2 \u00bd \u00e9.safetensors"
)
ODD = "", " ", "a\nb", "\x00", "\x1b[31m", "\u00df" * 300, "1" + "0" * 20, "9" * 400


class TooLong(BaseException):
    """The line computes, so it was understood."""


def options_of(command: str) -> list[str]:
    """The options that a command's help names."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([command, "--help"])
    return sorted({word.strip(",") for word in text.getvalue().split() if word.startswith("--")})


def material(folder: Path) -> list[str]:
    """Files of every kind that commands read, whole and damaged."""
    model, _ = load_model("mnist-cnn")
    data = load("mnist-sample")
    network = es.convert(model, data.train.take(16).floats(), es.DataNorm(99.9))
    whole = folder / "network.safetensors"
    es.save(network, whole)
    found = {"damaged.safetensors": whole.read_bytes()[:-99], "empty.safetensors": b"", "text.onnx": b"no onnx"}
    found |= {"text.json": b"{", "text.sqlite": b"SQLite format 3\0?", "text.nir": b"\x89HDF\r\n\x1a\n?"}
    for name, content in found.items():
        (folder / name).write_bytes(content)
    torch.save(model.state_dict(), folder / "weights.pth")
    (folder / "folder.safetensors").mkdir()
    return ["mnist-cnn", str(whole), *(str(folder / name) for name in (*found, "weights.pth", "folder.safetensors"))]


def lines(count: int, seed: int, folder: Path) -> Iterator[list[str]]:
    """Lines drawn for this seed."""
    draw = random.Random(seed)
    files, sense, nonsense = material(folder), SENSE.split(), [*NONSENSE.split(), *ODD]
    commands = {name: options_of(name) for name in app if not name.startswith("-")}
    for _ in range(count):
        command = draw.choice([*commands] * 20 + ["", "nonsense", "--version", "evalute"])
        line = [command]
        if draw.random() < 0.85:
            line.append(draw.choice([draw.choice(files), draw.choice(files), draw.choice(nonsense)]))
        for _ in range(draw.randint(0, 5)):
            option = draw.choice(commands.get(command) or ["--help"])
            value = draw.choice(
                [draw.choice(sense), draw.choice(nonsense), draw.choice(files), str(folder / "out.json")]
            )
            line += draw.choice([[option, value], [option, value], [f"{option}={value}"], [option], [value]])
        yield line


REFUSED, DONE, STOPPED = "refused", "done", "stopped"


def tried(line: list[str], patience: int = PATIENCE) -> str:
    """Run a line in this process: one of the three words above if it ended well, else what is wrong."""

    def stop(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    told, said = io.StringIO(), io.StringIO()
    shared = sys.modules["equispike.cli.shared"]
    shared.err.file, shared.out.file = told, said
    code: object = 0
    signal.alarm(patience)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            main(line)
    except SystemExit as end:
        code = end.code or 0
    except TooLong:
        return STOPPED
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
    words = [part for part in told.getvalue().splitlines() if not part.startswith("equispike: warning")]
    if code == 2 and len(words) == 1 and words[0].startswith("equispike: "):
        return REFUSED
    if code == 0 and not words:
        return DONE
    return f"exit {code}, {len(words)} lines on standard error: {words[:2]}"


def run(tries: int, seed: int) -> Iterator[Attempt]:
    """Run so many lines, in a folder of their own."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for line in lines(tries, seed, Path(folder)):
            end = tried(line)
            yield Attempt(repr(line), end, end in (REFUSED, DONE, STOPPED))


if __name__ == "__main__":
    script(__name__, "lines", 5000, run)
