r"""The rates of a trained network: Rate Norm, and what they say about inference time (Ding et al., 2021).

.. math:: \hat r = \mathrm{clip}(x, 0, \theta) / \theta, \qquad
    \Omega = \frac{\lVert \hat r \rVert_1}{\lVert \hat r \rVert_2^2}

An integrate-and-fire neuron with threshold :math:`\theta` and soft reset that receives the mean current x tends to the
rate :math:`\hat r`, and is off by less than :math:`\Omega` says (theorem 2; see ``analysis.fit``).
"""

# pyright: reportUnknownMemberType=false
# (some of torch's own signatures lack types)

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from equispike.errors import EquispikeError


@torch.library.custom_op("equispike::rate_norm", mutates_args=())
def _rate_norm(x: Tensor, theta: Tensor) -> Tensor:
    # Equal to clip(x, 0, theta) / theta to the last bit, since rounding is monotonic.
    return (x / theta).clamp_(0, 1)


@_rate_norm.register_fake
def _(x: Tensor, theta: Tensor) -> Tensor:
    return torch.empty_like(x)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(output, inputs[1])  # the rate, which the next layer keeps anyway, rather than x


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
    rate, theta = cast("tuple[Tensor, Tensor]", ctx.saved_tensors)
    inside: Tensor = torch.ops.aten.hardtanh_backward(grad, rate, 0, 1)  # the gradient where 0 < rate < 1, else 0
    to_x = inside / theta
    to_theta = (to_x * rate).sum(dtype=theta.dtype).neg() if ctx.needs_input_grad[1] else None
    return to_x, to_theta


_rate_norm.register_autograd(_backward, setup_context=_save)
OPERATOR: object = torch.ops.equispike.rate_norm.default
"""The operator as exported graphs name it."""


def rate_norm(x: Tensor, theta: Tensor) -> Tensor:
    r"""Rate Norm (Ding et al., 2021, eq. 6): the rate of a neuron with threshold theta, with x as its mean current.

    .. math:: \hat r = \frac{\mathrm{clip}(x, 0, \theta)}{\theta}, \qquad
        \frac{\partial \hat r}{\partial x} = \frac{1}{\theta}, \quad
        \frac{\partial \hat r}{\partial \theta} = -\frac{x}{\theta^2} \quad
        \text{where } 0 < \hat r < 1, \text{ else } 0

    One operator, ``OPERATOR``: exported graphs hold it as a single node, by which ``trace``
    recognises the layer.

    Args:
        x: weighted input, (B, *features), of any floating-point type.
        theta: threshold, shape (), above zero (not checked: that would wait for the device), in units of x.
    Returns:
        rates in [0, 1], in the type and shape of x.

    >>> rate_norm(torch.tensor([-1.0, 0.5, 1.0, 3.0]), torch.tensor(2.0))
    tensor([0.0000, 0.2500, 0.5000, 1.0000])
    """
    if theta.ndim:
        raise EquispikeError(f"rate_norm: theta of shape {tuple(theta.shape)}. Give one threshold, of shape ()")
    return cast("Tensor", _rate_norm(x, theta))


@torch.library.custom_op("equispike::rate_levels", mutates_args=())
def _rate_levels(x: Tensor, theta: Tensor, size: Tensor, levels: int) -> Tensor:
    return _level(x, theta, levels).clamp_(0, levels) * (size / levels)


@_rate_levels.register_fake
def _(x: Tensor, theta: Tensor, size: Tensor, levels: int) -> Tensor:
    return torch.empty_like(x)


def _level(x: Tensor, theta: Tensor, levels: int) -> Tensor:
    return (x * (levels / theta)).add_(0.5).floor_()


