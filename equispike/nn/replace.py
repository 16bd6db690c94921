"""A model's ReLUs replaced by Rate Norm layers, and what these layers keep of the images they saw."""
# pyright: reportUnknownMemberType=false
# (some of torch's own signatures lack types)

import copy
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
from torch import Tensor, fx, nn

from equispike.batches import Batches, read
from equispike.errors import EquispikeError, one_line
from equispike.functional.inputs import Images, inputs_of
from equispike.nn.neurons import RateNorm

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def with_rate_norm(model: AnyModule, momentum: float | None = 0.1, example: Images | None = None) -> AnyModule:
    """A copy of a model with a :class:`RateNorm` in place of each ``nn.ReLU``, to be trained from here on.

    Args:
        model: of ``nn.ReLU`` modules, each used once per pass. It is not changed.
        momentum: of each layer.
        example: a batch of images, (B, *features), or a tuple of several inputs. Uses are counted in a pass with them;
            without, in the model's symbolic trace (``torch.fx``).
    Raises:
        EquispikeError: there is no ``nn.ReLU``, or one is used more than once, or uses cannot be counted.

    >>> with_rate_norm(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)
      (1): RateNorm(threshold=1, momentum=0.1)
      (2): Linear(in_features=8, out_features=3, bias=True)
    )
    """
    model = copy.deepcopy(model)
    kind = type(model).__name__
    where = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    # a module with two paths becomes two layers
    modules = cast("Iterable[tuple[str, nn.Module]]", model.named_modules(remove_duplicate=False))
    relus = [(path, module) for path, module in modules if path and isinstance(module, nn.ReLU)]
    if not relus:
        raise EquispikeError(f"{kind}: holds no nn.ReLU module to replace. Use modules rather than F.relu or x.relu()")
    for path, relu in relus:
        parent, _, name = path.rpartition(".")
        layer = RateNorm(momentum).to(where.device, where.dtype).train(relu.training)
        setattr(model.get_submodule(parent), name, layer)
    uses = _uses_in_trace(model) if example is None else _uses_in_pass(model, example)
    for path, layer in rate_norms(model):
        if uses[layer] > 1:
            raise EquispikeError(
                f"{path} (ReLU): is used {uses[layer]} times, and one threshold does not fit all of them. "
                "Give each use an nn.ReLU of its own"
            )
    return model


def from_relu(model: AnyModule, images: Batches, momentum: float | None = 0.1) -> AnyModule:
    r"""A copy of a trained ReLU network with :class:`RateNorm` layers that gives the same scores.

    .. math:: \theta_l = \max_{images} x_l, \qquad W_{l+1} \leftarrow \theta_l W_{l+1}

    Since clip(x, 0, theta) / theta = ReLU(x) / theta up to theta, the layers that read a rate take theta into their
    weights, and nothing changes on these images (Ding et al., 2021, section 4.1; data-based normalisation, Diehl et
    al., 2015). Training can go on from there, or thresholds can be lowered at once.

    Args:
        model: of ``nn.ReLU`` modules, in eval mode or not; each is used once per pass and read, through pools, dropout
            and flattening, by convolutions and linear layers alone. It is not changed.
        images: training images, preprocessed as in training; gone through once.
        momentum: of each layer, for training that goes on.
    Raises:
        EquispikeError: as in :func:`with_rate_norm`; or a rate reaches an operation that cannot take its threshold,
            such as an addition or batch norm.
        DataError: there are no images, or unusable ones.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> images = torch.rand(16, 4)
    >>> bool(torch.allclose(from_relu(model, [images])(images), model(images), atol=1e-6))
    True
    """
    copied = with_rate_norm(model, momentum)
    readers = readers_of(copied)
    relus = {path: model.get_submodule(path) for path, _ in rate_norms(copied)}
    largest = _largest_inputs(model, relus.values(), images)
    for path, layer in rate_norms(copied):
        layer.running_max.copy_(largest[relus[path]])
        for reader in readers[layer]:
            reader.weight.data *= layer.threshold
    return copied


def with_levels(model: AnyModule, levels: int, images: Tensor | None = None) -> AnyModule:
    r"""A copy of a trained network for answers after T = L steps: its activations have L + 1 values, to be trained on.

    Each ``nn.ReLU`` and each :class:`RateNorm` becomes a ``RateNorm(levels=L)`` that differs from it by rounding and
    clipping alone. With images, thresholds start where both cost least: layer after layer, behind layers with levels,

    .. math:: \theta = \arg\min_\theta \; \mathrm{mean} (y_\theta(x) - \mathrm{ReLU}(x))^2, \qquad
        \theta = \max x \cdot (1, \dots, 40) / 40

    (Bu et al., ICLR 2022; the start after Li et al., ICML 2021).

    Args:
        model: trained, in whatever mode; it is not changed.
        levels: L, at least 1.
        images: training images, preprocessed as in training, (N, *features), a few hundred; they pass as one batch.
            Without, p is 1.
    Raises:
        EquispikeError: as in :func:`with_rate_norm`; or a layer has levels already.

    >>> with_levels(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), levels=4)[1]
    RateNorm(threshold=1, levels=4)
    """
    relus = any(isinstance(module, nn.ReLU) for module in model.modules())
    model = with_rate_norm(model) if relus or not rate_norms(model) else copy.deepcopy(model)
    for path, old in rate_norms(model):
        if old.levels is not None:
            raise EquispikeError(f"{path} (RateNorm): has {old.levels} levels already. Start from the network before")
        layer = RateNorm(levels=levels).to(old.p.device, old.p.dtype).train(old.training)
        layer.running_max.copy_(old.threshold)
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, layer)
    if images is not None:
        _fit_levels(model, images)
    return model


