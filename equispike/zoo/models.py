"""The papers' networks, untrained: one parametrised function per family."""
# pyright: reportUnknownMemberType=false
# (some of torch's own signatures lack types)

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equispike.errors import EquispikeError
from equispike.nn import with_rate_norm

POOL = "pool"
Layout = Sequence[int | str]

_VGG: dict[int, Layout] = {
    11: (64, POOL, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL),
    13: (64, 64, POOL, 128, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL),
    16: (64, 64, POOL, 128, 128, POOL, *(256,) * 3, POOL, *(512,) * 3, POOL, *(512,) * 3, POOL),
    19: (64, 64, POOL, 128, 128, POOL, *(256,) * 4, POOL, *(512,) * 4, POOL, *(512,) * 4, POOL),
}
_RESNET_224 = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def plain(
    layout: Layout,
    size: int,
    channels: int,
    hidden: Sequence[int],
    classes: int,
    constrained: bool = True,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Convolutions in a row, then linear layers: the form that all networks without shortcuts have.

    Args:
        layout: channels of each 3x3 convolution (padding 1, so the size stays), and POOL for a 2x2 average pool.
        size: height and width of the images, in pixels.
        channels: of the images.
        hidden: neurons of each hidden linear layer.
        constrained: no bias and no batch norm (Sengupta et al., 2019, section 4.3); else both.
        dropout: share of activations dropped in training, after every ReLU that is not followed by a pool
            (Sengupta, section 7.1).
    Returns:
        a module from (B, channels, size, size) to class scores (B, classes), initialised by :func:`initialise`.
    """
    features: list[nn.Module] = []
    for entry, following in zip(layout, (*layout[1:], None), strict=True):
        if isinstance(entry, str):
            # a pool that leaves one pixel is global, so that the network can train on smaller images too
            features.append(nn.AdaptiveAvgPool2d(1) if size == 2 else nn.AvgPool2d(2))
            size //= 2
            continue
        features += [*_convolution(channels, entry, constrained), nn.ReLU()]
        channels = entry
        if dropout and following != POOL:
            features.append(nn.Dropout(dropout))
    classifier: list[nn.Module] = [nn.Flatten()]
    inputs = channels * size * size
    for neurons in hidden:
        classifier += [nn.Linear(inputs, neurons, bias=not constrained), nn.ReLU()]
        classifier += [nn.Dropout(dropout)] if dropout else []
        inputs = neurons
    classifier.append(nn.Linear(inputs, classes, bias=not constrained))
    model = nn.Sequential(OrderedDict(features=nn.Sequential(*features), classifier=nn.Sequential(*classifier)))
    return initialise(model)


def mnist_cnn(constrained: bool = True, width: int = 32, dropout: float = 0.1) -> nn.Sequential:
    """The 7-layer network 32C3-P2-32C3-P2-32C3-P2-32-FC10 (Ding et al., 2021, table 1) for images (B, 1, 28, 28).

    The pools give 28, 14, 7, 3 pixels. Arguments as in :func:`plain`; half of 32 hidden neurons would be too many to
    drop.

    >>> mnist_cnn()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    return plain((width, POOL) * 3, 28, 1, (width,), 10, constrained, dropout)


def alexnet(constrained: bool = False, width: float = 1.0, dropout: float = 0.2, classes: int = 10) -> nn.Sequential:
    """AlexNet's order of layers for MNIST, (B, 1, 28, 28); Ding et al. (2021) name the network and give no sizes.

    Five convolutions of 64, 192, 384, 256 and 256 channels, pools after the first, second and fifth, and two hidden
    layers of 4,096 neurons, all times ``width``; kernels are 3x3, since a digit has 28 pixels a side.
    """
    layout = (_times(64, width), POOL, _times(192, width), POOL, *(_times(n, width) for n in (384, 256, 256)), POOL)
    return plain(layout, 28, 1, (_times(4096, width),) * 2, classes, constrained, dropout)


def vgg(
    depth: int = 16,
    size: int = 32,
    classes: int = 10,
    constrained: bool = True,
    width: float = 1.0,
    hidden: int | None = None,
    dropout: float = 0.2,
) -> nn.Sequential:
    """VGG (Simonyan and Zisserman, 2015) with average pools, for color images of 32 or 224 pixels a side.

    Args:
        depth: 11, 13, 16 or 19 layers with weights.
        constrained: no bias and no batch norm (Sengupta 2019, Han 2020); else both (Ding 2021).
        width: factor on all channels and hidden neurons.
        hidden: neurons of the two hidden layers, times ``width``. Default 4,096 with batch norm (Ding) or 224 pixels;
            512 for the constrained network on 32 pixels, for which the papers give no number.
        dropout: as in :func:`plain`.
    Raises:
        EquispikeError: a depth or size that VGG does not have.

    >>> vgg(11, width=0.125)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    _choose("vgg depth", depth, _VGG)
    _choose("vgg size", size, (32, 224))
    if hidden is None:
        hidden = 512 if constrained and size == 32 else 4096
    layout = tuple(_times(n, width) if isinstance(n, int) else n for n in _VGG[depth])
    return plain(layout, size, 3, (_times(hidden, width),) * 2, classes, constrained, dropout)


class Residual(nn.Module):
    """junction(path(x) + shortcut(x)): the block of He et al. (2016a)."""

    def __init__(self, path: nn.Module, shortcut: nn.Module, junction: nn.Module) -> None:
        super().__init__()
        self.path, self.shortcut, self.junction = path, shortcut, junction

    def forward(self, x: Tensor) -> Tensor:
        return self.junction(self.path(x) + self.shortcut(x))


class PreActivation(nn.Module):
    """path(h) + shortcut, with h = ReLU(batch norm(x)): the block of He et al. (2016b).

    The shortcut is x itself, or a projection of h where the shape changes.
    """

    def __init__(self, before: nn.Module, path: nn.Module, projection: nn.Module | None) -> None:
        super().__init__()
        self.before, self.path, self.projection = before, path, projection

    def forward(self, x: Tensor) -> Tensor:
        h = self.before(x)
        return self.path(h) + (x if self.projection is None else self.projection(h))


class Subsample(nn.Module):
    """Shortcut of type A (He et al., 2016a): every ``stride``-th pixel, and zeros for the channels that are missing."""

    def __init__(self, stride: int, missing: int) -> None:
        super().__init__()
        self.stride, self.missing = stride, missing

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.missing))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, missing={self.missing}"


def resnet(
    depth: int = 20,
    size: int = 32,
    classes: int = 10,
    constrained: bool = True,
    junction: bool = True,
    front: int = 2,
    width: float = 1.0,
    dropout: float = 0.2,
    colours: int = 3,
) -> nn.Sequential:
    """ResNet (He et al., 2016a) with type A shortcuts, as Sengupta et al. (2019, section 6) convert it.

    For 32 pixels: three stages of (depth - 2) / 6 blocks with 16, 32 and 64 channels. For 224 pixels: depth 18 or 34,
    four stages from 64 channels on. ``front`` plain 3x3 layers follow the first convolution; for 224 pixels
    these three stand for the 7x7 convolution, and the first has its stride of 2.

    Sengupta's ablation (figure 3): "basic" is ``junction=False, front=0``; constraint 1 ``front=0``; both converted
    with ``SpikeNorm(residual="measured", sums="plain")``. Constraint 2 is the latter network, converted with
    ``SpikeNorm()``; constraint 3 the default network, converted so.

    Args:
        constrained: no bias and no batch norm; else both.
        junction: a ReLU where shortcut and path meet.
        width: factor on all channels.
        dropout: in training, on the ReLU inside each path, never where it meets the shortcut (section 7.1).
        colours: channels of the images.
    Raises:
        EquispikeError: a depth or size that ResNet does not have.

    >>> resnet(20)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    _choose("resnet size", size, (32, 224))
    if size == 32:
        _choose("resnet depth", depth, range(8, 1000, 6))
        blocks, first = ((depth - 2) // 6,) * 3, 16
    else:
        _choose("resnet depth", depth, _RESNET_224)
        blocks, first = _RESNET_224[depth], 64
    channels = _times(first, width)
    stem = [*_convolution(colours, channels, constrained, stride=1 if size == 32 else 2), nn.ReLU()]
    for _ in range(front):
        stem += [*_convolution(channels, channels, constrained), nn.ReLU()]
    if size == 224:
        stem.append(nn.AvgPool2d(2))
    stages: list[nn.Module] = []
    for stage, count in enumerate(blocks):
        for number in range(count):
            out = _times(first * 2**stage, width)
            stride = 2 if stage and not number else 1
            stages.append(_residual(channels, out, stride, constrained, junction, dropout))
            channels = out
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes, bias=not constrained)]
    names = {"front": nn.Sequential(*stem), "stages": nn.Sequential(*stages), "head": nn.Sequential(*head)}
    return initialise(nn.Sequential(OrderedDict(names)))


