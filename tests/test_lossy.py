"""Max pooling to average pooling: off unless asked for, and it says what it changed."""

import pytest
import torch
from torch import Tensor, nn

from equispike.conversion import prepare
from equispike.errors import ConversionError
from equispike.graph.lossy import max_pool_to_avg
from equispike.graph.ops import AvgPool, MaxPool
from equispike.graph.reading.trace import trace


def model(*pools: nn.Module) -> nn.Module:
    return nn.Sequential(nn.ReLU(), *pools, nn.Flatten())


def images(*shape: int) -> Tensor:
    return torch.randint(-8, 9, (2, *shape), generator=torch.Generator().manual_seed(0)).double()


def test_it_is_off_by_default() -> None:
    with pytest.raises(ConversionError, match=r"^3 \(MaxPool\): .*lossy=\[es\.max_pool_to_avg\]"):
        prepare(model(nn.AvgPool2d(1, 1), nn.ReLU(), nn.MaxPool2d(2)), images(1, 4, 4))


def test_it_says_what_it_changed() -> None:
    network = trace(model(nn.MaxPool2d((2, 1)), nn.MaxPool2d(2, 1)), images(1, 8, 8))
    changed, changes = max_pool_to_avg(network)
    assert [change.layer for change in changes] == ["1", "2"]
    assert [change.text for change in changes] == [
        "max pool became average pool of 2 x 1 windows",
        "max pool became average pool of 2 x 2 windows",
    ]
    assert changed.shapes == network.shapes
    assert sum(isinstance(node.op, MaxPool) for node in network) == 2  # the original stays


def test_nothing_changes_without_max_pools() -> None:
    network = trace(model(nn.AvgPool2d(2)), images(1, 4, 4))
    changed, changes = max_pool_to_avg(network)
    assert changes == []
    assert torch.equal(changed(images(1, 4, 4)), network(images(1, 4, 4)))


def test_the_average_is_over_the_same_windows() -> None:
    changed, _ = max_pool_to_avg(trace(model(nn.MaxPool2d(3, 2, 1, ceil_mode=True)), images(2, 6, 6)))
    (op,) = (node.op for node in changed if isinstance(node.op, AvgPool))
    assert (op.kernel, op.stride, op.padding, op.ceil_mode) == ((3, 3), (2, 2), (1, 1), True)
    x = images(2, 6, 6)
    window = x[:, :, :2, :2].relu().mean((2, 3))  # at the corner, padding is no pixel
    assert torch.allclose(changed(x).view(2, 2, 4, 4)[:, :, 0, 0].double(), window)


def test_the_average_is_never_above_the_maximum() -> None:
    network = trace(model(nn.MaxPool2d(3, 2, 1)), images(2, 8, 8))
    x = images(2, 8, 8)
    assert bool((max_pool_to_avg(network)[0](x) <= network(x)).all())


def test_one_dimensional_pools_change_too() -> None:
    changed, changes = max_pool_to_avg(trace(model(nn.MaxPool1d(2)), images(2, 8)))
    assert [change.text for change in changes] == ["max pool became average pool of 2 windows"]
    x = images(2, 8)
    assert torch.equal(changed(x).double(), x.relu().unfold(2, 2, 2).mean(3).flatten(1))


def test_dilated_pools_are_refused_by_name() -> None:
    with pytest.raises(ConversionError, match=r"^1 \(MaxPool\): is dilated"):
        max_pool_to_avg(trace(model(nn.MaxPool2d(2, dilation=2)), images(1, 8, 8)))
