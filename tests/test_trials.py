"""The trials in their short forms, in this process; and each of them notices what it looks for."""

import ast
import importlib
import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import equispike as es
from equispike.functional.integrate import if_step
from equispike.simulation.cpu import core
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
    assert not fails(trial("readers").run(30, 0))


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
    assert not fails(trial("disks").disturbances(given, 4, 0, names, ("no rename", "over quota", "folder gone")))
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


def test_a_run_of_many_batches_takes_little_more_memory_than_what_it_returns(trial: Any) -> None:
    memory, steps, batch, layers, classes = trial("memory"), 1024, 256, 10, 10
    sizes = steps, batch, 16, layers, False, "layerwise" if core is None else "events", es.Constant(), 2**20
    grown, returned = memory.in_a_fork(lambda: memory.growth(*sizes))
    assert returned > steps * batch * 4 * (layers + classes)
    assert grown < 1.5 * returned


def test_mutants_are_other_programs_in_one_place(trial: Any) -> None:
    mutants = trial("mutants")
    for module, source in itertools.islice(mutants.modules(), 3):
        compile(mutants.noting(module, source), module, "exec")
    for mutant in itertools.islice(mutants.mutants(), 0, 200, 40):
        whole = ast.unparse(mutant.tree).splitlines()
        with mutant.made() as tree:
            faulty = ast.unparse(tree).splitlines()
        assert sum(one != other for one, other in zip(whole, faulty, strict=True)) == 1
        assert ast.unparse(mutant.tree).splitlines() == whole


def test_a_mutant_takes_the_place_of_the_sound_function(trial: Any) -> None:
    mutants, wanted = trial("mutants"), "u >= threshold -> u > threshold"
    mutant = next(one for one in mutants.mutants() if "if_step" in one.told and one.told.endswith(wanted))

    def spikes() -> int:
        return int(if_step(torch.ones(()), torch.zeros(()), 1.0)[0])

    assert trial("memory").in_a_fork(lambda: 10 * mutants.infected(mutant) + spikes()) == 10
    assert spikes() == 1
