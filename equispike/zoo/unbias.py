"""Training help for networks without bias and batch norm: from trained ones whose biases shrink to nothing."""

import copy
import math

import torch
from torch import Tensor, nn

from equispike.errors import EquispikeError
from equispike.nn import RateNorm
from equispike.zoo.models import PreActivation, Residual

WEIGHTED = nn.Conv2d | nn.Linear
NORMS = nn.BatchNorm1d | nn.BatchNorm2d


def folded(trained: nn.Module, plain: nn.Module) -> nn.Module:
    r"""A copy of `plain`, a network without bias and batch norm, that scores like `trained`, with biases.

    Batch norm, resting, is taken into the weights before it. So is the threshold of a Rate Norm layer, which becomes a
    ReLU: clip(x / theta, 0, 1) = ReLU(x / theta) up to theta, and more beyond.

    Raises:
        EquispikeError: the two do not have the same layers with weights in the same order, or the trained network has
            both Rate Norm layers and sums, which would have to agree on a threshold, or batch norm before its weights.
    """
    model = copy.deepcopy(plain)
    layers = [layer for layer in model.modules() if isinstance(layer, WEIGHTED)]
    sources = [layer for layer in trained.modules() if isinstance(layer, WEIGHTED)]
    if [layer.weight.shape for layer in layers] != [layer.weight.shape for layer in sources]:
        raise EquispikeError("unbias: the trained network's weights have other shapes. Name one with the same layers")
    sums = any(isinstance(block, Residual) for block in trained.modules())
    if any(isinstance(block, PreActivation) or (sums and isinstance(block, RateNorm)) for block in trained.modules()):
        raise EquispikeError("unbias: batch norm or a threshold cannot be taken into the weights of sums. Name another")
    for layer, (weight, bias) in zip(layers, _weights_and_biases(trained), strict=True):
        layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return model


@torch.no_grad()
def _weights_and_biases(trained: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Copies of each layer's weights and bias, with what follows the layer taken in."""
    found: list[tuple[Tensor, Tensor]] = []
    for module in trained.modules():
        if isinstance(module, WEIGHTED):
            bias = module.weight.new_zeros(len(module.weight)) if module.bias is None else module.bias
            found.append((module.weight.clone(), bias.clone()))
        elif isinstance(module, NORMS):
            weight, bias = found[-1]
            assert module.running_var is not None
            assert module.running_mean is not None
            scale = module.weight / (module.running_var + module.eps).sqrt()
            bias = (bias - module.running_mean) * scale + module.bias
            found[-1] = weight * scale.view(-1, *(1,) * (weight.ndim - 1)), bias
        elif isinstance(module, RateNorm):
            weight, bias = found[-1]
            found[-1] = weight / module.threshold, bias / module.threshold
    return found


def shrinking(model: nn.Module) -> nn.Module:
    """A copy of the model whose biases do not learn, since they are to shrink. EquispikeError if it has none."""
    model = copy.deepcopy(model)
    if any(isinstance(layer, NORMS) for layer in model.modules()) or not (found := _biases(model)):
        raise EquispikeError(
            "unbias: is for networks without batch norm whose biases are to go. Train --start TRAINED --model NAME, "
            "with the name of a network without bias and batch norm"
        )
    for bias in found:
        bias.requires_grad_(False)
    return model


def shrink(model: nn.Module, step: int, steps: float) -> None:
    r"""Make the biases as large as they are after `step` of `steps` in which they shrink to zero.

    .. math:: b(k) = (1 - k / n)^2 \, b(0)

    for step k of n: the smaller they are, the more slowly they go, since the last of them are the hardest to miss.
    """
    before, after = (max(0.0, 1 - k / steps) ** 2 for k in (step - 1, step))
    for bias in _biases(model):
        bias.data.mul_(after / before) if after else bias.data.zero_()


def without_biases(model: nn.Module) -> nn.Module:
    """A copy of the model that has none, where all are zero."""
    model = copy.deepcopy(model)
    for layer in model.modules():
        if isinstance(layer, WEIGHTED) and layer.bias is not None:
            assert not layer.bias.any()
            layer.register_parameter("bias", None)
    return model


def first_without(epochs: float) -> int:
    """Number of the first epoch that ends without biases, counted from 1, if they shrink for so many epochs."""
    return max(1, math.ceil(epochs))


def _biases(model: nn.Module) -> list[Tensor]:
    layers = (layer for layer in model.modules() if isinstance(layer, WEIGHTED))
    return [layer.bias for layer in layers if layer.bias is not None]
