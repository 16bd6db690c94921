"""Frames: one for each step, in every engine, and everywhere where images go."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import equispike as es
from equispike.analysis.causes import causes
from equispike.analysis.operating_range import operating_range
from equispike.simulation.run import stages
from equispike.zoo.data import load
from equispike.zoo.store import load_model

T = 9


@cache
def network() -> es.Network:
    """Exact arithmetic: whole weights, thresholds that are powers of two."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 3),
    ).double()  # fmt: skip
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_((8 * weight).round())
    return es.quantize(es.convert(model, shapes().flatten(0, 1)), 6)


def shapes(images: int = 5) -> Tensor:
    """A bright spot that walks over a dark field, from another place for each image, (T, B, 2, 8, 8)."""
    frames = torch.zeros(T, images, 2, 8, 8, dtype=torch.float64)
    for t in range(T):
        for image in range(images):
            frames[t, image, t % 2, (t + image) % 8, image] = 1.0
    return frames


@pytest.mark.parametrize("engine", ["stepwise", "layerwise", "events", "auto"])
def test_each_step_takes_its_frame_in_every_engine(engine: str) -> None:
    frames = shapes()
    module = network().module()
    scores, total = [], torch.zeros(5, 3, dtype=torch.float64)
    for frame in frames:
        total = total + module(frame.float()).detach().double()
        scores.append(total)
    for memory in (1, 2**20):
        run = es.simulate(network(), frames, T, es.Frames(), engine=engine, memory=memory, batch_size=2)  # type: ignore[arg-type]
        assert torch.equal(run.totals.double(), torch.stack(scores))
    other = es.simulate(network(), frames.movedim(0, 1), T, es.Frames(batch_first=True), engine=engine)  # type: ignore[arg-type]
    assert torch.equal(other.readout, run.readout)


def test_frames_that_are_all_alike_are_constant_input() -> None:
    image = shapes()[3]
    still = es.simulate(network(), image, T)
    moving = es.simulate(network(), image.expand(T, *image.shape), T, es.Frames())
    assert torch.equal(moving.readout, still.readout)
    assert all(torch.equal(moving.counts[name], still.counts[name]) for name in still.counts)


def test_stages_and_early_exit_take_frames() -> None:
    frames = shapes()
    whole = es.simulate(network(), frames, T, es.Frames())
    for run in stages(network(), frames, [2, 5, T], es.Frames()):
        assert torch.equal(run.readout, whole.readout[: run.timesteps])
    stopped = es.simulate(network(), frames, T, es.Frames(), stop=es.Stable(3))
    for image, steps in enumerate(stopped.steps.tolist()):
        assert torch.equal(stopped.readout[:steps, image], whole.readout[:steps, image])


def test_evaluate_reads_loaders_of_frames_and_asks_the_trained_network_for_the_mean_frame() -> None:
    frames, labels = shapes(), torch.tensor([0, 1, 2, 0, 1])
    run = es.simulate(network(), frames, T, es.Frames())
    expected = es.accuracy(run, labels)
    loader = DataLoader(TensorDataset(frames.movedim(0, 1), labels), batch_size=2)
    for found in (
        es.evaluate(network(), loader, T, es.Frames(batch_first=True)),
        es.evaluate(network(), [(frames[:, :3], labels[:3]), (frames[:, 3:], labels[3:])], T, es.Frames()),
    ):
        assert torch.equal(found.mean, expected)
        assert found.trained_predictions.tolist() == network()(frames.mean(0).float()).argmax(1).tolist()
        assert found.images == 5
    assert set(es.rate_fit(network(), [frames], T, es.Frames()).k) == set(network().neurons)
    assert [row.layer for row in causes(run)] == list(network().neurons)
    assert operating_range(network(), frames, T, es.Frames())


def test_errors_of_long_runs_fall_towards_the_trained_answer_to_the_mean_frame() -> None:
    digits = load("mnist-sample")
    model, _ = load_model("mnist-cnn")
    network = es.convert(model, digits.train.take(64).floats())
    images = digits.test.take(6).floats()
    moved = torch.stack([images.roll(t % 3 - 1, 3) for t in range(96)])
    run = es.simulate(network, moved, 96, es.Frames())
    with torch.no_grad():
        wanted = model.eval()(moved.mean(0))
    errors = [float((run.readout[t - 1] / t - wanted).square().mean()) for t in (12, 96)]
    assert errors[1] < errors[0] / 4
    assert torch.equal(run.predictions[-1], wanted.argmax(1))


