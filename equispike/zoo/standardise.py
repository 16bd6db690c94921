"""Training help for networks that have neither batch norm nor bias: convolutions with standardised weights."""
# pyright: reportUnknownMemberType=false
# (some of torch's own signatures lack types)

import copy

from torch import Tensor, nn
from torch.nn.utils import parametrize

EPSILON = 1e-8


class Standardised(nn.Module):
    r"""Weights of zero mean and learnt norm, filter by filter (Qiao et al., 2019, with the gain of Brock et al., 2021).

    .. math:: \hat W_c = g_c \, \frac{W_c - \bar W_c}{\lVert W_c - \bar W_c \rVert}

    Activations behind a ReLU have a positive mean; weights that sum to zero do not pass it on, which is most of what
    batch norm does for training. The norm g of a filter starts where it was, and is learnt apart from its direction.

    Args:
        weight: (out, in / groups, *kernel), which gives the starting norms.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.gain = nn.Parameter(_norms(weight.detach().flatten(1)).squeeze(1))

    def forward(self, weight: Tensor) -> Tensor:
        filters = weight.flatten(1)
        filters = filters - filters.mean(1, keepdim=True)
        return (filters * (self.gain[:, None] / (_norms(filters) + EPSILON))).view_as(weight)


def standardised(model: nn.Module) -> nn.Module:
    """A copy of the model whose convolutions train with standardised weights."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            parametrize.register_parametrization(module, "weight", Standardised(module.weight), unsafe=True)
    return model


def plain(model: nn.Module) -> nn.Module:
    """A copy of such a model with ordinary weights: the standardised ones, as they came out."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return model


def _norms(filters: Tensor) -> Tensor:
    """Euclidean norm of each row, (rows, 1)."""
    return filters.square().sum(1, keepdim=True).sqrt()
