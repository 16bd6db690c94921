"""Models and data that the command line is given: whatever they are, they are read or refused in one line."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command import exit_code
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import equispike as es
from equispike.cli.shared import Data, in_options
from equispike.cli.source import is_network, read_model
from equispike.errors import DataError, EquispikeError, FileError
from equispike.files.onnx import write_onnx
from equispike.zoo.data import NAMES, SHAPES, load

MINE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
def net(): return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
def needs(width): return net()
def raises(): raise OSError("no\\nsuch disk")
def number(): return 3
def loud():
    class Branches(nn.Module):
        def forward(self, x): return torch.relu(x.flatten(1)) if x.sum() > 0 else x.flatten(1)
    return Branches()
def digits(): return nn.Sequential(nn.Flatten(), nn.Linear(784, 3), nn.ReLU(), nn.Linear(3, 3))
instance = net()
def part(n): return TensorDataset(torch.rand(n, 3, 2, 2), torch.arange(n) % 3)
def data(): return part(40), part(10)
def one(): return part(40)
"""


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"mine_{tmp_path.name.replace('-', '_')}"  # modules are imported once, and each test has its own
    (tmp_path / f"{name}.py").write_text(MINE)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)


def weights() -> dict[str, torch.Tensor]:
    return {name: torch.full_like(v, 0.5) for name, v in read("mine:net").state_dict().items()}


def read(source: str) -> nn.Module:
    model, _ = read_model(source)
    assert isinstance(model, nn.Module)
    return model


def test_a_module_is_taken_as_it_is() -> None:
    assert read("mine:instance") is read("mine:instance")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("mine:needs", "needs no arguments"),
        ("mine:raises", "OSError: no such disk"),
        ("mine:number", "returned a int"),
        ("mine:nothing", "cannot be imported: AttributeError"),
        ("nowhere:net", "cannot be imported: ModuleNotFoundError"),
        ("missing.safetensors", "no such file"),
        ("resnet20", "no network of that name comes with equispike"),
        ("mine.py", "say which function in it returns the model: mine.py:factory"),
        ("nowhere.py:net", "cannot be imported: FileNotFoundError: .*Give package.module:factory or FILE.py:factory"),
        ("broken.py:net", "cannot be imported: ZeroDivisionError: .*Mend it first"),
    ],
)
def test_what_gives_no_model_is_refused_in_one_line(source: str, words: str) -> None:
    with pytest.raises(FileError, match=words) as caught:
        read_model(source)
    assert "\n" not in str(caught.value)
    assert "broken" not in sys.modules


@pytest.mark.parametrize("source", ["mnist-cnn", "mine.py:net", "mine:net", "model.onnx"])
def test_what_is_still_to_be_converted_is_not_exported(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("export", source) == 2
    assert f"Convert it first: equispike convert {source} --out FILE" in capsys.readouterr().err


def test_a_file_of_python_names_a_module_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "beside.py").write_text("WIDTH = 7\n")
    (folder / "json.py").write_text(
        "from torch import nn\nfrom beside import WIDTH\ndef net(): return nn.Linear(2, WIDTH)\n"
    )
    monkeypatch.setattr("sys.path", list(sys.path))
    for source in "elsewhere/json.py:net", f"{folder}/json.py:net":  # called as a module of Python's own
        model = read(source)
        assert isinstance(model, nn.Linear)
        assert model.out_features == 7
    assert isinstance(read("mine.py:net"), nn.Sequential)


def test_weights_without_their_network_are_told_so_in_any_format(tmp_path: Path) -> None:
    save_file(weights(), "plain.safetensors")
    save_file(weights(), "hub.safetensors", {"format": "pt"})
    for name in "plain.safetensors", "hub.safetensors":
        with pytest.raises(FileError, match=f"give package.module:factory@{name}"):
            read_model(name)
        assert all(torch.equal(v, weights()[key]) for key, v in read(f"mine:net@{name}").state_dict().items())


