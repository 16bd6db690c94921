"""Tracing: what converts computes the model's function, and what does not is refused by name, reason and remedy."""

import copy
import re
import threading
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from equispike.checking import check
from equispike.conversion import convert, prepare
from equispike.errors import ConversionError
from equispike.graph.exact import fold_affine
from equispike.graph.lossy import max_pool_to_avg
from equispike.graph.ops import Add, Affine, AvgPool, Concat, Conv, Linear, MaxPool, Neuron, Pad
from equispike.graph.reading.trace import trace
from equispike.simulation.run import simulate

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch copies the input of an even kernel


class Forward(nn.Module):
    """A module from a function of its submodules and the images."""

    def __init__(self, forward, **submodules):
        super().__init__()
        self._forward = forward
        for name, module in submodules.items():
            if isinstance(module, nn.Module):
                self.add_module(name, module)
            else:
                self.register_parameter(name, nn.Parameter(module))

    def forward(self, x):
        return self._forward(self, x)


def randomize(model: nn.Module) -> nn.Module:
    """Batch norms as after training, in float64: statistics and factors away from 0 and 1."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)
            if module.affine:
                nn.init.uniform_(module.weight, -1.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.double().eval()


def images(*shape: int, batch: int = 3) -> Tensor:
    return torch.randn(batch, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13)


class SideBySide(nn.Module):
    """Models of the same images, their scores side by side: one trace for all, since a trace takes a while."""

    def __init__(self, models: dict[str, nn.Module]):
        super().__init__()
        self.models = nn.ModuleDict({slug(name): model for name, model in models.items()})

    def forward(self, x):
        return torch.cat([model(x) for model in self.models.values()], 1)


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


@cache
def outputs(group: str) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """For each model of a group its own scores, the traced network's and the folded network's."""
    models, shape = GROUPS[group]
    torch.manual_seed(0)
    x, model = images(*shape), randomize(SideBySide(models))
    with torch.no_grad():
        expected = [model(x) for model in models.values()]
        network = trace(model, x)
        folded = fold_affine(network)
        assert not any(isinstance(node.op, Affine) for node in folded)
        widths = [y.shape[1] for y in expected]
        values = zip(expected, network(x).split(widths, 1), folded(x).split(widths, 1), strict=True)
    return dict(zip(models, values, strict=True))


def kinds(network) -> list[str]:
    return [type(node.op).__name__ for node in network][1:-1]


# ---------------------------------------------------------------------------------------------- what converts


torch.manual_seed(0)  # the models below draw their weights when this file is read


def conv(i, o, k=3, **options):
    return nn.Conv2d(i, o, k, **{"padding": k // 2, **options})


def head(features, classes=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(features, classes))


def put(y):
    y = y.clone()
    y[y < 0] = 0
    return y


VECTOR_MODELS = {
    "linear": nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)),
    "without bias": nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)),
    "batch norm": nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)),
    "batch norm without factors": nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, affine=False), nn.ReLU()),
    "batch norm on the input": nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)),
    "batch norm at the end": nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), nn.BatchNorm1d(3)),
    "batch norm after ReLU": nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 3)),
    "dropout and identity": nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 8), nn.ReLU(), nn.Identity()),
    "relu6": nn.Sequential(nn.Linear(6, 8), nn.ReLU6(), nn.Linear(8, 3)),
    "hardtanh from 0": nn.Sequential(nn.Linear(6, 8), nn.Hardtanh(0.0, 0.5), nn.Linear(8, 3)),
    "functional relu": Forward(lambda m, x: m.b(F.relu(m.a(x))), a=nn.Linear(6, 8), b=nn.Linear(8, 3)),
    "torch.relu": Forward(lambda m, x: torch.relu(m.a(x)), a=nn.Linear(6, 8)),
    "tensor method relu": Forward(lambda m, x: m.a(x).relu(), a=nn.Linear(6, 8)),
    "in place method relu_": Forward(lambda m, x: m.a(x).relu_(), a=nn.Linear(6, 8)),
    "in place module": nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)),
    "image changed on a copy": Forward(lambda m, x: m.a(x.clone().sub_(0.5)).relu(), a=nn.Linear(6, 8)),
    "matrix product with a row as bias": Forward(
        lambda m, x: torch.addmm(m.b, x, m.w).relu(), w=torch.randn(6, 8), b=torch.randn(1, 8)
    ),
    "dropout that is off": Forward(lambda m, x: F.dropout(m.a(x).relu(), training=False), a=nn.Linear(6, 8)),
    "type and layout named": Forward(
        lambda m, x: m.a(x.to(x.dtype, memory_format=torch.contiguous_format)).relu(), a=nn.Linear(6, 8)
    ),
    "functional relu in place": Forward(lambda m, x: F.relu(m.a(x), inplace=True), a=nn.Linear(6, 8)),
    "clamp": Forward(lambda m, x: m.a(x).clamp(min=0), a=nn.Linear(6, 8)),
    "softshrink": nn.Sequential(nn.Linear(6, 8), nn.Softshrink(0.2), nn.Linear(8, 3)),
    "hardshrink of nothing": nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Hardshrink(0.0), nn.Linear(8, 3)),
    "functional softshrink": Forward(lambda m, x: F.softshrink(m.a(x)), a=nn.Linear(6, 8)),
    "max with zeros": Forward(lambda m, x: torch.max(m.a(x), torch.zeros_like(m.a(x))), a=nn.Linear(6, 8)),
    "min of two": Forward(lambda m, x: torch.min(m.a(x), x), a=nn.Linear(6, 6)),
    "fmax and fmin": Forward(lambda m, x: torch.fmin(torch.fmax(m.a(x), x), x + 1), a=nn.Linear(6, 6)),
    "masked_fill": Forward(lambda m, x: (lambda y: y.masked_fill(y < 0, 0.0))(m.a(x)), a=nn.Linear(6, 8)),
    "mask turned round": Forward(lambda m, x: (lambda y: y.masked_fill(~(y > 0), 0))(m.a(x)), a=nn.Linear(6, 8)),
    "put where a mask holds": Forward(lambda m, x: put(m.a(x)), a=nn.Linear(6, 8)),
    "nan_to_num": Forward(lambda m, x: torch.nan_to_num(m.a(x)).relu(), a=nn.Linear(6, 8)),
    "clamp with a ceiling": Forward(lambda m, x: m.a(x).clamp(0, 0.5), a=nn.Linear(6, 8)),
    "clamp_ in place": Forward(lambda m, x: m.a(x).clamp_(min=0.0), a=nn.Linear(6, 8)),
    "clamp_min": Forward(lambda m, x: m.a(x).clamp_min(0), a=nn.Linear(6, 8)),
    "functional relu6": Forward(lambda m, x: F.relu6(m.a(x)), a=nn.Linear(6, 8)),
    "functional dropout": Forward(lambda m, x: F.dropout(F.relu(m.a(x)), 0.5, m.training), a=nn.Linear(6, 8)),
    "matrix product": Forward(lambda m, x: torch.relu(x @ m.w + m.b), w=torch.randn(6, 8), b=torch.randn(8)),
    "matrix product without bias": Forward(lambda m, x: torch.relu(x @ m.w), w=torch.randn(6, 8)),
    "matrix product, transposed": Forward(lambda m, x: torch.relu(x @ m.w.t()), w=torch.randn(8, 6)),
    "functional linear": Forward(lambda m, x: F.linear(x, m.w, m.b).relu(), w=torch.randn(8, 6), b=torch.randn(8)),
    "addmm": Forward(lambda m, x: torch.addmm(m.b, x, m.w).relu(), w=torch.randn(6, 8), b=torch.randn(8)),
    "residual": Forward(lambda m, x: F.relu(m.a(x) + x), a=nn.Linear(6, 6)),
    "scaled add": Forward(lambda m, x: F.relu(torch.add(m.a(x), x, alpha=0.5)), a=nn.Linear(6, 6)),
    "difference": Forward(lambda m, x: F.relu(m.a(x) - x), a=nn.Linear(6, 6)),
    "sum with itself": Forward(lambda m, x: (lambda y: F.relu(y + y))(m.a(x)), a=nn.Linear(6, 6)),
    "constants": Forward(lambda m, x: F.relu(2 * m.a(x) / 3 + 1 - m.c), a=nn.Linear(6, 8), c=torch.randn(8)),
    "negated constant": Forward(lambda m, x: F.relu(1 - m.a(x)), a=nn.Linear(6, 8)),
    "negative": Forward(lambda m, x: F.relu(-m.a(x)), a=nn.Linear(6, 8)),
    "one relu used twice": Forward(
        lambda m, x: m.r(m.b(m.r(m.a(x)))), r=nn.ReLU(), a=nn.Linear(6, 8), b=nn.Linear(8, 3)
    ),
    "one linear used twice": Forward(lambda m, x: m.a(F.relu(m.a(x))), a=nn.Linear(6, 6)),
    "cat of vectors": Forward(
        lambda m, x: m.b(torch.cat((x, F.relu(m.a(x))), 1)), a=nn.Linear(6, 8), b=nn.Linear(14, 3)
    ),
    "cat along -1": Forward(lambda m, x: F.relu(torch.cat([m.a(x), x, x], -1)), a=nn.Linear(6, 8)),
    "weight norm": nn.Sequential(weight_norm(nn.Linear(6, 8)), nn.ReLU(), weight_norm(nn.Linear(8, 3), dim=None)),
    "spectral norm": nn.Sequential(spectral_norm(nn.Linear(6, 8)), nn.ReLU()),
    "masked weights": Forward(
        lambda m, x: F.linear(x, m.w * m.mask).relu(), w=torch.randn(8, 6), mask=(torch.rand(8, 6) > 0.5).float()
    ),
    "module dict and list": Forward(
        lambda m, x: m.parts["last"](m.layers[1](m.layers[0](x))),
        layers=nn.ModuleList([nn.Linear(6, 8), nn.ReLU()]),
        parts=nn.ModuleDict({"last": nn.Linear(8, 3)}),
    ),
}  # fmt: skip

SEQUENCE_MODELS = {  # on (4, 12)
    "conv1d": nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(60, 3)),
    "every third step": Forward(lambda m, x: F.relu(x[..., 1::3]).flatten(1)),
    "padded and cut": nn.Sequential(nn.ConstantPad1d((2, 1), 0.0), nn.ReLU(), nn.ZeroPad1d((-3, 0)), nn.Flatten()),
    "padding same with an even kernel": nn.Sequential(nn.Conv1d(4, 6, 2, padding="same"), nn.ReLU(), head(72)),
    "conv1d options": nn.Sequential(nn.Conv1d(4, 6, 3, 2, 1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(30, 3)),
    "batch norm": nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten(), nn.Linear(60, 3)),
    "average pool": nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(30, 3)),
    "average pool options": nn.Sequential(
        nn.Conv1d(4, 6, 3), nn.ReLU(), nn.AvgPool1d(3, 2, 1, True, False), nn.Flatten(), nn.Linear(36, 3)
    ),
    "adaptive pool": nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(5), head(30)),
    "global pool": nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 3)),
    "mean over time": Forward(lambda m, x: m.b(F.relu(m.a(x)).mean(-1)), a=nn.Conv1d(4, 6, 3), b=nn.Linear(6, 3)),
    "padding same": nn.Sequential(nn.Conv1d(4, 6, 5, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)),
    "transposed": nn.Sequential(nn.ConvTranspose1d(4, 6, 4, 3, 1, 2, dilation=2), nn.ReLU(), nn.Flatten()),
    "up-sampling": nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU(), nn.Upsample(scale_factor=3), nn.Flatten()),
}  # fmt: skip

IMAGE_MODELS = {  # on (3, 8, 8)
    "instance norm with running statistics": nn.Sequential(
        conv(3, 4), nn.InstanceNorm2d(4, affine=True, track_running_stats=True), nn.ReLU(), head(256)
    ),
    "instance norm without factors": nn.Sequential(
        conv(3, 4), nn.ReLU(), nn.InstanceNorm2d(4, track_running_stats=True), head(256)
    ),
    "conv options": nn.Sequential(conv(3, 6, stride=2, padding=2, dilation=2, groups=3), nn.ReLU(), head(96)),
    "conv, uneven options": nn.Sequential(
        nn.Conv2d(3, 6, (3, 1), stride=(1, 2), padding=(2, 0), dilation=(2, 1)), nn.ReLU(), head(192)
    ),
    "padding same": nn.Sequential(nn.Conv2d(3, 4, (3, 5), padding="same", dilation=2), nn.ReLU(), head(256)),
    "padding valid": nn.Sequential(nn.Conv2d(3, 4, 3, padding="valid"), nn.ReLU(), head(144)),
    "padding same with even kernels": nn.Sequential(
        nn.Conv2d(3, 4, (4, 3), padding="same", dilation=(1, 2)), nn.ReLU(), nn.Conv2d(4, 4, (3, 2), padding="same"),
        head(256),
    ),
    "zeros on two sides before a conv": nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), conv(3, 4, padding=0), head(196)),
    "zeros at sides of every axis": Forward(lambda m, x: F.relu(F.pad(x, (1, 0, 2, 3, 0, 4))).flatten(1)),
    "zeros on one side and a cut on the other": nn.Sequential(conv(3, 4), nn.ZeroPad2d((-1, 2, 3, -2)), head(324)),
    "no zeros at all": nn.Sequential(nn.ZeroPad2d(0), conv(3, 4), nn.ReLU(), head(256)),
    "batch norm before zeros": nn.Sequential(nn.BatchNorm2d(3), nn.ZeroPad2d(1), conv(3, 4, padding=0), head(256)),
    "every second pixel": Forward(lambda m, x: F.relu(m.a(x))[:, :, ::2, ::2].flatten(1), a=conv(3, 4)),
    "every third pixel of a part": Forward(lambda m, x: F.relu(m.a(x))[:, :, 1:-1:3, -5:7].flatten(1), a=conv(3, 4)),
    "some channels": Forward(
        lambda m, x: torch.cat([F.relu(m.a(x))[:, :2], F.relu(x[:, 1:])], 1).flatten(1), a=conv(3, 4)
    ),
    "batch norm before a part": Forward(
        lambda m, x: m.a(m.n(x)[:, 1:, 2:]).flatten(1), n=nn.BatchNorm2d(3), a=conv(2, 4)
    ),
    "functional conv": Forward(
        lambda m, x: F.conv2d(x, m.w, None, 2).flatten(1).relu(), w=torch.randn(4, 3, 3, 3)
    ),
    "batch norm": nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), head(256)),
    "batch norm without factors": nn.Sequential(conv(3, 4), nn.BatchNorm2d(4, affine=False), nn.ReLU(), head(256)),
    "batch norm before a padded conv": nn.Sequential(nn.BatchNorm2d(3), conv(3, 4), nn.ReLU(), head(256)),
    "batch norm before pool and flatten": nn.Sequential(
        conv(3, 4), nn.ReLU(), nn.BatchNorm2d(4), nn.AvgPool2d(2), head(64)
    ),
    "average pool": nn.Sequential(conv(3, 4), nn.ReLU(), nn.AvgPool2d(2), head(64)),
    "average pool options": nn.Sequential(
        conv(3, 4), nn.ReLU(), nn.AvgPool2d((3, 2), (2, 1), (1, 0), True, False), head(140)
    ),
    "functional average pool": Forward(lambda m, x: m.b(F.avg_pool2d(F.relu(m.a(x)), 4)), a=conv(3, 4), b=head(16)),
    "adaptive pool": nn.Sequential(conv(3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d((4, 2)), head(32)),
    "adaptive pool, one side kept": nn.Sequential(conv(3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d((None, 2)), head(64)),
    "adaptive pool that keeps the size": nn.Sequential(conv(3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(8), head(256)),
    "global pool": nn.Sequential(conv(3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), head(4)),
    "mean over space": Forward(lambda m, x: m.b(F.relu(m.a(x)).mean((2, 3))), a=conv(3, 4), b=nn.Linear(4, 3)),
    "mean, from the end": Forward(lambda m, x: m.b(F.relu(m.a(x)).mean([-1, -2])), a=conv(3, 4), b=nn.Linear(4, 3)),
    "mean that keeps dimensions": Forward(lambda m, x: m.b(F.relu(m.a(x)).mean((2, 3), True)), a=conv(3, 4), b=head(4)),
    "view": Forward(lambda m, x: m.b(F.relu(m.a(x)).view(x.size(0), -1)), a=conv(3, 4), b=nn.Linear(256, 3)),
    "reshape": Forward(lambda m, x: m.b(F.relu(m.a(x)).reshape(-1, 256)), a=conv(3, 4), b=nn.Linear(256, 3)),
    "torch.flatten": Forward(lambda m, x: m.b(torch.flatten(F.relu(m.a(x)), 1)), a=conv(3, 4), b=nn.Linear(256, 3)),
    "flatten in two steps": Forward(
        lambda m, x: m.b(F.relu(m.a(x)).flatten(2).flatten(1)), a=conv(3, 4), b=nn.Linear(256, 3)
    ),
    "squeeze": Forward(
        lambda m, x: m.b(F.adaptive_avg_pool2d(F.relu(m.a(x)), 1).squeeze(-1).squeeze(-1)),
        a=conv(3, 4), b=nn.Linear(4, 3),
    ),
    "squeeze of two dimensions": Forward(
        lambda m, x: m.b(F.adaptive_avg_pool2d(F.relu(m.a(x)), 1).squeeze((2, 3))), a=conv(3, 4), b=nn.Linear(4, 3)
    ),
    "fully convolutional": nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "residual in place": Forward(
        lambda m, x: m.b(F.relu(add_(m.c(F.relu(m.a(x))), x))), a=conv(3, 4), c=conv(4, 3), b=head(192)
    ),
    "normalisation inside": Forward(
        lambda m, x: m.b(F.relu(m.a((x - m.mean) / m.std))),
        a=conv(3, 4, padding=0), b=head(144), mean=torch.randn(3, 1, 1), std=torch.rand(1, 3, 1, 1) + 0.5,
    ),
    "cat of channels": Forward(
        lambda m, x: m.b(torch.cat([F.relu(m.a(x)), x, m.c(x)], dim=-3)), a=conv(3, 4), c=conv(3, 2), b=head(576)
    ),
    "channels last and contiguous": Forward(
        lambda m, x: m.b(F.relu(m.a(x.to(memory_format=torch.channels_last))).contiguous()), a=conv(3, 4), b=head(256)
    ),
    "transposed": nn.Sequential(nn.ConvTranspose2d(3, 4, 3, 2, 1, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()),
    "transposed, uneven options": nn.Sequential(
        conv(3, 4), nn.ReLU(),
        nn.ConvTranspose2d(4, 6, (2, 3), (1, 3), (0, 4), (0, 1), groups=2, bias=False, dilation=(2, 1)), nn.Flatten(),
    ),
    "transposed, of one pixel": nn.Sequential(conv(3, 4), nn.ReLU(), nn.ConvTranspose2d(4, 5, 1), nn.Flatten()),
    "batch norm before zeros between": nn.Sequential(nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 4, 2, 2), nn.Flatten()),
    "up-sampling": nn.Sequential(conv(3, 4), nn.ReLU(), nn.Upsample(scale_factor=(2, 3)), nn.Flatten()),
    "up-sampling to a size": Forward(lambda m, x: F.relu(F.interpolate(m.a(x), size=16)).flatten(1), a=conv(3, 4)),
    "pixel shuffle": nn.Sequential(conv(3, 8), nn.ReLU(), nn.PixelShuffle(2), nn.Flatten()),
    "channel shuffle": nn.Sequential(conv(3, 6), nn.ReLU(), nn.ChannelShuffle(3), nn.Flatten()),
    "parts of the channels": Forward(
        lambda m, x: (lambda a, b: torch.cat([m.b(b), a], 1).flatten(1))(*F.relu(m.a(x)).chunk(2, 1)),
        a=conv(3, 5), b=conv(2, 4),
    ),
    "parts of given sizes": Forward(
        lambda m, x: (lambda a, b, c: torch.cat([F.relu(a).flatten(1), c.flatten(1)], 1))(*m.a(x).split([2, 1, 5], 2)),
        a=conv(3, 4),
    ),
    "spatial dropout": nn.Sequential(conv(3, 4), nn.ReLU(), nn.Dropout2d(0.3), head(256)),
    "weight norm": nn.Sequential(weight_norm(conv(3, 4)), nn.ReLU(), head(256)),
    "weight standardisation": Forward(
        lambda m, x: F.conv2d(x, m.w / m.w.std((1, 2, 3), keepdim=True)).flatten(1).relu(),
        w=torch.randn(4, 3, 3, 3),
    ),
}  # fmt: skip


def add_(x: Tensor, y: Tensor) -> Tensor:
    x += y
    return x


# ---------------------------------------------------------------------------------------------- architectures


class BasicBlock(nn.Module):
    def __init__(self, i, o, stride=1):
        super().__init__()
        self.conv1, self.bn1 = conv(i, o, stride=stride, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = conv(o, o, bias=False), nn.BatchNorm2d(o)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(conv(i, o, 1, stride=stride, bias=False), nn.BatchNorm2d(o)) if i != o else None

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)


class PreActivationBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(channels), conv(channels, channels)
        self.bn2, self.conv2 = nn.BatchNorm2d(channels), conv(channels, channels)

    def forward(self, x):
        out = self.conv1(F.relu(self.bn1(x)))
        return self.conv2(F.relu(self.bn2(out))) + x


class DenseLayer(nn.Module):
    def __init__(self, channels, growth):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(channels), conv(channels, growth)

    def forward(self, x):
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


class InvertedResidual(nn.Module):
    def __init__(self, channels, expand):
        super().__init__()
        wide = channels * expand
        self.body = nn.Sequential(
            *(conv(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True)),
            *(conv(wide, wide, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True)),
            *(conv(wide, channels, 1, bias=False), nn.BatchNorm2d(channels)),
        )

    def forward(self, x):
        return x + self.body(x)


class Inception(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.branches = nn.ModuleList(
            [conv(channels, 2, 1), conv(channels, 3), nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(channels, 2, 1))]
        )

    def forward(self, x):
        return F.relu(torch.cat([branch(x) for branch in self.branches], 1))


class Shortcut(nn.Module):
    """He et al.'s type A, every second pixel and zeros for missing channels, written as a fixed 1x1 kernel."""

    def __init__(self):
        super().__init__()
        self.conv = conv(3, 6, stride=2)
        self.register_buffer("kernel", torch.eye(6, 3)[:, :, None, None])

    def forward(self, x):
        return F.relu(self.conv(x) + F.conv2d(x, self.kernel, stride=2))


