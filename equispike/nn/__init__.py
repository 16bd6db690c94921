"""Neurons as PyTorch modules: ``IF`` spikes, ``RateNorm`` stands in for ReLU, ``Spiking`` is a whole network."""

from equispike.nn.neurons import IF, RateNorm
from equispike.nn.replace import from_relu, measure_maxima, rate_norms, restart_maxima, with_levels, with_rate_norm
from equispike.nn.spiking import Spiking, State, Surrogate, Triangle

__all__ = [
    "IF",
    "RateNorm",
    "Spiking",
    "State",
    "Surrogate",
    "Triangle",
    "from_relu",
    "measure_maxima",
    "rate_norms",
    "restart_maxima",
    "with_levels",
    "with_rate_norm",
]