def test_weights_of_torch_save_and_of_wrapped_modules_are_read() -> None:
    plain = weights()
    torch.save(plain, "plain.pth")
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in plain.items()}}, "wrapped.pt")
    save_file({f"_orig_mod.module.{name}": value for name, value in plain.items()}, "compiled.safetensors")
    for file in ("plain.pth", "wrapped.pt", "compiled.safetensors"):
        assert all(torch.equal(v, plain[name]) for name, v in read(f"mine:net@{file}").state_dict().items())


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("hacked"),)  # type: ignore[return-value]


def test_torchs_files_are_called_what_they_are_and_run_nothing() -> None:
    torch.save(weights(), "w.pth")
    torch.save({"x": Evil()}, "evil.pth")
    torch.jit.trace(read("mine:net"), torch.rand(1, 12)).save("script.pt")
    for source, words in {
        "w.pth": "weights without the network",
        "script.pt": "is a TorchScript file",
        "mine:net@script.pt": "is a TorchScript file",
        "mine:net@evil.pth": "more than weights",
        "program.pt2": "torch.export.load",
    }.items():
        with pytest.raises(FileError, match=words):
            read_model(source)
    assert not Path("hacked").exists()


def test_a_zip_file_of_a_version_to_come_is_refused() -> None:
    torch.save(weights(), "w.pth")
    data = Path("w.pth").read_bytes()
    place = data.rindex(b"PK\x01\x02") + 6
    Path("w.pth").write_bytes(data[:place] + b"\xff" + data[place + 1 :])
    with pytest.raises(FileError, match="not a readable safetensors file"):
        read_model("mine:net@w.pth")


def test_errors_are_one_line_whatever_stands_in_a_file() -> None:
    assert str(FileError("a\x1b[31m\nb\x00c")) == "a [31m b c"


