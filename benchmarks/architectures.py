"""Which published architectures convert, and does the network that was read compute what the model does?

Writes docs/tables/architectures.md. Needs torchvision and timm: nox -s architectures
"""

import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import tables
from equispike.errors import ConversionError
from equispike.graph.exact import fold_affine
from equispike.graph.fold import early_max_pools
from equispike.graph.network import is_open
from equispike.graph.reading.trace import examine

CONVERTS, MAX_POOLS = "converts", "with its max pools asked for"
ARCHITECTURES: dict[str, tuple[int, str]] = {
    "torchvision/vgg13": (64, MAX_POOLS),
    "torchvision/alexnet": (224, MAX_POOLS),
    "torchvision/vgg11_bn": (32, MAX_POOLS),
    "torchvision/resnet18": (64, CONVERTS),
    "torchvision/resnet50": (64, CONVERTS),
    "torchvision/resnext50_32x4d": (64, CONVERTS),
    "torchvision/densenet121": (64, CONVERTS),
    "torchvision/squeezenet1_1": (64, MAX_POOLS),
    "torchvision/googlenet": (64, MAX_POOLS),
    "torchvision/mobilenet_v2": (64, CONVERTS),
    "torchvision/mnasnet0_5": (64, CONVERTS),
    "torchvision/regnet_x_400mf": (64, CONVERTS),
    "timm/vgg11": (32, MAX_POOLS),
    "timm/resnet26d": (64, MAX_POOLS),
    "timm/dla34": (64, MAX_POOLS),
    "timm/regnetx_002": (64, CONVERTS),
    "timm/repvgg_a0": (64, CONVERTS),
    "timm/mobilenetv1_100": (64, CONVERTS),
    "timm/efficientnet_lite0": (64, CONVERTS),
    "timm/selecsls42b": (64, CONVERTS),
    "own/tied modules": (32, CONVERTS),
    "own/functional calls": (32, CONVERTS),
    "own/in place": (32, CONVERTS),
    "own/residual of residual": (32, CONVERTS),
    "torchvision/regnet_y_400mf": (64, "multiplies two data-dependent tensors"),
    "torchvision/shufflenet_v2_x0_5": (64, CONVERTS),
    "torchvision/mobilenet_v3_small": (64, "no firing rate equals it"),
    "torchvision/efficientnet_b0": (64, "no firing rate equals it"),
    "torchvision/convnext_tiny": (64, "its statistics change with every image"),
    "timm/vit_tiny_patch16_224": (224, "no firing rate equals it"),
}
"""Input size, and what has to come of it: it converts, or is refused with these words."""

HEADER = "architecture", "input", "outcome", "operations", "largest relative error", "CPU s to trace"


class Tied(nn.Module):
    """One convolution, and one ReLU, at three places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.relu = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        for _ in range(3):
            x = self.relu(self.conv(x))
        return self.head(x.mean((2, 3)))


class Functional(nn.Module):
    """Parameters and functions, no modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(8, 3, 3, 3) / 5)
        self.second = nn.Parameter(torch.randn(10, 8) / 3)
        self.register_buffer("mean", torch.randn(8) / 10)
        self.register_buffer("var", torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(F.conv2d(x, self.first, stride=2), self.mean, self.var)
        x = F.adaptive_avg_pool2d(F.relu6(F.pad(x, (1, 0, 0, 1))), 1)
        return torch.flatten(x, 1) @ self.second.t()


class InPlace(nn.Module):
    """Values overwritten on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu_()
        y = self.conv(x)
        y += x
        y = y.clamp_(min=0).mul_(0.5)
        return self.head(F.avg_pool2d(y, 30).flatten(1))


class Nested(nn.Module):
    """Sums around sums, with ReLUs only where the outer ones end."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, 8, 3, padding=1) for c in (3, 8, 8, 8))
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = outer = self.convs[0](x).relu()
        x = inner = x + self.convs[1](x).relu()
        x = inner + self.convs[2](self.norm(x)).relu()
        x = (outer + x - self.convs[3](x)).relu()
        return self.head(x.mean((2, 3)))


OWN = {"tied modules": Tied, "functional calls": Functional, "in place": InPlace, "residual of residual": Nested}


def build(name: str) -> nn.Module:
    """The model with random weights and batch norm statistics, in eval mode."""
    source, _, own = name.partition("/")
    if source == "own":
        model: nn.Module = OWN[own]()
    elif source == "torchvision":
        import torchvision.models as models

        options: dict[str, Any] = {"aux_logits": False, "init_weights": True} if own == "googlenet" else {}
        model = models.get_model(own, weights=None, **options)
    else:
        import timm

        model = timm.create_model(own, pretrained=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return model.eval()


def without_gpu_operators() -> None:
    """Names the operators of torchvision that a CPU build of torch cannot load; no classifier uses them."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARIES.append(library)


LIBRARIES: list[Any] = []
"""What was declared is gone when nobody holds it."""


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def row(name: str, size: int, expected: str) -> tuple[tuple[str, ...], str]:
    """A line of the table; and what was found where that is not what was expected."""
    torch.manual_seed(0)
    model, images = build(name), torch.randn(2, 3, size, size)
    cells = name, f"{size} x {size}"
    began = time.process_time()
    network, found = examine(model, images)
    seconds = time.process_time() - began
    refused = [finding for finding in found if finding.verdict == "refused"]
    if network is None:
        reasons = {f"{f.operation}: {f.why}. {f.remedy}" for f in refused}
        surprise = "" if any(expected in reason for reason in reasons) else "; ".join(sorted(reasons))
        kinds = ", ".join(f"`{kind}`" for kind in sorted({f.operation for f in refused}))
        return (*cells, f"refused: {kinds}", f"{len(refused)} of {len(found)}", "", ""), surprise
    moved, early = early_max_pools(network)
    outcome = MAX_POOLS if any(is_open(node.op) for node in moved) else CONVERTS
    outcome += f", {len(early)} max pool exact" if early else ""
    scores = model(images)
    errors = relative(network(images), scores), relative(fold_affine(moved)(images), scores)
    line = *cells, outcome, f"{len(found)}", f"{max(errors):.1e}", f"{seconds:.1f}"
    return line, "" if outcome.startswith(expected) else outcome


def main() -> None:
    parser = tables.parser(__doc__, "architectures")
    parser.add_argument("--only", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    without_gpu_operators()
    surprises: list[str] = []

    def rows() -> Iterator[tuple[str, ...]]:
        for name in arguments.only:
            size, expected = ARCHITECTURES[name]
            try:
                line, surprise = row(name, size, expected)
            except ConversionError as error:
                line, surprise = (name, f"{size} x {size}", "not read", "", "", ""), str(error)
            surprises.extend([f"{name}: expected '{expected}', found: {surprise}"] if surprise else [])
            yield line

    conditions = (
        f"Written by `benchmarks/architectures.py`: {len(arguments.only)} architectures, random weights and batch norm "
        "statistics (seed 0), 2 random images in float32. The error is the largest difference of a score between the "
        "model and the network read from it, before and after its passes, over the largest score. Seconds "
        f"of one thread: one run, CPU, torch {torch.__version__}. Refused operations are counted out of all."
    )
    tables.write_table(arguments.out, conditions, HEADER, rows(), words=3)
    if surprises:
        raise SystemExit("\n".join(surprises))


if __name__ == "__main__":
    main()
