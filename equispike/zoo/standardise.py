"""Training help for networks that have neither batch norm nor bias: convolutions with standardised weights."""
# pyright: reportUnknownMemberType=false
# (some of torch's own signatures lack types)

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from equispike.zoo.models import Residual

EPSILON = 1e-8
KEEPS_VARIANCE = math.sqrt(2 / (1 - 1 / math.pi))
"""Norm of filters of zero mean that pass ReLU(z), z standard normal, on with a variance of 1."""


class Standardised(nn.Module):
    r"""Weights of zero mean and learnt norm, filter by filter (Qiao et al., 2019, with the gain of Brock et al., 2021).

    .. math:: \hat W_c = g_c \, \frac{W_c - \bar W_c}{\lVert W_c - \bar W_c \rVert}

    Activations behind a ReLU have a positive mean; weights that sum to zero do not pass it on, which is most of what
    batch norm does for training. The norm g of a filter is learnt apart from its direction.

    Args:
        filters: how many there are.
        gain: where g starts.
    """

    def __init__(self, filters: int, gain: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((filters,), gain))

    def forward(self, weight: Tensor) -> Tensor:
        filters = weight.flatten(1)
        filters = filters - filters.mean(1, keepdim=True)
        return (filters * (self.gain[:, None] / _norms(filters))).view_as(weight)


def standardised(model: nn.Module) -> nn.Module:
    """A copy of the model whose convolutions train with standardised weights.

    Each filter is scaled to a norm of 1 first: the smaller it is, the larger its steps. Gains start where activations
    keep a variance of 1; on the last convolution of each of n residual paths at 1 / sqrt(n) of that, so that n sums
    double the variance at most. Filters of a single weight have no mean to lose, and stay as they are.
    """
    model = copy.deepcopy(model)
    paths = [block.path for block in model.modules() if isinstance(block, Residual)]
    last = {layer for path in paths for layer in [m for m in path.modules() if isinstance(m, nn.Conv2d)][-1:]}
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d) and module.weight[0].numel() > 1:
            with torch.no_grad():
                module.weight.div_(_norms(module.weight.flatten(1)).view(-1, *(1,) * (module.weight.ndim - 1)))
            gain = KEEPS_VARIANCE / math.sqrt(len(paths)) if module in last else KEEPS_VARIANCE
            standard = Standardised(module.out_channels, gain).to(module.weight.device)
            parametrize.register_parametrization(module, "weight", standard, unsafe=True)
    return model


def with_plain_weights(model: nn.Module) -> nn.Module:
    """A copy of such a model with ordinary weights: the standardised ones, as they came out."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        if isinstance(module, nn.Conv1d | nn.Conv2d) and parametrize.is_parametrized(module, "weight"):
            # not remove_parametrizations, which alters the class, and the model given is of that class too
            weight = nn.Parameter(module.weight.detach().clone())
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            module.weight = weight
    return model


def _norms(filters: Tensor) -> Tensor:
    """Euclidean norm of each row, (rows, 1); a little more than that of a row of zeros, where it has a gradient too."""
    return (filters.square().sum(1, keepdim=True) + EPSILON**2).sqrt()
