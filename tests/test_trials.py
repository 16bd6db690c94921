"""The trials in their short forms, in this process; and each of them notices what it looks for."""

import importlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import equispike as es
from equispike.zoo import data

TRIALS = Path(__file__).parent / "trials"


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A trial's module by its name."""
    monkeypatch.syspath_prepend(TRIALS)
    monkeypatch.setattr(data, "load", data.load)  # trials put few images in its place
    return importlib.import_module


def fails(attempts: Iterator[Any]) -> list[Any]:
    found = list(attempts)
    assert found
    return [attempt for attempt in found if not attempt.good]


@pytest.mark.filterwarnings("ignore")  # of exporters
def test_hostile_files_end_well(trial: Any) -> None:
    assert not fails(trial("readers").run(60, 0))


def test_a_reader_that_ends_in_another_error_is_noticed(trial: Any, tmp_path: Path) -> None:
    readers: ModuleType = trial("readers")

    assert readers.read(tmp_path, lambda path: None) == ("read", True)
    assert readers.read(tmp_path, es.load) == ("refused", True)
    assert readers.read(tmp_path, lambda path: path / 1)[1] is False


def test_exact_networks_spike_alike_in_every_way(trial: Any) -> None:
    assert not fails(trial("networks").run(3, 0))


def test_spikes_that_differ_are_counted(trial: Any) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    images = torch.rand(2, 3)
    network = es.convert(model, images)
    run = es.simulate(network, images, 9)
    assert trial("networks").spikes_apart(run, run) == 0
    assert trial("networks").spikes_apart(run, es.simulate(network, images / 2, 9)) > 1


def test_commands_run_twice_or_killed_and_run_again_end_in_the_same_files(trial: Any, tmp_path: Path) -> None:
    given = trial("commands").prepare(tmp_path / "given")
    names = "export to torch", "report"
    assert not fails(trial("same_bytes").pairs(given, names))
    assert not fails(trial("kills").disturbances(given, 4, 0, names))
    one, other = tmp_path / "one", tmp_path / "other"
    (one / "out.html").write_text("half")
    assert trial("same_bytes").differing(one, other) == ["out.html"]
    whole = trial("commands").results(other)
    line = trial("commands").COMMANDS["report"]
    assert "is another one" in trial("kills").judged(line, one, signal.SIGKILL, -9, whole)
    assert "ended with 1" in trial("kills").judged(line, one, signal.SIGKILL, 1, whole)


def test_senseless_command_lines_end_well(trial: Any) -> None:
    pid = os.fork()  # commands may leave things as they should not be
    if not pid:
        code = 99
        try:
            lines = trial("command_lines")
            lines.PATIENCE = 1
            code = len(fails(lines.run(25, 2)))
            code += 100 * (lines.tried(["info", "--help"]) != lines.DONE)
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
