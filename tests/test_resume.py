"""Interrupted trainings: whatever stops them, going on gives the weights of a run left alone, bit for bit."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from command import exit_code
from torch import Tensor, nn

from equispike.errors import EquispikeError, FileError
from equispike.files import checkpoint as files
from equispike.nn import with_rate_norm
from equispike.zoo import data
from equispike.zoo.data import Split, load
from equispike.zoo.models import mnist_cnn
from equispike.zoo.recipes import Recipe
from equispike.zoo.store import load_model
from equispike.zoo.train import Acceleration, Progress, train

RECIPE = Recipe(epochs=4, batch=60, lr=0.05, shift=2, cutout=5, label_smoothing=0.1)


class Stop(Exception):
    """What interrupts a training."""


def numbers(log: Path) -> list[int]:
    """The epochs in a log."""
    return [json.loads(line)["number"] for line in log.read_text().splitlines()]


@pytest.fixture(scope="module")
def parts() -> tuple[Split, Split]:
    sample = load("mnist-sample")
    return sample.train.take(300), sample.validation.take(100)


def network(width: int = 4) -> nn.Module:
    """With dropout, batch norm and Rate Norm: all that has a state or draws."""
    torch.manual_seed(0)
    return with_rate_norm(mnist_cnn(constrained=False, width=width, dropout=0.2), momentum=None)


def equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def stop_at(step: int) -> Callable[[Progress], None]:
    """Before the epoch's end is reported, its checkpoint is written: a step number seen twice stops behind it."""

    def report(progress: Progress) -> None:
        if progress.step == step:
            raise Stop

    return report


def interrupted(file: Path, parts: tuple[Split, Split], step: int, **options: object) -> None:
    with pytest.raises(Stop):
        train(network(), *parts, RECIPE, report=stop_at(step), checkpoint=file, resume=True, **options)


@pytest.fixture(scope="module")
def undisturbed(parts):
    return train(network(), *parts, RECIPE)


@pytest.mark.parametrize("steps", [(1,), (7,), (10, 11, 17)], ids=str)
def test_interruptions_leave_no_trace_in_weights_and_history(tmp_path, parts, undisturbed, steps):
    """Within the first epoch of 5 steps; within the second; at the end of the second, then twice more."""
    file = tmp_path / "run.training"
    for step in steps:
        interrupted(file, parts, step)
    resumed = train(network(), *parts, RECIPE, checkpoint=file, resume=True)
    assert equal(resumed.model.state_dict(), undisturbed.model.state_dict())
    assert resumed.best.number == undisturbed.best.number
    for mine, other in zip(resumed.history, undisturbed.history, strict=True):
        timeless = {"seconds": 0.0, "images_per_second": 0.0}
        assert replace(mine, **timeless) == replace(other, **timeless)


def test_a_resumed_training_does_only_what_is_left(tmp_path, parts):
    file, reports = tmp_path / "run.training", []
    interrupted(file, parts, 11)
    train(network(), *parts, RECIPE, report=reports.append, checkpoint=file, resume=True)
    assert [reports[0].step, reports[0].epoch.number, reports[-1].step] == [11, 3, 20]
    again = train(network(), *parts, RECIPE, report=stop_at(1), checkpoint=file, resume=True)
    assert len(again.history) == 4


def test_a_checkpoint_does_not_disturb_the_training(tmp_path, parts, undisturbed):
    watched = train(network(), *parts, RECIPE, checkpoint=tmp_path / "run.training")
    assert equal(watched.model.state_dict(), undisturbed.model.state_dict())