def preact_resnet(depth: int = 18, size: int = 32, classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """ResNet with activations in front of the weights (He et al., 2016b), as Ding et al. (2021) convert it.

    Four stages from 64 channels on, with batch norm; where the shape changes, the shortcut is a 1x1 convolution.
    For 32 pixels the first convolution has stride 1; for 224 it has stride 2 and a pool behind it.

    Raises:
        EquispikeError: a depth other than 18 and 34, or a size other than 32 and 224.
    """
    _choose("preact_resnet depth", depth, _RESNET_224)
    _choose("preact_resnet size", size, (32, 224))
    channels = _times(64, width)
    stem: list[nn.Module] = [nn.Conv2d(3, channels, 3, stride=1 if size == 32 else 2, padding=1, bias=False)]
    stem += [] if size == 32 else [nn.AvgPool2d(2)]
    stages: list[nn.Module] = []
    for stage, count in enumerate(_RESNET_224[depth]):
        for number in range(count):
            out = _times(64 * 2**stage, width)
            stride = 2 if stage and not number else 1
            before = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
            path = nn.Sequential(
                *(*_convolution(channels, out, False, stride=stride, bias=False), nn.ReLU()),
                nn.Conv2d(out, out, 3, padding=1, bias=False),
            )
            changed = stride > 1 or channels != out
            projection = nn.Conv2d(channels, out, 1, stride=stride, bias=False) if changed else None
            stages.append(PreActivation(before, path, projection))
            channels = out
    head = [
        *(nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(channels, classes),
    ]
    names = {"front": nn.Sequential(*stem), "stages": nn.Sequential(*stages), "head": nn.Sequential(*head)}
    return initialise(nn.Sequential(OrderedDict(names)))


def initialise(model: nn.Sequential) -> nn.Sequential:
    r"""He initialisation, in place; returns the model.

    Convolutions with kernel k x k and n output channels: :math:`\sigma = \sqrt{2 / (k^2 n)}`; in the paths of residual
    blocks without batch norm :math:`\sqrt 2 / (k^2 n)` (Sengupta et al., 2019, section 7.1, after Hardt and Ma, 2016).
    On linear layers the paper is silent: :math:`\sigma = \sqrt{2 / n_{in}}` here. Biases start at zero.
    """
    in_paths = {
        layer
        for block in model.modules()
        if isinstance(block, Residual) and not any(isinstance(layer, nn.BatchNorm2d) for layer in block.path.modules())
        for layer in block.path.modules()
    }
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            n = module.weight[0, 0].numel() * module.out_channels
            nn.init.normal_(module.weight, std=math.sqrt(2) / n if module in in_paths else math.sqrt(2 / n))
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=math.sqrt(2 / module.in_features))
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return model


def _convolution(
    channels: int, out: int, constrained: bool, stride: int = 1, bias: bool | None = None
) -> list[nn.Module]:
    """A 3x3 convolution that keeps the size (divided by the stride), with batch norm unless constrained."""
    bias = not constrained if bias is None else bias
    convolution = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=bias)
    return [convolution] if constrained else [convolution, nn.BatchNorm2d(out)]