@pytest.mark.parametrize(
    ("images", "coder", "timesteps", "words"),
    [
        (shapes(), es.Frames(), 8, r"9 frames for 8 time-steps.*Simulate 9 steps, or repeat frames: .*\(k, 0\)"),
        (shapes(), es.Frames(), 12, "9 frames for 12 time-steps"),
        (shapes().movedim(0, 1), es.Frames(batch_first=True), 8, r"repeat frames: images.repeat_interleave\(k, 1\)"),
        (shapes().movedim(0, 1), es.Frames(), T, r"5 frames for 9 time-steps"),
        (shapes()[0], es.Frames(), T, r"shape \(5, 2, 8, 8\)"),
        (shapes()[:, :, :1], es.Frames(), T, r"shape \(9, 5, 1, 8, 8\).*takes \(T, B, 2, 8, 8\)"),
        (shapes().long(), es.Frames(), T, "floats"),
        (torch.full_like(shapes(), torch.nan), es.Frames(), T, "NaN"),
        (shapes(), es.Constant(), T, r"For a frame in each step, give coder=es.Frames\(\)"),
        (torch.zeros(9), es.Frames(), T, r"takes \(T, B, 2, 8, 8\)"),
    ],
)
def test_frames_that_do_not_fit_are_refused_by_name(
    images: Tensor, coder: es.Coder, timesteps: int, words: str
) -> None:
    with pytest.raises(es.SimulationError, match=words):
        es.simulate(network(), images, timesteps, coder)


def test_batches_of_frames_that_do_not_fit_are_refused_by_number() -> None:
    labels = torch.zeros(5, dtype=torch.int64)
    with pytest.raises(es.DataError, match=r"test batch 1: .* 9 frames for 8 time-steps"):
        es.evaluate(network(), [(shapes()[:8], labels), (shapes(), labels)], 8, es.Frames())


def test_calibration_on_single_frames_says_so() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    with pytest.raises(es.SimulationError, match="Calibrate on single frames"):
        es.convert(model, shapes()[0].float(), method=es.SpikeNorm(4, coder=es.Frames()))


def test_several_inputs_come_frame_by_frame() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.out(torch.relu(self.a(x) + self.b(y)))

    torch.manual_seed(0)
    x, y = torch.rand(6, 5, 3), torch.rand(6, 5, 2)
    network = es.convert(Both(), [((x[0], y[0]), None)])
    run = es.simulate(network, (x, y), 6, es.Frames(), engine="stepwise")
    joined = torch.stack([es.join_inputs((x[t], y[t])) for t in range(6)])
    assert torch.equal(run.readout, es.simulate(network, joined, 6, es.Frames(), engine="stepwise").readout)


class Regular:
    """Evenly spaced spikes: step t brings floor(t x) - floor((t - 1) x), of x in [0, 1]."""

    constant = False

    def encode(
        self, images: Tensor, indices: Tensor, steps: range, seed: int, scale: float, amplitude: float
    ) -> Tensor:
        t = torch.tensor([*steps], dtype=images.dtype).view(-1, *(1,) * images.ndim)
        x = images / scale
        return ((t * x).floor() - ((t - 1) * x).floor()) * amplitude


@pytest.mark.parametrize("engine", ["layerwise", "events", "auto"])
def test_a_coder_of_ones_own_runs_in_every_engine(engine: str) -> None:
    image = torch.rand(5, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = es.simulate(network(), image, 40, Regular(), engine="stepwise")
    found = es.simulate(network(), image, 40, Regular(), engine=engine, memory=1, batch_size=3)  # type: ignore[arg-type]
    assert torch.equal(found.readout, expected.readout)


@pytest.mark.parametrize("wrong", [lambda x: x[0], lambda x: x.double(), lambda x: x[:1], lambda x: None])
def test_a_coder_that_returns_something_else_is_told_so(wrong: Callable[[Tensor], object]) -> None:
    class Wrong(Regular):
        def encode(self, *given: Any) -> Any:
            return wrong(super().encode(*given))

    with pytest.raises(es.SimulationError, match=r"coder: Wrong.encode returned .* Return a tensor \(2, 1, 2, 8, 8\)"):
        es.simulate(network(), torch.rand(5, 2, 8, 8), 4, Wrong())