class TypeA(nn.Module):
    """The same, written as most people write it."""

    def __init__(self, path, shortcut):
        super().__init__()
        self.path, self.shortcut = path, shortcut

    def forward(self, x):
        return F.relu(self.path(x) + self.shortcut(x))


def vgg(batch_norm: bool) -> nn.Module:
    def block(i, o):
        return [conv(i, o), *([nn.BatchNorm2d(o)] if batch_norm else []), nn.ReLU(inplace=True)]

    features = nn.Sequential(*block(3, 4), *block(4, 4), nn.AvgPool2d(2), *block(4, 6), nn.AvgPool2d(2))
    classifier = nn.Sequential(nn.Dropout(), nn.Linear(24, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 4))
    return Forward(
        lambda m, x: m.classifier(torch.flatten(m.avgpool(m.features(x)), 1)),
        features=features, avgpool=nn.AdaptiveAvgPool2d(2), classifier=classifier,
    )  # fmt: skip


ARCHITECTURES = {
    "mlp": nn.Sequential(head(192, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 4)),
    "lenet": nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 6, 2), nn.ReLU(), head(24, 12), nn.ReLU()),
        nn.Linear(12, 4),
    ),
    "vgg": vgg(False),
    "vgg with batch norm": vgg(True),
    "resnet": nn.Sequential(conv(3, 4), nn.ReLU(), BasicBlock(4, 4), BasicBlock(4, 6, 2), nn.AvgPool2d(4), head(6)),
    "resnet without a stem's relu": nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), BasicBlock(4, 4), head(256)),
    "pre-activation resnet": nn.Sequential(
        conv(3, 4), PreActivationBlock(4), PreActivationBlock(4), nn.BatchNorm2d(4), nn.ReLU(), head(256)
    ),
    "densenet": nn.Sequential(
        *(conv(3, 4), DenseLayer(4, 2), DenseLayer(6, 2), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 4, 1), nn.AvgPool2d(2)),
        *(DenseLayer(4, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), head(6)),
    ),
    "mobilenet": nn.Sequential(
        *(conv(3, 4, groups=1), nn.BatchNorm2d(4), nn.ReLU6(), conv(4, 4, groups=4, stride=2), nn.BatchNorm2d(4)),
        *(nn.ReLU6(), conv(4, 8, 1), nn.BatchNorm2d(8), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), head(8)),
    ),
    "mobilenet v2": nn.Sequential(conv(3, 4), nn.ReLU6(), InvertedResidual(4, 2), InvertedResidual(4, 3), head(256)),
    "inception": nn.Sequential(conv(3, 4), nn.ReLU(), Inception(4), Inception(7), nn.AdaptiveAvgPool2d(1), head(7)),
    "type A shortcut, a kernel": nn.Sequential(Shortcut(), head(96)),
    "type A shortcut": nn.Sequential(
        nn.BatchNorm2d(3), TypeA(conv(3, 6, stride=2), lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 3))), head(96)
    ),
    "type A shortcut, zeros on both sides": nn.Sequential(
        conv(3, 4), nn.ReLU(), TypeA(conv(4, 8, stride=2), lambda x: F.pad(x[..., ::2, ::2], (0, 0, 0, 0, 2, 2))),
        head(128),
    ),
    "type A shortcut of a pool": nn.Sequential(
        conv(3, 4), nn.ReLU(), TypeA(conv(4, 8, stride=2), lambda x: F.pad(F.avg_pool2d(x, 2), (0, 0, 0, 0, 0, 4))),
        head(128),
    ),
    "u-net's crop": nn.Sequential(
        conv(3, 4), nn.ReLU(),
        Forward(lambda m, x: torch.cat([x[:, :, 1:-1, 1:-1], m.a(x)], 1), a=conv(4, 4, padding=0)),
        nn.ReLU(), head(288),
    ),
    "all convolutional": nn.Sequential(
        *(conv(3, 4), nn.ReLU(), conv(4, 4, stride=2), nn.ReLU(), conv(4, 4, 1), nn.ReLU(), nn.AvgPool2d(4)),
        nn.Flatten(),
    ),
}  # fmt: skip


