"""check(): a table of every operation with its verdict, and a predicted T; nothing raised for what does not convert."""

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import equispike as es
from equispike.analysis.prediction import useful_timesteps
from equispike.checking import check
from equispike.conversion import convert
from equispike.errors import ConversionError
from equispike.graph.lossy import max_pool_to_winner
from equispike.graph.network import Network, Node
from equispike.graph.ops import Input, Neuron, Readout
from equispike.graph.reading.aten import REMEDIES, remedy
from equispike.graph.reading.terms import Untranslatable

IMAGES = torch.zeros(2, 1, 8, 8)


def model(*middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), *middle, nn.Flatten(), nn.LazyLinear(3))


def built(*middle: nn.Module) -> nn.Module:
    net = model(*middle)
    net.eval()(IMAGES)
    return net


def test_a_good_model_converts() -> None:
    report = check(built(nn.ReLU(), nn.AvgPool2d(2), nn.Dropout(), nn.AvgPool2d(2)), IMAGES)
    assert report.convertible
    assert [(row.operation, row.count, row.converts) for row in report.rows] == [
        ("Conv2d", 1, "exact"), ("BatchNorm2d", 1, "exact"), ("ReLU", 1, "approximate"), ("AvgPool2d", 2, "exact"),
        ("Dropout", 1, "exact"), ("Flatten", 1, "exact"), ("Linear", 1, "exact"),
    ]  # fmt: skip
    assert [row.layers for row in report.rows if row.count == 2] == [("3", "5")]
    assert all(row.why and (row.remedy or row.converts == "exact") for row in report.rows)


def test_printing_gives_one_table() -> None:
    lines = str(check(built(nn.ReLU(), nn.Sigmoid()), IMAGES)).splitlines()
    assert lines[0].split() == ["Operation", "Count", "Converts", "Why", "Remedy", "Layers"]
    columns = [lines[0].index(word) for word in ("Why", "Remedy", "Layers")]
    assert all(line[at - 2 : at].strip() == "" for line in lines[:-1] for at in columns)
    refused = next(line for line in lines if "refused" in line)
    assert refused[columns[1] :].split() == ["Train", "with", "ReLU", "3"]
    assert lines[-1] == "No T predicted: the model does not convert as it is."


def test_every_operation_of_a_bad_model_is_listed() -> None:
    report = check(built(nn.Sigmoid(), nn.ReLU(), nn.MaxPool2d(2), nn.GELU(), nn.AdaptiveAvgPool2d(3)), IMAGES)
    assert not report.convertible
    refused = {layer for row in report.rows for layer in row.layers if row.converts == "refused"}
    assert refused == {"2", "4", "5"}
    assert {layer for row in report.rows for layer in row.layers} == set("012345678")


def test_every_refusal_names_a_reason_and_a_remedy() -> None:
    for text in (*REMEDIES.values(), remedy("anything else")):
        refusal = Untranslatable(text)
        assert refusal.why
        assert refusal.remedy
        assert f"{refusal.why}. {refusal.remedy}" == text


TWICE = nn.ReLU(), nn.Conv2d(2, 2, 1), nn.ReLU()


def test_a_max_pool_behind_the_first_neurons_is_exact_and_others_are_what_the_passes_make_of_them() -> None:
    (early,) = (row for row in check(built(nn.ReLU(), nn.MaxPool2d(2)), IMAGES).rows if row.operation == "MaxPool2d")
    assert early.converts == "exact"
    report = check(built(*TWICE, nn.MaxPool2d(2)), IMAGES, [max_pool_to_winner])
    (late,) = (row for row in report.rows if row.operation == "MaxPool2d")
    assert late.converts == "approximate"
    assert report.convertible


