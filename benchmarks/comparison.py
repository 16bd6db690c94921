"""This package's conversion beside SpikingJelly's: same model, calibration images, percentile, test images, steps."""

import copy
import io
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.metadata import version
from operator import length_hint
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from equispike.batches import Batches, hold, read_labelled
from equispike.calibrate.data_norm import DataNorm
from equispike.conversion import convert
from equispike.errors import ConversionError, EquispikeError, one_line
from equispike.functional.coding import predict
from equispike.graph.network import Network, calibrated
from equispike.progress import track
from equispike.simulation.run import simulate
from equispike.zoo.models import Residual, Subsample

T = TypeVar("T")
Outcome = tuple[Tensor, list[Tensor]]
"""Scores added up until each step, (T, B, classes), and the spikes of each neuron, by layer, (B, *features)."""


@dataclass(frozen=True, eq=False)
class Side:
    """The outcome of one converter.

    Attributes:
        name: the package and its version.
        accuracy: share of the images classified correctly after each step, (T,), float64; of equal scores, the lowest
            class counts.
        spikes: of all neuron layers over all T steps, mean over the images.
        converting, simulating: processor seconds, all threads together.
    """

    name: str
    accuracy: Tensor
    spikes: float
    converting: float
    simulating: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two converters on one model.

    Attributes:
        images: how many were simulated.
        trained: accuracy of the trained network on them.
        ours, theirs: this package and SpikingJelly.
        neurons: of all images.
        differing: neurons that spike another number of times in SpikingJelly's network than in ours, once it has our
            thresholds.
    """

    images: int
    trained: float
    ours: Side
    theirs: Side
    neurons: int
    differing: int


def compare(
    model: nn.Module, calibration: Batches, test: Batches, timesteps: int, percentile: float = 99.9
) -> Comparison:
    """Convert a model with ``DataNorm(percentile)`` and with SpikingJelly's ``RateCodingRecipe``, and simulate both.

    Both put soft reset neurons in place of the ReLUs and feed the images as a current in every step. Thresholds are the
    same percentile of the activations: here over all calibration images, there a moving average over the batches. Both
    simulations count every neuron's spikes.

    Args:
        model: in evaluation mode, its ReLUs modules of their own; it is not changed.
        calibration: batches of training images.
        test: (images, labels) pairs, preprocessed as in training.
        timesteps: T.
        percentile: of the activations; 100 is the maximum.
    Raises:
        EquispikeError: SpikingJelly is not installed.
        ConversionError: this package or SpikingJelly does not convert the model, or not as many ReLUs of it.
        DataError: no images, no labels, or unusable ones.
    """
    try:
        converters: Any = import_module("spikingjelly.activation_based.ann2snn")
    except ImportError as error:
        raise EquispikeError(
            f"spikingjelly cannot be imported here: {error}. 'nox -s compare' makes an environment with it"
        ) from error
    batches = hold(calibration)
    if len(batches[0].inputs) > 1:
        raise ConversionError(
            "the model takes several inputs, and spikingjelly's converter one. Compare accuracies alone"
        )
    network, converting = _timed(lambda: convert(model, batches, DataNorm(percentile)))
    peer, preparing = _timed(lambda: _converted(converters, model, [batch.images for batch in batches], percentile))
    if (found := len(_neurons(peer))) != len(network.neurons):
        raise ConversionError(
            f"spikingjelly makes {found} layers of neurons and equispike {len(network.neurons)}: it knows ReLUs as "
            "modules of type torch.nn.ReLU alone. Write them so"
        )
    same = _with_thresholds(peer, network)
    ours, theirs = _Tally(partial(_simulated, network, timesteps)), _Tally(partial(stepped, peer, timesteps))
    n = trained = differing = neurons = 0
    for x, truth in track(read_labelled(test, network.input.shape), "comparing", length_hint(test)):
        n += len(x)
        counts = ours.run(x, truth)
        theirs.run(x, truth)
        for own, other in zip(counts, stepped(same, timesteps, x)[1], strict=True):
            differing += int((own != other).sum())
            neurons += own.numel()
        with torch.no_grad():
            trained += int((network(x).argmax(1) == truth).sum())
    return Comparison(
        n,
        trained / n,
        Side(f"equispike {version('equispike')}", ours.right / n, ours.spikes / n, converting, ours.seconds),
        Side(f"spikingjelly {version('spikingjelly')}", theirs.right / n, theirs.spikes / n, preparing, theirs.seconds),
        neurons,
        differing,
    )


@dataclass
class _Tally:
    """Images classified correctly after each step, spikes and processor seconds of a simulation, batch after batch."""

    simulate: Callable[[Tensor], Outcome]
    right: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    spikes: int = 0
    seconds: float = 0.0

    def run(self, x: Tensor, truth: Tensor) -> list[Tensor]:
        """The spikes of each neuron of one batch."""
        (scores, counts), seconds = _timed(lambda: self.simulate(x))
        self.right = self.right + (predict(scores)[0] == truth).double().sum(1)
        self.spikes += sum(int(count.sum()) for count in counts)
        self.seconds += seconds
        return counts


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    began = time.process_time()
    return work(), time.process_time() - began


def _simulated(network: Network, timesteps: int, x: Tensor) -> Outcome:
    run = simulate(network, x, timesteps, batch_size=len(x))
    return run.readout, list(run.counts.values())


def _converted(converters: Any, model: nn.Module, calibration: list[Tensor], percentile: float) -> Any:
    """SpikingJelly's network: a graph of modules, each neuron layer between two that scale."""
    recipe = converters.RateCodingRecipe(calibration, mode=f"{percentile}%")
    try:
        with redirect_stderr(io.StringIO()):  # its bar
            return converters.Converter(recipe).convert(without_subsampling(model))
    except Exception as error:  # whatever tracing raises
        reason = one_line(error, 200)
        raise ConversionError(f"spikingjelly does not convert this model: {type(error).__name__}: {reason}") from error