GROUPS = {
    "vectors": (VECTOR_MODELS, (6,)),
    "sequences": (SEQUENCE_MODELS, (4, 12)),
    "images": (IMAGE_MODELS, (3, 8, 8)),
    "architectures": (ARCHITECTURES, (3, 8, 8)),
}


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, (models, _) in GROUPS.items() for name in models])
def test_traced_and_folded_networks_compute_what_the_model_does(group: str, name: str) -> None:
    expected, traced, folded = outputs(group)[name]
    assert bool((expected != 0).any())
    torch.testing.assert_close(traced, expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(folded, expected, rtol=1e-11, atol=1e-12)


def test_a_model_is_read_into_the_operations_it_has() -> None:
    network = trace(ARCHITECTURES["resnet"], images(3, 8, 8))
    block = ["Conv", "Affine", "Neuron", "Conv", "Affine", "Add", "Neuron"]
    second = ["Conv", "Affine", *block]
    assert kinds(network) == ["Conv", "Neuron", *block, *second, "AvgPool", "Flatten", "Linear"]
    assert "Affine" not in kinds(fold_affine(network))


# ------------------------------------------------------------------------------------- details of the operations


def op_of(model: nn.Module, kind: type, *shape: int):
    (op,) = (node.op for node in trace(model, torch.zeros(2, *shape)) if isinstance(node.op, kind))
    return op


def test_convolution_options_arrive() -> None:
    op = op_of(nn.Sequential(nn.Conv2d(4, 6, (3, 1), (1, 2), (2, 1), (2, 1), 2), nn.Flatten()), Conv, 4, 8, 8)
    assert (op.stride, op.padding, op.dilation, op.groups) == ((1, 2), (2, 1), (2, 1), 2)
    assert op.weight.shape == (6, 2, 3, 1)


def test_average_pool_options_arrive() -> None:
    op = op_of(nn.Sequential(nn.AvgPool2d((4, 3), 2, (2, 1), True, False), nn.Flatten()), AvgPool, 3, 9, 9)
    assert (op.kernel, op.stride, op.padding, op.ceil_mode, op.count_include_pad) == (
        (4, 3),
        (2, 2),
        (2, 1),
        True,
        False,
    )


def test_max_pool_options_arrive() -> None:
    op = op_of(nn.Sequential(nn.MaxPool2d(3, (2, 1), (1, 0), 2, ceil_mode=True), nn.Flatten()), MaxPool, 3, 9, 9)
    assert (op.kernel, op.stride, op.padding, op.dilation, op.ceil_mode) == ((3, 3), (2, 1), (1, 0), (2, 2), True)


def test_padding_arrives_by_axis_and_slices_cut() -> None:
    def ends(forward) -> tuple[tuple[int, ...], tuple[int, ...]]:
        op = op_of(Forward(lambda m, x: forward(x).flatten(1)), Pad, 4, 8, 9)
        return op.before, op.after

    assert ends(lambda x: F.pad(x, (1, 2))) == ((0, 0, 1), (0, 0, 2))
    assert ends(lambda x: F.pad(x, (1, 2, 3, 4, 5, 6))) == ((5, 3, 1), (6, 4, 2))
    assert ends(lambda x: F.pad(x, (1, 2, 0, 0, 0, 0, 0, 0), value=0.0)) == ((0, 0, 1), (0, 0, 2))
    assert ends(lambda x: x[:, 1:]) == ((-1, 0, 0), (0, 0, 0))
    assert ends(lambda x: x[:, :, -3:-1]) == ((0, -5, 0), (0, -1, 0))


def test_a_stride_over_space_is_a_pool_of_single_pixels() -> None:
    network = trace(Forward(lambda m, x: F.relu(x)[:, :, ::2, 1::3].flatten(1)), torch.zeros(2, 3, 9, 9))
    assert kinds(network) == ["Neuron", "AvgPool", "Pad", "AvgPool", "Flatten"]
    pools = [node.op for node in network if isinstance(node.op, AvgPool)]
    assert [(pool.kernel, pool.stride) for pool in pools] == [((1, 1), (2, 1)), ((1, 1), (1, 3))]
    assert network.shapes["readout"] == (3 * 5 * 3,)


def test_what_a_slice_keeps_whole_is_no_operation() -> None:
    network = trace(Forward(lambda m, x: F.relu(x)[:, :, 0:9][:, -3:].flatten(1)), torch.zeros(2, 3, 9, 9))
    assert kinds(network) == ["Neuron", "Flatten"]


def test_ceilings_arrive() -> None:
    assert op_of(nn.Sequential(nn.ReLU6()), Neuron, 4).ceiling == 6.0
    assert op_of(nn.Sequential(nn.Hardtanh(0.0, 0.25)), Neuron, 4).ceiling == 0.25
    assert op_of(Forward(lambda m, x: x.clamp(0, 3)), Neuron, 4).ceiling == 3.0
    assert op_of(nn.Sequential(nn.ReLU()), Neuron, 4).ceiling is None


def test_coefficients_of_sums_arrive() -> None:
    assert op_of(Forward(lambda m, x: x - F.relu(x)), Add, 4).coefficients == (1.0, -1.0)
    assert op_of(Forward(lambda m, x: torch.add(F.relu(x), x, alpha=0.5)), Add, 4).coefficients == (1.0, 0.5)
    assert op_of(Forward(lambda m, x: torch.cat([x, x, x], 1)), Concat, 4).coefficients == (1.0, 1.0, 1.0)


def test_weights_are_copies() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    op = op_of(model, Linear, 4)
    assert torch.equal(op.weight, model[0].weight)
    before = op.weight.clone()
    with torch.no_grad():
        model[0].weight.zero_()
    assert torch.equal(op.weight, before)
    assert not op.weight.requires_grad


# ------------------------------------------------------------------------------------------------------ names


def test_nodes_have_the_names_of_their_layers() -> None:
    network = trace(ARCHITECTURES["vgg with batch norm"].float(), torch.zeros(2, 3, 8, 8))
    names = [node.name for node in network]
    assert names[:4] == ["input", "features.0", "features.1", "features.2"]
    assert names[-4:] == ["classifier.1", "classifier.2", "classifier.4", "readout"]


def test_a_function_is_named_after_its_place_and_itself() -> None:
    network = trace(nn.Sequential(conv(3, 4), PreActivationBlock(4), head(256)).float(), torch.zeros(2, 3, 8, 8))
    assert [node.name for node in network if isinstance(node.op, Neuron | Add)] == ["1.relu", "1.relu:2", "1.add"]


def test_a_module_used_twice_gives_two_nodes() -> None:
    network = trace(VECTOR_MODELS["one relu used twice"].float(), torch.zeros(2, 6))
    assert list(network.neurons) == ["r", "r:2"]


def test_layers_called_input_and_readout_do_not_collide() -> None:
    model = Forward(lambda m, x: m.readout(F.relu(m.input(x))), input=nn.Linear(4, 4), readout=nn.Linear(4, 2))
    names = [node.name for node in trace(model, torch.zeros(2, 4))]
    assert len(set(names)) == len(names) == 5
    assert names[0] == "input"
    assert names[-1] == "readout"


# ------------------------------------------------------------------------------------- the model is not touched


def test_a_model_in_training_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.9), nn.Linear(8, 2))
    model[4].requires_grad_(False)
    model[3].eval()
    calls: list[str] = []
    handle = model[0].register_forward_hook(lambda *_: calls.append("hook"))
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    grads = [p.requires_grad for p in model.parameters()]
    with torch.no_grad():
        expected = copy.deepcopy(model).eval()(torch.ones(3, 4))
    calls.clear()

    network = trace(model, torch.ones(2, 4))

    assert torch.allclose(network(torch.ones(3, 4)), expected, atol=1e-6)
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == grads
    assert all(p.grad is None for p in model.parameters())
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert handle.id in model[0]._forward_hooks
    model(torch.ones(2, 4))
    assert calls[-1:] == ["hook"]


