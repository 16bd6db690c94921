"""Training: it learns, repeats bit for bit, touches nothing of the caller's, and stops clearly."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from equispike.errors import DataError, EquispikeError
from equispike.functional.rate import rate_inference
from equispike.nn import rate_norms
from equispike.zoo.data import load
from equispike.zoo.models import mnist_cnn
from equispike.zoo.rate_inference import scores_and_rates
from equispike.zoo.recipes import RECIPES, Cosine, Recipe, Steps
from equispike.zoo.store import load_model
from equispike.zoo.train import accuracy_of, train

SHORT = Recipe(epochs=3, batch=50, lr=0.1, shift=1, label_smoothing=0.05)


@pytest.fixture(scope="module")
def sample():
    return load("mnist-sample")


@pytest.fixture(scope="module")
def small(sample):
    """500 training and 100 validation digits."""
    return sample.train.take(500), sample.validation.take(100)


def narrow(dropout=0.1):
    torch.manual_seed(0)
    return mnist_cnn(width=4, dropout=dropout)


@pytest.fixture(scope="module")
def trained(sample):
    reports = []
    torch.manual_seed(0)
    model = mnist_cnn(constrained=False, width=16)
    recipe = replace(RECIPES["demo"], epochs=5, batch=25, lr=0.1)
    result = train(model, sample.train.take(1500), sample.validation, recipe, report=reports.append)
    return result, reports


def test_it_learns(sample, trained):
    result, _ = trained
    losses = [epoch.loss for epoch in result.history]
    assert losses[-1] < 0.5 * losses[0]
    assert accuracy_of(result.model, sample.test) > 0.85


def test_best_weights_are_those_of_the_best_epoch(sample, trained):
    result, _ = trained
    assert result.best.validation_accuracy == max(epoch.validation_accuracy for epoch in result.history)
    assert accuracy_of(result.model, sample.validation) == result.best.validation_accuracy
    assert not any(module.training for module in result.model.modules())


def test_history_and_reports(trained):
    result, reports = trained
    assert [epoch.number for epoch in result.history] == [1, 2, 3, 4, 5]
    ends = [p for p in reports if p.epoch.validation_accuracy is not None]
    assert tuple(p.epoch for p in ends) == result.history
    assert len(reports) == 5 * 60 + 5
    assert [p.step for p in ends] == [60, 120, 180, 240, 300]
    assert {(p.steps, p.epochs) for p in reports} == {(300, 5)}
    assert reports[-1].seconds_left == 0 < reports[0].seconds_left
    assert all(epoch.images_per_second > 0 and epoch.seconds > 0 for epoch in result.history)


def test_an_earlier_epoch_wins_if_better(small):
    """With a rate that explodes after epoch 1, the weights kept are those of an epoch before."""
    recipe = replace(SHORT, epochs=4, schedule=Steps((2,), factor=30.0), shift=0)
    result = train(narrow(), *small, recipe)
    scores = [epoch.validation_accuracy for epoch in result.history]
    assert result.best.number < 4
    assert accuracy_of(result.model, small[1]) == max(scores) > scores[-1]


def test_same_seed_same_weights(small):
    first, again, other = (train(narrow(), *small, SHORT, seed=seed).model.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)
    assert all(value.is_contiguous() for value in first.values())


def test_the_callers_model_and_random_state_are_untouched(small):
    model = narrow()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.random.get_rng_state()
    train(model, *small, replace(SHORT, epochs=1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert model.training


def test_accuracy_is_the_share_of_hits_and_restores_modes(small):
    split, model = small[1], narrow(dropout=0.9)
    model.features.eval()
    expected = (model.eval()(split.floats()).argmax(1) == split.labels).double().mean().item()
    model.train()
    model.features.eval()
    assert accuracy_of(model, split, batch=7) == pytest.approx(expected, abs=1e-12)
    assert model.classifier.training
    assert not model.features.training


def test_normalised_splits_reach_the_model_normalised(sample):
    seen = []

    class Probe(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(784, 10)

        def forward(self, x):
            seen.append(x.detach())
            return self.linear(x.flatten(1))

    dataset = replace(sample, train=sample.train.take(1000), validation=sample.validation.take(10)).normalised()
    train(Probe(), dataset.train, dataset.validation, Recipe(epochs=1, batch=1000))
    step = next(x for x in seen if len(x) == 1000)
    assert step.mean().abs() < 1e-4
    assert step.std() == pytest.approx(1, abs=1e-3)


def test_early_epochs_see_smaller_images_and_validation_never_does(small):
    seen = []

    class Probe(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 10)

        def forward(self, x):
            seen.append((self.training, x.shape[-1]))
            return self.linear(x.mean((1, 2, 3))[:, None])

    train(Probe(), *small, Recipe(epochs=4, batch=500, sizes=((2, 14), (1, 21))))
    assert [side for training, side in seen if training] == [14, 14, 21, 28]
    assert {side for training, side in seen if not training} == {28}


def test_the_joint_loss_lowers_p_and_omega_while_weights_learn(small):
    """Equation 11: with a lambda above zero p and the mean Omega fall, and the loss holds Omega beside the entropy."""
    model, recipe = load_model("mnist-cnn-rnl")[0], replace(SHORT, epochs=1, lr=0.02)
    apart, joint = (train(model, *small, replace(recipe, rate_inference=value)) for value in (0.0, 0.5))
    p = [float(layer.p) for _, layer in rate_norms(joint.model)]
    assert len(set(p)) == 1
    assert 0 < p[0] < torch.tensor(4.0).sigmoid()
    assert all(float(layer.p) == 1 for _, layer in rate_norms(apart.model))
    images = small[1].floats()
    before, after = (rate_inference(scores_and_rates(t.model, images)[1]).item() for t in (apart, joint))
    assert after < before
    assert joint.history[-1].loss > apart.history[-1].loss + 0.5 * after / 2
    assert accuracy_of(joint.model, small[1]) == joint.best.validation_accuracy > 0.9
    assert [type(m) for m in joint.model.modules()] == [type(m) for m in model.modules()]
    assert joint.model.state_dict().keys() == model.state_dict().keys()
    with pytest.raises(EquispikeError, match="has no equispike"):
        train(narrow(), *small, replace(recipe, rate_inference=1.0))


def test_weight_decay_spares_biases(small):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    nn.init.ones_(model[1].bias)
    recipe = Recipe(epochs=1, batch=500, lr=1e-3, momentum=0.0, weight_decay=900.0)
    result = train(model, *small, recipe).model
    assert result[1].weight.norm() < 0.8 * model[1].weight.norm()
    assert torch.allclose(result[1].bias, model[1].bias, atol=1e-3)


def test_empty_splits(small):
    full, empty = small[0], small[0].take(0)
    for parts in ((empty, full), (full, empty)):
        with pytest.raises(DataError, match="mnist-sample/train: no images to train with"):
            train(narrow(), *parts, SHORT)
    with pytest.raises(DataError, match="no images to measure"):
        accuracy_of(narrow(), empty)


def test_wrong_number_of_scores(small):
    with pytest.raises(DataError, match=r"10 classes.*\(1, 7\)"):
        train(nn.Sequential(nn.Flatten(), nn.Linear(784, 7)), *small, SHORT)


def test_diverging_loss_names_epoch_and_remedy(small):
    with pytest.raises(EquispikeError, match=r"loss is (nan|inf) in epoch \d, step \d+\. Lower lr \(10000"):
        train(narrow(), *small, replace(SHORT, lr=1e4, schedule=Steps(())))


def test_weights_that_are_not_finite(small):
    model = narrow()
    with torch.no_grad():
        model.classifier[1].weight[0, 0] = torch.nan
    with pytest.raises(EquispikeError, match="scores are not finite before training"):
        train(model, *small, SHORT)


# Schedules


def test_cosine_falls_from_one_to_zero_after_warmup():
    values = [Cosine(warmup=2)(epoch / 10, 10) for epoch in range(101)]
    assert max(values) == values[20] == 1
    assert values[-1] == pytest.approx(0)
    assert all(a < b for a, b in pairwise(values[:21]))
    assert all(a > b for a, b in pairwise(values[20:]))


def test_schedules_reach_the_optimiser(small):
    result = train(narrow(), *small, replace(SHORT, schedule=Steps((1, 2))))
    assert [epoch.lr for epoch in result.history] == pytest.approx([0.1, 0.01, 0.001])