def _residual(channels: int, out: int, stride: int, constrained: bool, junction: bool, dropout: float) -> Residual:
    path = nn.Sequential(
        *(*_convolution(channels, out, constrained, stride=stride), nn.ReLU()),
        *([nn.Dropout(dropout)] if dropout else []),
        *_convolution(out, out, constrained),
    )
    changed = stride > 1 or channels != out
    shortcut = Subsample(stride, out - channels) if changed else nn.Identity()
    return Residual(path, shortcut, nn.ReLU() if junction else nn.Identity())


def _times(n: int, width: float) -> int:
    return max(1, round(n * width))


def _choose(what: str, value: int, allowed: Collection[int]) -> None:
    if value not in allowed:
        known = "6 n + 2" if isinstance(allowed, range) else ", ".join(map(str, allowed))
        raise EquispikeError(f"{what}: {value} is not one of {known}")


def _rate_norm(build: Callable[..., nn.Sequential], *arguments: object, **options: object) -> nn.Sequential:
    """A network with Rate Norm layers for ReLUs (Ding et al., 2021)."""
    return with_rate_norm(build(*arguments, **options))


_CLASSES = {"cifar10": 10, "cifar100": 100}
_SMALL_RESNET = partial(resnet, 8, width=0.5, dropout=0.0, colours=1)  # its sizes fit digits of 28 pixels too