def test_gradients_of_a_model_in_training_stay() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model(torch.ones(2, 4)).sum().backward()
    before = [p.grad.clone() for p in model.parameters()]
    trace(model, torch.ones(2, 4))
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))


def test_dropout_does_nothing_even_where_the_model_trains() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.9)).train()
    x = torch.ones(3, 4)
    assert torch.allclose(trace(model, x)(x), F.relu(model[0](x)), atol=1e-6)


@pytest.mark.parametrize(("dtype", "batch"), [(torch.float32, 1), (torch.float64, 7)])
def test_network_has_the_models_type_and_takes_any_batch(dtype: torch.dtype, batch: int) -> None:
    model = nn.Sequential(conv(1, 2), nn.ReLU(), head(32)).to(dtype)
    network = trace(model, torch.zeros(batch, 1, 4, 4))
    assert network.dtype == dtype
    assert network.provenance == {}
    x = torch.randn(5, 1, 4, 4)
    assert torch.allclose(network(x), model(x.to(dtype)), atol=1e-6)
    assert network.input.shape == (1, 4, 4)


# ----------------------------------------------------------------------------------------------- what is refused


def refused(model: nn.Module, *shape: int) -> str:
    with pytest.raises(ConversionError) as caught:
        prepare(model, torch.zeros(2, *shape))
    return str(caught.value)


