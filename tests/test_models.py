"""The zoo's networks: structure as in the papers, initial weights from a seed."""

import math

import pytest
import torch
from torch import nn

from equispike.errors import EquispikeError
from equispike.zoo.models import MODELS, build, mnist_cnn


def kinds(model):
    return [type(m).__name__ for m in model.modules() if not isinstance(m, nn.Sequential)]


def test_constrained_layers_in_order():
    block = ["Conv2d", "ReLU", "AvgPool2d"]
    assert kinds(mnist_cnn()) == [*block * 3, "Flatten", "Linear", "ReLU", "Dropout", "Linear"]


def test_constrained_network_has_weights_alone():
    names = [name for name, _ in mnist_cnn().named_parameters()]
    assert names == [f"{layer}.weight" for layer in ("features.0", "features.3", "features.6")] + [
        "classifier.1.weight",
        "classifier.4.weight",
    ]
    assert not list(mnist_cnn().buffers())


def test_free_network_has_bias_and_batch_norm():
    model = mnist_cnn(constrained=False)
    assert kinds(model).count("BatchNorm2d") == 3
    assert all(m.bias is not None for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))


@pytest.mark.parametrize("name", MODELS)
def test_sizes_inside(name):
    model, sizes = build(name).eval(), []
    for module in model.modules():
        if isinstance(module, nn.AvgPool2d | nn.Flatten):
            module.register_forward_hook(lambda *a: sizes.append(tuple(a[2].shape[1:])))
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert sizes == [(32, 14, 14), (32, 7, 7), (32, 3, 3), (288,)]


def test_width():
    assert mnist_cnn(width=8)(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


def test_he_initialisation_by_output_channels():
    """Sengupta et al., 2019, section 7.1; 5 standard errors of a standard deviation over n draws are 5 / sqrt(2 n)."""
    for module in build("mnist-cnn").modules():
        if isinstance(module, nn.Conv2d):
            expected, n = math.sqrt(2 / (9 * 32)), module.weight.numel()
            assert module.weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * n))


def test_scores_of_a_black_image_are_zero_without_bias():
    assert not build("mnist-cnn")(torch.zeros(1, 1, 28, 28)).any()


def test_build_depends_on_the_seed_alone():
    before = torch.random.get_rng_state()
    first = build("mnist-cnn", seed=3).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(5)
    again, other = build("mnist-cnn", seed=3).state_dict(), build("mnist-cnn", seed=4).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["features.0.weight"], other["features.0.weight"])


def test_unknown_name_lists_known_ones():
    with pytest.raises(EquispikeError, match=r"'vgg'.*mnist-cnn, mnist-cnn-bn"):
        build("vgg")