MODELS: dict[str, Callable[[], nn.Sequential]] = {
    "mnist-cnn": mnist_cnn,
    "mnist-cnn-bn": partial(mnist_cnn, constrained=False),
    "mnist-cnn-rnl": partial(_rate_norm, mnist_cnn, constrained=False),
    "mnist-alexnet": partial(alexnet, constrained=True),
    "mnist-alexnet-bn": alexnet,
    "mnist-alexnet-rnl": partial(_rate_norm, alexnet),
    "mnist-alexnet-quarter-rnl": partial(_rate_norm, alexnet, width=0.25),
    **{f"vgg{d}-{data}": partial(vgg, d, classes=n) for d in _VGG for data, n in _CLASSES.items()},
    **{
        f"vgg{d}-bn-{data}": partial(vgg, d, classes=n, constrained=False) for d in _VGG for data, n in _CLASSES.items()
    },
    **{
        f"vgg{d}-rnl-{data}": partial(_rate_norm, vgg, d, classes=n, constrained=False)
        for d in _VGG
        for data, n in _CLASSES.items()
    },
    # slim: hidden layers of 512 neurons, not 4,096
    **{
        f"vgg16-slim-{kind}-{data}": partial(make, 16, classes=n, constrained=False, hidden=512, dropout=0.0)
        for kind, make in {"bn": vgg, "rnl": partial(_rate_norm, vgg)}.items()
        for data, n in _CLASSES.items()
    },
    "vgg11-half-rnl-cifar10": partial(_rate_norm, vgg, 11, constrained=False, width=0.5, hidden=1024, dropout=0.0),
    "vgg13-half-bn-cifar10": partial(vgg, 13, constrained=False, width=0.5, hidden=1024, dropout=0.0),
    "vgg13-half-rnl-cifar10": partial(_rate_norm, vgg, 13, constrained=False, width=0.5, hidden=1024, dropout=0.0),
    "vgg13-narrow-bn-cifar10": partial(vgg, 13, constrained=False, width=0.375, hidden=1024, dropout=0.0),
    "vgg13-narrow-rnl-cifar10": partial(_rate_norm, vgg, 13, constrained=False, width=0.375, hidden=1024, dropout=0.0),
    **{f"vgg{d}-imagenet": partial(vgg, d, 224, 1000, dropout=0.5) for d in _VGG},
    **{f"resnet{d}-{data}": partial(resnet, d, classes=n) for d in (20, 32, 44, 56) for data, n in _CLASSES.items()},
    **{
        f"resnet{d}-bn-{data}": partial(resnet, d, classes=n, constrained=False, dropout=0.0)
        for d in (20, 32, 44, 56)
        for data, n in _CLASSES.items()
    },
    "resnet34-imagenet": partial(resnet, 34, 224, 1000),
    "resnet20-junctions-cifar10": partial(resnet, 20, front=0),
    "resnet20-basic-cifar10": partial(resnet, 20, junction=False, front=0),
    "mnist-resnet8": _SMALL_RESNET,
    "mnist-resnet8-junctions": partial(_SMALL_RESNET, front=0),
    "mnist-resnet8-basic": partial(_SMALL_RESNET, junction=False, front=0),
    **{f"preact{d}-{data}": partial(preact_resnet, d, classes=n) for d in (18, 34) for data, n in _CLASSES.items()},
    **{
        f"preact{d}-rnl-{data}": partial(_rate_norm, preact_resnet, d, classes=n)
        for d in (18, 34)
        for data, n in _CLASSES.items()
    },
    "preact18-half-cifar10": partial(preact_resnet, 18, width=0.5),
    "preact18-half-rnl-cifar10": partial(_rate_norm, preact_resnet, 18, width=0.5),
}


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