NO_RATE = "Train with ReLU"
REFUSED_LAYERS = {
    "sigmoid": (nn.Sigmoid(), NO_RATE),
    "tanh": (nn.Tanh(), NO_RATE),
    "gelu": (nn.GELU(), NO_RATE),
    "silu": (nn.SiLU(), NO_RATE),
    "elu": (nn.ELU(), NO_RATE),
    "selu": (nn.SELU(), NO_RATE),
    "celu": (nn.CELU(), NO_RATE),
    "softplus": (nn.Softplus(), NO_RATE),
    "mish": (nn.Mish(), NO_RATE),
    "hardswish": (nn.Hardswish(), NO_RATE),
    "log sigmoid": (nn.LogSigmoid(), NO_RATE),
    "hardshrink": (nn.Hardshrink(), "jumps at -0.5 and 0.5"),
    "softmax": (nn.Softmax(1), "only at the end"),
    "log softmax": (nn.LogSoftmax(1), "only at the end"),
    "layer norm": (nn.LayerNorm(4), "Train with batch norm"),
    "rms norm": (nn.RMSNorm(4), "Train with batch norm"),
    "group norm": (nn.GroupNorm(2, 4), "Train with batch norm"),
    "batch norm without statistics": (nn.BatchNorm1d(4, track_running_stats=False), "track_running_stats"),
}


