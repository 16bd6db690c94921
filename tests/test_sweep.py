"""A sweep: every point is what convert and evaluate give, is stored whole, and is never simulated twice."""

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch
from command import exit_code
from torch import nn

import equispike as es
from equispike import sweep as module
from equispike.conversion import Converter
from equispike.diagnosis import diagnose
from equispike.errors import ConversionError, EquispikeError, FileError
from equispike.files.store import Store
from equispike.graph.exact import quantize
from equispike.report.data import page_data
from equispike.report.page import write_report
from equispike.report.read import read_runs
from equispike.results import documents, write_csv
from equispike.sweep import Point, sweep
from equispike.zoo.data import load

T = 12
POINTS = (
    Point(es.DataNorm(99.9)),
    Point(es.DataNorm(99.9), v_init=0.5, bits=8),
    Point(es.DataNorm(99.9), v_init=0.5, delay=0.5),
    Point(es.RMP(0.8, timesteps=8), reset="zero"),
    Point(es.RMP(0.6, timesteps=8)),
    *(Point(es.DataNorm(99.9), es.Poisson(), seed=seed) for seed in (3, 4)),
)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(108, 16), nn.ReLU(), nn.Linear(16, 10)
    )


@pytest.fixture(scope="module")
def run(model: nn.Module) -> Callable[..., list[dict[str, Any]]]:
    digits = load("mnist-sample")

    def with_points(file: Path, *chosen: Point, **other: Any) -> list[dict[str, Any]]:
        return sweep(model, digits.train.take(20), digits.validation.take(30), chosen, T, file, "small", **other)

    return with_points


