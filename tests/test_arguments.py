"""Whatever is passed to a public function ends in a result or in one line that says what to do."""

import inspect
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import equispike as es

WRONG: tuple[Any, ...] = (
    *(None, True, -1, 0, 7, 2.5, 10**20, -(10**20), float("nan"), float("inf"), 1j, "", "poisson", b"x"),
    *((), [], {}, {"a": 1}, [None], ["x"], (1, 2), object(), int, es.Poisson, es.RMP, nn.ReLU, es),
    *(es.Poisson(), es.RMP(timesteps=1), nn.ReLU(), Path("x"), range(3)),
    *(np.zeros(3), np.array(["x"]), np.float64(2.5), torch.zeros(()), torch.zeros(0), torch.zeros(2, 3)),
    *(torch.full((4, 4), torch.nan), torch.zeros(4, 4, dtype=torch.int64), torch.zeros(4, 4, dtype=torch.complex64)),
)
IMAGES, LABELS = torch.linspace(0, 1, 24).reshape(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])


@cache
def made() -> dict[str, Any]:
    """Arguments that are right, by their names."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    network = es.convert(model, IMAGES)
    return {
        "model": model, "network": network, "images": IMAGES, "example": IMAGES, "timesteps": 2, "labels": LABELS,
        "batches": [(IMAGES, LABELS)], "run": es.simulate(network, IMAGES, 2), "path": "missing.safetensors",
        "accuracies": torch.rand(3), "target": 0.5, "steps": 2, "number": 2,
    }  # fmt: skip


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    *(es.convert, es.simulate, es.evaluate, es.accuracy, es.latency, es.rate_fit, es.check, es.trace, es.quantize),
    *(es.save, es.load, es.join_inputs, es.max_pool_to_avg, es.max_pool_to_winner, es.leaky_relu_to_pairs),
    *(es.DataNorm, es.SpikeNorm, es.RMP, es.Frames, es.Poisson, es.Stable, es.Bias, es.StepBias, es.Potential),
    *(es.RidgeReadout, es.Processes, es.Ray),
)
NOT_ASKED = {"self", "label", "validation", "scales", "report"}
"""Fields that only say something, or hold what is checked when it is used."""


def parameters() -> list[tuple[Callable[..., Any], str]]:
    return [(f, name) for f in FUNCTIONS for name in inspect.signature(f).parameters if name not in NOT_ASKED]


@pytest.mark.parametrize(("function", "name"), parameters(), ids=lambda x: getattr(x, "__name__", x))
def test_wrong_arguments_end_in_a_result_or_one_line(
    function: Callable[..., Any], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    known = {key: made()[key] for key in inspect.signature(function).parameters if key in made()}
    if function in (es.SpikeNorm, es.RMP, es.DataNorm, es.quantize):
        known.pop("timesteps", None)
    for value in WRONG:
        if name in ("timesteps", "runs") and type(value) is int and value == 10**20:
            with pytest.raises(es.EquispikeError, match="out of all proportion"):
                function(**known | {name: value})
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = answer(function, known | {name: value})
            assert "\n" not in said, (name, value)
            assert len(said) < 900


def answer(function: Callable[..., Any], arguments: dict[str, Any]) -> str:
    """The words of an EquispikeError, or none."""
    try:
        function(**arguments)
    except es.EquispikeError as error:
        return str(error)
    return ""


def test_every_public_function_is_asked() -> None:
    others = {name for name in dir(es) if name.endswith(("Error", "Warning"))}
    plain = {
        "Certain",
        "Coder",
        "Constant",
        "ModelNorm",
        "RateNorm",
        "Network",
        "Run",
    }  # take nothing, or are made by others
    asked = {function.__name__ for function in FUNCTIONS}
    assert set(dir(es)) - asked - others - plain == set()


def test_arrays_and_whole_floats_are_taken() -> None:
    network = made()["network"]
    expected = es.simulate(network, IMAGES, 4, indices=torch.arange(6), coder=es.Poisson(1.0))
    found = es.simulate(
        network,
        IMAGES.numpy(),
        4.0,
        indices=np.arange(6),
        coder=es.Poisson(np.float64(1)),
        seed=np.int64(0),  # type: ignore[arg-type]
    )
    assert torch.equal(found.readout, expected.readout)
    assert torch.equal(es.accuracy(found, LABELS.numpy()), es.accuracy(expected, LABELS))  # type: ignore[arg-type]
    assert es.check(made()["model"], IMAGES.numpy()).convertible  # type: ignore[arg-type]
    same = es.convert(made()["model"], IMAGES.double().numpy(), lossy=es.max_pool_to_avg)  # type: ignore[arg-type]
    assert torch.equal(same.thresholds["1"], network.thresholds["1"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, n: es.simulate(m, IMAGES, 4), "a Sequential. Convert it first: es.convert"),
        (lambda m, n: es.simulate(n, DataLoader(IMAGES), 4), "a DataLoader. Give a tensor"),  # type: ignore[arg-type]
        (lambda m, n: es.simulate(n, IMAGES, 4, coder="poisson"), "'poisson'. Give an instance, such as es.Poisson"),
        (lambda m, n: es.simulate(n, IMAGES, 4, coder=es.Poisson), "the class Poisson. Give an instance"),
        (lambda m, n: es.convert(m, IMAGES, method="rmp"), "'rmp'. Give an instance, such as es.RMP"),
        (lambda m, n: es.convert(m, IMAGES, method=es.RMP), "the class RMP. Give an instance"),
        (lambda m, n: es.convert(nn.Linear, IMAGES), "the class Linear. Give an instance, built and trained"),
        (lambda m, n: es.convert(m, IMAGES, lossy=["max_pool_to_avg"]), r"Give passes, such as \[es.max_pool_to_avg"),
        (lambda m, n: es.save(m, "x.safetensors"), "Convert it first"),
    ],
)
def test_common_slips_are_answered_with_the_remedy(call: Any, words: str) -> None:
    with pytest.raises(es.EquispikeError, match=words):
        call(made()["model"], made()["network"])


def test_warnings_are_of_the_line_that_called() -> None:
    dead = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        dead[0].bias.fill_(-100.0)
    for method in (es.DataNorm(), es.SpikeNorm(timesteps=2)):
        with pytest.warns(es.CalibrationWarning) as found:
            es.convert(dead, IMAGES, method)
        assert {warning.filename for warning in found} == {__file__}


@pytest.mark.parametrize(
    ("shape", "given", "words"),
    [
        ((4, 5, 2), (3, 2, 4, 5), r"channels last: images.movedim\(1, -1\)"),
        ((2, 4, 5), (3, 4, 5, 2), r"channels first: images.movedim\(-1, 1\)"),
        ((2, 4, 5), (2, 4, 5), r"Give a batch, even of one image: images\[None\]"),
        ((2, 4, 5), (3, 2, 4, 6), "Reshape the images"),
    ],
)
def test_images_of_another_shape_are_told_how_to_be_moved(
    shape: tuple[int, ...], given: tuple[int, ...], words: str
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(40, 5), nn.ReLU(), nn.Linear(5, 3))
    network = es.convert(model, torch.rand(3, *shape))
    with pytest.raises(es.SimulationError, match=words):
        es.simulate(network, torch.rand(given), 2)
    with pytest.raises(es.DataError, match=words):
        es.evaluate(network, [(torch.rand(given), torch.zeros(given[0]))], 2)
