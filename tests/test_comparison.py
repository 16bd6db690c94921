"""SpikingJelly's converter beside ours. Skipped where it is not installed: nox -s compare makes an environment."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

import equispike as es
from benchmarks.comparison import compare
from equispike.zoo.models import resnet

if find_spec("spikingjelly") is None:
    pytest.skip("spikingjelly is not installed", allow_module_level=True)
LABELS = torch.arange(6) % 3


def dyadic_model() -> nn.Sequential:
    """Its sums are exact."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))
    )
    for tensor in model.parameters():
        tensor.data = torch.randint(-4, 5, tensor.shape) / 4
    return model


def test_with_the_same_thresholds_every_neuron_spikes_alike() -> None:
    model, images = dyadic_model(), torch.randint(0, 9, (6, 1, 8, 8)) / 8
    found = compare(model, [images], [(images[:4], LABELS[:4]), (images[4:], LABELS[4:])], 32, 100.0)
    assert found.neurons == 6 * (4 * 36 + 8)
    assert found.differing == 0
    # of one batch, the largest activation is the same in both, and so are thresholds but for rounding
    assert found.theirs.spikes == pytest.approx(found.ours.spikes, rel=0.05)
    assert found.ours.accuracy.shape == (32,)
    run = es.simulate(es.convert(model, images, es.DataNorm(100.0)), images, 32)
    assert found.ours.spikes == sum(int(count.sum()) for count in run.counts.values()) / 6
    assert torch.equal(found.ours.accuracy, es.accuracy(run, LABELS))
    assert found.theirs.name.startswith("spikingjelly ")


def test_shortcuts_that_subsample_are_compared_too() -> None:
    model, images = resnet(8, width=0.25, dropout=0.0, colours=1).eval(), torch.rand(3, 1, 28, 28)
    found = compare(model, [images], [(images, LABELS[:3])], 8)
    assert found.differing <= 1e-3 * found.neurons
    assert found.theirs.spikes == pytest.approx(found.ours.spikes, rel=0.05)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.relu = nn.Linear(4, 8), nn.Linear(8, 3), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.relu(self.a(x))))


def test_relus_that_it_would_leave_as_they_are_are_refused() -> None:
    images = torch.rand(3, 4)
    with pytest.raises(es.ConversionError, match=r"torch.nn.ReLU alone|does not convert this model"):
        compare(Functional(), [images], [(images, LABELS[:3])], 8)
    with pytest.raises(es.DataError, match="without labels"):
        compare(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), [images], [images], 8)
