"""The command line as a user calls it: real data, real files, one line and exit code 2 for bad input."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command import exit_code
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as to_bytes
from safetensors.torch import save_file

import equispike.cli.shared
import equispike.report.demo
from equispike.cli.shared import print_table
from equispike.cli.source import read_model
from equispike.errors import FileError
from equispike.files.checkpoint import load as load_network
from equispike.nn import rate_norms
from equispike.zoo import store
from equispike.zoo.data import load
from equispike.zoo.models import build
from equispike.zoo.recipes import RECIPES, Recipe
from equispike.zoo.store import in_8_bits, load_model, load_weights, save_model
from equispike.zoo.train import accuracy_of

VERBS = (
    *("demo", "train", "lower-thresholds", "keep", "models", "check", "convert", "evaluate", "diagnose"),
    *("report", "export", "info", "sweep", "cite"),
)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a call."""
    code = exit_code(*arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a call that must be refused."""
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("equispike: ")
    assert err.count("\n") == 1
    return err


def test_help_is_quick_to_import() -> None:
    """Help must not wait for torch: it is not imported."""
    code = (
        "import sys, equispike.cli as c\n"
        "try: c.app(['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for verb in VERBS:
        assert verb in shown


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert f"Example: equispike {verb}" in out


def test_convert_then_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = tmp_path / "deep" / "net.safetensors"
    asked = "--images", "64", "--percentile", "99.9"  # one threshold per layer: the same 8 bits in every format
    code, out, err = run(capsys, "convert", "mnist-cnn", *asked, "--out", str(network))
    assert (code, err) == (0, "")
    assert "features.1" in out
    assert network.is_file()

    results, figure = tmp_path / "r.json", tmp_path / "r.png"
    options = ["--timesteps", "32", "--images", "100", "--json", str(results), "--plot", str(figure)]
    code, out, err = run(capsys, "evaluate", str(network), *options)
    assert (code, err) == (0, "")
    content = json.loads(results.read_text())
    assert content["images"] == 100
    assert content["runs"][0]["timesteps"] == list(range(1, 33))
    assert content["runs"][0]["accuracy"][-1] >= content["ann_accuracy"] - 0.02 > 0.9
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.rglob("*.part"))

    pytest.importorskip("h5py")
    exported = tmp_path / "net.nir"
    code, out, err = run(capsys, "export", str(network), "--to", "torch", "--out", str(tmp_path / "net.py"))
    assert (code, err) == (0, "")
    assert {"net.py", "net.pt"} <= {path.name for path in tmp_path.iterdir()}
    pytest.importorskip("onnx")
    code, out, err = run(capsys, "export", str(network), "--to", "onnx", "--out", str(tmp_path / "net.onnx"))
    assert (code, err) == (0, "")
    assert "Needs onnxruntime alone" in out
    assert (tmp_path / "net.onnx").stat().st_size > 1e5
    assert "is for --to nir" in refused(capsys, "export", str(network), "--to", "torch", "--profile", "compact")
    code, out, err = run(capsys, "export", str(network), "--to", "nir", "--bits", "8", "--out", str(exported))
    assert (code, err) == (0, "")
    assert "SpikingJelly reads a reset to zero: set v_reset = None" in out
    again = [
        run(capsys, "evaluate", *source, "--timesteps", "16", "--images", "20")[1].splitlines()[2:-1]
        for source in ((str(exported),), (str(network), "--bits", "8"))
    ]
    assert again[0][-2].split()[-6:] == again[1][-2].split()[-6:]


def test_convert_with_every_method_and_poisson_repeats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = str(tmp_path / "net.safetensors")
    few = ["--images", "16", "--out", network]
    short = ["--observe", "8"]
    methods = (["modelnorm"], ["spikenorm", *short], ["rmp", "--scale", "0.6", *short], ["datanorm", "--per-channel"])
    for method in methods:
        code, out, _ = run(capsys, "convert", "mnist-cnn", "--method", *method, *few)
        assert code == 0
        assert method[0] in out.lower()
    options = ["--timesteps", "8", "--images", "20", "--coder", "poisson", "--runs", "3"]
    code, out, _ = run(capsys, "evaluate", network, *options)
    assert code == 0
    assert "mean of 3 seeds" in out


def test_a_long_name_pushes_no_number_out_of_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    header = ["method", "input", "reset", *(f"T={t}" for t in range(8)), "spike rate"]
    print_table([header, ["DataNorm(percentile=97), " * 9, "constant", "soft", *["98.5"] * 8, "12.34 %"]], "title", 3)
    said = capsys.readouterr().out
    assert said.count("98.5") == 8
    assert "12.34 %" in said
    assert said.count("DataNorm(percentile=97)") == 9


def test_long_headers_are_broken_and_push_nothing_out_of_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    header = ["", *(f"energy of layer {n} (times the trained network's)" for n in range(12))]
    print_table([header, ["vgg16-slim-rnl-cifar10", *["1,656.57"] * 12]], "title")
    said = capsys.readouterr().out
    assert said.count("1,656.57") == 12
    assert "vgg16-slim-rnl-cifar10" in said
    assert max(map(len, said.splitlines())) < 300  # headers in one line would take 600


def test_evaluate_rounds_and_stops_early(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--images", "40", "--timesteps", "48", "--bits", "8", "--stop", "8"]
    code, out, err = run(capsys, "evaluate", "mnist-cnn", *options)
    assert (code, err) == (0, "")
    assert "with 8 bits" in out
    steps = float(out.partition("stopped early: ")[2].split()[0])
    assert 8 <= steps < 40
    assert "bits: 3 is not between 4 and 16" in refused(capsys, "evaluate", "mnist-cnn", "--bits", "3")
    assert "steps 0" in refused(capsys, "evaluate", "mnist-cnn", "--stop", "0", "--images", "2")


def test_diagnose_names_layer_cause_and_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--method", "rmp", "--scale", "0.2", "--observe", "16", "--images", "32", "--judged", "40"]
    code, out, err = run(capsys, "diagnose", "mnist-cnn", *options)
    assert (code, err) == (0, "")
    assert " loses most, by clipping" in out
    assert "--percentile 99.9 " in out
    assert "Of the remedies tried, " in out
    code, out, _ = run(capsys, "diagnose", "mnist-cnn", "--images", "32", "--judged", "20")
    assert code == 0
    assert "Little is lost" in out
    assert "remedy" not in out


def test_a_signal_in_the_middle_of_an_import_is_told_when_that_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_read.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nfactory = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    told: list[tuple[str, bool]] = []
    monkeypatch.setattr(equispike.cli.shared.err, "print", lambda text: told.append((text, "half_read" in sys.modules)))
    assert exit_code("check", "mnist-cnn", "--data", "half_read:factory") == 143
    ((text, half_loaded),) = told
    assert text.startswith("equispike: terminated; nothing half written was left behind. Start it again")
    assert not half_loaded


def test_images_unlike_those_of_the_training_are_hinted_at(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "evaluate", "mnist-cnn", "--images", "20", "--timesteps", "4")
    assert (code, err) == (0, "")
    code, _, err = run(
        capsys, "evaluate", "mnist-cnn", "--data", "test_cli:inverted_digits", "--images", "20", "--timesteps", "4"
    )
    assert code == 0
    assert "the trained network itself is right on " in err
    assert "See --data and --normalise" in err


def inverted_digits() -> tuple[Any, Any]:
    """White paper, black ink: not what the networks of the package were trained on."""
    digits = load("mnist-sample")
    parts = (digits.train.take(40), digits.test.take(20))
    train, test = (torch.utils.data.TensorDataset(1 - part.floats(), part.labels) for part in parts)
    return train, test


def test_train_goes_on_from_a_trained_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out_file = tmp_path / "again.safetensors"
    code, _, _ = run(capsys, "train", "--start", "mnist-cnn", "--epochs", "1", "--out", str(out_file))
    assert code == 0
    _, card = load_model(out_file)
    assert card["name"] == "mnist-cnn"
    assert card["started_from"]["test_accuracy"] == load_model("mnist-cnn")[1]["test_accuracy"]
    assert card["best"]["loss"] < 0.5  # random weights: about 2.3 at first, and 1.2 on average in this epoch
    options = ["--out", str(tmp_path / "none")]
    assert "is a mnist-cnn, and no mnist-cnn-bn without its Rate Norm layers. Leave out --model" in refused(
        capsys, "train", "--start", "mnist-cnn", "--model", "mnist-cnn-bn", *options
    )
    assert "images that were not normalised. Choose a recipe with normalise=False" in refused(
        capsys, "train", "--start", "mnist-cnn", "--recipe", "cifar-again", *options
    )


def test_train_turns_relus_into_rate_norm_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out_file = tmp_path / "rnl.safetensors"
    options = ["--start", "mnist-cnn-bn", "--model", "mnist-cnn-rnl", "--epochs", "1", "--out", str(out_file)]
    assert run(capsys, "train", *options)[0] == 0
    _, card = load_model(out_file)
    assert (card["name"], card["started_from"]["name"]) == ("mnist-cnn-rnl", "mnist-cnn-bn")
    assert card["best"]["loss"] < 0.5
    assert "is a mnist-cnn, and no mnist-cnn-rnl without" in refused(
        capsys, "train", "--start", "mnist-cnn", *options[2:]
    )


def test_levels_are_trained_from_a_start_and_stay_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Name it with --start" in refused(capsys, "train", "--levels", "4", "--out", str(tmp_path / "none"))
    monkeypatch.setitem(RECIPES, "demo", Recipe(epochs=1, batch=600, lr=0.001))
    options = ["--start", "mnist-cnn-rnl", "--levels", "4", "--out", str(tmp_path / "m.safetensors")]
    assert run(capsys, "train", *options)[0] == 0
    model, card = load_model(tmp_path / "m.safetensors")
    assert card["levels"] == 4
    assert {layer.levels for _, layer in rate_norms(model)} == {4}


def test_rate_norm_from_training_to_spikes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Train, lower the thresholds, and evaluate a model as it is: its learnt thresholds are the default."""
    model, lowered = str(tmp_path / "model.safetensors"), tmp_path / "lowered"
    code, _, _ = run(capsys, "train", "--model", "mnist-cnn-rnl", "--epochs", "1", "--out", model)
    assert code == 0
    options = ["--lambdas", "0.001", "1", "--steps", "20", "--no-maxima-move", "--out", str(lowered)]
    code, out, _ = run(capsys, "lower-thresholds", model, *options)
    assert code == 0
    assert out.count("(chosen)") == 1
    table = json.loads((lowered / "trade_off.json").read_text())
    points = table["points"]
    assert [point["lambda_"] for point in points] == [0, 0.001, 1]
    assert points[1]["omega"] > points[2]["omega"]
    assert sum(point["chosen"] for point in points) == 1
    rates = []
    for point in points[::2]:
        target = str(tmp_path / "result.json")
        options = ["--images", "50", "--timesteps", "16", "--json", target]
        code, _, _ = run(capsys, "evaluate", str(lowered / point["file"]), *options)
        assert code == 0
        result = json.loads(Path(target).read_text())["runs"][0]
        rates.append(result["spike_rate"][-1])
    assert rates[0] < rates[1]
    assert "RateNorm" in refused(capsys, "lower-thresholds", "mnist-cnn", "--out", str(tmp_path / "none"))


def test_trained_weights_are_kept_by_name_in_8_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CHECKOUT", tmp_path / "weights")
    assert "equispike train --model mnist-resnet8 --data mnist" in refused(capsys, "convert", "mnist-resnet8")
    assert refused(capsys, "keep", str(tmp_path / "none")).endswith("no such file\n")
    trained = tmp_path / "trained.safetensors"
    model = in_8_bits(build("mnist-resnet8"))  # so that its accuracy, which is chance, stays the same
    save_model(trained, "mnist-resnet8", model, {"data": "mnist-sample", "test_accuracy": 0.5})
    code, out, _ = run(capsys, "keep", str(trained))
    assert code == 0
    assert "after rounding" in out
    found, card = load_model("mnist-resnet8")
    assert card["rounded"]["validation_accuracy"] == card["rounded"]["validation_accuracy_before"]
    assert card["test_accuracy"] == accuracy_of(found, load("mnist-sample").test)
    assert all(torch.allclose(a, b, rtol=1e-6) for a, b in zip(found.parameters(), model.parameters(), strict=True))
    assert (tmp_path / "weights" / "mnist-resnet8.safetensors").stat().st_size < trained.stat().st_size / 2
    monkeypatch.setattr(store, "MOST_LOST", -1.0)
    assert "rounding costs" in refused(capsys, "keep", str(trained))
    code, out, _ = run(capsys, "models")
    assert "in the checkout" in out


def test_check_lists_operations_and_exits_with_2_for_a_model_that_does_not_convert(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(capsys, "check", "mnist-cnn", "--shape", "1", "28", "28")
    assert code == 0
    assert "converts." in out

    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "torch.manual_seed(0)  # of other weights, a layer may never be driven above zero\n"
        "def good(): return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))\n"
        "def bad(): return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.GELU(), nn.Linear(5, 3))\n"
        "class Two(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b, self.c = nn.Linear(12, 5), nn.Linear(4, 5), nn.Linear(5, 3)\n"
        "    def forward(self, x, y): return self.c((self.a(x.flatten(1)) + self.b(y)).relu())\n"
        "two = Two\n"
        "def pooled(): return nn.Sequential(*[nn.Conv2d(3, 3, 1), nn.ReLU()] * 2, nn.MaxPool2d(2), nn.Flatten())\n"
    )
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "check", "mine:good", "--shape", "3", "2", "2")[0] == 0
    assert run(capsys, "check", "mine:two", "--shape", "3x2x2", "4")[0] == 0
    for wrong in (["3x2x2"], ["3x2x2", "5"], ["3x2", "4"], ["3", "2", "zwei"], ["0"], ["x"]):
        assert run(capsys, "check", "mine:two", "--shape", *wrong)[0] == 2
    code, out, err = run(capsys, "check", "mine:bad", "--shape", "3", "2", "2")
    assert code == 2
    assert "GELU" in out
    assert "Train with ReLU" in out
    assert err.count("\n") == 1
    assert run(capsys, "check", "mine:pooled", "--shape", "3", "2", "2")[0] == 2
    code, out, _ = run(capsys, "check", "mine:pooled", "--shape", "3", "2", "2", "--max-pool-to-winner")
    assert code == 0
    assert "passes the growth of the largest count" in out
    assert "Predicted smallest useful T" in out
    assert "Give one of" in refused(
        capsys, "check", "mine:pooled", "--max-pool-to-winner", "--max-pool-to-avg", "--shape", "3", "2", "2"
    )


