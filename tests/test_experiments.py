"""The catalogue of the papers' tables and figures: what is published stays apart, and nothing is computed twice."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from command import exit_code
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import equispike as es
from equispike.bibliography import METHODS, PAPERS, bibtex, page, papers_of
from equispike.cli import main
from equispike.conversion import digest
from equispike.errors import EquispikeError, FileError
from equispike.experiments import (
    ding,
    ding_figure_7,
    ding_tables,
    entry,
    networks,
    rows,
    sengupta_figure_5,
    sengupta_tables,
)
from equispike.experiments.catalogue import CATALOGUE
from equispike.experiments.compare import column, sooner
from equispike.experiments.entry import command, result, table
from equispike.experiments.han_figures_5_to_10 import FIGURES, TABLES
from equispike.experiments.networks import Setting, ready
from equispike.experiments.page import write_page
from equispike.zoo.data import Dataset, load
from equispike.zoo.models import MODELS, build, plain
from equispike.zoo.rate_inference import Settings
from equispike.zoo.recipes import RECIPES, Recipe
from equispike.zoo.store import save_model

Figures = Mapping[str, float | str | None]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take longer than everything else here."""
    monkeypatch.setattr(entry, "panels", lambda *_: None)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Standard output of a command that succeeds, and the one line of one that does not."""
    code = exit_code(*arguments)
    captured = capsys.readouterr()
    assert (code, captured.err == "") in ((0, True), (2, False))
    return captured.out if code == 0 else captured.err


def quick(folder: Path, **other: object) -> Setting:
    return Setting(**{"out": folder, "images": 20, "timesteps": 8, "observe": 8, **other})  # type: ignore[arg-type]


def test_every_table_and_figure_is_there_once_with_its_source() -> None:
    wanted = {f"sengupta-{name}" for name in ("table-1", "table-2", "table-3", "operations")}
    wanted |= {f"sengupta-figure-{number}" for number in ("1", "2c", "3", "4", "5")}
    wanted |= {"han-figures-3d-4c", *(f"han-figure-{n}" for n in range(5, 11)), *(f"han-table-{n}" for n in (1, 2, 3))}
    wanted |= {f"ding-{name}" for name in ("table-1", "table-2", "theorem-2", *(f"figure-{n}" for n in (3, 4, 6, 7)))}
    assert wanted <= set(CATALOGUE)
    for one in CATALOGUE.values():
        assert bool(one.place) == (one.paper in PAPERS)
        assert {one.paper, *one.cites} - {""} <= set(PAPERS)
        assert one.source == "" or str(PAPERS[one.paper].year) in one.source


def published() -> Iterator[tuple[float, float, float]]:
    """Trained, spiking and loss as the papers print them."""
    for cases in TABLES.values():
        for ways in cases.values():
            yield from ((a, b, loss) for a, b, loss in ways.values() if not isinstance(loss, str))
    for table_of in sengupta_tables.ENTRIES[:2]:
        (case,) = table_of.run.args[0]  # type: ignore[attr-defined]
        for figures in case.published.values():
            yield -figures["trained error"], -figures["spiking error"], figures["loss"]
            if "top-5 loss" in figures:
                yield -figures["trained top-5 error"], -figures["spiking top-5 error"], figures["top-5 loss"]


def test_published_losses_are_the_differences_of_the_published_accuracies() -> None:
    """A figure that was copied wrongly would show."""
    found = list(published())
    assert len(found) == 17  # 12 of Han et al., of which one is "< 0.01", and 6 of Sengupta et al.
    for trained, spiking, loss in found:
        assert trained - spiking == pytest.approx(loss, abs=0.011)
    for number, tables in ((5, TABLES[1]), (9, TABLES[2]), (10, TABLES[3])):
        assert tables[number]["RMP, scale 1.0"][:2] == (FIGURES[number][0], FIGURES[number][2])
    for ways in ding_tables.TABLE_2.values():
        for accuracies in ways.values():
            assert len(accuracies) == len(ding_tables.STEPS)
            late = [a for a in accuracies if a is not None and a > 20]
            assert late == sorted(late)


def test_a_table_has_json_pictures_and_the_published_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--out", str(tmp_path), "--images", "20", "--observe", "8", "--timesteps", "8"]
    shown = run(capsys, "reproduce", "sengupta-table-1", *options)
    assert "spiking error (paper)" in shown
    assert "8.54" in shown
    assert "mnist-cnn stands in for the paper's vgg16-cifar10; 20 of 2,000 test images" in shown
    content = json.loads((tmp_path / "sengupta-table-1.json").read_text())
    assert content["lines"][0]["published"] == {"trained error": 8.3, "spiking error": 8.54, "loss": 0.24}
    assert content["lines"][0]["ours"]["trained error"] == 0.0  # of the first 20 digits
    for row in content["numbers"]["rows"].values():
        assert (row["images"], row["timesteps"], row["data"]) == (20, 8, "mnist-sample/test")
        assert len(row["accuracy"][0]) == 8
    assert {"sengupta2019", "diehl2015"} == set(content["cite"])
    asked = "--size small --images 20 --timesteps 8 --observe 8"
    assert content["command"] == f"equispike reproduce sengupta-table-1 {asked}"
    assert {"versions", "device", "threads", "seconds", "conditions"} <= set(content)
    assert (tmp_path / "sengupta-table-1.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "sengupta-table-1.pdf").read_bytes().startswith(b"%PDF")
    assert not list(tmp_path.rglob("*.part"))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(rows, "evaluate", refuse)
    assert "were there" in run(capsys, "reproduce", "sengupta-table-1", *options)
    monkeypatch.setattr(entry, "panels", lambda *_: None)
    assert "30.61" in run(capsys, "reproduce", "sengupta-table-2", *options)  # the same stand-in, so the same rows
    with pytest.raises(AssertionError, match="computed again"):
        main(["reproduce", "sengupta-table-1", *options[:-1], "9"])


@pytest.mark.usefixtures("undrawn")
def test_what_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table_1, evaluate, calls = CATALOGUE["sengupta-table-1"], rows.evaluate, list[str]()

    def stop(*arguments: object, **options: object) -> es.analysis.accuracy.Evaluation:  # type: ignore[name-defined]
        calls.append(str(options["label"]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(rows, "evaluate", stop)
    with pytest.raises(KeyboardInterrupt):
        result(table_1, quick(tmp_path))
    assert not (tmp_path / f"{table_1.name}.json").exists()
    kept = list((tmp_path / "rows").iterdir())
    assert len(kept) == 1
    content, was_there = result(table_1, quick(tmp_path))
    assert not was_there
    assert calls[0] not in calls[1:]
    assert len(content["lines"]) == 2


@pytest.mark.usefixtures("undrawn")
def test_full_size_names_the_training_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(EquispikeError, match="--model vgg16-cifar10 --data cifar10 --recipe sengupta-cifar --out"):
        result(CATALOGUE["sengupta-table-1"], Setting("full", tmp_path))
    with pytest.raises(EquispikeError, match="--data imagenet --recipe sengupta-imagenet --data-folder FOLDER"):
        result(CATALOGUE["han-figure-10"], Setting("full", tmp_path))
    with pytest.raises(EquispikeError, match="--recipe ding-cifar "):
        result(CATALOGUE["ding-table-2"], Setting("full", tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("undrawn")
def test_a_network_of_ones_own_takes_the_place_of_a_papers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--out", str(tmp_path), "--images", "4", "--timesteps", "8"]
    shown = run(capsys, "reproduce", "ding-theorem-2", "--network", "mnist-cnn-bn", *options)
    assert "mnist-cnn-bn: 4 test images" in shown
    for names, reason in (
        (["han-figures-3d-4c"], "is about no network"),
        (["han-table-1"], "is about 2 networks"),
        (["all"], "one entry at a time"),
        (["han-figure-4"], "no entry has this name"),
    ):
        assert reason in run(capsys, "reproduce", *names, "--network", "mnist-cnn", *options)
    assert "--images: 0" in run(capsys, "reproduce", "han-figure-6", "--images", "0")


@pytest.mark.usefixtures("undrawn")
def test_imagenet_entries_run_from_a_folder_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load("mnist-sample").train
    for kind in range(3):
        for number, image in enumerate(digits.images[digits.labels == kind][:6, 0].numpy()):
            path = tmp_path / "data" / ("train" if number < 5 else "val") / f"digit{kind}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).convert("RGB").resize((240, 240)).save(path)
    monkeypatch.setitem(MODELS, "vgg16-imagenet", lambda: plain(("pool", "pool", 4, "pool", "pool"), 224, 3, (8,), 3))
    weights = tmp_path / "weights"
    weights.mkdir()
    card = {"data": "imagenet", "normalised": True}
    save_model(weights / "vgg16-imagenet.safetensors", "vgg16-imagenet", build("vgg16-imagenet"), card)
    setting = quick(
        tmp_path / "out", size="full", images=None, timesteps=4, data_folder=tmp_path / "data", weights=weights
    )
    content, _ = result(CATALOGUE["sengupta-table-2"], setting)
    assert content["note"] == "3 of 3 test images of imagenet, T = 4"
    assert content["lines"][1]["published"]["spiking top-5 error"] == 10.99


@pytest.mark.usefixtures("undrawn")
def test_thresholds_are_learnt_and_lowered_once_for_all_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for way in (ding.STAGE_2, ding.LOCKED):
        monkeypatch.setitem(ding.LEARNT, way.label, ((0.01,), Settings(steps=1, maxima_move=way is ding.STAGE_2)))
    monkeypatch.setattr(ding_tables, "WAYS", (ding.MAX_NORM, ding.STAGE_1, ding.STAGE_2, ding.LOCKED))
    monkeypatch.setattr(ding, "TOLERANCE", 1.0)  # any accuracy will do, so the lowest thresholds are taken
    digits = load("mnist-sample")
    few = Dataset(digits.name, digits.train.take(256), digits.validation.take(100), digits.test.take(50))
    monkeypatch.setattr(networks, "read_data", lambda *_: few)
    monkeypatch.setattr(networks, "bundled", lambda name: tmp_path / name)  # there are none, so one is trained
    monkeypatch.setitem(RECIPES, "demo", Recipe(epochs=1, lr=0.1))
    setting = quick(tmp_path, timesteps=16)
    content, _ = result(CATALOGUE["ding-table-2"], setting)
    assert (tmp_path / "networks" / "mnist-cnn-rnl.safetensors").is_file()
    first, *_, last = content["lines"]
    assert first["published"]["T=16"] == 10.07
    assert [name for name in last["ours"] if name.startswith("T=")] == ["T=16"]
    assert content["conditions"]["RNL + RIL, locked maxima"]["lambda chosen"] == 0.01
    monkeypatch.setattr(ding, "lower_thresholds", None)
    monkeypatch.setattr(rows, "evaluate", None)
    power, _ = result(CATALOGUE["ding-figure-7"], setting)
    assert power["lines"]
    assert power["lines"][-1]["published"] in ({}, {"times sooner": 8.6, "energy": 0.265})
    measured = content["numbers"]["rows"]
    lowered = measured["RNL + RIL, locked maxima"]["thresholds"]
    assert all(lowered[name] < threshold for name, threshold in measured["RNL"]["thresholds"].items())
    assert measured["RNL + RIL"]["thresholds"] != measured["RNL"]["thresholds"]


@pytest.mark.usefixtures("undrawn")
def test_spikes_of_the_input_are_additions_not_macs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sengupta_figure_5, "NETWORKS", sengupta_figure_5.NETWORKS[:1])
    content, _ = result(CATALOGUE["sengupta-operations"], quick(tmp_path, images=4, timesteps=8))
    (line,) = content["lines"]
    assert line["ours"]["MACs that remain (millions)"] == 0
    assert 0 < line["ours"]["additions (millions)"] < 8 * line["ours"]["MACs (millions)"]


def test_without_names_the_catalogue_is_shown_and_pages_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FileError, match="holds no results"):
        write_page(tmp_path, tmp_path / "page.md")
    shown = run(capsys, "reproduce")
    assert all(name in shown for name in CATALOGUE)
    run(capsys, "reproduce", "sengupta-figure-1", "--out", str(tmp_path), "--timesteps", "50")
    assert "1 results" in run(capsys, "reproduce", "--out", str(tmp_path), "--page", str(tmp_path / "page.md"))
    text = (tmp_path / "page.md").read_text()
    assert "## An image, its spikes in one step and over many" in text
    assert "](sengupta-figure-1.png)" in text
    assert "T = 50" in text
    (tmp_path / "ding-table-1.json").write_text("{}")
    with pytest.raises(FileError, match=r"ding-table-1.json: is not a result"):
        write_page(tmp_path, tmp_path / "page.md")


def test_published_figures_never_stand_in_our_columns() -> None:
    lines = [{"label": "a", "ours": {"x": 1.0}, "published": {"x": 2.0, "y": "about 3"}}]
    assert table(lines) == [["", "x", "x (paper)", "y (paper)"], ["a", "1.00", "2.00", "about 3"]]


def row(accuracy: list[float]) -> rows.Row:
    return {"accuracy": [accuracy], "timesteps": len(accuracy), "trained_accuracy": 1.0}


def test_times_sooner_compares_the_steps_from_which_a_level_is_kept() -> None:
    slow, fast, never = row([0.1] * 7 + [0.9]), row([0.1, 0.95] + [0.9] * 6), row([0.9] * 7 + [0.1])
    assert [list(steps.values()) for steps in sooner([slow, fast, never])] == [[8, 1.0], [2, 4.0], [None, None]]
    assert column("T=2", fast) == pytest.approx(95)
    assert column("T=9", fast) is None
    assert column("loss", fast) == pytest.approx(10)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=30))
def test_spikes_of_each_step_follow_from_the_spike_rate(spikes: list[int]) -> None:
    rate = torch.tensor(spikes).double().cumsum(0) / (50 * torch.arange(1, len(spikes) + 1)) * 100
    found = ding_figure_7.spikes({"spike_rate": [rate.tolist()], "neurons": {"a": 20, "b": 30}})
    assert found.round().tolist() == spikes


def test_another_training_of_a_network_has_rows_of_its_own(tmp_path: Path) -> None:
    network = ready(ding.VGG.__class__("mnist-cnn", "mnist-cnn", ding.AMOUNT), quick(tmp_path))
    digests = {digest(network.model), digest(build("mnist-cnn", 0)), digest(build("mnist-cnn", 1))}
    assert len(digests) == 3
    assert digest(build("mnist-cnn", 1)) in digests


def test_bibtex_of_all_papers_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    for key, paper in PAPERS.items():
        text = bibtex(key)
        assert text.count("{") == text.count("}")
        assert all(part in text for part in (paper.title, str(paper.year), paper.doi, " and ".join(paper.authors)))
        assert paper.title in page()
    assert set(METHODS) >= {"datanorm", "modelnorm", "spikenorm", "rmp", "ratenorm", "poisson"}
    assert papers_of(["rmp", "RMP(scale=0.8)"]) == ("han2020",)
    shown = run(capsys, "cite", "rmp", "spikenorm")
    assert shown.startswith("@article{sengupta2019,")
    assert "@inproceedings{han2020," in shown
    assert "stdp: no method has this name" in run(capsys, "cite", "stdp")


def test_the_command_of_a_result_names_what_was_asked() -> None:
    entry = CATALOGUE["ding-table-2"]
    asked = Setting("full", Path("x"), network="y/z.safetensors", images=5)
    assert command(entry, asked) == "equispike reproduce ding-table-2 --size full --network z.safetensors --images 5"
