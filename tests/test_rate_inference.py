"""The second stage: thresholds learnt on real digits, with everything else at rest."""

import copy
import math
from typing import Any

import pytest
import reference
import torch
from torch import Tensor, nn

import equispike as es
from equispike.functional.rate import expected_maximum, omega, rate_inference_loss
from equispike.nn import RateNorm, rate_norms, with_rate_norm
from equispike.progress import reporting
from equispike.zoo.data import Dataset, load
from equispike.zoo.models import build
from equispike.zoo.rate_inference import (
    LearntPoint,
    Settings,
    TradeOff,
    images_to_measure,
    lower_thresholds,
    recipe_of,
    scores_and_rates,
    with_p,
)
from equispike.zoo.recipes import Recipe

SHORT: dict[str, Any] = {"steps": 6, "batch": 32, "lr": 0.3}
LOCKED: dict[str, Any] = {"maxima_move": False, "batch_norm_moves": False}
RESTING = Settings(**SHORT, **LOCKED)


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    return load("mnist-sample")


@pytest.fixture(scope="module")
def model(mnist: Dataset) -> nn.Module:
    """The first stage, a short one: 25 steps."""
    torch.manual_seed(0)
    network = with_rate_norm(build("mnist-cnn-bn"), momentum=0.2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for x, labels in list(mnist.train.batches(64))[:25]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), labels).backward()
        optimizer.step()
    return network


def gradients(model: nn.Module, images: Tensor, p: float, lambda_: float) -> tuple[float, float]:
    """Gradients of the cosine term and of lambda times the mean Omega in one p shared by all layers."""
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    scale = torch.tensor(p, requires_grad=True)
    scores, rates = scores_and_rates(frozen, images, {f"{path}.p": scale for path, _ in rate_norms(frozen)})
    cosine = rate_inference_loss(frozen(images), scores, rates, 0.0)
    inference = rate_inference_loss(frozen(images), scores, rates, lambda_) - cosine
    one, two = (torch.autograd.grad(loss, scale, retain_graph=True)[0] for loss in (cosine, inference))
    return float(one), float(two)


def test_both_terms_move_p_and_in_opposite_directions(model: nn.Module, mnist: Dataset) -> None:
    cosine, inference = gradients(model, mnist.train.take(64).floats(), 0.6, 0.01)
    assert cosine < -1e-4  # the distance falls as p grows towards the teacher's 1
    assert inference > 1e-4  # Omega grows with p


def test_omega_of_a_real_layer_grows_as_equation_10_says(model: nn.Module, mnist: Dataset) -> None:
    """Of the first layer, over the images that saturate no neuron: its input does not depend on p."""
    frozen = copy.deepcopy(model).eval().double().requires_grad_(False)
    first = rate_norms(frozen)[0][0]
    p = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    _, rates = scores_and_rates(frozen, mnist.train.take(64).floats().double(), {f"{first}.p": p})
    r = rates[0][rates[0].detach().flatten(1).amax(1) < 1]
    assert len(r) > 10
    (found,) = torch.autograd.grad(omega(r).sum(), p)
    flat = r.detach().flatten(1)
    assert float(found) == pytest.approx(float((flat.sum(1) / (0.9 * flat.square().sum(1))).sum()), rel=1e-9)


@pytest.mark.parametrize("momentum", [0.1, 0.5])
def test_thresholds_are_learnt_as_in_algorithm_1_with_maxima_that_move(momentum: float) -> None:
    torch.manual_seed(0)
    network = with_rate_norm(
        nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)), momentum
    ).double()
    maxima, raw = [0.7, 0.4], torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    for (_, layer), value in zip(rate_norms(network), maxima, strict=True):
        layer.running_max.fill_(value)
    layers = [(reference.array(m.weight), reference.array(m.bias)) for m in network if isinstance(m, nn.Linear)]
    batches = [torch.rand(n, 5).double() + 0.2 for n in (4, 7, 5, 6)]
    expected = reference.stage_2(layers, maxima, momentum, raw.item(), 0.3, 2.0, [x.numpy() for x in batches])
    teacher, found = copy.deepcopy(network).eval(), list[float]()
    for x in batches:
        p = raw.sigmoid()
        scores, rates = scores_and_rates(network, x, {f"{path}.p": p for path, _ in rate_norms(network)})
        (gradient,) = torch.autograd.grad(rate_inference_loss(teacher(x), scores, rates, 0.3), raw)
        raw = (raw - 2.0 * gradient).detach().requires_grad_()
        found.append(float(raw.detach().sigmoid()))
    assert found == pytest.approx(expected, rel=1e-6)
    assert abs(found[-1] - found[0]) > 0.01
    assert [float(layer.running_max) for _, layer in rate_norms(network)] == pytest.approx(maxima, rel=1e-8)
    assert float(network[1].p) == 1.0  # type: ignore[arg-type, union-attr]


