"""Which published architectures convert, and does the network that was read compute what the model does?

Writes docs/tables/architectures.md. Needs torchvision and timm: nox -s architectures
"""

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from equispike.conversion import check
from equispike.graph.exact import fold_affine
from equispike.graph.trace import trace

CONVERTS, MAX_POOLS = "converts", "with its max pools replaced"
ARCHITECTURES: dict[str, tuple[int, str]] = {
    "torchvision/squeezenet1_1": (64, MAX_POOLS),
    "torchvision/resnet18": (64, MAX_POOLS),
    "torchvision/resnet50": (64, MAX_POOLS),
    "torchvision/resnext50_32x4d": (64, MAX_POOLS),
    "torchvision/densenet121": (64, MAX_POOLS),
    "torchvision/googlenet": (64, MAX_POOLS),
    "torchvision/mobilenet_v2": (64, CONVERTS),
    "torchvision/mnasnet0_5": (64, CONVERTS),
    "torchvision/regnet_x_400mf": (64, CONVERTS),
    "torchvision/regnet_y_400mf": (64, "multiplies two data-dependent tensors"),
    "torchvision/shufflenet_v2_x0_5": (64, "Only a reshape to a vector converts"),
    "torchvision/mobilenet_v3_small": (64, "no firing rate equals it"),
    "torchvision/efficientnet_b0": (64, "no firing rate equals it"),
    "torchvision/convnext_tiny": (64, "its statistics change with every image"),
    "timm/resnet26d": (64, MAX_POOLS),
    "timm/resnet14t": (64, MAX_POOLS),
    "timm/dla34": (64, MAX_POOLS),
    "timm/regnetx_002": (64, CONVERTS),
    "timm/repvgg_a0": (64, CONVERTS),
    "timm/mobilenetv1_100": (64, CONVERTS),
    "timm/efficientnet_lite0": (64, CONVERTS),
    "timm/selecsls42b": (64, CONVERTS),
    "timm/vit_tiny_patch16_224": (224, "no firing rate equals it"),
    "torchvision/alexnet": (224, MAX_POOLS),
    "torchvision/vgg11_bn": (224, MAX_POOLS),
}
"""Input size, and what has to come of it: it converts, or is refused with these words."""

HEADER = "architecture", "input", "outcome", "operations", "largest relative error", "CPU s to trace"


def build(name: str) -> nn.Module:
    """The model with random weights and batch norm statistics, in eval mode."""
    source, _, own = name.partition("/")
    if source == "torchvision":
        import torchvision.models as models

        options: dict[str, Any] = {"aux_logits": False, "init_weights": True} if own == "googlenet" else {}
        model: nn.Module = models.get_model(own, weights=None, **options)
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
    report = check(model, images)
    refusals = [finding for finding in report if finding.verdict == "no"]
    cells = name, f"{size} x {size}"
    if refusals:
        refused = {f"{f.operation}: {f.note}" for f in refusals}
        surprise = "" if any(expected in reason for reason in refused) else "; ".join(sorted(refused))
        kinds = ", ".join(f"`{kind}`" for kind in sorted({f.operation for f in refusals}))
        return (*cells, f"refused: {kinds}", f"{len(refusals)} of {len(report)}", "", ""), surprise
    outcome = CONVERTS if report.convertible else MAX_POOLS
    began = time.process_time()
    network = trace(model, images)
    seconds = time.process_time() - began
    scores = model(images)
    errors = relative(network(images), scores), relative(fold_affine(network)(images), scores)
    line = *cells, outcome, f"{len(report)}", f"{max(errors):.1e}", f"{seconds:.1f}"
    return line, "" if outcome == expected else outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--out", type=Path, default=Path("docs/tables/architectures.md"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    without_gpu_operators()
    lines: list[tuple[str, ...]] = [HEADER, ("---", "--:", "---", "--:", "--:", "--:")]
    surprises: list[str] = []
    for name in arguments.only:
        line, surprise = row(name, *ARCHITECTURES[name])
        lines.append(line)
        surprises += [f"{name}: expected '{ARCHITECTURES[name][1]}', found: {surprise}"] if surprise else []
        print(" | ".join(line), flush=True)
    conditions = (
        f"Written by `benchmarks/architectures.py`: {len(arguments.only)} architectures, random weights and batch norm "
        "statistics (seed 0), 2 random images in float32. The error is the largest difference of a score between the "
        "model and the network read from it, before and after batch norm was folded, over the largest score. Seconds "
        f"of one thread: one run, CPU, torch {torch.__version__}. Refused operations are counted out of all."
    )
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    arguments.out.write_text(f"{conditions}\n\n{table}\n", encoding="utf-8")
    if surprises:
        raise SystemExit("\n".join(surprises))


if __name__ == "__main__":
    main()