def _save_levels(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.levels = inputs[3]


def _levels_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    x, theta, size = cast("tuple[Tensor, Tensor, Tensor]", ctx.saved_tensors)
    level = _level(x, theta, ctx.levels)
    to_x = grad * (size / theta) * ((level >= 0) & (level <= ctx.levels))
    to_theta = (to_x * x).sum(dtype=theta.dtype).neg() / theta
    to_size = (grad * level.clamp_(0, ctx.levels)).sum(dtype=size.dtype) / ctx.levels
    return to_x, to_theta, to_size, None


_rate_levels.register_autograd(_levels_backward, setup_context=_save_levels)
LEVELS_OPERATOR: object = torch.ops.equispike.rate_levels.default
"""The operator with levels, as exported graphs name it."""


def rate_levels(x: Tensor, theta: Tensor, size: Tensor, levels: int) -> Tensor:
    r"""A clipped ReLU in L steps (QCFS; Bu et al., ICLR 2022, eq. 12): spikes of that size, as many as L steps bring.

    .. math:: y = \frac{a}{L} \, \mathrm{clip}\!\left(\left\lfloor \frac{x L}{\theta} + \frac12 \right\rfloor,
        0, L\right)

    With the constant current x, an integrate-and-fire neuron that starts at half its threshold sends y T / a spikes
    in T = L steps. Gradients take the floor for the identity (straight-through estimator):

    .. math:: \frac{\partial y}{\partial x} = \frac{a}{\theta}, \quad
        \frac{\partial y}{\partial \theta} = -\frac{a x}{\theta^2} \quad
        \text{where the level is within } [0, L], \text{ else } 0, \qquad \frac{\partial y}{\partial a} = \frac{y}{a}

    Args:
        x: weighted input, (B, *features), of any floating-point type.
        theta: threshold, shape (), above zero (not checked). size: a, shape ().
        levels: L, at least 1.
    Returns:
        in the type and shape of x.

    >>> rate_levels(torch.tensor([-1.0, 0.2, 0.3, 1.0, 3.0]), torch.tensor(2.0), torch.tensor(1.0), levels=4)
    tensor([0.0000, 0.0000, 0.2500, 0.5000, 1.0000])
    """
    if theta.ndim or size.ndim:
        raise EquispikeError(f"rate_levels: theta of shape {tuple(theta.shape)}. Give one threshold, of shape ()")
    return cast("Tensor", _rate_levels(x, theta, size, levels))


def omega(rate: Tensor) -> Tensor:
    r"""Rate inference loss of each image (Ding et al., 2021, eq. 8): how much time its rates need to be told.

    .. math:: \Omega = \lVert \hat r \rVert_1 / \lVert \hat r \rVert_2^2

    It is 1 if all active neurons fire in every step, and 1 / r if all fire at rate r. An image whose rates are all
    zero counts as 0: its neurons have nothing to tell.

    Args:
        rate: rates in [0, 1] of one layer, (B, *features).
    Returns:
        (B,), in float32 at least.

    >>> omega(torch.tensor([[1.0, 1.0, 0.0], [0.25, 0.25, 0.25], [0.0, 0.0, 0.0]]))
    tensor([1., 4., 0.])
    """
    rate = rate.to(torch.promote_types(rate.dtype, torch.float32))
    features = tuple(range(1, rate.ndim))  # not flattened, which would copy channels-last rates
    square = rate.square().sum(features)
    return rate.sum(features) / square.where(square > 0, 1.0)


def rate_inference(rates: Sequence[Tensor]) -> Tensor:
    r"""Mean of :math:`\Omega_l` over L layers and the images (Ding et al., 2021, eq. 9), shape ()."""
    return torch.stack([omega(rate).mean() for rate in rates]).mean()


def rate_inference_loss(teacher: Tensor, student: Tensor, rates: Sequence[Tensor], lambda_: float) -> Tensor:
    r"""Loss of the second stage (Ding et al., 2021, eq. 13), by which thresholds are lowered while weights rest.

    .. math:: 1 - \cos(y^*, y) + \lambda \, \frac{1}{L} \sum_{l=1}^{L} \Omega_l

    Both terms are means over the images.

    Args:
        teacher: y*, scores of the network as trained (p = 1), (B, classes).
        student: y, scores with the thresholds that are learnt, (B, classes).
        rates: rates of the student's L layers, each (B, *features).
        lambda_: by how much early answers count against faithful ones.
    Returns:
        shape ().
    """
    distance = 1 - F.cosine_similarity(teacher, student, dim=1).mean()
    return distance + lambda_ * rate_inference(rates)


def expected_maximum(largest: Tensor, batch: int) -> Tensor:
    r"""Mean of the largest value over all batches of that many images that can be drawn from these without repetition.

    With the images' own maxima in ascending order, :math:`m_{(1)} \le \dots \le m_{(N)}`,

    .. math:: \sum_{i=B}^{N} \binom{i-1}{B-1} m_{(i)} \Big/ \binom{N}{B}

    A running maximum with momentum (Ding et al., 2021, algorithm 1) wanders about this number when nothing else moves.

    Args:
        largest: of each image, (N,), N > 0.
        batch: B; all images, if there are no more.
    Returns:
        shape (), in the type of ``largest``, summed in float64.

    >>> expected_maximum(torch.tensor([1.0, 4.0, 2.0]), 2)  # of 1 and 4, 1 and 2, 4 and 2
    tensor(3.3333)
    """
    values = largest.double().sort(descending=True).values
    n, batch = len(values), min(batch, len(values))
    later = torch.arange(n, n - len(values) + 1, -1, dtype=torch.float64, device=values.device)  # i = N, ..., 2
    ratios = torch.cat([later.new_full((1,), batch / n), (later - batch).clamp(min=0) / (later - 1)])
    return (values * ratios.cumprod(0)).sum().to(largest.dtype)
