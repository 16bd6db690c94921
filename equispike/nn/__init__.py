"""Neurons as PyTorch modules: ``IF`` spikes, ``RateNorm`` stands in for ReLU while a network is trained."""

from equispike.nn.neurons import IF, RateNorm
from equispike.nn.replace import from_relu, measure_maxima, rate_norms, restart_maxima, with_levels, with_rate_norm

__all__ = [
    "IF",
    "RateNorm",
    "from_relu",
    "measure_maxima",
    "rate_norms",
    "restart_maxima",
    "with_levels",
    "with_rate_norm",
]