def test_what_moves_with_p_is_measured_on_all_images_in_whatever_order(model: nn.Module, mnist: Dataset) -> None:
    """Maxima are those of batches of 32 on average, behind layers with their new thresholds; so is batch norm."""
    images, p = mnist.train.take(100).floats().double(), {path: 0.6 for path, _ in rate_norms(model)}
    trained = copy.deepcopy(model).double()
    found = with_p(trained, p, images, Settings(batch=32))
    assert not any(module.training for module in found.modules())
    again = with_p(trained, p, images.flip(0), Settings(batch=32))
    for (name, one), two in zip(found.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.allclose(one.double(), two.double(), rtol=1e-9), name
    largest: dict[str, Tensor] = {}
    for path, layer in rate_norms(found):

        def keep(_layer: nn.Module, inputs: tuple[Tensor, ...], path: str = path) -> None:
            largest[path] = expected_maximum(inputs[0].flatten(1).amax(1), 32)

        layer.register_forward_pre_hook(keep)
    with torch.no_grad():
        found(images)
    for path, layer in rate_norms(found):
        # batch norm has the variance of a sample, and in the measuring pass that of the images themselves
        assert float(layer.threshold) == pytest.approx(0.6 * float(largest[path]), rel=0.01)
    for path, layer in rate_norms(with_p(trained, p, images, RESTING)):
        assert float(layer.threshold) == pytest.approx(0.6 * float(trained.get_submodule(path).running_max))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("moves", "moved"),
    [
        ({"batch_norm_moves": False}, {"p", "running_max"}),
        ({}, {"p", "running_max", "running_mean", "running_var", "num_batches_tracked"}),
        (LOCKED, {"p"}),
    ],
)
def test_larger_lambdas_give_lower_thresholds_and_smaller_omegas(
    model: nn.Module, mnist: Dataset, moves: dict[str, bool], moved: set[str]
) -> None:
    before, training = copy.deepcopy(model.state_dict()), model.training
    train, validation = mnist.train.take(128), mnist.validation.take(50)
    found = lower_thresholds(model, train, validation, (0.0, 1.0), Settings(**SHORT, **moves))
    p = [next(iter(point.p.values())) for point in found.points]
    assert 1 > p[0] > p[1] > 0
    assert p[0] > 1 / (1 + math.exp(-2.5))  # without Omega, the teacher draws p from its start towards 1
    omegas = [point.omega for point in (found.trained, *found.points)]
    assert omegas == sorted(omegas, reverse=True)
    assert [point.lambda_ for point in found.points] == [0.0, 1.0]
    assert all(len(set(point.p.values())) == 1 for point in found.points)
    for point in (found.trained, *found.points):
        student = found.at(point)
        assert not student.training
        right = (student(validation.floats()).argmax(1) == validation.labels).double().mean()
        assert point.validation_accuracy == pytest.approx(float(right))
        _, rates = scores_and_rates(student, validation.floats())
        assert point.omega == pytest.approx(torch.stack([omega(r).mean() for r in rates]).mean().item(), rel=1e-3)
        network = es.convert(student, train.take(8).floats(), es.RateNorm())
        for name, layer in rate_norms(student):
            assert float(network.thresholds[name]) == pytest.approx(float(layer.running_max) * point.p[name], rel=1e-6)
    # all else rests, and the model given is as it was
    after = found.at(found.points[1]).state_dict()
    changed = {name.rpartition(".")[2] for name, value in before.items() if not torch.equal(after[name], value)}
    assert changed == moved
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training is training