@cache
def refusals(group: str) -> dict[str, str]:
    """For each model of a group what the error says about it."""
    models, shape = REFUSED_GROUPS[group]
    said = refused(SideBySide(models), *shape).split("; ")
    return {name: "; ".join(entry for entry in said if entry.startswith(f"models.{slug(name)}.")) for name in models}


@pytest.mark.parametrize("name", REFUSED_LAYERS)
def test_layers_are_refused_by_name_with_reason_and_remedy(name: str) -> None:
    layer, why = REFUSED_LAYERS[name]
    assert refusals("layers")[name].startswith(f"models.{slug(name)}.2 ({type(layer).__name__}): ")
    assert why in refusals("layers")[name]


REFUSED_ON_IMAGES = {
    "instance norm": (nn.InstanceNorm2d(4), "InstanceNorm2d", "or use track_running_stats=True"),
    "batch norm without statistics": (
        nn.BatchNorm2d(4, track_running_stats=False),
        "BatchNorm2d",
        "track_running_stats",
    ),
}


@pytest.mark.parametrize("name", REFUSED_ON_IMAGES)
def test_layers_on_images_are_refused(name: str) -> None:
    _, operation, why = REFUSED_ON_IMAGES[name]
    message = refusals("layers on images")[name]
    assert message.startswith(f"models.{slug(name)}.2")
    assert operation in message
    assert why in message


REFUSED_FORWARDS = {
    "dropout at all times": (lambda m, x: F.dropout(x).flatten(1), "drops at random in eval mode"),
    "another type": (lambda m, x: x.double().flatten(1).float(), "changes the type"),
    "mean in another type": (lambda m, x: x.mean((2, 3), dtype=torch.float64).float(), "changes the type"),
    "share of the batch": (lambda m, x: (x / x.shape[0]).flatten(1), "how many images are in a batch"),
    "sum over images": (lambda m, x: (x - x.mean(0, keepdim=True)).flatten(1), "mixes the images"),
    "gate": (lambda m, x: (x * x.mean((2, 3), keepdim=True)).flatten(1), "gate"),
    "quotient": (lambda m, x: (x / x).flatten(1), "divides by a data-dependent"),
    "reciprocal": (lambda m, x: (1 / (x + 1)).flatten(1), "not piecewise linear"),
    "jump": (lambda m, x: torch.sign(x - 1).flatten(1), "jumps"),
    "choice at another place": (lambda m, x: torch.where(x > 1, x, 0.0).flatten(1), "chooses by the images' data"),
    "order": (lambda m, x: x.sort(1).values.flatten(1), "in order"),
    "deviation": (lambda m, x: (x - x.std(1, keepdim=True)).flatten(1), "statistics"),
    "gated half": (lambda m, x: F.glu(x, 1).flatten(1), "a gate"),
    "cat with constants": (lambda m, x: torch.cat([x, torch.zeros_like(x)], 1).flatten(1), ""),
    "slice of nothing": (lambda m, x: F.relu(x[:, :, 5:5]).flatten(1), "takes nothing out of 8"),
    "square": (lambda m, x: (x**2).flatten(1), "pow"),
    "attention": (
        lambda m, x: F.scaled_dot_product_attention(*(3 * [x.flatten(2)])).flatten(1), ""
    ),
    "clamp to nothing": (lambda m, x: x.clamp(0, 0).flatten(1), "constant"),
    "product of data": (lambda m, x: (x.flatten(2) @ x.flatten(2).transpose(1, 2)).flatten(1), ""),
}  # fmt: skip


