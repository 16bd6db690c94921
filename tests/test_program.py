"""Programs of torch.export: the network is the module's, and the command line says how it takes one."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from command import exit_code
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import equispike as es

IMAGE = (4, 8, 8)


def exported(model: nn.Module, *shape: int) -> Any:
    images = torch.zeros(2, *(shape or IMAGE))
    return torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))


class Forward(nn.Module):
    """A module from a function of its submodules and the images."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **submodules: nn.Module) -> None:
        super().__init__()
        self._forward = forward
        for name, module in submodules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


class Awkward(nn.Module):
    """Calls in place, parts, shapes computed in the graph, tied modules, weights computed from weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding="same"), nn.ConvTranspose2d(2, 2, 3, padding=1)
        self.n, self.relu, self.drop = nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout2d()
        self.head = weight_norm(nn.Linear(80, 3))
        self.mean = nn.Buffer(torch.rand(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x - self.mean
        y = self.n(self.a(x))
        self.relu(y)  # y is another from here on
        y = self.relu(self.drop(self.a(y)))
        y += x
        first, rest = y.clamp_(0, 4).split([1, 3], 1)
        one, two = torch.cat([first, rest], 1).split(2, 1)
        z = self.b(F.interpolate(F.avg_pool2d(two, 2), scale_factor=2))
        z = torch.cat([F.relu6(one), F.hardtanh(z, 0, 2, inplace=True)], 1).to(x.dtype)
        z = F.max_pool2d(F.pad(z, (1, 1, 0, 0)), 2).reshape(x.size(0), -1)
        return torch.log_softmax(self.head(z), 1)


@pytest.mark.parametrize("decomposed", [False, True])
def test_a_program_gives_what_its_model_gives(decomposed: bool) -> None:
    torch.manual_seed(0)
    model, images = Awkward().eval(), torch.rand(3, *IMAGE)
    nn.init.uniform_(model.n.weight, 0.5, 2.0)
    program = exported(model).run_decompositions({}) if decomposed else exported(model)
    assert torch.allclose(torch.log_softmax(es.trace(program, images)(images), 1), model(images), atol=1e-5)


def test_one_of_several_outputs_is_chosen() -> None:
    layers = {"a": nn.Conv2d(4, 2, 3), "h": nn.Linear(72, 3)}
    model = Forward(lambda m, x: (m.a(x).sigmoid(), m.h(m.a(x).relu().flatten(1))), **layers).eval()
    images = torch.rand(2, *IMAGE)
    assert torch.allclose(es.trace(exported(model), images, output=1)(images), model(images)[1])
    with pytest.raises(es.ConversionError, match="the model returns 2 values"):
        es.trace(exported(model), images)


def test_programs_in_training_or_of_other_inputs_are_refused() -> None:
    images = torch.zeros(2, 4)
    model = nn.Sequential(nn.Dropout(), nn.ReLU())
    with pytest.raises(es.ConversionError, match=r"0\W* \(Dropout\): drops at random"):
        es.trace(exported(model, 4), images)
    with pytest.raises(es.ConversionError, match="has no running statistics"):
        es.trace(exported(nn.BatchNorm1d(4), 4), images)
    with pytest.raises(es.ConversionError, match=r"model: a program of inputs .* not of \[\(5,\)\]"):
        es.trace(exported(model.eval(), 4), torch.zeros(2, 5))


def test_a_program_for_images_of_any_size_is_refused() -> None:
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("width")}
    program = torch.export.export(nn.ReLU(), (torch.zeros(2, 4),), dynamic_shapes=(free,))
    with pytest.raises(es.ConversionError, match="Export it with a fixed size of the images"):
        es.trace(program, torch.zeros(2, 4))


SOURCE = """
import torch
from torch import nn
def program(): return torch.export.load("model.pt2")
def number(): return 3
"""


def test_commands_take_a_program_from_a_function_and_no_file_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "some_programs.py").write_text(SOURCE)
    torch.export.save(exported(nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2)).eval(), 5), "model.pt2")
    assert exit_code("check", "some_programs:program") == 0
    assert "converts." in capsys.readouterr().out
    for source, message in (
        ("model.pt2", "loading one can run code from the file"),
        ("some_programs:number", "returned a int, not a torch.nn.Module"),
        ("some_programs:program@weights.safetensors", "returned a program, which has its weights"),
    ):
        assert exit_code("check", source) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert message in said
        assert "Traceback" not in said