def test_each_layer_may_have_a_p_of_its_own_and_seeds_decide(model: nn.Module, mnist: Dataset) -> None:
    train, validation = mnist.train.take(100), mnist.validation.take(20)
    settings, heard = Settings(**SHORT, start=1.0, shared=False), list[tuple[str, int, int]]()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    with reporting(lambda *report: heard.append(report)):
        one = lower_thresholds(model, train, validation, (0.1,), settings, 3)
    again = lower_thresholds(model, train, validation, (0.1,), settings, 3)
    other = lower_thresholds(model, train, validation, (0.1,), settings, 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert one.points == again.points != other.points
    assert len(set(one.points[0].p.values())) == 4
    assert heard == [("lambdas", 0, 1), *(("lambda 0.1", step, 6) for step in range(7)), ("lambdas", 1, 1)]


def test_a_second_run_with_locked_maxima_starts_from_the_network_as_trained(model: nn.Module, mnist: Dataset) -> None:
    """The teacher has p = 1, whatever an earlier run has left in the model."""
    train, validation = mnist.train.take(64), mnist.validation.take(20)
    first = lower_thresholds(model, train, validation, (1.0,), RESTING)
    second = lower_thresholds(first.at(first.points[0]), train, validation, (1.0,), RESTING)
    assert first.points == second.points
    assert first.trained == second.trained


def test_mixed_precision_learns_nearly_the_same(model: nn.Module, mnist: Dataset) -> None:
    train, validation = mnist.train.take(64), mnist.validation.take(20)
    p = [
        next(iter(lower_thresholds(model, train, validation, (0.1,), RESTING, bfloat16=half).points[0].p.values()))
        for half in (False, True)
    ]
    assert p[0] == pytest.approx(p[1], abs=0.02)
    assert p[0] != p[1]


def test_images_are_changed_as_in_the_training(model: nn.Module, mnist: Dataset) -> None:
    """Thresholds are those of images as trained on, drawn from a seed of their own, whatever the card leaves out."""
    cut = recipe_of({"augmentation": {"shift": 0, "flip": False, "cutout": 12}, "recipe": "of some other time"})
    assert (cut.cutout, recipe_of({})) == (12, Settings().recipe)
    few = {**SHORT, "measured": 64, "recipe": cut}
    before = torch.get_rng_state()
    images = images_to_measure(mnist.train, Settings(**few))
    plain = images_to_measure(mnist.train, Settings(**{**few, "recipe": Recipe(epochs=1)}))
    assert torch.equal(images, images_to_measure(mnist.train, Settings(**few)))
    assert images.shape == plain.shape
    changed = images != plain
    assert changed.flatten(1).any(1).float().mean() > 0.8
    assert bool((images[changed] == 0).all())
    train, validation = mnist.train.take(200), mnist.validation.take(50)
    points = [
        lower_thresholds(model, train, validation, (0.1,), Settings(**{**few, "recipe": recipe})).points[0]
        for recipe in (cut, Recipe(epochs=1), cut)
    ]
    assert points[0] == points[2] != points[1]
    assert torch.equal(before, torch.get_rng_state())


def curve(*points: tuple[float, float]) -> TradeOff:
    made = [LearntPoint(n, {}, accuracy, omega) for n, (accuracy, omega) in enumerate(points)]
    return TradeOff(nn.Identity(), made[0], tuple(made[1:]), torch.zeros(1))


def test_the_smallest_omega_within_tolerance_is_chosen() -> None:
    found = curve((0.9, 5.0), (0.91, 4.0), (0.895, 3.0), (0.88, 2.0))
    assert [found.choose(t).lambda_ for t in (0.0, 0.004, 0.005, 0.02, 0.5)] == [1, 1, 2, 3, 3]
    assert curve((0.9, 5.0), (0.8, 4.0)).choose(0.01).lambda_ == 0
    with pytest.raises(es.EquispikeError, match=r"tolerance: -0\.1"):
        curve((0.9, 5.0)).choose(-0.1)


def test_unusable_input_is_refused_before_work(model: nn.Module, mnist: Dataset) -> None:
    train, validation = mnist.train.take(8), mnist.validation.take(8)
    with pytest.raises(es.EquispikeError, match=r"has no equispike\.nn\.RateNorm layer"):
        lower_thresholds(build("mnist-cnn"), train, validation)
    with pytest.raises(es.EquispikeError, match=r"1 \(ReLU\): has no threshold to lower"):
        lower_thresholds(nn.Sequential(RateNorm(), nn.ReLU()), train, validation)
    for lambdas in ((), (-1.0,), (float("nan"),)):
        with pytest.raises(es.EquispikeError, match="lambdas"):
            lower_thresholds(model, train, validation, lambdas)
    with pytest.raises(es.DataError, match="no images"):
        lower_thresholds(model, train, validation.take(0))
    wrong: dict[str, Any] = {"steps": 0, "batch": 0, "lr": 0.0, "measured": 0, "start": float("inf")}
    for name, value in wrong.items():
        with pytest.raises(es.EquispikeError, match="Settings"):
            Settings(**{name: value})
