r"""Integrate-and-fire neurons: one step, and many steps.

With :math:`u` the potential before the reset, :math:`\theta` the threshold and :math:`a` the spike amplitude,

.. math:: u = V(t-1) + I(t), \qquad z = H(u - \theta), \qquad s(t) = a z

soft reset ("subtract"): :math:`V(t) = u - \theta z`; hard reset ("zero"): :math:`V(t) = u (1 - z)`.
There is neither leak nor refractory time, and :math:`H(0) = 1`: a neuron at its threshold fires.

Signed neurons take spikes back: with :math:`n` the spikes sent before, less the negative ones,

.. math:: z = [u \ge \theta] - [u < 0 \text{ and } n > 0], \qquad V(t) = u - \theta z, \qquad n \leftarrow n + z
"""

from typing import Literal

import torch
from torch import Tensor

Reset = Literal["subtract", "zero"]


def if_step(
    current: Tensor, v: Tensor, threshold: Tensor | float, reset: Reset = "subtract", amplitude: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    r"""One step of an integrate-and-fire neuron (Sengupta et al., 2019, eq. 2; Han et al., 2020, section 4).

    .. math:: u = v + I, \quad z = H(u - \theta), \quad s = a z, \quad v' = u - \theta z \;\text{ or }\; u (1 - z)

    Args:
        current: weighted input I of this step, (B, *features).
        v: potential left by the step before, same shape.
        threshold: theta > 0, in units of the current; a number or broadcastable, e.g. (C, 1, 1).
        reset: "subtract" (soft, keeps the residual potential) or "zero" (hard).
        amplitude: a, the size of one spike; a number or broadcastable.
    Returns:
        spikes in {0, a} and the new potential, both (B, *features).

    >>> spikes, v = if_step(torch.tensor([1.5]), torch.tensor([0.0]), 1.0)
    >>> spikes, v
    (tensor([1.]), tensor([0.5000]))
    """
    u = v + current
    fires = u >= threshold
    spikes = fires.to(u.dtype)
    v = u - threshold * spikes if reset == "subtract" else u.masked_fill(fires, 0.0)
    return spikes * amplitude, v


def signed_step(
    current: Tensor, v: Tensor, sent: Tensor, threshold: Tensor | float, amplitude: Tensor | float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    r"""One step of a neuron that takes spikes back (Wang et al., "Signed Neuron with Memory", 2022).

    .. math:: u = v + I, \quad z = [u \ge \theta] - [u < 0 \text{ and } n > 0]

    .. math:: v' = u - \theta z, \quad n' = n + z

    Args:
        current, v, threshold, amplitude: as in :func:`if_step`.
        sent: n, spikes sent so far less the negative ones, (B, *features).
    Returns:
        spikes in {-a, 0, a}, the new potential and the new n, all (B, *features).

    >>> spikes, v, sent = signed_step(torch.tensor([-0.5, -0.5]), torch.zeros(2), torch.tensor([1.0, 0.0]), 1.0)
    >>> spikes, v, sent
    (tensor([-1.,  0.]), tensor([ 0.5000, -0.5000]), tensor([0., 0.]))
    """
    u = v + current
    spikes = (u >= threshold).to(u.dtype) - ((u < 0) & (sent > 0)).to(u.dtype)
    return spikes * amplitude, u - threshold * spikes, sent + spikes


def if_scan(
    currents: Tensor,
    threshold: Tensor | float,
    reset: Reset = "subtract",
    v_init: Tensor | float = 0.0,
    amplitude: Tensor | float = 1.0,
    potentials: Tensor | None = None,
    drive: Tensor | None = None,
    sent: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Integrate-and-fire neurons over T steps: :func:`if_step` applied T times, with less memory traffic.

    Args:
        currents: weighted input of every step, (T, B, *features).
        threshold: theta > 0, a number or broadcastable to (B, *features).
        reset: "subtract" (soft) or "zero" (hard).
        v_init: potential before the first step, a number or broadcastable to (B, *features).
        amplitude: a, the size of one spike.
        potentials: receives the potential after each step, (T, B, *features), if given.
        drive: added to the current of each step, (T or 1, 1, ...), broadcastable to (T, B, *features), if given.
        sent: of signed neurons, the spikes sent before less the negative ones, (B, *features); brought up to date in
            place. None for neurons whose spikes are all positive.
    Returns:
        spikes in {0, a}, of signed neurons in {-a, 0, a}, (T, B, *features), and the potential after the last step,
        (B, *features).

    Han's example (2020, section 3.2): inputs of 1.5, 1.2 and 0.3 thresholds.

    >>> currents = torch.tensor([[1.5], [1.2], [0.3]], dtype=torch.float64)
    >>> if_scan(currents, 1.0, "subtract")[0].sum(), if_scan(currents, 1.0, "zero")[0].sum()
    (tensor(3., dtype=torch.float64), tensor(2., dtype=torch.float64))
    """
    v = torch.zeros_like(currents[0]).add_(v_init)
    # every step in the memory format of v, also where the currents are one step expanded over time
    spikes = torch.empty_strided((len(currents), *v.shape), (v.numel(), *v.stride()), dtype=v.dtype, device=v.device)
    theta = torch.as_tensor(threshold, dtype=v.dtype, device=v.device)
    drives = None if drive is None else drive.expand(len(currents), *drive.shape[1:])
    below, ahead = (torch.empty_like(v), torch.empty_like(v)) if sent is not None else (v, v)
    for t, (current, out) in enumerate(zip(currents, spikes, strict=True)):
        v.add_(current if drives is None else current + drives[t])
        torch.ge(v, theta, out=out)
        if sent is not None:
            out.addcmul_(torch.lt(v, 0.0, out=below), torch.gt(sent, 0.0, out=ahead), value=-1)
            sent.add_(out)
        if reset == "subtract":
            v.addcmul_(out, theta, value=-1)
        else:
            v.masked_fill_(out.bool(), 0.0)
        if potentials is not None:
            potentials[t] = v
    return spikes.mul_(amplitude), v