REFUSED_GROUPS = {
    "layers": (
        {name: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), layer) for name, (layer, _) in REFUSED_LAYERS.items()}, (4,)
    ),
    "layers on images": (
        {
            name: nn.Sequential(conv(3, 4), nn.ReLU(), layer, nn.Flatten())
            for name, (layer, *_) in REFUSED_ON_IMAGES.items()
        },
        (3, 8, 8),
    ),
    "forward passes": (
        {
            name: Forward(
                lambda m, x, forward=forward: forward(m, F.relu(m.conv(x))),
                conv=conv(3, 4), pixels=torch.randn(4, 8, 8), matrix=torch.randn(256, 3), bias=torch.randn(3),
                square=torch.randn(8, 8), factors=torch.ones(4),
            )
            for name, (forward, _) in REFUSED_FORWARDS.items()
        },
        (3, 8, 8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_FORWARDS)
def test_forward_passes_are_refused(name: str) -> None:
    message = refusals("forward passes")[name]
    assert REFUSED_FORWARDS[name][1] in message
    assert ". " in message  # behind the reason stands a remedy


@pytest.mark.skipif(OLD, reason="torch.export of torch 2.6 stops at it")
def test_batch_norm_at_all_times_is_refused() -> None:
    model = Forward(lambda m, x: F.batch_norm(x, m.mean, m.mean, training=True).flatten(1), mean=torch.ones(3))
    assert "statistics" in refused(model, 3, 8, 8)


@pytest.mark.parametrize(
    ("forward", "why"),
    [
        (lambda x: x.reshape(-1, 2), "mixes the images"),
        (lambda x: x[:1], "mixes the images"),
        (lambda x: torch.cat([x, x], 0), "mixes the images"),
        (lambda x: x.flatten(), "mixes the images"),
        (lambda x: x.relu() * x.sum().item(), "takes a number out of the images' data"),
        (lambda x: x.argmax(1), "argmax"),
    ],
)
def test_forward_passes_without_a_vector_per_image_are_refused(forward, why: str) -> None:
    assert why in refused(Forward(lambda m, x: forward(F.relu(x))), 4)


def test_every_refused_operation_is_listed_at_once() -> None:
    message = refused(nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 4), nn.GELU(), nn.SiLU()), 4)
    assert [message.find(f"{place} (") >= 0 for place in ("1", "3", "4")] == [True] * 3
    assert message.count("; ") == 2


@pytest.mark.parametrize("layer", [nn.Softmax(1), nn.LogSoftmax(-1), nn.Sigmoid(), nn.Tanh()])
def test_what_keeps_the_order_of_the_scores_is_dropped_at_the_end(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), layer)
    x = torch.randn(5, 4)
    network = trace(model, x)
    assert kinds(network) == ["Linear", "Neuron", "Linear"]
    assert torch.allclose(layer(network(x)), model(x), atol=1e-6)
    assert "dropped: the order of the scores stays" in [row.why for row in check(model, x).rows]


def test_an_exported_program_gives_the_network_of_its_model() -> None:
    model = nn.Sequential(conv(1, 2), nn.BatchNorm2d(2), nn.ReLU(), head(32)).eval()
    x = torch.randn(3, 1, 4, 4)
    free = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert torch.equal(trace(free, x)(x), trace(model, x)(x))
    assert check(free, x).convertible
    with pytest.raises(ConversionError, match=r"program for batches of 3\. Export it with a free batch size"):
        trace(torch.export.export(model, (x,)), x)
    with pytest.raises(ConversionError, match=r"of shapes \[\(1, 4, 4\)\], not of \[\(1, 4, 5\)\]"):
        trace(free, torch.zeros(2, 1, 4, 5))


def test_buffers_that_a_model_counts_with_are_no_outputs() -> None:
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return self.a(x).relu()

    model = Counting()
    assert kinds(trace(model, torch.zeros(2, 4))) == ["Linear", "Neuron"]
    assert float(model.calls) == 0.0


def test_three_dimensional_convolutions_are_refused() -> None:
    message = refused(nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.Flatten()), 1, 4, 4, 4)
    assert message.startswith("0 (Conv3d): ")
    assert "1d or 2d" in message


def test_attention_is_refused() -> None:
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            return F.relu(self.attention(x, x, x, need_weights=False)[0]).flatten(1)

    assert "attention" in refused(Attention(), 5, 4)


def test_max_pooling_is_refused_by_name_unless_asked_for() -> None:
    model = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 4), nn.ReLU(), nn.MaxPool2d(2), head(64))
    assert refused(model, 3, 8, 8).startswith("4 (MaxPool): a maximum of spikes is not the maximum of rates")
    assert "max_pool_to_avg" in refused(model, 3, 8, 8)
    network, changes = prepare(model, torch.zeros(2, 3, 8, 8), [max_pool_to_avg])
    assert kinds(network) == ["Conv", "Neuron", "Conv", "Neuron", "AvgPool", "Flatten", "Linear"]
    assert [change.layer for change in changes] == ["4"]


def test_control_flow_on_values_is_refused() -> None:
    message = refused(Forward(lambda m, x: x.relu() if x.sum() > 0 else x), 4)
    assert message.startswith("Forward: torch.export could not read it")
    assert "branch on values" in message


def test_a_forward_pass_that_fixes_the_number_of_images_is_told_so() -> None:
    message = refused(Forward(lambda m, x: x.view(len(x), 2, 2).relu().flatten(1)), 4)
    assert message == (
        "Forward: its forward pass fixes the number of images, as len(x) and int(x.shape[0]) do. "
        "Write x.shape[0] in their place, and keep the images along the first dimension"
    )


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.LSTM(4, 4), "1 (LSTM): remembers earlier inputs"),
        (nn.GRUCell(4, 4), "1 (GRUCell): remembers earlier inputs"),
        (torch.ao.nn.quantized.dynamic.Linear(4, 4), "1 (Linear): has its weights packed as integers"),
    ],
)
def test_layers_that_cannot_be_read_are_refused_in_their_own_words(layer: nn.Module, said: str) -> None:
    assert refused(nn.Sequential(nn.ReLU(), layer), 4).startswith(said)


def test_a_failing_forward_pass_is_reported_with_the_shape() -> None:
    message = refused(nn.Sequential(nn.Linear(5, 4), nn.ReLU()), 4)
    assert "(2, 4)" in message


def test_two_inputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, x, y):
            return F.relu(x + y)

    assert refused(Two(), 4).startswith("Two: torch.export could not read it")