def without_subsampling(model: nn.Module) -> nn.Module:
    """A copy in which shortcuts that subsample and pad are convolutions with one entry per channel, which it knows."""
    model = copy.deepcopy(model)
    for block in list(model.modules()):
        if isinstance(block, Residual) and isinstance(shortcut := block.shortcut, Subsample):
            channels = next(layer.in_channels for layer in block.path.modules() if isinstance(layer, nn.Conv2d))
            same = nn.Conv2d(channels, channels + shortcut.missing, 1, shortcut.stride, bias=False)
            nn.init.dirac_(same.weight)
            block.shortcut = same
    return model


def _neurons(peer: Any) -> list[Any]:
    """The nodes of its graph that are neurons, in the order in which they run."""
    kind: Any = import_module("spikingjelly.activation_based.neuron").IFNode
    calls = (node for node in peer.graph.nodes if node.op == "call_module")
    return [node for node in calls if isinstance(peer.get_submodule(node.target), kind)]


def _with_thresholds(peer: Any, network: Network) -> Any:
    """SpikingJelly's network with the thresholds of this one, which counts in activations as the trained one does."""
    peer = copy.deepcopy(peer)
    for node, (name, op) in zip(_neurons(peer), network.neurons.items(), strict=True):
        threshold, amplitude = calibrated(name, op)
        before, (after,) = node.args[0], node.users
        peer.get_submodule(before.target).scale.fill_(1.0)
        peer.get_submodule(node.target).v_threshold = threshold.item()
        peer.get_submodule(after.target).scale.fill_(amplitude.item())
    return peer


@torch.inference_mode()
def stepped(peer: Any, timesteps: int, x: Tensor) -> Outcome:
    """SpikingJelly's network, step by step from scratch."""
    import_module("spikingjelly.activation_based.functional").reset_net(peer)
    counts: dict[str, Tensor] = {}

    def count(name: str, _module: Any, _inputs: Any, spikes: Tensor) -> None:
        counts[name] = counts[name] + spikes if name in counts else spikes

    names = [str(node.target) for node in _neurons(peer)]
    hooks = [peer.get_submodule(name).register_forward_hook(partial(count, name)) for name in names]
    scores = torch.stack([peer(x).double() for _ in range(timesteps)]).cumsum(0)
    for hook in hooks:
        hook.remove()
    return scores, [counts[name] for name in names]
