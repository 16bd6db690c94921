"""Work of more than two seconds shows how far it is, on a terminal or in a notebook, and nowhere else."""

import io
import sys
from typing import Any

import pytest
import torch
from torch import nn

import equispike as es
from equispike import progress
from equispike.progress import Line, reporting, silent, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def impatient(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal on which every work is worth a line."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "SHOWN_AFTER", 0.0)
    return terminal


def network() -> es.Network:
    torch.manual_seed(0)
    return es.convert(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), torch.rand(9, 4))


def test_whatever_takes_long_says_what_it_does_and_cleans_up(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = impatient(monkeypatch)
    model, images, labels = (
        nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)),
        torch.rand(90, 4),
        torch.zeros(90),
    )
    for work, label in (
        (lambda: es.trace(model, images), "reading the model"),
        (lambda: es.convert(model, [images] * 3), "DataNorm"),
        (lambda: es.convert(model, images, method=es.RMP(0.8, 4)), "1 (1 of 2)"),
        (lambda: es.simulate(network(), images, 4, batch_size=30), "simulating"),
        (lambda: es.evaluate(network(), [(images, labels)] * 3, 4), "evaluating"),
        (lambda: es.rate_fit(network(), [images] * 3, 4), "comparing rates"),
    ):
        terminal.seek(0)
        terminal.truncate()
        work()
        assert label in terminal.getvalue()
        assert terminal.getvalue().endswith("\r")
        assert not terminal.getvalue().split("\r")[-2].strip()


def test_inside_of_work_that_reports_a_simulation_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = impatient(monkeypatch)
    es.evaluate(network(), [(torch.rand(90, 4), torch.zeros(90))], 4, batch_size=30)
    assert "simulating" not in terminal.getvalue()


def test_short_work_and_output_to_a_file_show_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(progress, "SHOWN_AFTER", 100.0 if stream.isatty() else 0.0)
        es.simulate(network(), torch.rand(90, 4), 4, batch_size=30)
        assert stream.getvalue() == ""


def test_a_reporter_is_asked_instead_and_may_be_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = impatient(monkeypatch)
    heard: list[Any] = []
    with reporting(lambda *told: heard.append(told)):
        assert list(track("abc", "letters", 3)) == ["a", "b", "c"]
    with reporting(silent):
        assert list(track("abc", "letters", 0)) == ["a", "b", "c"]
    assert heard == [("letters", n, 3) for n in range(4)]
    assert terminal.getvalue() == ""


def test_work_that_ends_early_leaves_nothing_on_the_line() -> None:
    written, clock = io.StringIO(), iter(range(0, 1000, 3))
    line = Line(written, lambda: next(clock))
    with reporting(line):
        for outer in track(range(5), "outer", 5):
            for inner in track(range(9), "inner", 0 if outer else 9):
                if inner == 2:
                    break
    assert line.running == {}
    assert "outer: 20 %" in written.getvalue()
    assert ", inner: " in written.getvalue()
    assert not written.getvalue().split("\r")[-2].strip()
