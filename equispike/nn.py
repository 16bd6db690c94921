"""Neurons as PyTorch modules: ``IF`` spikes, ``RateNorm`` stands in for ReLU while a network is trained."""
# pyright: reportUnknownMemberType=false
# (some of torch's own signatures lack types)

import copy
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, fx, nn

from equispike.batches import Batches, read
from equispike.errors import EquispikeError
from equispike.functional.integrate import Reset, if_scan
from equispike.functional.rate import rate_norm

SILENT = 1e-6
"""A layer whose largest input is not above this counts as silent; its threshold is p."""

Model = TypeVar("Model", bound=nn.Module)


class IF(nn.Module):
    """Integrate-and-fire neurons over a whole sequence of steps; nothing is kept from one call to the next.

    Args:
        threshold: theta > 0, a number or a tensor broadcastable to (B, *features), e.g. (C, 1, 1).
        reset: "subtract" (soft) or "zero" (hard).
        v_init: potential before the first step, as a fraction of the threshold.
        amplitude: size of one spike; None takes the threshold, so that amplitude x rate estimates the ReLU.
    Raises:
        EquispikeError: a threshold is not positive.

    >>> neurons = IF(threshold=1.0)
    >>> neurons(torch.full((8, 1, 1), 0.375)).flatten()
    tensor([0., 0., 1., 0., 0., 1., 0., 1.])
    """

    threshold: Tensor
    amplitude: Tensor

    def __init__(
        self,
        threshold: Tensor | float,
        reset: Reset = "subtract",
        v_init: float = 0.0,
        amplitude: Tensor | float | None = None,
    ) -> None:
        super().__init__()
        theta = threshold if isinstance(threshold, Tensor) else torch.tensor(float(threshold))
        size = theta if amplitude is None else torch.as_tensor(amplitude, dtype=theta.dtype)
        if not bool((theta > 0).all()):
            raise EquispikeError(f"IF: threshold {float(theta.min()):g} is not positive")
        self.register_buffer("threshold", theta)
        self.register_buffer("amplitude", size)
        self.reset: Reset = reset
        self.v_init = v_init

    def forward(self, currents: Tensor) -> Tensor:
        """Spikes in {0, a}, (T, B, *features), for the weighted input of every step, of the same shape."""
        return if_scan(currents, self.threshold, self.reset, self.v_init * self.threshold, self.amplitude)[0]

    def extra_repr(self) -> str:
        return f"threshold={float(self.threshold.min()):.4g}, reset={self.reset}, v_init={self.v_init}"


class RateNorm(nn.Module):
    r"""Rate Norm Layer (Ding et al., 2021, eq. 6): a ReLU whose output is the rate of the neuron it will become.

    .. math:: \theta = p \cdot r_{max}, \qquad \hat r = \mathrm{clip}(x, 0, \theta) / \theta

    The network is trained with p = 1; ``zoo.rate_inference`` then lowers p with the weights at rest. In training,
    :math:`r_{max}` follows the batches, and gradients flow through the share that the batch has in it:

    - ``momentum`` m: :math:`r_{max} \leftarrow (1 - m) \, r_{max} + m \max x`, the paper's form, from 1 on. It
      averages batch maxima, so it is smaller the smaller the batches are.
    - ``momentum=None``: :math:`r_{max} \leftarrow \max(r_{max}, \max x)`, the largest value seen, from 0 on, whatever
      the batches. As weights move, old values must be forgotten: call :func:`restart_maxima` before each epoch.

    In eval mode nothing moves and no image depends on its batch. The maximum is that of all workers where
    ``torch.distributed`` is initialised, as in SyncBatchNorm: all of them must then train in step.

    Args:
        momentum: m, in (0, 1], or None.
    Attributes:
        running_max: shape ().
        p: shape (), 1 as made.
    Raises:
        EquispikeError: momentum out of range.

    >>> layer = RateNorm(momentum=None)
    >>> layer(torch.tensor([[-1.0, 1.0, 4.0]]))
    tensor([[0.0000, 0.2500, 1.0000]])
    >>> layer.eval()(torch.tensor([[2.0, 8.0]]))
    tensor([[0.5000, 1.0000]])
    """

    running_max: Tensor
    p: Tensor

    def __init__(self, momentum: float | None = 0.1) -> None:
        super().__init__()
        if momentum is not None and not 0 < momentum <= 1:
            raise EquispikeError(f"RateNorm.momentum: {momentum} is outside (0, 1]. None takes the exact maximum")
        self.momentum = momentum
        self.register_buffer("running_max", torch.tensor(0.0 if momentum is None else 1.0))
        self.register_buffer("p", torch.tensor(1.0))

    @property
    def threshold(self) -> Tensor:
        """Theta in eval mode, shape ()."""
        return self._threshold(self.running_max)

    def forward(self, x: Tensor) -> Tensor:
        """Rates in [0, 1] for weighted inputs, both (B, *features)."""
        return rate_norm(x, self._threshold(self._updated(x) if self.training else self.running_max))

    def extra_repr(self) -> str:
        return f"threshold={float(self.threshold):.4g}, momentum={self.momentum}"

    def _threshold(self, largest: Tensor) -> Tensor:
        return self.p * torch.where(largest > SILENT, largest, 1.0)

    def _updated(self, x: Tensor) -> Tensor:
        seen = x.amax().to(self.running_max.dtype)
        if distributed.is_available() and distributed.is_initialized():
            seen = cast("Tensor", _LargestOfAll.apply(seen))
        if self.momentum is None:
            largest = torch.maximum(self.running_max.clone(), seen)  # the buffer changes before the backward pass
        else:
            largest = (1 - self.momentum) * self.running_max + self.momentum * seen
        self.running_max.copy_(largest.detach())
        return largest


