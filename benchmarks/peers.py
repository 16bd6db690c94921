"""The same network in other packages, for comparing times: their neurons, their handling of time, our weights.

Every peer runs the converted network in the balanced form (spikes of size 1), soft reset, constant input. Dense
operations are torch's in all of them. A peer that is not installed is left out.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import Contender, Spikes, call, loop
from equispike.graph.exact import rescale
from equispike.graph.network import Network


def spikingjelly(step_mode: str) -> Callable[[float], torch.nn.Module]:
    neuron: Any = import_module("spikingjelly.activation_based.neuron")

    def make(threshold: float) -> torch.nn.Module:
        return neuron.IFNode(v_threshold=threshold, v_reset=None, step_mode=step_mode, detach_reset=True)

    return make


class SnnTorch(torch.nn.Module):
    """snnTorch's leaky neuron without leak."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        snntorch: Any = import_module("snntorch")
        self.neuron: Any = snntorch.Leaky(beta=1.0, threshold=threshold, reset_mechanism="subtract", init_hidden=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.neuron(x)

    def reset(self) -> None:
        self.neuron.mem = torch.zeros(0)


class Sinabs(torch.nn.Module):
    """Sinabs' IAF for (T, B, ...), one spike per step at most; it takes (B, T, ...)."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        activation: Any = import_module("sinabs.activation")
        self.neuron: Any = import_module("sinabs.layers").IAF(
            spike_threshold=torch.tensor(threshold),
            spike_fn=activation.SingleSpike,
            reset_fn=activation.MembraneSubtract(),
            min_v_mem=None,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.neuron(x.transpose(0, 1)).transpose(0, 1)

    def reset(self) -> None:
        self.neuron.reset_states()


def peer(network: Network, images: Tensor, timesteps: int, make: Callable[[float], Any], multi_step: bool) -> Contender:
    """A peer's neurons in the network: step by step, or with all steps through each layer before the next."""
    balanced = rescale(network, "balanced")
    thresholds = {name: threshold.item() for name, threshold in balanced.thresholds.items()}
    neurons = {name: make(threshold).eval() for name, threshold in thresholds.items()}
    x = balanced.check_images(images) / balanced.input.scale

    @torch.inference_mode()
    def run() -> Spikes:
        for neuron in neurons.values():
            neuron.reset()
        blocks = [x.expand(timesteps, *x.shape)] if multi_step else [x] * timesteps
        apply = over_time if multi_step else call
        return loop(balanced, blocks, lambda name, current: neurons[name](current), apply)

    return run


def over_time(op: Callable[..., Tensor], inputs: list[Tensor]) -> Tensor:
    """All steps as one large batch, as SpikingJelly's seq_to_ann_forward does."""
    value = op(*(x.flatten(0, 1) for x in inputs))
    return value.view(*inputs[0].shape[:2], *value.shape[1:])


MAKERS: Mapping[str, tuple[str, Callable[[], Callable[[float], Any]], bool]] = {
    "spikingjelly-single": ("spikingjelly", lambda: spikingjelly("s"), False),
    "spikingjelly-multi": ("spikingjelly", lambda: spikingjelly("m"), True),
    "snntorch": ("snntorch", lambda: SnnTorch, False),
    "sinabs": ("sinabs", lambda: Sinabs, True),
}
"""Name -> package, neuron, and whether it takes all steps at once."""


def installed() -> dict[str, str]:
    """Versions of the peers that are here."""
    found: dict[str, str] = {}
    for package in dict.fromkeys(package for package, _, _ in MAKERS.values()):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def contenders(network: Network, images: Tensor, timesteps: int) -> dict[str, Contender]:
    """Every peer that is installed, by name."""
    here = installed()
    return {
        name: peer(network, images, timesteps, make(), multi_step)
        for name, (package, make, multi_step) in MAKERS.items()
        if package in here
    }
