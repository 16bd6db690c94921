"""The module forms of the neurons."""

import pytest
import torch

from equispike.errors import EquispikeError
from equispike.functional.integrate import if_scan
from equispike.nn import IF


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_if_is_the_scan_and_keeps_nothing(reset: str) -> None:
    threshold = torch.tensor([1.0, 2.0, 0.5]).reshape(3, 1, 1)
    currents = torch.randint(0, 8, (16, 2, 3, 4, 4), generator=torch.Generator().manual_seed(0)) / 8
    neurons = IF(threshold, reset, v_init=0.5)  # type: ignore[arg-type]
    expected, _ = if_scan(currents, threshold, reset, 0.5 * threshold, threshold)  # type: ignore[arg-type]
    assert torch.equal(neurons(currents), expected)
    assert torch.equal(neurons(currents), expected)
    assert float(expected.sum()) > 0


def test_if_keeps_the_type_of_its_threshold_and_moves_with_the_module() -> None:
    neurons = IF(torch.tensor(1.0, dtype=torch.float64), amplitude=1)
    assert neurons.amplitude.dtype == torch.float64
    assert neurons.float().threshold.dtype == torch.float32
    assert "reset=subtract" in repr(neurons)


def test_if_refuses_a_threshold_that_is_not_positive() -> None:
    with pytest.raises(EquispikeError, match="not positive"):
        IF(torch.tensor([1.0, 0.0]))