def test_one_line_of_json_per_epoch_equals_the_history(tmp_path, parts):
    file = tmp_path / "run.training"
    interrupted(file, parts, 12)
    assert numbers(tmp_path / "run.jsonl") == [1, 2]
    result = train(network(), *parts, RECIPE, checkpoint=file, resume=True)
    lines = (tmp_path / "run.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [asdict(epoch) for epoch in result.history]


# What is not the same training


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, parts: tuple[Split, Split]) -> bytes:
    file = tmp_path_factory.mktemp("begun") / "run.training"
    interrupted(file, parts, 6)
    return file.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": replace(RECIPE, lr=0.06)}, "another recipe: .*0.05.*, not .*0.06"),
        ({"seed": 1}, "another seed: 0, not 1"),
        ({"train": 299}, "another data: mnist-sample/train .300., .*not mnist-sample/train .299."),
        ({"model": 5}, "not of a training of this model: .*size mismatch.*Remove it"),
        ({"resume": False}, "holds a training that was begun. Resume it, or remove it"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_another_training_is_refused_in_one_line(tmp_path, parts, begun, change, message):
    file = tmp_path / "run.training"
    file.write_bytes(begun)
    options = {"recipe": RECIPE, "seed": 0, "resume": True, **change}
    options |= {"train": parts[0].take(change.get("train", 300)), "model": network(change.get("model", 4))}
    with pytest.raises(FileError, match=rf"run\.training: .*{message}") as caught:
        train(validation=parts[1], checkpoint=file, **options)
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == begun


def test_other_layers_of_the_same_sizes_are_refused(tmp_path, parts, begun):
    """Without Rate Norm layers the network has fewer entries, not others."""
    file = tmp_path / "run.training"
    file.write_bytes(begun)
    with pytest.raises(FileError, match="Unexpected key"):
        train(mnist_cnn(constrained=False, width=4), *parts, RECIPE, checkpoint=file, resume=True)


def test_damaged_and_foreign_checkpoints_are_refused_in_one_line(tmp_path, parts, begun):
    file = tmp_path / "run.training"
    middle = len(begun) // 2
    altered = begun[:middle] + bytes([begun[middle] ^ 1]) + begun[middle + 1 :]
    for content in (begun[:-100], begun[:100], b"", altered, b"\x80\x04pickle."):
        file.write_bytes(content)
        with pytest.raises(FileError, match=r"run\.training: ") as caught:
            train(network(), *parts, RECIPE, checkpoint=file, resume=True)
        assert "\n" not in str(caught.value)
    files.write_tensors(file, "equispike.model", {}, {})
    with pytest.raises(FileError, match="is a trained model, not an interrupted training"):
        train(network(), *parts, RECIPE, checkpoint=file, resume=True)


@pytest.mark.parametrize("lacking", ["best.features.0.weight", "momentum.0", "random.cpu", "history", "best"])
def test_a_forged_checkpoint_without_a_part_is_refused(tmp_path, parts, begun, lacking):
    file = tmp_path / "run.training"
    file.write_bytes(begun)
    description, tensors = files.read_tensors(file, "equispike.training")
    files.write_tensors(
        file,
        "equispike.training",
        {name: value for name, value in description.items() if name != lacking},
        {name: value for name, value in tensors.items() if name != lacking},
    )
    with pytest.raises(FileError, match="not of a training of this model") as caught:
        train(network(), *parts, RECIPE, checkpoint=file, resume=True)
    assert "\n" not in str(caught.value)


# Failures while saving


@pytest.mark.parametrize("operation", ["replace", "fsync"])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, parts, undisturbed, monkeypatch, operation):
    """The disk fills up when the third epoch is saved; with space, the training goes on from the second."""
    file, calls, original = tmp_path / "run.training", [], getattr(os, operation)

    def full(*arguments):
        calls.append(arguments)
        if len(calls) > 4:  # checkpoint and log of two epochs
            raise OSError(28, "No space left on device")
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, operation, full)
        with pytest.raises(FileError, match="cannot be written: No space left"):
            train(network(), *parts, RECIPE, checkpoint=file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.jsonl", "run.training"]
    assert len(files.read_tensors(file, "equispike.training")[0]["history"]) == 2
    resumed = train(network(), *parts, RECIPE, checkpoint=file, resume=True)
    assert equal(resumed.model.state_dict(), undisturbed.model.state_dict())


def test_bfloat16_resumes_bit_for_bit_too(tmp_path, parts):
    machine, file = Acceleration(bfloat16=True), tmp_path / "run.training"
    alone = train(network(), *parts, RECIPE, machine=machine)
    interrupted(file, parts, 8, machine=machine)
    resumed = train(network(), *parts, RECIPE, checkpoint=file, resume=True, machine=machine)
    assert equal(alone.model.state_dict(), resumed.model.state_dict())


# The command line

FEW = """
import equispike.zoo.data as data
from dataclasses import replace
whole = data.load("mnist-sample")
few = replace(whole, train=whole.train.take(640), validation=whole.validation.take(100), test=whole.test.take(100))
data.load = lambda *_: few
"""
HANGS = """
import sys, time
from equispike.cli import main
from equispike.zoo.data import Split
epochs, shuffled = [], Split.shuffled
def hanging(*arguments):
    epochs.append(1)
    for number, batch in enumerate(shuffled(*arguments)):
        if len(epochs) == 2 and number == 4:
            print("hangs", flush=True)
            time.sleep(600)
        yield batch
Split.shuffled = hanging
main(sys.argv[1:])
"""


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "load", data.load)  # so that it is put back
    exec(FEW, {})