@pytest.mark.parametrize(
    "outputs", [lambda y: (y, y + 1), lambda y: {"scores": y, "aux": y * 2}, lambda y: [y, y.relu()]]
)
def test_two_outputs_are_refused(outputs) -> None:
    message = refused(Forward(lambda m, x: outputs(m.a(x).relu()), a=nn.Linear(4, 3)), 4)
    assert message.startswith("output: ")
    assert "Return one tensor: class scores, or other values; or choose one: output=0 for the first" in message


def test_one_of_several_outputs_is_read_without_what_others_need() -> None:
    def forward(m, x):
        y = m.a(x).relu()
        scores = m.b(y)
        return torch.softmax(scores, 1), {"gate": F.gelu(m.c(y)), "rest": [scores, y]}

    model = Forward(forward, a=nn.Linear(4, 5), b=nn.Linear(5, 3), c=nn.Linear(5, 2)).double()
    x = images(4)
    free = ({0: torch.export.Dim("batch")},)
    program, (expected, more) = torch.export.export(model.eval(), (x,), dynamic_shapes=free), model(x)
    assert torch.allclose(torch.softmax(trace(model, x, output=0)(x), 1), expected)
    assert kinds(trace(program, x, output=2)) == ["Linear", "Neuron", "Linear"]
    assert torch.allclose(trace(program, x, output=2)(x), more["rest"][0])
    assert torch.allclose(trace(program, x, output=3)(x), more["rest"][1])
    assert check(program, x, output=2).convertible
    assert not check(program, x, output=1).convertible
    with pytest.raises(ConversionError, match=r"^gelu \(gelu\): not piecewise linear"):
        trace(program, x, output=1)
    for number in (-1, 4):
        with pytest.raises(ConversionError, match=f"output: {number}, and the model returns 4. Count from 0 to 3"):
            convert(program, x, output=number)
    scores, rates = (convert(program, x, output=number) for number in (2, 3))
    with pytest.raises(ConversionError, match="output: 1, and the model returns 1"):
        convert(scores, x, output=1)
    assert scores.thresholds.keys() == rates.thresholds.keys()
    runs = [simulate(network, x, 16) for network in (scores, rates)]
    assert torch.equal(runs[0].counts["relu"], runs[1].counts["relu"])


def test_an_output_that_does_not_depend_on_the_images_is_refused() -> None:
    assert "0 computed from the images" in refused(Forward(lambda m, x: torch.zeros(x.shape[0], 3)), 4)


def test_an_output_twice_is_refused() -> None:
    message = refused(Forward(lambda m, x: (lambda y: (y, y))(m.a(x).relu()), a=nn.Linear(4, 3)), 4)
    assert "Return one tensor: class scores, or other values" in message


@pytest.mark.parametrize(("which", "value"), [("weight", float("nan")), ("bias", float("inf"))])
def test_weights_that_are_not_finite_are_refused(which: str, value: float) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        getattr(model[2], which).view(-1)[0] = value
    assert refused(model, 4).startswith("2 (Linear): its weights hold NaN or infinity")


def test_batch_norm_statistics_that_are_not_finite_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())
    model[1].running_mean[0] = float("nan")
    assert "NaN or infinity" in refused(model, 4)


def test_a_model_without_relu_is_refused() -> None:
    assert "no ReLU" in refused(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), 4)


@pytest.mark.parametrize("read", [trace, check])
@pytest.mark.parametrize(
    ("example", "said"),
    [
        (None, "None"),
        ([1.0, 2.0], "1.0"),
        ([[1.0, 2.0]], "a list"),
        ("images", "'images'"),
        ((torch.zeros(2, 4), 3), "3"),
    ],
)
def test_examples_that_are_no_tensor_are_refused(read, example, said: str) -> None:
    with pytest.raises(ConversionError, match=rf"^example: {said}\. Give a tensor or NumPy array"):
        read(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), example)


@pytest.mark.parametrize("shape", [(), (4,)])
def test_examples_that_are_no_batch_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConversionError, match=r"^example: of shape .* Pass a batch of images"):
        trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.zeros(shape))


@pytest.mark.parametrize("read", [trace, check, convert])
@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("resnet20", "a file name. Build the module"),
        (nn.Linear, "the class Linear. Give an instance"),
        ({"weight": torch.zeros(4, 4)}, "of type dict. Pass a torch.nn.Module"),
        (F.relu, "of type function. Pass a torch.nn.Module"),
    ],
)
def test_what_is_no_module_is_refused(read, model, said: str) -> None:
    with pytest.raises(ConversionError, match=f"^model: {re.escape(said)}"):
        read(model, torch.zeros(2, 4))


# ----------------------------------------------------------------------------------------- models in wrappers


class Wrapper(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)


class Remembering(nn.Module):
    """Keeps its last activation, which no deep copy takes, and a lock, which none can."""

    def __init__(self):
        super().__init__()
        self.a, self.lock, self.last = nn.Linear(4, 3), threading.Lock(), None

    def forward(self, x):
        self.last = self.a(x)
        return self.last


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, Wrapper, lambda model: Wrapper(Wrapper(model))])
def test_models_in_wrappers_are_read(wrap) -> None:
    model, x = small(), torch.randn(3, 4)
    assert torch.allclose(trace(wrap(model), x)(x), model(x), atol=1e-6)


@pytest.mark.skipif(OLD, reason="torch.export of torch 2.6 refuses what is assigned to a module")
def test_models_that_cannot_be_copied_are_read_and_stay_as_they_are() -> None:
    pruned, remembering, x = small(), Remembering(), torch.randn(3, 4)
    prune.l1_unstructured(pruned[0], "weight", 0.5)
    for model in (pruned, remembering):
        expected = model(x)
        last = getattr(model, "last", None)
        with pytest.raises((RuntimeError, TypeError)):
            copy.deepcopy(model)
        assert torch.allclose(trace(model, x)(x), expected, atol=1e-6)
        assert getattr(model, "last", None) is last
        assert model.training
        assert all(p.requires_grad for p in model.parameters())


def test_models_without_layers_that_can_be_read_are_refused_in_one_line() -> None:
    with pytest.raises(ConversionError, match="is TorchScript"):
        trace(torch.jit.trace(small(), torch.randn(3, 4)), torch.randn(3, 4))
    with pytest.raises(ConversionError, match="has lazy layers without weights"):
        trace(nn.Sequential(nn.LazyLinear(3)), torch.randn(3, 4))


def test_a_number_taken_out_of_a_parameter_is_a_constant() -> None:
    model = Forward(lambda m, x: m.a(x) * m.k.item(), a=nn.Linear(4, 3), k=torch.tensor(0.5))
    x = torch.randn(3, 4)
    assert torch.allclose(trace(model, x)(x), model(x), atol=1e-6)