def with_rate_norm(model: Model, momentum: float | None = 0.1, example: Tensor | None = None) -> Model:
    """A copy of a model with a :class:`RateNorm` in place of each ``nn.ReLU``, to be trained from here on.

    Args:
        model: of ``nn.ReLU`` modules, each used once per pass. It is not changed.
        momentum: of each layer.
        example: a batch of images, (B, *features). Uses are counted in a pass with them; without, in the model's
            symbolic trace (``torch.fx``).
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
    modes = {module: module.training for module in model.modules()}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    done: list[nn.Module] = []
    seen: dict[nn.Module, Tensor] = {}

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        largest = inputs[0].amax()
        seen[layer] = torch.maximum(seen[layer], largest) if layer in seen else largest

    layers = rate_norms(model)
    hooks = [layer.register_forward_pre_hook(look) for _, layer in layers]
    try:
        with torch.no_grad():
            model.eval()
            for _ in layers:
                seen.clear()
                for batch in read(batches):
                    model(batch.images.to(device))
                for layer in [layer for layer in seen if layer not in done][:1]:
                    cast("RateNorm", layer).running_max.copy_(seen[layer].clamp(min=0))
                    done.append(layer)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode


class _LargestOfAll(torch.autograd.Function):
    """Maximum over all workers; its gradient, summed over them, goes to the value that is the maximum."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        largest = value.clone()
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        ctx.save_for_backward(value == largest)
        return largest

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (mine,) = ctx.saved_tensors
        total = grads[0].clone()
        distributed.all_reduce(total)
        return total * mine


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, RateNorm) or super().is_leaf_module(m, module_qualified_name)


def _uses_in_trace(model: nn.Module) -> Counter[nn.Module]:
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # whatever the user's forward may raise
        reason = " ".join(str(error).split())[:200]
        raise EquispikeError(
            f"{type(model).__name__}: torch.fx cannot follow its forward ({type(error).__name__}: {reason}), so the "
            "uses of each ReLU are not known. Pass example=images"
        ) from error
    return Counter[nn.Module](model.get_submodule(str(n.target)) for n in graph.nodes if n.op == "call_module")


def _uses_in_pass(model: nn.Module, example: Tensor) -> Counter[nn.Module]:
    uses = Counter[nn.Module]()
    probe = copy.deepcopy(model).eval()
    for (_, twin), (_, layer) in zip(rate_norms(probe), rate_norms(model), strict=True):

        def count(_module: nn.Module, _inputs: object, layer: nn.Module = layer) -> None:
            uses[layer] += 1

        twin.register_forward_pre_hook(count)
    with torch.no_grad():
        probe(example)
    return uses