def test_a_packaged_name_means_the_packaged_network(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mnist-cnn").write_bytes(b"a file that took the name")
    assert not is_network("mnist-cnn")
    assert read_model("mnist-cnn")[1]["name"] == "mnist-cnn"
    assert exit_code("convert", "mnist-cnn", "mnist-cnn-bn") == 2
    assert "mnist-cnn-bn" in capsys.readouterr().err
    assert not Path("mnist-cnn-bn").exists()


def test_what_torch_prints_of_a_model_is_kept_back(capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code("check", "mine:loud", "--shape", "3", "2", "2") == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("equispike: Branches: torch.export could not read it")
    assert captured.err.count("\n") == 1


def test_a_function_gives_the_data() -> None:
    splits, stated = Data("mine:data").read({})
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (36, 4, 10)
    assert splits.test.floats().shape == (10, 3, 2, 2)
    assert stated == {"data": "mine:data", "normalised": False}
    with pytest.raises(DataError, match=r"gave a TensorDataset. Give \(train, test\)"):
        Data("mine:one").read({})


def test_a_folder_of_pictures_gives_the_data(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for kind in ("cat", "dog"):
            (tmp_path / "pets" / part / kind).mkdir(parents=True)
            for number in range(10):
                picture = np.full((20, 30, 3), 100 + number, np.uint8)
                Image.fromarray(picture).save(tmp_path / "pets" / part / kind / f"{number}.png")
    splits, stated = Data("pets", size=8).read({})
    assert splits.test.classes == ("cat", "dog")
    assert splits.test.take(2).floats().shape == (2, 3, 8, 8)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (18, 2, 20)
    assert Data().read(stated)[0].test.take(1).floats().shape == (1, 3, 8, 8)
    with pytest.raises(EquispikeError, match="--size: is for --data with a folder"):
        Data("mnist-sample", size=8).read({})


def test_remedies_are_written_as_options() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 1), nn.MaxPool2d(2))
    said = str(es.check(model, torch.rand(2, 1, 9, 9)))
    assert "[es." in said
    assert "[es." not in in_options(said)
    assert in_options("reset='subtract'") == "--reset subtract"


def test_info_says_what_is_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    es.save(es.convert(read("mine:net"), torch.rand(8, 3, 2, 2)), "n.safetensors")
    assert exit_code("info", "n.safetensors") == 0
    said = capsys.readouterr().out
    assert "method: DataNorm(percentile=99, per_channel=True)" in said
    assert "changes: none" in said
    assert exit_code("info", "mnist-cnn") == 0
    assert "name: mnist-cnn" in capsys.readouterr().out
    Path("text").write_text("nothing of ours")
    assert exit_code("info", "text") == 2


def test_info_says_how_a_network_was_corrected_and_what_was_tried(capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.rand(20, 3, 2, 2)
    es.save(es.convert(read("mine:net"), x, correct=[es.Bias(4), es.Potential(4)]), "corrected.safetensors")
    es.save(es.convert(read("mine:net"), x, timesteps=4), "chosen.safetensors")
    assert exit_code("info", "corrected.safetensors") == 0
    said = capsys.readouterr().out
    assert "corrections: Bias(" in said
    assert ", Potential(" in said
    assert exit_code("info", "chosen.safetensors") == 0
    assert " of them, timesteps 4" in capsys.readouterr().out


def test_info_and_the_other_commands_know_onnx_files(capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.rand(8, 3, 2, 2)
    torch.onnx.export(read("mine:net").eval(), (x,), "trained.onnx", dynamo=False, dynamic_axes={"input": [0]})
    write_onnx(es.convert(read("mine:net"), x), "converted.onnx")
    assert exit_code("info", "trained.onnx") == 0
    assert "trained.onnx: a trained network, to be converted." in capsys.readouterr().out
    assert exit_code("info", "converted.onnx") == 0
    assert "method: DataNorm" in capsys.readouterr().out
    for command in "evaluate", "convert", "check":
        assert exit_code(command, "converted.onnx") == 2
        assert "Give the file that it was exported from" in capsys.readouterr().err


def test_info_of_torchs_own_files_is_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(weights(), "w.pth")
    assert exit_code("info", "w.pth") == 2
    assert "package.module:factory@w.pth" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "convert", "evaluate", "info", "report", "export", "diagnose", "sweep"])
@pytest.mark.parametrize("source", ["/dev/zero", "ß" * 300, "a\0b", "/", ""])
def test_what_is_no_file_is_refused_in_one_line(command: str, source: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(command, source) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("equispike: ")


def test_a_model_that_does_not_say_what_it_takes_is_asked_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("check", "mine:net") == 2
    assert "nothing says what it does take. Say --shape, e.g. --shape 3 32 32, or --data" in capsys.readouterr().err
    assert exit_code("convert", "mine:net") == 2
    warning, error = capsys.readouterr().err.splitlines()
    assert "warning: --data: nothing says what the model was trained on, so mnist-sample is taken" in warning
    assert "torch.export could not read it" in error
    assert exit_code("check", "mine:digits") == 0
    assert "converts, for images of 1 x 28 x 28; --shape and --data say others." in capsys.readouterr().out


def test_known_data_have_the_shape_that_is_told_before_any_are_read() -> None:
    assert load("mnist-sample").test.take(1).floats().shape[1:] == SHAPES["mnist-sample"]
    assert set(SHAPES) == set(NAMES)


def test_known_data_come_with_their_channels_last_where_the_network_wants_them_so() -> None:
    dataset, _ = Data("mnist-sample").read({"shape": (28, 28, 1)})
    plain, _ = Data("mnist-sample").read({"shape": (1, 28, 28)})
    images, labels = next(iter(dataset.test.batches(3)))
    assert torch.equal(images, plain.test.take(3).floats().movedim(1, -1))
    assert torch.equal(labels, plain.test.labels[:3])
    assert torch.equal(dataset.train.take(2).floats(), plain.train.take(2).floats().movedim(1, -1))
    other, _ = Data("mnist-sample").read({"shape": (3, 32, 32)})  # what does not fit is told by whoever takes it
    assert other.test.take(1).floats().shape[1:] == (1, 28, 28)
