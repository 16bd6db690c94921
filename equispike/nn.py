"""Neurons as PyTorch modules: thin, stateless wrappers over ``functional``."""

import torch
from torch import Tensor, nn

from equispike.errors import EquispikeError
from equispike.functional.integrate import Reset, if_scan


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
