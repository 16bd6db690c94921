"""What a notebook shows of results is short, and says what the numbers say."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

import equispike as es
from equispike.diagnosis import diagnose
from equispike.results import chosen_steps
from equispike.shown import frame


@cache
def results() -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 3))
    images, labels = torch.rand(20, 4), torch.arange(20) % 3
    network = es.convert(model, images)
    return {
        "Network": network,
        "Run": es.simulate(network, images, 8),
        "Evaluation": es.evaluate(network, [(images, labels)], 8),
        "Report": es.check(model, images),
        "Diagnosis": diagnose(model, images, images, labels, timesteps=8),
    }


@pytest.mark.parametrize("name", ["Network", "Run", "Evaluation", "Report", "Diagnosis"])
def test_results_are_shown_in_a_line_and_in_a_table(name: str) -> None:
    value = results()[name]
    assert repr(value).startswith(f"{name}(")
    assert len(repr(value)) < 400
    assert "tensor(" not in repr(value)
    table = value._repr_html_()
    assert table.startswith("<table>")
    assert "tensor(" not in table
    assert len(table) < 5000


def test_a_line_has_the_numbers() -> None:
    found = results()
    assert repr(found["Network"]) == (
        "Network((4,) -> (3,), 5 nodes, 50 neurons in 1 layers, DataNorm(percentile=99, per_channel=True))"
    )
    assert f"accuracy {float(found['Evaluation'].mean[-1]):.2%}" in repr(found["Evaluation"])
    assert f"rate {float(found['Run'].spike_rate[-1]):.2f} %" in repr(found["Run"])


def test_tables_of_few_steps_begin_with_the_first() -> None:
    assert [chosen_steps(T) for T in (1, 6, 16, 64)] == [[1], [1, 2, 4, 6], [1, 2, 4, 8, 16], [8, 16, 32, 64]]


def test_thresholds_cannot_be_set() -> None:
    with pytest.raises(TypeError):
        results()["Network"].thresholds["1"] = torch.tensor(1.0)


@pytest.mark.parametrize(
    ("name", "rows"), [("Network", 5), ("Run", 20), ("Evaluation", 8), ("Report", 2), ("Diagnosis", 1)]
)
def test_results_become_data_frames(name: str, rows: int) -> None:
    pytest.importorskip("pandas")
    assert len(results()[name].to_frame()) == rows


def test_without_pandas_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(es.EquispikeError, match=r"Install equispike\[pandas\]"):
        frame({"x": [1]})