def test_bad_input_is_one_line_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "net.safetensors"
    out = ["--out", str(target)]
    assert "no such file" in refused(capsys, "convert", "missing.safetensors", *out)
    assert "no such file" in refused(capsys, "evaluate", str(tmp_path / "missing"))
    assert "less than 1" in refused(capsys, "convert", "mnist-cnn", "--images", "0", *out)
    assert "unknown name" in refused(capsys, "convert", "mnist-cnn", "--data", "emnist", *out)
    assert "nowhere://x: cannot be listed" in refused(capsys, "convert", "mnist-cnn", "--data", "nowhere://x", *out)
    assert "Unknown option" in refused(capsys, "convert", "mnist-cnn", "--bogus", "1", *out)
    assert "spikes" in refused(capsys, "convert", "mnist-cnn", "--readout", "nonsense", *out)
    assert "percentile" in refused(capsys, "convert", "mnist-cnn", "--percentile", "101", *out)
    assert "is for --method rmp" in refused(capsys, "convert", "mnist-cnn", "--scale", "0.5", *out)
    assert "is for --method spikenorm or rmp" in refused(
        capsys, "convert", "mnist-cnn", "--method", "modelnorm", "--observe", "5", *out
    )
    assert "workers: ModelNorm() measures in one process" in refused(
        capsys, "convert", "mnist-cnn", "--method", "modelnorm", "--workers", "2", "--images", "4", *out
    )
    assert "has no threshold from training" in refused(capsys, "convert", "mnist-cnn", "--method", "ratenorm", *out)
    assert "unknown. Known recipes" in refused(capsys, "train", "--recipe", "none", *out)
    assert "cannot be imported" in refused(capsys, "check", "no_such_module:model")
    assert "is a folder" in refused(capsys, "convert", "mnist-cnn", "--out", str(tmp_path))
    (tmp_path / "file").write_text("not a folder")
    assert "cannot be written" in refused(capsys, "convert", "mnist-cnn", "--out", str(tmp_path / "file" / "x"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_a_factory_takes_weights_from_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import torch.nn as nn\ndef small(): return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))\n"
    (tmp_path / "my_networks.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    assert "is none of the networks" in refused(capsys, "lower-thresholds", "my_networks:small")
    weights = {"0.weight": torch.ones(3, 4), "0.bias": torch.ones(3), "2.weight": torch.ones(2, 3)}
    save_file({**weights, "2.bias": torch.full((2,), 7.0)}, "whole.safetensors")
    save_file(weights, "part.safetensors")
    model, _ = read_model("my_networks:small@whole.safetensors")
    assert isinstance(model, torch.nn.Module)
    assert model.state_dict()["2.bias"].tolist() == [7.0, 7.0]
    shape = ["--shape", "4"]
    assert run(capsys, "check", "my_networks:small@whole.safetensors", *shape)[0] == 0
    assert 'Missing key(s) in state_dict: "2.bias"' in refused(
        capsys, "check", "my_networks:small@part.safetensors", *shape
    )
    assert "no such file" in refused(capsys, "check", "my_networks:small@nothing.safetensors", *shape)
    (tmp_path / "part.safetensors").write_bytes(b"\x80\x04cos\nsystem\n(S'touch hacked'\ntR.")
    assert "is not a readable" in refused(capsys, "check", "my_networks:small@part.safetensors", *shape)


@given(st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=6), st.floats(0, 1))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_weights_fit_or_are_refused_in_one_line(
    tmp_path: Path, damage: list[tuple[int, int]], kept: float
) -> None:
    """Bytes changed, in the header too, and the end cut off."""
    model = torch.nn.Linear(3, 2)
    content = bytearray(to_bytes(dict(model.state_dict())))
    for place, value in damage:
        content[place % len(content)] = value
    (tmp_path / "w.safetensors").write_bytes(content[: round(kept * len(content))] if damage else content)
    message = ""
    try:
        load_weights(model, tmp_path / "w.safetensors")
    except FileError as error:
        message = str(error)
    assert damage or not message
    assert "\n" not in message


