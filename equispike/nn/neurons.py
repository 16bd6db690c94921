"""Integrate-and-fire neurons, and the ReLU that is trained to become one."""
# pyright: reportUnknownMemberType=false
# (some of torch's own signatures lack types)

from typing import Any, cast

import torch
from torch import Tensor, distributed, nn

from equispike.errors import EquispikeError
from equispike.functional.integrate import Reset, if_scan
from equispike.functional.rate import rate_levels, rate_norm

SILENT = 1e-6
"""A layer whose largest input is not above this counts as silent; its threshold is p."""
LEAST = 1e-4
"""Smallest p of layers that learn it, so that thresholds stay above zero."""


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

    The network is trained with p = 1; ``zoo.rate_inference`` then lowers p with the weights at rest. In training mode,
    :math:`r_{max}` follows the batches, and gradients flow through the share that the batch has in it:

    - ``momentum`` m: :math:`r_{max} \leftarrow (1 - m) \, r_{max} + m \max x`, the paper's form, from 1 on. It
      averages batch maxima, so it is smaller the smaller the batches are.
    - ``momentum=None``: :math:`r_{max} \leftarrow \max(r_{max}, \max x)`, the largest value seen, from 0 on, whatever
      the batches. As weights move, old values must be forgotten: call :func:`restart_maxima` before each epoch.

    In eval mode nothing moves and no image depends on its batch. The maximum is that of all workers where
    ``torch.distributed`` is initialised, as in SyncBatchNorm: all of them must then train in step.

    With ``levels`` L the layer is made for an answer after T = L steps (QCFS; Bu et al., ICLR 2022): its output has
    L + 1 values, p is a parameter that learns with the weights, and the maximum rests, as the unit of the output:

    .. math:: y = \frac{p}{L} \, \mathrm{clip}\!\left(\left\lfloor \frac{x L}{\theta} + \frac12 \right\rfloor,
        0, L\right)

    The gradient of p is summed over all N neurons of the layer, and would outrun the weights; it is divided by
    :math:`\sqrt{N L}` (Esser et al., 2020, section 2.2).

    :func:`with_levels` makes such layers of ReLUs (unit 1: activations) and of trained Rate Norm layers (unit
    :math:`r_{max}`: rates as trained). Converted, the neurons start at half their threshold.

    Args:
        momentum: m, in (0, 1], or None.
        levels: L, at least 1, or None.
    Attributes:
        running_max: shape ().
        p: shape (), 1 as made. Below LEAST it counts as LEAST where it learns.
    Raises:
        EquispikeError: momentum or levels out of range.

    >>> layer = RateNorm(momentum=None)
    >>> layer(torch.tensor([[-1.0, 1.0, 4.0]]))
    tensor([[0.0000, 0.2500, 1.0000]])
    >>> layer.eval()(torch.tensor([[2.0, 8.0]]))
    tensor([[0.5000, 1.0000]])
    """

    running_max: Tensor
    p: Tensor

    def __init__(self, momentum: float | None = 0.1, levels: int | None = None) -> None:
        super().__init__()
        if levels is not None and levels < 1:
            raise EquispikeError(f"RateNorm.levels: {levels} is not at least 1. Give the number of steps to answer in")
        if momentum is not None and not 0 < momentum <= 1:
            raise EquispikeError(f"RateNorm.momentum: {momentum} is outside (0, 1]. None takes the exact maximum")
        self.momentum, self.levels = momentum, levels
        self.register_buffer("running_max", torch.tensor(0.0 if momentum is None else 1.0))
        if levels is None:
            self.register_buffer("p", torch.tensor(1.0))
        else:
            self.register_parameter("p", nn.Parameter(torch.tensor(1.0)))

    @property
    def threshold(self) -> Tensor:
        """Theta in eval mode, shape ()."""
        return self._threshold(self.running_max, self._p)

    def forward(self, x: Tensor) -> Tensor:
        """Rates in [0, 1] for weighted inputs, both (B, *features); with levels, multiples of p / L."""
        if self.levels is not None:
            p = _slowed(self._p, (x[0].numel() * self.levels) ** -0.5) if self.training else self._p
            return rate_levels(x, self._threshold(self.running_max, p), p, self.levels)
        return rate_norm(x, self._threshold(self._updated(x) if self.training else self.running_max, self.p))

    def extra_repr(self) -> str:
        last = f"momentum={self.momentum}" if self.levels is None else f"levels={self.levels}"
        return f"threshold={float(self.threshold.detach()):.4g}, {last}"

    @property
    def _p(self) -> Tensor:
        return self.p if self.levels is None else self.p.clamp(min=LEAST)

    def _threshold(self, largest: Tensor, p: Tensor) -> Tensor:
        return p * torch.where(largest > SILENT, largest, 1.0)

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


def _slowed(value: Tensor, factor: float) -> Tensor:
    """The value to the last bit, with that share of its gradient."""
    return value.detach() + factor * (value - value.detach())


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
