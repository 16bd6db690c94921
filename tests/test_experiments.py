"""The papers' tables and figures: rows of a table share their conditions, and nothing is computed twice."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

import equispike as es
from equispike.nn import rate_norms, with_levels
from equispike.report.bibliography import PAPERS
from equispike.zoo.data import Dataset, Split, load
from equispike.zoo.models import MODELS, build, plain
from equispike.zoo.rate_inference import Settings
from equispike.zoo.store import save_model
from equispike.zoo.train import accuracy_of
from experiments import compare, ding, ding_figure_7, ding_tables, entry, he, networks, rows
from experiments.__main__ import main
from experiments.catalogue import CATALOGUE
from experiments.claims import Judged, in_short, judged, named_networks
from experiments.entry import CONSTANT, Conditions, Job, cell, command, file_name, result, table
from experiments.han_figures_5_to_10 import FIGURES, SCALES, TABLES
from experiments.networks import Trained, find
from experiments.page import write_page
from experiments.rows import Row, Way, coder_of, convert
from experiments.sengupta_figure_2c import unit
from experiments.sengupta_figure_5 import asked_for

QUICK = {"images": 20, "timesteps": 8, "calibration_images": 16, "observed_steps": 8}
OPTIONS = [word for name, value in QUICK.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take longer than everything else here."""
    monkeypatch.setattr(entry, "panels", lambda *_: None)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Standard output of a command that succeeds, and the one line of one that does not."""
    try:
        main(list(arguments))
        code = 0
    except SystemExit as left:
        code = int(left.code or 0)
    captured = capsys.readouterr()
    assert (code, captured.err == "") in ((0, True), (2, False))
    return captured.out if code == 0 else captured.err


def quick(name: str, folder: Path, networks: tuple[str, ...], **changes: object) -> Job:
    return CATALOGUE[name].job(networks, {**QUICK, **changes}, data="mnist-sample", out=folder)


def digits(name: str = "mnist-cnn") -> Trained:
    return find(name, "mnist-sample")


def test_every_table_and_figure_is_there_with_its_source() -> None:
    wanted = {f"sengupta-{name}" for name in ("table-1", "table-2", "table-3", "operations-vgg", "operations-resnet")}
    wanted |= {f"sengupta-figure-{number}" for number in ("1", "2c", "3", "4", "5-vgg", "5-resnet")}
    wanted |= {"han-figures-3d-4c", *(f"han-figure-{n}" for n in range(5, 11)), *(f"han-table-{n}" for n in (1, 2, 3))}
    wanted |= {f"ding-{name}" for name in ("table-1", "table-2", "theorem-2", *(f"figure-{n}" for n in (3, 4, 6, 7)))}
    assert wanted <= set(CATALOGUE)
    assert sum(name.startswith("ding-table-1") for name in CATALOGUE) == 7
    assert SCALES == (1.0, 0.8, 0.6, 0.4, 0.2)
    for one in CATALOGUE.values():
        assert bool(one.place) == (one.paper in PAPERS)
        assert {one.paper, *one.cites} - {""} <= set(PAPERS)
        assert one.source == "" or PAPERS[one.paper]["year"] in one.source
        made = {"preact34-rnl-cifar100", *networks.STRANGERS, *networks.WITHOUT_CEILINGS}
        assert set(one.networks) - made <= set(MODELS)


def published() -> Iterator[tuple[float, float, float]]:
    """Trained, spiking and loss as the papers print them."""
    for cases in TABLES.values():
        for ways in cases.values():
            yield from ((a, b, loss) for a, b, loss in ways.values() if not isinstance(loss, str))


def test_published_losses_are_the_differences_of_the_published_accuracies() -> None:
    """A figure that was copied wrongly would show."""
    for trained, spiking, loss in published():
        assert trained - spiking == pytest.approx(loss, abs=0.011)
    for number, tables in ((5, TABLES[1]), (9, TABLES[2]), (10, TABLES[3])):
        assert tables[number]["RMP, scale 1.0"][:2] == (FIGURES[number][0], FIGURES[number][2])
    for ways in ding_tables.TABLE_2.values():
        for accuracies in ways.values():
            assert len(accuracies) == len(ding_tables.STEPS)
            late = [a for a in accuracies if a is not None and a > 20]
            assert late == sorted(late)


def test_rows_of_a_table_share_their_conditions_and_carry_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--network", "mnist-cnn", "--data", "mnist-sample", "--seeds", "2", "--out", str(tmp_path), *OPTIONS]
    shown = run(capsys, "sengupta-table-1", *options)
    assert "spiking error (paper)" in shown
    assert "8.54" in shown
    assert "mnist-cnn, 20 of 2,000 test images of mnist-sample" in shown
    assert "signed Poisson input, read out by spikes, 16 calibration images" in shown
    content = json.loads((tmp_path / "sengupta-table-1-mnist-cnn.json").read_text())
    assert content["conditions"] == {**QUICK, "coder": "poisson", "readout": "spikes", "seeds": 2, "device": "cpu"}
    assert content["lines"][0]["published"] == {"trained error": 8.3, "spiking error": 8.54, "loss": 0.24}
    assert len(content["lines"][0]["ours"]["spiking error"]) == 2  # mean and standard deviation
    first, second = content["numbers"]["rows"].values()
    differing = {name for name in first if first[name] != second[name]}
    assert {"method", "accuracy"} <= differing
    for name in (
        "network",
        "weights",
        "data",
        "images",
        "coder",
        "readout",
        "calibration_images",
        "timesteps",
        "seeds",
    ):
        assert first[name] == second[name]
    assert second["method"]["timesteps"] == second["observed_steps"] == 8
    assert second["method"]["coder"] == second["coder"]
    assert (tmp_path / "sengupta-table-1-mnist-cnn.png").read_bytes().startswith(b"\x89PNG")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(rows, "measure", refuse)
    assert "were there" in run(capsys, "sengupta-table-1", *options)
    monkeypatch.setattr(entry, "panels", lambda *_: None)
    assert "30.61" in run(capsys, "sengupta-table-2", *options)  # the same network and conditions, so the same rows
    with pytest.raises(AssertionError, match="computed again"):
        main(["sengupta-table-1", *options[:-1], "9"])


class Counting:
    """This process, which counts the pieces that it is given."""

    pieces = 0

    def map(self, work: Any, items: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        for number, item in enumerate(items):
            Counting.pieces += 1
            yield number, work(item)


def test_rows_are_shared_among_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BATCH", 8)
    alone, shared = (quick("han-figure-6", tmp_path / name, ("mnist-cnn",)) for name in ("alone", "shared"))
    way = Way("Max Norm", es.DataNorm())
    expected = rows.row(way, digits(), alone)
    found = rows.row(way, digits(), replace(shared, on=Counting()))
    assert Counting.pieces == math.ceil(QUICK["images"] / 8)
    assert {**found, "seconds": 0} == {**expected, "seconds": 0}


def test_spikes_are_as_many_as_the_trained_network_asks_for_where_input_is_constant() -> None:
    trained, timesteps = digits(), 32
    conditions = Conditions("constant", "potential", timesteps, images=20, calibration_images=16)
    spiking = convert(Way("Max Norm", es.DataNorm()), trained, conditions)
    asked = asked_for(spiking, trained, conditions)
    run = es.simulate(spiking, trained.data.test.take(20).floats(), timesteps)
    first = next(iter(asked))
    assert asked.keys() == run.counts.keys()
    assert asked[first] - 1 < float(run.counts[first].double().mean()) <= asked[first] + 1e-4  # rounded down


def test_the_control_keeps_biases_and_has_no_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(networks.WITHOUT_CEILINGS, "biased", ("mnist-cnn-rnl", "mnist-cnn"))
    trained, control = digits("mnist-cnn-rnl"), digits("biased")
    assert control.told["network"] == "biased"
    assert not rate_norms(control.model)
    assert any(name.endswith("bias") for name, _ in control.model.named_parameters())
    images = trained.data.test.take(200).floats()
    with torch.no_grad():
        same = trained.model(images).argmax(1) == control.model(images).argmax(1)
    assert same.float().mean() > 0.95


@pytest.mark.usefixtures("undrawn")
def test_levels_are_asked_for_where_there_are_none(tmp_path: Path) -> None:
    entered = CATALOGUE["low-latency-levels"]
    with pytest.raises(es.EquispikeError, match=r"no levels.*: equispike train --start mnist-cnn-rnl"):
        result(entered, quick(entered.name, tmp_path, ("mnist-cnn-rnl",)))
    known = find("mnist-cnn-rnl", "mnist-sample")
    levelled = with_levels(known.model, 4, known.data.train.take(64).floats())
    save_model(tmp_path / "levels.safetensors", "mnist-cnn-rnl", levelled, {"data": "mnist-sample", "levels": 4})
    job = quick(entered.name, tmp_path, (str(tmp_path / "levels.safetensors"),), images=50)
    content, _ = result(entered, replace(job, data=None))
    binary, signed, *corrected = (line["ours"]["T=8"] for line in content["lines"])
    assert signed > 90
    assert max(corrected) > binary


def test_poisson_probabilities_are_the_inputs_unless_they_exceed_one() -> None:
    conditions = CATALOGUE["han-figure-6"].conditions
    known = digits()
    assert coder_of(known, conditions) == es.Poisson(1.0)
    brighter = Trained("x", known.model, known.data.normalised(), known.card)
    assert coder_of(brighter, conditions) == es.Poisson()
    assert coder_of(brighter, CATALOGUE["mnist-methods"].conditions) is CONSTANT


def test_the_command_of_a_result_names_all_that_is_not_the_papers(tmp_path: Path) -> None:
    figure = CATALOGUE["han-figure-5"]
    job = figure.job(("a/x.safetensors",), {"images": 5, "coder": "constant"}, out=tmp_path)
    words = "python -m experiments han-figure-5 --network x.safetensors --coder constant --images 5"
    assert command(figure, job) == words
    assert file_name(figure, job) == "han-figure-5-x-constant"
    assert figure.heading(job) == "x: hard reset, soft reset, scaled thresholds"
    assert figure.heading(figure.job()) == "ResNet-20 on CIFAR-10: hard reset, soft reset, scaled thresholds"
    fit = CATALOGUE["ding-figure-4"]
    assert fit.heading(fit.job(["mnist-cnn"])) == "Fit of rates by layer (mnist-cnn)"
    assert command(figure, figure.job()) == "python -m experiments han-figure-5"


@pytest.mark.usefixtures("undrawn")
def test_what_cannot_be_asked_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, reason in (
        (["han-figures-3d-4c", "--network", "mnist-cnn"], "about 0 networks, not 1"),
        (["han-figures-3d-4c", "--images", "3"], "--images: han-figures-3d-4c is about no network"),
        (["han-table-1", "--network", "mnist-cnn"], "about 2 networks, not 1"),
        (["han-figure-4"], "no entry has this name"),
        (["han-figure-6", "--images", "0"], "--images: 0"),
        (["sengupta-table-2"], "--data imagenet --data-folder FOLDER --recipe sengupta-imagenet-fast"),
        (["ding-table-2-preact"], "equispike train --model preact18-rnl-cifar10 --data cifar10 "),
        (
            ["han-figure-5", "--network", "he-resnet20", "--data-folder", str(tmp_path)],
            "akamaster/pytorch_resnet_cifar10",
        ),
    ):
        assert reason in run(capsys, *arguments, "--out", str(tmp_path / "out"))


@pytest.mark.usefixtures("undrawn")
def test_imagenet_entries_run_from_a_folder_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = load("mnist-sample").train
    for kind in range(20):
        for number, image in enumerate(images.images[20 * kind : 20 * kind + 3, 0].numpy()):
            path = tmp_path / "data" / ("train" if number < 2 else "val") / f"kind{kind}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).convert("RGB").resize((240, 240)).save(path)
    monkeypatch.setitem(MODELS, "vgg16-imagenet", lambda: plain(("pool", "pool", 4, "pool", "pool"), 224, 3, (8,), 20))
    weights = tmp_path / "vgg16-imagenet.safetensors"
    save_model(weights, "vgg16-imagenet", build("vgg16-imagenet"), {"data": "imagenet", "normalised": True})
    table_2 = CATALOGUE["sengupta-table-2"]
    job = table_2.job((str(weights),), {**QUICK, "timesteps": 4}, out=tmp_path, data_folder=tmp_path / "data")
    content, _ = result(table_2, job)
    assert content["note"].startswith("vgg16-imagenet, 20 of 20 test images of imagenet")
    spike_norm = content["lines"][1]
    assert spike_norm["published"]["spiking top-5 error"] == 10.99
    assert 0 <= spike_norm["ours"]["trained top-5 error"] <= spike_norm["ours"]["trained error"]


@pytest.mark.usefixtures("undrawn")
def test_thresholds_are_learnt_and_lowered_once_for_all_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for way in (ding.STAGE_2, ding.LOCKED):
        monkeypatch.setitem(ding.LEARNT, way.label, ((0.01,), Settings(steps=1, maxima_move=way is ding.STAGE_2)))
    monkeypatch.setattr(ding_tables, "WAYS", (ding.MAX_NORM, *ding.CONTROLS, ding.STAGE_1, ding.STAGE_2, ding.LOCKED))
    monkeypatch.setattr(ding_figure_7, "WAYS", (ding.MAX_NORM, ding.STAGE_2))
    monkeypatch.setattr(ding, "TOLERANCE", 1.0)  # any accuracy will do, so the lowest thresholds are taken
    full = load("mnist-sample")
    few = Dataset(full.name, full.train.take(256), full.validation.take(100), full.test.take(50))
    monkeypatch.setattr(networks, "read_data", lambda *_: few)
    both = ("mnist-cnn-rnl", "mnist-cnn-bn")
    job = quick("ding-table-2", tmp_path, both, timesteps=16)
    content, _ = result(CATALOGUE["ding-table-2"], job)
    first, *_, last = content["lines"]
    assert first["published"]["T=16"] == 10.07
    assert [name for name in last["ours"] if name.startswith("T=")] == ["T=16"]
    assert content["numbers"]["RNL + RIL, locked maxima"]["lambda chosen"] == 0.01
    assert any(words.startswith("RNL + RIL: validation accuracy by lambda") for words in content["remarks"])
    monkeypatch.setattr(ding, "lower_thresholds", None)
    monkeypatch.setattr(rows, "measure", None)
    power, _ = result(CATALOGUE["ding-figure-7"], quick("ding-figure-7", tmp_path, both, timesteps=16))
    assert power["lines"][-1]["published"] == {"times sooner": 8.6, "energy": 0.265}
    measured = content["numbers"]["rows"]
    assert {label: row["network"] for label, row in measured.items()} == {
        **dict.fromkeys(measured, "mnist-cnn-rnl"), "Max Norm": "mnist-cnn-bn"
    }  # fmt: skip
    lowered = measured["RNL + RIL, locked maxima"]["thresholds"]
    assert all(lowered[name] < threshold for name, threshold in measured["RNL"]["thresholds"].items())
    assert measured["RNL + RIL"]["thresholds"] != measured["RNL"]["thresholds"]


@pytest.mark.usefixtures("undrawn")
def test_spikes_of_the_input_are_additions_not_macs(tmp_path: Path) -> None:
    content, _ = result(
        CATALOGUE["sengupta-operations-vgg"], quick("sengupta-operations-vgg", tmp_path, ("mnist-cnn",))
    )
    (line,) = content["lines"]
    assert line["ours"]["MACs that remain (millions)"] == 0
    assert 0 < line["ours"]["additions (millions)"] < 8 * line["ours"]["MACs (millions)"]


def test_without_names_the_catalogue_is_shown_and_pages_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(es.FileError, match="holds no results"):
        write_page(tmp_path, tmp_path / "page.md")
    shown = run(capsys)
    assert all(name in shown for name in CATALOGUE)
    options = ["--data", "mnist-sample", "--timesteps", "50"]
    run(capsys, "sengupta-figure-1", "han-figures-3d-4c", "--out", str(tmp_path), *options[2:], *options[:2])
    assert "2 results" in run(capsys, "--out", str(tmp_path), "--page", str(tmp_path / "page.md"))
    text = (tmp_path / "page.md").read_text()
    assert "| Han: rates follow equations 3 and 4 | curves | 0 of 2,008 points differ | holds |" in text
    assert "## An image, its spikes in one step and over many" in text
    assert "](sengupta-figure-1.png)" in text
    (tmp_path / "ding-table-1.json").write_text("{}")
    with pytest.raises(es.FileError, match=r"ding-table-1.json: is not a result"):
        write_page(tmp_path, tmp_path / "page.md")


def test_the_stored_page_is_what_the_stored_results_say(tmp_path: Path) -> None:
    docs = Path(__file__).parents[1] / "docs"
    (tmp_path / "results").symlink_to(docs / "results")
    write_page(tmp_path / "results", tmp_path / "results.md")
    assert (tmp_path / "results.md").read_text() == (docs / "results.md").read_text()


def test_published_figures_never_stand_in_our_columns() -> None:
    lines = [{"label": "a", "ours": {"x": 1.0}, "published": {"x": 2.0, "y": "about 3"}}]
    assert table(lines) == [["", "x", "x (paper)", "y (paper)"], ["a", "1.00", "2.00", "about 3"]]
    assert cell((12.54, 0.111)) == "12.54 ± 0.111"


def a_row(accuracy: list[float], **other: object) -> Row:
    return {"accuracy": accuracy, "timesteps": len(accuracy), "trained_accuracy": 1.0, "runs": 1, **other}


def test_times_sooner_is_measured_at_a_level_that_both_keep() -> None:
    slow, fast = a_row([0.1] * 7 + [0.903]), a_row([0.1, 0.95] + [0.9] * 6)
    found = {"level": "90.0 %", "steps": 2, "steps of the first": 8, "times sooner": 4.0}
    assert compare.sooner(fast, slow) == found
    collapsed = a_row([0.9] * 7 + [0.1])
    assert compare.sooner(collapsed, slow)["times sooner"] is None
    assert compare.level_of(fast, slow) == 0.9
    less_accurate, better = a_row([0.87], trained_accuracy=0.9), a_row([0.96])
    assert compare.level_of(less_accurate, better) == compare.level_of(better, less_accurate) == 0.95 * 0.9
    assert compare.column("T=2", fast) == pytest.approx(95)
    assert compare.column("T=9", fast) is None
    assert compare.column("loss", fast) == pytest.approx(10)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=30))
def test_spikes_of_each_step_follow_from_the_spike_rate(spikes: list[int]) -> None:
    rate = torch.tensor(spikes).double().cumsum(0) / (50 * torch.arange(1, len(spikes) + 1)) * 100
    found = ding_figure_7.spikes({"spike_rate": rate.tolist(), "neurons": {"a": 20, "b": 30}})
    assert found.round().tolist() == spikes


def test_junctions_count_in_the_spikes_of_their_shortcut() -> None:
    conditions = Conditions("constant", "potential", 8, calibration_images=8, observed_steps=8)
    known = digits()
    trained = Trained("mnist-resnet8", build("mnist-resnet8"), known.data, known.card)
    spiking = convert(Way("", es.SpikeNorm()), trained, conditions)
    junction = next(name for name in spiking.neurons if name.endswith("junction"))
    block = list(spiking.neurons).index(junction)
    before = list(spiking.neurons)[block - 2]  # what enters the block: its path has one layer of its own
    assert unit(spiking, junction) == float(spiking.thresholds[before])
    path = list(spiking.neurons)[block - 1]
    assert unit(spiking, path) == float(spiking.thresholds[before])


def test_the_trained_accuracy_is_the_models_own_where_sums_went_wrong(tmp_path: Path) -> None:
    known = digits()
    trained = Trained("mnist-resnet8", build("mnist-resnet8"), known.data, known.card)
    plain_sums = Way("", es.SpikeNorm(residual="measured", sums="plain"))
    job = quick("mnist-methods", tmp_path, ("mnist-resnet8",), images=200)
    found = rows.row(plain_sums, trained, job)
    images = known.data.test.take(200)
    assert found["trained_accuracy"] == accuracy_of(trained.model, images)
    converted = convert(plain_sums, trained, job.conditions)
    assert found["trained_accuracy"] != float((converted(images.floats()).argmax(1) == images.labels).float().mean())


def test_a_claim_is_judged_by_the_rows_that_it_is_about() -> None:
    low = [0.5, 0.87]
    labelled = {f"RMP, scale {scale}": a_row(low, spike_rate=[1.0, 2.0], trained_accuracy=0.88) for scale in SCALES}
    labelled["RMP, scale 0.2"]["accuracy"] = [0.2, 0.2]
    labelled["IF, hard reset"] = a_row([0.1, 0.1], trained_accuracy=0.88)
    speed = {"RMP, scale 1.0": {"times sooner": None}, "RMP, scale 0.6": {"times sooner": 9.0, "level": "85.0 %"}}
    lines: list[dict[str, Any]] = [{"label": label, "ours": ours, "published": {}} for label, ours in speed.items()]
    stored = {
        "name": "han-figure-5",
        "lines": lines,
        "numbers": {"rows": labelled},
        "note": "n",
        "conditions": QUICK,
        "command": "",
    }
    said = {one.claim: one.verdict for one in judged([stored])}
    sooner = "Han: soft reset is sooner than hard"
    assert said == {
        "Han: thresholds at 0.6 lose nothing": "holds",
        "Han: at 0.2 accuracy drops": "holds",
        "Han: 0.6 takes few spikes": "holds",
        sooner: "holds",
        "Han: lowered thresholds are sooner still": "holds",
    }
    for late, words in (([0.1, 0.87], "more than 1.0 times, at 44.0 %; after"), ([0.1, 0.2], "after all steps 20.0 %")):
        labelled["RMP, scale 1.0"]["accuracy"] = late
        (one,) = (one for one in judged([stored]) if one.claim == sooner)
        assert one.ours.startswith(words)
        assert one.verdict == "open"
    lowered = "Han: lowered thresholds are sooner still"
    for times, verdict in ((8, "holds"), (9.5, "does not hold")):  # the paper's for that network
        lines[1]["published"] = {"times sooner": times}
        assert [one.verdict for one in judged([stored]) if one.claim == lowered] == [verdict]


def test_each_constraint_is_judged_beside_the_one_before() -> None:
    found = {"basic: a": 0.5, "constraint 1: a": 0.7, "constraints 1 and 2: b": 0.8, "constraints 1 to 3: b": 0.79}
    labelled = {
        label: a_row([accuracy], trained_accuracy=0.9, network=f"n{number}")
        for number, (label, accuracy) in enumerate(found.items())
    }
    stored = {"name": "sengupta-figure-3", "lines": [], "numbers": {"rows": labelled}, "note": "n"}
    claims = judged([{**stored, "conditions": QUICK, "command": ""}])
    assert [one.verdict for one in claims] == ["holds", "holds", "does not hold"]
    assert [one.network for one in claims] == ["n1", "n2", "n3"]
    assert claims[0].ours == "20.00 points lost, 40.00 without"


def test_claims_in_short_name_the_networks_by_verdict() -> None:
    places = {"a": "holds", "b": "does not hold", "c": "holds", "d": "open"}
    found = [Judged("it converts", "", "", verdict, "", network) for network, verdict in places.items()]
    assert in_short([*found, found[0]]) == [["it converts", "a, c", "b", "d"]]
    assert named_networks("python -m experiments x --network a --network b.safetensors --images 2") == ("a", "b")


def test_a_network_from_a_file_has_the_files_name(tmp_path: Path) -> None:
    path = tmp_path / "second.safetensors"
    save_model(path, "mnist-cnn", build("mnist-cnn"), {"data": "mnist-sample", "seed": 3})
    told = find(str(path)).told
    assert told["network"] == "second"  # a table may have two of one kind
    assert told["training"] == {"name": "mnist-cnn", "seed": 3}


def test_networks_of_others_are_read_as_they_were_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = he.resnet(20).eval()
    (tmp_path / "models").mkdir()
    save_file(model.state_dict(), tmp_path / "models" / "he_resnet20_cifar10.safetensors")
    images, labels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8), torch.arange(4)
    part = Split("cifar10/test", images, labels, labels, tuple("abcdefghij"))
    monkeypatch.setattr(networks, "read_data", lambda *_: Dataset("cifar10", part, part, part))
    for source in ("he-resnet20", f"he-resnet20={tmp_path / 'models' / 'he_resnet20_cifar10.safetensors'}"):
        found = find(source, folder=tmp_path)
        x = found.data.test.floats()
        assert torch.equal(found.model(x), model(x))
        assert found.data.test.mean == he.MEAN
    network = es.convert(model, x, es.DataNorm())
    assert len(network.neurons) == 19