def test_a_foreign_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = tmp_path / "x.safetensors"
    foreign.write_bytes(b"\x80\x04cos\nsystem\n(S'touch hacked'\ntR.")
    assert "safetensors" in refused(capsys, "evaluate", str(foreign))
    assert not (tmp_path / "hacked").exists()


def test_train_and_demo_write_what_they_promise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one epoch and little calibration; the real amounts are the demo's business."""
    monkeypatch.setitem(RECIPES, "demo", Recipe(1, batch=64, lr=0.1))
    monkeypatch.setattr(equispike.report.demo, "CALIBRATION_IMAGES", 16)
    monkeypatch.setattr(equispike.report.demo, "CALIBRATION_STEPS", 10)
    monkeypatch.setattr("equispike.analysis.closer.LOOKED_AT", 4)
    model = tmp_path / "model.safetensors"
    code, out, err = run(capsys, "train", "--out", str(model), "--plot", str(tmp_path / "curves.png"))
    assert (code, err) == (0, "")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "validation" in out
    assert model.is_file()
    assert run(capsys, "check", str(model))[0] == 0

    folder = tmp_path / "demo"
    code, out, err = run(capsys, "demo", "--out", str(folder), "--images", "50", "--timesteps", "8")
    assert (code, err) == (0, "")
    content = json.loads((folder / "results.json").read_text())
    assert 0.5 < content["ann_accuracy"] <= 1
    assert content["images"] == 50
    assert "torch" in content["versions"]
    for entry in content["runs"]:
        assert entry["timesteps"] == list(range(1, 9))
        assert len(entry["accuracy"]) == len(entry["spike_rate"]) == 8
        assert all(0 <= a <= 1 for a in entry["accuracy"])
        assert all(0 <= r <= 100 for r in entry["spike_rate"])
    assert any(entry["method"].startswith("RMP(scale=0.6") for entry in content["runs"])
    shared = ("coder", "reset", "readout")  # soft reset, but for SPIKE-NORM
    assert len({tuple(str(entry[name]) for name in shared) for entry in content["runs"]}) == 2
    names = {path.name for path in folder.iterdir()}
    assert names == {"accuracy.png", "model.safetensors", "network.safetensors", "report.html", "results.json"}
    assert run(capsys, "evaluate", str(folder / "network.safetensors"), "--images", "10", "--timesteps", "4")[0] == 0


