"""Standardised weights: filters of zero mean and learnt norm, and ordinary weights at the end."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from equispike.zoo.data import load
from equispike.zoo.models import MODELS, build, mnist_cnn, resnet, vgg
from equispike.zoo.recipes import Recipe
from equispike.zoo.standardise import standardised, with_plain_weights
from equispike.zoo.store import load_model, save_model
from equispike.zoo.train import train


def convolutions(model):
    return [module for module in model.modules() if isinstance(module, nn.Conv1d | nn.Conv2d)]


def norms(weight):
    return weight.detach().flatten(1).norm(dim=1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=4),
        nn.Flatten(),
        nn.Linear(8 * 16, 5),
    )


def test_filters_have_zero_mean_and_the_norm_of_their_gain(model):
    changed = standardised(model)
    for module in convolutions(changed):
        gain = module.parametrizations.weight[0].gain
        with torch.no_grad():
            gain.copy_(torch.linspace(0.5, 2, len(gain)))
        assert module.weight.flatten(1).mean(1).abs().max() < 1e-7
        assert torch.allclose(norms(module.weight), gain, rtol=1e-5)


def test_only_direction_and_gain_of_a_filter_matter(model):
    """Adding a constant to the trained tensor or scaling it leaves the weights as they are."""
    changed = standardised(model)
    before = changed[0].weight.clone()
    with torch.no_grad():
        changed[0].parametrizations.weight.original.mul_(3.0).add_(0.7)
    assert torch.allclose(changed[0].weight, before, atol=1e-6)


def test_the_model_given_stays_as_it_is(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    standardised(model)
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("build", [lambda: vgg(11, width=0.1), lambda: resnet(8, width=0.5), mnist_cnn])
def test_plain_again_it_computes_the_same_with_the_modules_it_had(build):
    model = build()
    changed = standardised(model)
    back = with_plain_weights(changed)
    images = torch.rand(2, 1, 28, 28) if build is mnist_cnn else torch.rand(2, 3, 32, 32)
    assert torch.equal(back.eval()(images), changed.eval()(images))
    kinds = [(name, type(module)) for name, module in model.named_modules()]
    assert [(name, type(module)) for name, module in back.named_modules()] == kinds
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in back.state_dict().items()} == shapes
    assert all(isinstance(module.weight, nn.Parameter) for module in convolutions(back))


def test_filters_of_one_weight_stay_as_they_are():
    """Less its mean, a single weight is 0: a depthwise 1x1 convolution would compute nothing."""
    model = nn.Sequential(nn.Conv2d(4, 4, 1, groups=4), nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, groups=4))
    changed = standardised(model)
    assert [parametrize.is_parametrized(module) for module in changed] == [False, False, True]
    assert torch.equal(changed[0].weight, model[0].weight)
    assert torch.equal(with_plain_weights(changed)[1].weight, model[1].weight)


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_a_filter_without_direction_has_finite_gradients(value):
    model = nn.Sequential(nn.Conv2d(3, 2, 3))
    with torch.no_grad():
        model[0].weight[0] = value
    changed = standardised(model)
    changed(torch.rand(2, 3, 5, 5)).square().sum().backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in changed.parameters())


def test_a_trained_network_fits_the_zoos_and_has_no_bias(tmp_path):
    sample = load("mnist-sample")
    recipe = Recipe(epochs=1, batch=100, lr=0.02, standardise=True)
    model = train(build("mnist-cnn"), sample.train.take(300), sample.validation.take(50), recipe).model
    build("mnist-cnn").load_state_dict(model.state_dict())
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    assert all(module.bias is None for module in convolutions(model))
    assert all(module.weight.flatten(1).mean(1).abs().max() < 1e-6 for module in convolutions(model))
    save_model(tmp_path / "x.safetensors", "mnist-cnn", model, {})
    again, _ = load_model(tmp_path / "x.safetensors")
    images = sample.test.take(10).floats()
    assert torch.equal(again(images), model(images))


def test_every_zoo_convolution_has_filters_to_standardise():
    """None of them has a single weight per filter, so no network of the zoo trains half standardised."""
    for name in MODELS:
        if "imagenet" not in name and "alexnet" not in name and name.startswith(("mnist", "resnet20", "preact18")):
            changed = convolutions(standardised(build(name)))
            assert all(parametrize.is_parametrized(module) for module in changed), name