@pytest.fixture(scope="module")
def swept(run: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sweep") / "s.sqlite"
    run(file, *POINTS)
    return file


def test_points_are_what_convert_and_evaluate_give(model: nn.Module, swept: Path) -> None:
    digits = load("mnist-sample")
    found = {json.dumps(conditions): document["runs"][0] for conditions, document in Store(swept).read()}
    assert len(found) == len(POINTS)
    for point in POINTS:
        how: dict[str, Any] = {"reset": point.reset, "v_init": point.v_init, "delay": point.delay}
        network = es.convert(model, digits.train.take(20).floats(), point.method, **how)
        network = network if point.bits is None else quantize(network, point.bits)
        expected = es.evaluate(network, digits.validation.take(30).batches(30), T, point.coder, point.seed)
        (stored,) = (found[key] for key in found if point.asked.items() <= json.loads(key).items())
        assert stored["accuracy"] == pytest.approx(expected.mean.tolist(), abs=1e-6)
        assert stored["spike_rate"] == pytest.approx(expected.spike_rate[0].tolist(), abs=1e-5)


def test_what_is_there_is_not_simulated_again(
    run: Callable[..., Any], swept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Store(swept).read()
    heard: list[tuple[int, int]] = []
    monkeypatch.setattr(module, "evaluate", None)  # cannot be called
    again = run(swept, *POINTS, *POINTS, report=lambda *counts: heard.append(counts))
    assert heard == [(len(POINTS), len(POINTS))]
    assert again == run(swept, *POINTS)
    assert Store(swept).read() == before
    monkeypatch.undo()
    run(swept, Point(es.DataNorm(50.0)))
    assert len(Store(swept).read()) == len(before) + 1


def test_a_seed_from_which_nothing_is_drawn_makes_no_point(run: Callable[..., Any], tmp_path: Path) -> None:
    run(tmp_path / "s", *(Point(es.ModelNorm(), seed=seed) for seed in (5, 6)))
    ((conditions, _),) = Store(tmp_path / "s").read()
    assert conditions["seed"] == 5
    with pytest.raises(EquispikeError, match="no points"):
        run(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_seeds_are_put_together(swept: Path) -> None:
    several = [d["runs"][0] for c, d in Store(swept).read() if c["coder"]["name"] == "Poisson"]
    (document,) = documents(Store(swept))
    (merged,) = (run for run in document["runs"] if len(run["seeds"]) > 1)
    assert merged["seeds"] == [3, 4]
    for t in range(T):
        assert merged["accuracy"][t] == mean(run["accuracy"][t] for run in several)
        assert merged["accuracy_std"][t] == pytest.approx(stdev([run["accuracy"][t] for run in several]))
    spikes = [sum(layer["spikes"][-1] for layer in run["layers"].values()) for run in (*several, merged)]
    assert spikes[2] == pytest.approx((spikes[0] + spikes[1]) / 2)


def test_a_report_and_a_csv_file_hold_every_point(swept: Path, tmp_path: Path) -> None:
    document, *others = documents(Store(swept))
    assert not others
    page = page_data(read_runs([swept]))
    assert [run["method"] for run in page["runs"]] == [run["method"] for run in document["runs"]]
    assert {
        "DataNorm(percentile=99.9), v_init 0.5, delay 0.5",
        "DataNorm(percentile=99.9), v_init 0.5, 8 bits",
        "RMP(scale=0.8, timesteps=8), hard reset",
    } <= {run["method"] for run in page["runs"]}
    assert write_report([swept], tmp_path / "r.html") == len(document["runs"])
    stored = Store(swept).read()
    assert write_csv(Store(swept), tmp_path / "s.csv") == T * len(stored)
    with (tmp_path / "s.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    last = [line for line in lines if line["t"] == str(T)]
    assert [float(line["accuracy"]) for line in last] == [d["runs"][0]["accuracy"][-1] for _, d in stored]
    assert {line["method"] for line in lines} == {c["method"]["name"] for c, _ in stored}


def test_one_measurement_serves_all_scales(model: nn.Module) -> None:
    images = load("mnist-sample").train.take(20).floats()
    convert = Converter(model, [images])
    for method in (es.RMP(s, timesteps=8, after=after) for after in (True, False) for s in (0.8, 0.5, 1.0)):
        expected = es.convert(model, [images], method, v_init=0.25)
        network = convert(method, v_init=0.25)
        assert {n: float(t) for n, t in network.thresholds.items()} == pytest.approx(
            {n: float(t) for n, t in expected.thresholds.items()}
        )
        assert {**network.provenance} == {**expected.provenance}
        found, wanted = (es.simulate(n, images, 8) for n in (network, expected))
        torch.testing.assert_close(found.readout, wanted.readout)


def test_points_of_several_outputs_are_kept_apart(model: nn.Module, tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scores = model

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            scores = self.scores(x)
            return scores, -scores

    digits, file = load("mnist-sample"), tmp_path / "s.sqlite"
    part = digits.validation.take(30)
    first, second = (
        sweep(Both(), digits.train.take(20), part, POINTS[:1], T, file, "both", output=output)[0] for output in (0, 1)
    )
    assert len(Store(file).read()) == 2
    images = part.floats()
    for document, sign in ((first, 1), (second, -1)):
        expected = float(((sign * model(images)).argmax(1) == part.labels).double().mean())
        assert document["ann_accuracy"] == pytest.approx(expected)
    found = diagnose(Both(), images, images, part.labels, timesteps=T, output=1)
    assert found.trained == pytest.approx(second["ann_accuracy"])


def test_impossible_points_are_refused_before_anything_runs() -> None:
    with pytest.raises(ConversionError, match="bits: 3"):
        Point(es.DataNorm(), bits=3)
    with pytest.raises(ConversionError, match="v_init: 1"):
        Point(es.DataNorm(), v_init=1.0)
    with pytest.raises(ConversionError, match="delay: 1"):
        Point(es.DataNorm(), delay=1.0)


def test_files_of_another_kind_are_refused_and_left_alone(run: Callable[..., Any], swept: Path, tmp_path: Path) -> None:
    def foreign(name: str, *statements: str, base: bytes = b"") -> Path:
        path = tmp_path / name
        path.write_bytes(base)
        with sqlite3.connect(path) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()
        return path

    whole = swept.read_bytes()
    (tmp_path / "text").write_text("not a database, but long enough to be looked at as one")
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    bad = {
        tmp_path / "text": "no file of 'equispike sweep'",
        tmp_path / "cut": "damaged",
        foreign("other", "CREATE TABLE t (x)"): "no file of 'equispike sweep'",
        foreign("view", "CREATE VIEW v AS SELECT 1", base=whole): "no file of 'equispike sweep'",
        foreign("later", "PRAGMA user_version = 9", base=whole): "has version 9",
    }
    for path, words in bad.items():
        before = path.read_bytes()
        with pytest.raises(FileError, match=words):
            Store(path).read()
        with pytest.raises(FileError, match=words):
            run(path, POINTS[0])
        assert path.read_bytes() == before
    for value in ("'[]'", "'{\"runs\": [{}]}'", "'{'", "5", "NULL", "'{\"runs\": 3}'"):
        update = f"UPDATE OR IGNORE points SET found = {value}"
        path = foreign("damaged", update, base=whole)
        if value != "NULL":
            with pytest.raises(FileError, match="damaged"):
                page_data(read_runs([path]))
    with pytest.raises(FileError, match="no such file"):
        Store(tmp_path / "missing").read()


KILLED = """
import os, sys, signal
from equispike import sweep as module
simulated = module._Work.__call__
def once(*arguments):
    if done: os.kill(os.getpid(), signal.SIGKILL)
    done.append(1)
    return simulated(*arguments)
done = []
module._Work.__call__ = once
from equispike.cli import main
main(sys.argv[1:])
"""


def test_the_command_goes_on_after_kill_9(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, table = tmp_path / "s.sqlite", tmp_path / "s.csv"
    call = ["sweep", "mnist-cnn", "--percentile", "99", "100", "--timesteps", "8", "--images", "20"]
    call += ["--calibration", "20", "--out", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", KILLED, *call], capture_output=True, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(Store(file).read()) == 1
    assert exit_code(*call, "--csv", str(table)) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert f"2 points, of which {file} holds 1" in captured.out
    assert "DataNorm(percentile=100)" in captured.out
    assert f"{table}: 16 lines" in captured.out
    assert exit_code("sweep", "mnist-cnn", "--scale", "0.8", "--out", str(file)) == 2
    assert "--scale: is for --method rmp" in capsys.readouterr().err
    assert exit_code("sweep", "mnist-cnn", "--bits", "3", "--out", str(file)) == 2
    assert "bits: 3 is not between" in capsys.readouterr().err


def test_processes_share_the_points_and_find_the_same(
    run: Callable[..., list[dict[str, Any]]], swept: Path, tmp_path: Path
) -> None:
    file = tmp_path / "shared.sqlite"
    run(file, *POINTS, on=es.Processes(2))

    def told(of: Path) -> dict[str, Any]:
        runs = {json.dumps(point.asked): point.found["runs"][0] for point in Store(of).read()}
        return {asked: [run[name] for name in ("accuracy", "spikes_per_image")] for asked, run in runs.items()}

    assert len(told(file)) == len(POINTS)
    assert told(file).items() <= told(swept).items()
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT count(*) FROM claims").fetchone() == (0,)