def test_convert_for_a_number_of_steps_shows_what_it_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "network.safetensors"
    options = ("--timesteps", "3", "--spikes", "signed", "--images", "12", "--out", str(path))
    code, out, _ = run(capsys, "convert", "mnist-cnn", *options)
    lines = [line.strip() for line in out.splitlines() if ", correction " in line]
    assert (code, len(lines)) == (0, 13)  # seven percentiles with one correction, and three of them with two others
    network = load_network(path)
    chosen: Any = network.provenance["chosen"]
    assert lines[0].startswith(f"{chosen['error']:.4f}  {chosen['method']}, correction {chosen['correction']}")
    assert all((op.spikes, op.v_init) == ("signed", 0.5) for op in network.neurons.values())


def test_convert_for_a_number_of_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--images", "32", "--out", str(tmp_path / "n.safetensors")]
    assert "Give --timesteps too" in refused(capsys, "convert", "mnist-cnn", "--correct", "bias", *out)
    code, said, err = run(
        capsys, "convert", "mnist-cnn", "--timesteps", "4", "--correct", "bias", "--spikes", "signed", *out
    )
    assert (code, err) == (0, "")
    assert "Bias(timesteps=4" in said
    assert "signed spikes" in said
    code, said, err = run(capsys, "convert", "mnist-cnn", "--timesteps", "4", *out)
    assert (code, err) == (0, "")
    code, said, _ = run(capsys, "evaluate", out[-1], "--images", "5")  # for as many steps, if none are named
    assert (code, " T=4 " in said, "T=8" in said) == (0, True, False)
    code, said, _ = run(capsys, "export", out[-1], "--to", "torch", "--out", str(tmp_path / "my-net.py"))
    assert "Network = import_module('my-net').Network; Network()(images, timesteps=4)" in said


def test_fewer_training_images_than_asked_for_are_all_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "few_digits.py").write_text(
        "from torch.utils.data import TensorDataset\nfrom equispike.zoo.data import load\n"
        "def few():\n    d = load('mnist-sample')\n"
        "    return tuple(TensorDataset(p.take(20).floats(), p.take(20).labels) for p in (d.train, d.test))\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.syspath_prepend(str(tmp_path))
        code, out, _ = run(capsys, "check", "mnist-cnn", "--data", "few_digits:few")
        assert (code, "from the 18 images given" in out) == (0, True)
        assert run(capsys, "convert", "mnist-cnn", "--data", "few_digits:few", "--out", str(tmp_path / "n"))[0] == 0