def test_every_second_pixel_and_the_largest_of_one_leave_spikes_out() -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool, self.last = nn.Conv2d(1, 2, 1), nn.MaxPool2d(1, 2), nn.Conv2d(2, 2, 1)
            self.one = nn.AdaptiveAvgPool2d(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.pool(torch.relu(self.last(self.one(torch.relu(self.conv(x)))))[:, :, ::2]))

    model, x = Steps().eval(), torch.rand(2, 1, 8, 8)
    found = {row.operation: (row.converts, row.why) for row in es.check(model, x).rows}
    assert found["slice"] == found["MaxPool2d"] == ("exact", "leaves spikes out")
    assert found["AdaptiveAvgPool2d"] == ("exact", "nothing to do")
    assert torch.allclose(es.trace(model, x)(x), model(x))


def test_operations_of_a_file_are_not_called_by_names_of_this_package() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten()).eval()
    rows = es.check(es.trace(model, torch.rand(2, 1, 4, 4)), torch.rand(2, 1, 4, 4)).rows
    assert [row.operation for row in rows] == ["Conv", "Mul, Add", "Relu", "Flatten"]


def test_max_pooling_is_refused_and_says_what_to_do() -> None:
    (pool,) = (row for row in check(built(*TWICE, nn.MaxPool2d(2)), IMAGES).rows if row.converts == "refused")
    assert (pool.operation, pool.layers) == ("MaxPool2d", ("5",))
    assert "max_pool_to_avg" in pool.remedy


def test_a_model_without_relu_is_not_convertible() -> None:
    report = check(built(), IMAGES)
    assert not report.convertible
    assert report.rows[-1].converts == "refused"
    assert "no ReLU" in report.rows[-1].why


def test_a_refused_activation_is_not_called_missing() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(IMAGES[0].numel(), 8), nn.LeakyReLU(), nn.Linear(8, 3))
    refused = check(model, IMAGES)
    assert [row.operation for row in refused.rows if row.converts == "refused"] == ["LeakyReLU"]
    assert check(model, IMAGES, lossy=[es.leaky_relu_to_pairs]).convertible


@given(
    n=st.integers(2, 40), tolerance=st.sampled_from([0.051, 0.203, 0.497]), start=st.sampled_from([0.0, 0.5, "uniform"])
)
def test_the_predicted_steps_are_the_fewest_at_which_rounded_rates_are_close_enough(
    n: int, tolerance: float, start: Any
) -> None:
    """Literally: rates k/T of pixels in (0, 1], rounded down behind V(0), centred."""
    pixels = torch.arange(1, n + 1, dtype=torch.float64) / n
    one = torch.ones(())
    neurons = Neuron(one, one, v_init=start)
    network = Network((Node("in", Input((1,))), Node("if", neurons, ("in",)), Node("out", Readout(), ("if",))))
    v = 0.5 if start == "uniform" else start

    def error(timesteps: int) -> float:
        wrong = [min(math.floor(timesteps * float(p) + v), timesteps) / timesteps - float(p) for p in pixels]
        mean, centre = sum(wrong) / n, float(pixels.mean())
        return math.sqrt(sum((w - mean) ** 2 for w in wrong) / sum((float(p) - centre) ** 2 for p in pixels))

    expected = next(2**k for k in range(13) if error(2**k) <= tolerance)
    assert useful_timesteps(network, pixels[:, None], tolerance) == expected


def test_given_images_are_preferred_to_noise() -> None:
    torch.manual_seed(0)
    net = built(nn.ReLU())
    report = check(net, torch.rand(16, 1, 8, 8))
    assert report.timesteps is not None
    assert report.prediction == f"Predicted smallest useful T: {report.timesteps}, from the 16 images given."
    assert "noise" in check(net, IMAGES).basis


def test_nothing_is_predicted_for_a_layer_that_stays_silent() -> None:
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1))
    nn.init.constant_(net[0].weight, -1.0)
    report = check(net, torch.rand(4, 1))
    assert report.convertible
    assert report.timesteps is None
    assert "all scores are alike" in report.prediction


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_convertible(value: float) -> None:
    net = built(nn.ReLU())
    with torch.no_grad():
        net[0].weight[0] = value
    report = check(net, IMAGES)
    assert not report.convertible
    (row,) = (row for row in report.rows if row.converts == "refused")
    assert row.layers == ("0",)
    assert "NaN or infinity" in row.why


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
