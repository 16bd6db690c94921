"""The papers' networks, untrained."""
# pyright: reportUnknownMemberType=false
# (some of torch's own signatures lack types)

import math
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

from equispike.errors import EquispikeError


def mnist_cnn(constrained: bool = True, width: int = 32, dropout: float = 0.1) -> nn.Sequential:
    """The 7-layer network 32C3-P2-32C3-P2-32C3-P2-32-FC10 (Ding et al., 2021, table 1) for images (B, 1, 28, 28).

    The 3x3 convolutions keep the size (padding 1), the average pools halve it: 28, 14, 7, 3.

    Args:
        constrained: no bias and no batch norm (Sengupta et al., 2019, section 4.3); else both.
        width: channels of each convolution, and neurons of the hidden linear layer.
        dropout: share of hidden activations dropped in training. It follows every ReLU that is not followed
            by a pool (Sengupta, section 7.1), which here leaves the hidden linear layer. Half of 32 neurons
            would be too many: 0.1 by default.
    Returns:
        a module from (B, 1, 28, 28) to class scores (B, 10).

    >>> mnist_cnn()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    bias = not constrained
    features: list[nn.Module] = []
    for channels in (1, width, width):
        features.append(nn.Conv2d(channels, width, 3, padding=1, bias=bias))
        if not constrained:
            features.append(nn.BatchNorm2d(width))
        features += [nn.ReLU(), nn.AvgPool2d(2)]
    classifier = [
        nn.Flatten(),
        nn.Linear(width * 3 * 3, width, bias=bias),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, 10, bias=bias),
    ]
    model = nn.Sequential(OrderedDict(features=nn.Sequential(*features), classifier=nn.Sequential(*classifier)))
    return initialise(model)


def initialise(model: nn.Sequential) -> nn.Sequential:
    r"""He initialisation, in place; returns the model.

    Convolutions with kernel k x k and n output channels: :math:`\sigma = \sqrt{2 / (k^2 n)}` (Sengupta et al., 2019,
    section 7.1). On linear layers the paper is silent: :math:`\sigma = \sqrt{2 / n_{in}}` here. Biases start at zero.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=math.sqrt(2 / (module.weight[0, 0].numel() * module.out_channels)))
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=math.sqrt(2 / module.in_features))
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return model


def _mnist_cnn_bn() -> nn.Sequential:
    return mnist_cnn(constrained=False)


MODELS: dict[str, Callable[[], nn.Sequential]] = {"mnist-cnn": mnist_cnn, "mnist-cnn-bn": _mnist_cnn_bn}


def build(name: str, seed: int = 0) -> nn.Sequential:
    """The network of that name, with initial weights drawn from `seed`; the caller's random state stays as it is.

    Raises:
        EquispikeError: no network has that name.
    """
    if name not in MODELS:
        raise EquispikeError(f"model {name!r}: unknown name. Known names: {', '.join(MODELS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name]()
