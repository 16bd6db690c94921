r"""The number of time-steps that a converted network will need, predicted from the rounding of rates.

After T steps of a constant current a neuron with soft reset has given :math:`\lfloor V_0/\theta + T a/\theta \rfloor`
spikes, at most T. So a network of spikes computes, but for the order in which spikes arrive, what the trained network
would with every ReLU a rounded to

.. math:: a_T = \frac{\theta}{T} \min\left(\left\lfloor T \frac{a}{\theta} + \frac{V_0}{\theta} \right\rfloor, T\right)

(the activation with which Bu et al., 2022, train; a random :math:`V_0` counts as its mean, half a threshold). With
:math:`y_T` the scores of that network, centred over the images, the prediction is the smallest power of two T with

.. math:: \frac{\lVert y_T - y_\infty \rVert}{\lVert y_\infty \rVert} \le \varepsilon

What a network loses in accuracy at such an error depends on how far apart its classes are; unevenness, the error of
spikes that come too late, is left out. Both can move the true number by a small factor either way.
"""

from functools import partial

import torch
from torch import Tensor

from equispike.graph.network import Network, calibrated, values_of
from equispike.graph.ops import Neuron

TOLERANCE = 0.2
"""Error of the scores at which answers are useful: a fifth of what differs between images."""

MOST_STEPS = 4096
"""Steps beyond which nothing is predicted."""


def useful_timesteps(network: Network, images: Tensor, tolerance: float = TOLERANCE) -> int | None:
    """The predicted smallest useful T, a power of two; None if it is above 4096, or if all images get equal scores.

    Args:
        network: with thresholds, in the activation form, as ``convert`` gives it.
        images: at least two, (B, *features), preprocessed as in training.
        tolerance: epsilon.

    >>> import equispike as es
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> images = torch.rand(16, 4)
    >>> useful_timesteps(es.convert(model, images), images) in (2, 4, 8, 16, 32)
    True
    """
    limit = _scores(network, images, None)
    allowed = tolerance**2 * float(limit.square().sum())
    timesteps = 1
    while float((_scores(network, images, timesteps) - limit).square().sum()) > allowed:
        timesteps *= 2
        if timesteps > MOST_STEPS:
            return None
    return timesteps if allowed > 0 else None


@torch.no_grad()
def _scores(network: Network, images: Tensor, timesteps: int | None) -> Tensor:
    """Scores with rates of whole spikes in so many steps (None: any rate up to one), centred over the images."""
    ((_, scores),) = values_of(
        network, network.check_images(images), {network.nodes[-1].name}, partial(_rounded, timesteps=timesteps)
    )
    scores = scores.double()
    return scores - scores.mean(0)


def _rounded(op: Neuron, current: Tensor, timesteps: int | None) -> Tensor:
    threshold, amplitude = calibrated("neurons", op)
    rate = (current / threshold).clamp(0, 1)
    if timesteps is None:
        return amplitude * rate
    start = 0.5 if op.v_init == "uniform" else op.v_init / threshold if isinstance(op.v_init, Tensor) else op.v_init
    return amplitude * ((rate * timesteps + start).floor().clamp(max=timesteps) / timesteps)
