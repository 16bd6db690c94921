"""check(): a table of every operation with its verdict; nothing raised for what does not convert."""

import copy

import pytest
import torch
from torch import nn

from equispike.conversion import check, convert
from equispike.errors import ConversionError

IMAGES = torch.zeros(2, 1, 8, 8)


def model(*middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), *middle, nn.Flatten(), nn.LazyLinear(3))


def built(*middle: nn.Module) -> nn.Module:
    net = model(*middle)
    net.eval()(IMAGES)
    return net


def test_a_good_model_converts() -> None:
    report = check(built(nn.ReLU(), nn.AvgPool2d(2), nn.Dropout()), IMAGES)
    assert report.convertible
    assert [(f.layer, f.operation, f.verdict) for f in report] == [
        ("0", "Conv2d", "yes"), ("1", "BatchNorm2d", "yes"), ("2", "ReLU", "yes"), ("3", "AvgPool2d", "yes"),
        ("4", "Dropout", "yes"), ("5", "Flatten", "yes"), ("6", "Linear", "yes"),
    ]  # fmt: skip
    assert all(f.note for f in report)


def test_printing_gives_a_table() -> None:
    lines = str(check(built(nn.ReLU(), nn.Sigmoid()), IMAGES)).splitlines()
    assert lines[0].split()[:3] == ["Layer", "Operation", "Converts"]
    assert len(lines) == 1 + 6
    assert len({line.index(word) for line, word in zip(lines[1:3], ("weights", "folded"), strict=True)}) == 1
    assert "Train with ReLU" in lines[4]


def test_every_operation_of_a_bad_model_is_listed() -> None:
    report = check(built(nn.Sigmoid(), nn.ReLU(), nn.MaxPool2d(2), nn.GELU(), nn.AdaptiveAvgPool2d(3)), IMAGES)
    assert not report.convertible
    assert {f.layer: f.verdict for f in report} == {
        "0": "yes", "1": "yes", "2": "no", "3": "yes", "4": "lossy", "5": "no", "6": "no", "7": "yes", "8": "yes",
    }  # fmt: skip


def test_max_pooling_is_lossy_and_says_what_to_do() -> None:
    report = check(built(nn.ReLU(), nn.MaxPool2d(2)), IMAGES)
    (pool,) = (f for f in report if f.verdict != "yes")
    assert (pool.layer, pool.operation, pool.verdict) == ("3", "MaxPool2d", "lossy")
    assert "max_pool_to_avg" in pool.note
    assert not report.convertible


def test_a_model_without_relu_is_not_convertible() -> None:
    report = check(built(), IMAGES)
    assert not report.convertible
    assert report[-1].verdict == "no"
    assert "no ReLU" in report[-1].note


def test_scores_in_space_are_not_convertible() -> None:
    report = check(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), IMAGES)
    assert not report.convertible
    assert "Flatten them" in report[-1].note


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_convertible(value: float) -> None:
    net = built(nn.ReLU())
    with torch.no_grad():
        net[0].weight[0] = value
    report = check(net, IMAGES)
    assert not report.convertible
    assert [f.layer for f in report if f.verdict == "no"] == ["0"]
    assert "NaN or infinity" in next(f.note for f in report if f.verdict == "no")


@pytest.mark.parametrize(
    "middle",
    [[nn.ReLU()], [nn.ReLU6(), nn.AvgPool2d(2)], [nn.ReLU(), nn.MaxPool2d(2)], [nn.ReLU(), nn.SiLU()], [], [nn.Tanh()]],
)
def test_what_check_says_is_what_convert_does(middle: list[nn.Module]) -> None:
    net, images = built(*middle), torch.rand(4, 1, 8, 8)
    if check(net, IMAGES).convertible:
        assert convert(net, images).thresholds
    else:
        with pytest.raises(ConversionError):
            convert(net, images)


def test_the_model_is_not_changed() -> None:
    net = built(nn.ReLU()).train()
    state = copy.deepcopy(net.state_dict())
    check(net, IMAGES)
    assert net.training
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_a_model_that_cannot_be_read_is_an_error() -> None:
    class Branching(nn.Module):
        def forward(self, x):
            return x.relu() if x.sum() > 0 else x

    with pytest.raises(ConversionError, match=r"^Branching: torch\.export could not read it"):
        check(Branching(), IMAGES)