def _fit_levels(model: nn.Module, images: Tensor) -> None:
    """Set each layer's p to what costs least on these images, in one pass in eval mode, in place."""

    def fit(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, RateNorm)
        wanted, largest = inputs[0].clamp(min=0) / layer.running_max, inputs[0].max() / layer.running_max
        if largest > 0:
            tried = [(error(layer, p, inputs[0], wanted), p) for p in largest * torch.arange(1, 41) / 40]
            layer.p.data.copy_(min(tried, key=lambda pair: pair[0])[1])

    def error(layer: RateNorm, p: Tensor, x: Tensor, wanted: Tensor) -> float:
        layer.p.data.copy_(p)
        return float((layer.forward(x) - wanted).square().mean(dtype=torch.float64))

    with in_eval_mode(model, fit, [layer for _, layer in rate_norms(model)]):
        model(images)


@contextmanager
def in_eval_mode(
    model: nn.Module, before: Callable[..., None] | None = None, layers: Iterable[nn.Module] = ()
) -> Generator[None]:
    """Eval mode without gradients while this lasts, in place; with a hook in front of some layers."""
    modes = {module: module.training for module in model.modules()}
    hooks = [layer.register_forward_pre_hook(before) for layer in layers if before is not None]
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode


def rate_norms(model: nn.Module) -> list[tuple[str, RateNorm]]:
    """The Rate Norm layers of a model by path."""
    modules = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    return [(path, module) for path, module in modules if isinstance(module, RateNorm)]


def restart_maxima(model: nn.Module) -> None:
    """Let layers with ``momentum=None`` forget the largest values seen; others forget by themselves. In place."""
    for _, layer in rate_norms(model):
        if layer.momentum is None:
            layer.running_max.zero_()


def measure_maxima(model: nn.Module, batches: Batches) -> None:
    """Set each layer's ``running_max`` to the exact largest value over these images, in place: for trained weights.

    One pass per layer in eval mode, in the order in which layers run, with those before it already set: the result
    depends neither on the sizes of the batches nor on their order.

    Args:
        batches: training images, preprocessed as in training; gone through once per layer, so a list or a loader
            rather than an iterator.
    Raises:
        DataError: there are no images (any more), or unusable ones.
    """
    layers = [layer for _, layer in rate_norms(model) if layer.levels is None]
    done: list[nn.Module] = []
    for _ in layers:
        seen = _largest_inputs(model, layers, batches)
        for layer in [layer for layer in seen if layer not in done][:1]:
            cast("RateNorm", layer).running_max.copy_(seen[layer].clamp(min=0))
            done.append(layer)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, RateNorm) or super().is_leaf_module(m, module_qualified_name)


def _trace(model: nn.Module) -> fx.Graph:
    try:
        return _Tracer().trace(model)
    except Exception as error:  # whatever the user's forward may raise
        reason = one_line(error, 200)
        raise EquispikeError(
            f"{type(model).__name__}: torch.fx cannot follow its forward ({type(error).__name__}: {reason}), so the "
            "uses of each ReLU are not known. Pass example=images"
        ) from error


def _uses_in_trace(model: nn.Module) -> Counter[nn.Module]:
    return Counter[nn.Module](model.get_submodule(str(n.target)) for n in _trace(model).nodes if n.op == "call_module")


def _uses_in_pass(model: nn.Module, example: Images) -> Counter[nn.Module]:
    uses = Counter[nn.Module]()
    probe = copy.deepcopy(model).eval()
    for (_, twin), (_, layer) in zip(rate_norms(probe), rate_norms(model), strict=True):

        def count(_module: nn.Module, _inputs: object, layer: nn.Module = layer) -> None:
            uses[layer] += 1

        twin.register_forward_pre_hook(count)
    with torch.no_grad():
        probe(*inputs_of(example))
    return uses


WeightedModule = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
_PROPORTIONAL = (nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.MaxPool2d, nn.Dropout, nn.Flatten, nn.Identity, nn.ZeroPad2d)
"""Modules whose output is multiplied by what their input is multiplied by."""


def readers_of(model: nn.Module) -> dict[RateNorm, list[WeightedModule]]:
    """The layers whose weights each Rate Norm layer's output meets first."""
    readers: dict[RateNorm, list[WeightedModule]] = {layer: [] for _, layer in rate_norms(model)}
    carried: dict[fx.Node, RateNorm] = {}
    for node in _trace(model).nodes:
        layers = [carried[source] for source in node.all_input_nodes if source in carried]
        module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, RateNorm) and not layers:
            carried[node] = module
        elif not layers:
            continue
        elif isinstance(module, _PROPORTIONAL) or node.target in (torch.flatten, "flatten"):
            carried[node] = layers[0]
        elif isinstance(module, WeightedModule) and not any(module in known for known in readers.values()):
            readers[layers[0]].append(module)
        else:
            what = type(module).__name__ if module else "the output" if node.op == "output" else str(node.target)
            raise EquispikeError(
                f"{node.name} ({what}): reads rates and has no weights of its own to take the threshold into. "
                "Train with nn.with_rate_norm from the start"
            )
    return readers


def _largest_inputs(model: nn.Module, layers: Iterable[nn.Module], images: Batches) -> dict[nn.Module, Tensor]:
    """Largest input of each of these layers in eval mode, in the order in which they run."""
    largest: dict[nn.Module, Tensor] = {}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen = inputs[0].amax()
        largest[layer] = torch.maximum(largest[layer], seen) if layer in largest else seen

    with in_eval_mode(model, look, layers):
        for batch in read(images):
            model(*(x.to(device) for x in batch.inputs))
    return largest