@pytest.mark.usefixtures("few_images")
def test_kill_9_in_the_middle_of_an_epoch_then_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A process is killed after 4 of 10 steps of its second epoch; what goes on ends where an undisturbed run does."""
    killed, whole = tmp_path / "killed.safetensors", tmp_path / "whole.safetensors"
    file, options = killed.with_suffix(".training"), ("--epochs", "3", "--resume")
    call = [sys.executable, "-c", FEW + HANGS, "train", "--out", str(killed), *options]
    with subprocess.Popen(call, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"hangs\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert len(files.read_tensors(file, "equispike.training")[0]["history"]) == 1
    assert not killed.exists()
    assert exit_code("train", "--out", str(killed), *options) == 0
    assert exit_code("train", "--out", str(whole), *options) == 0
    assert equal(load_model(killed)[0].state_dict(), load_model(whole)[0].state_dict())
    assert numbers(killed.with_suffix(".jsonl")) == [1, 2, 3]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jsonl", ".jsonl", ".safetensors", ".safetensors"]
    first, second = capsys.readouterr().out.splitlines()
    assert first.partition(": ")[2] == second.partition(": ")[2]


@pytest.mark.usefixtures("few_images")
def test_ctrl_c_ends_with_130_and_can_be_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, shuffled = tmp_path / "model.safetensors", Split.shuffled

    def pressed_in_second_epoch(split, batches, how, device):
        for number, batch in enumerate(shuffled(split, batches, how, device)):
            if number == 3 and out.with_suffix(".training").exists():
                raise KeyboardInterrupt
            yield batch

    call = ("train", "--out", str(out), "--epochs", "2")
    with monkeypatch.context() as patch:
        patch.setattr(Split, "shuffled", pressed_in_second_epoch)
        assert exit_code(*call) == 130
    told = "equispike: interrupted; nothing half written was left behind. Start it again, with --resume, to go on"
    assert capsys.readouterr().err.splitlines() == [told]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.jsonl", "model.training"]
    assert exit_code(*call) == 2
    error = capsys.readouterr().err
    assert "Resume it, or remove it" in error
    assert error.count("\n") == 1
    assert exit_code(*call, "--resume") == 0
    assert numbers(out.with_suffix(".jsonl")) == [1, 2]


@pytest.mark.usefixtures("few_images")
def test_test_images_are_read_when_training_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, read = tmp_path / "model.jsonl", Split.batches

    def watched(split: Split, size: int) -> object:
        if split.name.endswith("/test"):
            assert len(log.read_text().splitlines()) == 2
            seen.append(len(split))
        return read(split, size)

    seen: list[int] = []
    monkeypatch.setattr(Split, "batches", watched)
    assert exit_code("train", "--out", str(tmp_path / "model.safetensors"), "--epochs", "2") == 0
    assert seen == [100]


def test_a_training_that_fails_leaves_its_checkpoint(tmp_path, parts):
    """Weights are lost in the third epoch: two epochs remain, and the error is the loss's own."""
    file = tmp_path / "run.training"

    class Lost:
        def __call__(self, epoch: float, epochs: int) -> float:
            return 1.0 if epoch < 2 else math.nan

        def __repr__(self) -> str:
            return "Lost()"

    with pytest.raises(EquispikeError, match="in epoch 3"):
        train(network(), *parts, replace(RECIPE, schedule=Lost()), checkpoint=file)
    assert len(files.read_tensors(file, "equispike.training")[0]["history"]) == 2
