"""convert(): from a trained model to a network with thresholds."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor, nn
from torch.export import ExportedProgram

from equispike.arguments import checked
from equispike.batches import Batch, Batches, hold, input_extent, read
from equispike.calibrate.choice import CANDIDATES, DELAYS, choose
from equispike.calibrate.corrections import AnyCorrection
from equispike.calibrate.corrections import correct as apply_corrections
from equispike.calibrate.data_norm import DataNorm
from equispike.calibrate.method import Method, ReadoutKind, Thresholds, with_delay, with_thresholds
from equispike.calibrate.rate_norm import RateNorm
from equispike.calibrate.rmp import RMP, scaled
from equispike.errors import ConversionError
from equispike.functional.inputs import Images, all_finite
from equispike.functional.integrate import Reset
from equispike.graph.fold import early_max_pools, fold_affine
from equispike.graph.lossy import Change, LossyPass
from equispike.graph.network import OUTPUT_NEURONS, Network, Node
from equispike.graph.ops import Neuron
from equispike.graph.reading.program import Traceable, check_chosen
from equispike.graph.reading.terms import VERDICTS
from equispike.graph.reading.trace import trace
from equispike.graph.walk import interpret
from equispike.provenance import as_data, versions
from equispike.workers import Workers

SpikeKind = Literal["binary", "signed"]
DEFAULT = DataNorm(99, per_channel=True)
"""The method if none is named, with half a threshold at the start: experiments/default_method.py measures it."""

DEEP = 8
"""Neuron layers in a row from which scores leave out the first half of the steps by default."""

Model = Traceable | Network
"""A trained network in any form that converts."""


@checked
def convert(
    model: Model,
    batches: Batches | Tensor,
    method: Method | None = None,
    *,
    reset: Reset | None = None,
    readout: ReadoutKind | None = None,
    v_init: float | str | None = None,
    delay: float | None = None,
    spikes: SpikeKind = "binary",
    timesteps: int | None = None,
    correct: Sequence[AnyCorrection] = (),
    lossy: Iterable[LossyPass] = (),
    output: int | None = None,
    on: Workers | None = None,
) -> Network:
    """Turn a trained ReLU network into a network of integrate-and-fire neurons.

    Args:
        model: trained; any module of image tensors, one or several, that returns class scores (B, classes), or other
            values, or several such tensors (see ``output``); or a program that ``torch.export`` made of one, or what
            ``files.onnx.read_onnx`` found in a file. It is not changed.
        batches: calibration images, never test images: an iterable of tensors (B, *features) or of (images, labels)
            pairs, preprocessed as in training, or one tensor. Read once and held in memory. For a model of several
            inputs, of pairs ((first, second, ...), labels); labels may be None.
        method: how thresholds are set; default ``DataNorm(99, per_channel=True)``, which lost least of several over
            8 to 256 steps (see docs/datanorm.md), or ``RateNorm()`` if layers were trained with levels; with
            ``timesteps``, the percentile per channel, or ``RateNorm()`` if the model has it, that is best for them.
        reset: "subtract" (soft) or "zero" (hard); default the method's own.
        readout: "potential" (sum of the last layer's current) or "spikes" (of an output neuron layer, which is
            calibrated like any other); default the method's own.
        v_init: potential before the first step as a fraction of the threshold, or "uniform" in [0, theta); default a
            half without a ``method``, with ``timesteps``, and where layers were trained with levels; else 0.
        delay: share of the steps, the first ones, that scores leave out, in [0, 1) (see ``functional.coding.delayed``):
            they are run, but in deep networks what they give is no rate yet. Chosen with ``timesteps``; else default
            a half without a ``method`` if at least DEEP neuron layers follow each other and none has levels, and 0.
        spikes: "binary", or "signed": neurons with soft reset that also take spikes back, which hardware must offer.
        timesteps: T for which the network is to answer. Percentile (unless a method is given) and correction (none,
            ``Bias``, ``StepBias``, ``RidgeReadout``) are then those whose scores after T steps are nearest to the
            trained ones on calibration images held out from the fitting; ``provenance["chosen"]`` tells all that was
            tried. The network runs for any number of steps.
        correct: corrections to apply, as ``[es.StepBias(8)]``, instead of choosing.
        lossy: passes for what has no exact counterpart in spikes: ``es.max_pool_to_avg``, ``es.max_pool_to_winner``,
            ``es.leaky_relu_to_pairs``. Max pools behind the first layer are exact as they are with constant input.
        output: which of several tensors that the model returns is to be the readout, from 0. Networks for several of
            them, from the same images, spike alike in the layers that they share.
        on: who measures for ``DataNorm``, as for ``evaluate``: images of ``zoo.data`` are read by them, and not held.
            Corrections, and the choice for ``timesteps``, are made in this process; other methods are refused.
    Returns:
        the network in the activation form: a layer's threshold is in units of its trained activation (of
        ``RMP(after=True)``: times the growth of its input, see ``calibrate.method.with_thresholds``). Layers
        trained as ``nn.RateNorm`` give rates instead: with ``RateNorm()`` their spikes have size 1.
        ``provenance`` tells method, reset, readout, what lossy passes changed, and versions.
    Raises:
        ConversionError: the model holds operations that cannot be spikes, or weights that are not finite.
        DataError: there are no calibration images, or unusable ones.
        CalibrationError: the method's own, see there.

    >>> import torch
    >>> import equispike as es
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> images = torch.rand(16, 4)
    >>> network = es.convert(model, [images], method=es.DataNorm())
    >>> es.simulate(network, images, timesteps=32).predictions.shape
    torch.Size([32, 16])
    """
    convert = Converter(model, batches, lossy, output, on)
    return convert(
        method, reset=reset, readout=readout, v_init=v_init, delay=delay, spikes=spikes, timesteps=timesteps,
        correct=correct,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Entered:
    """A network that is ready for a method, the images that it is calibrated with, V(0) unless one is given, the share
    of the steps that scores leave out, what provenance says of them, and who measures.
    """

    network: Network
    images: Batches
    method: Method
    reset: Reset
    start: float
    delay: float
    told: Mapping[str, object]
    on: Workers | None

    def measured(self) -> Thresholds:
        if isinstance(self.method, DataNorm):
            return self.method(self.network, self.images, self.on)
        return self.method(self.network, self.images)

    def spiking(self, thresholds: Thresholds, v_init: float | str | None, spikes: SpikeKind) -> Network:
        """The network with these thresholds, which its method measured."""
        set_by = {"method": as_data(self.method), "scale": thresholds.scale, "reset": self.reset, "delay": self.delay}
        told = {**set_by, **self.told}
        if thresholds.told:
            told["chosen"] = as_data(thresholds.told)
        network = with_delay(with_thresholds(self.network, thresholds, self.reset), self.delay)
        network = dataclasses.replace(network, provenance={**network.provenance, **told})
        return with_spikes(with_v_init(network, self.start if v_init is None else v_init), spikes)


def _chosen(
    entered: _Entered,
    timesteps: int,
    v_init: float | str,
    delays: Sequence[float],
    spikes: SpikeKind,
    method: Method | None,
) -> tuple[_Entered, Sequence[AnyCorrection]]:
    """The same with the method that is best for T steps and V(0), and the corrections that go with it."""

    def install(network: Network, thresholds: Thresholds) -> Network:
        return with_spikes(with_v_init(with_thresholds(network, thresholds, entered.reset), v_init), spikes)

    learnt: list[Method] = [RateNorm()] * any(op.threshold is not None for op in entered.network.neurons.values())
    methods = [method] if method is not None else [*learnt, *CANDIDATES]
    choice = choose(entered.network, hold(entered.images), timesteps, methods, install, delays)
    told = {**entered.told, "chosen": choice.told}
    chosen = dataclasses.replace(entered, method=choice.method, start=0.5, delay=choice.delay, told=told)
    return chosen, choice.corrections


def corrected(network: Network, batches: Batches, corrections: Sequence[AnyCorrection]) -> Network:
    """The network with these corrections, which its provenance tells."""
    if not corrections:
        return network
    provenance = {**network.provenance, "corrections": as_data(list(corrections))}
    return dataclasses.replace(apply_corrections(network, batches, corrections), provenance=provenance)


def with_spikes(network: Network, spikes: SpikeKind) -> Network:
    """The network with neurons that take spikes back ("signed"), or not ("binary"). ConversionError with hard reset."""
    if spikes == "signed" and (hard := [name for name, op in network.neurons.items() if op.reset == "zero"]):
        raise ConversionError(f'{hard[0]}: signed spikes need soft reset. Convert with reset="subtract"')
    changed = {name: dataclasses.replace(op, spikes=spikes) for name, op in network.neurons.items()}
    told = {"spikes": spikes} if spikes == "signed" else {}
    return dataclasses.replace(network.replace_ops(changed), provenance={**network.provenance, **told})


class Converter:
    """:func:`convert` for one model and one set of images; what several ways to convert share is measured once.

    What ``RMP(..., after=True)`` measures serves all its scales, and no threshold depends on initial potentials or on
    which steps scores leave out.
    """

    def __init__(
        self,
        model: Model,
        batches: Batches | Tensor,
        lossy: Iterable[LossyPass] = (),
        output: int | None = None,
        on: Workers | None = None,
    ) -> None:
        self._model, self._batches, self._lossy, self._output, self._on = model, batches, tuple(lossy), output, on
        self._measured: dict[str, tuple[_Entered, Thresholds]] = {}

    def __call__(
        self,
        method: Method | None = None,
        *,
        reset: Reset | None = None,
        readout: ReadoutKind | None = None,
        v_init: float | str | None = None,
        delay: float | None = None,
        spikes: SpikeKind = "binary",
        timesteps: int | None = None,
        correct: Sequence[AnyCorrection] = (),
    ) -> Network:
        """The network; arguments and errors as for :func:`convert`."""
        if timesteps is not None and timesteps < 1:
            raise ConversionError(f"timesteps: {timesteps} is less than 1")
        if timesteps is not None and correct:
            raise ConversionError("timesteps: chooses a correction, and correct names one. Give one of the two")
        _check_options("subtract", "potential", spikes)
        if v_init is not None:
            check_v_init(v_init)
        if delay is not None:
            check_delay(delay)
        if timesteps is not None:
            start, delays = 0.5 if v_init is None else v_init, DELAYS if delay is None else (delay,)
            entered = self._enter(method, reset, readout)
            entered, correct = _chosen(entered, timesteps, start, delays, spikes, method)
            thresholds = entered.measured()
        else:
            entered, thresholds = self._thresholds(method, reset, readout)
            entered = entered if delay is None else dataclasses.replace(entered, delay=delay)
        return corrected(entered.spiking(thresholds, v_init, spikes), entered.images, correct)

    def _thresholds(
        self, method: Method | None, reset: Reset | None, readout: ReadoutKind | None
    ) -> tuple[_Entered, Thresholds]:
        """Measure with the method, or take what it measured before."""
        after = method if isinstance(method, RMP) and method.after and method.scale is not None else None
        base = method if after is None else dataclasses.replace(after, scale=1.0)
        key = f"{base!r}, {reset}, {readout}"
        if key not in self._measured:
            entered = self._enter(base, reset, readout)
            self._measured[key] = entered, entered.measured()
        entered, thresholds = self._measured[key]
        if after is None or after.scale is None:
            return entered, thresholds
        return dataclasses.replace(entered, method=after), scaled(thresholds, after.scale)

    def _enter(self, method: Method | None, reset: Reset | None, readout: ReadoutKind | None) -> _Entered:
        images, first, network, changes = self._prepared
        levelled = any(op.levels for op in network.neurons.values())
        start = 0.5 if method is None or levelled else 0.0
        delay = 0.5 if method is None and not levelled and depth(network) >= DEEP else 0.0
        if method is None:
            method = RateNorm() if levelled else DEFAULT
        if self._on is not None and not isinstance(method, DataNorm):
            raise ConversionError(
                f"workers: {method} measures in one process. Leave them out, or convert with DataNorm"
            )
        reset, readout = reset or method.reset, readout or method.readout
        _check_options(reset, readout)
        if readout == "spikes":
            network = _with_output_neurons(network)
        scale, count = input_extent(images, network.input.shape, self._on)
        entrance = dataclasses.replace(network.input, scale=scale, amplitude=scale)
        network = network.replace_ops({network.nodes[0].name: entrance})
        told: dict[str, object] = {
            "model": type(self._model).__name__,
            "readout": readout,
            "calibration_images": count,
            "changes": [f"{change.layer}: {change.text}" for change in changes],
            "versions": versions(),
        }
        if len(first.shapes) > 1:
            told["inputs"] = [list(shape) for shape in first.shapes]
        return _Entered(network, images, method, reset, start, delay, told, self._on)

    @cached_property
    def _prepared(self) -> tuple[Batches, Batch, Network, list[Change]]:
        """Images, the first of them, the network that takes them, and what lossy passes changed in it."""
        images = self._batches if self._on is not None and hasattr(self._batches, "shards") else hold(self._batches)
        first = next(read(images))
        return images, first, *prepare(self._model, first.inputs, self._lossy, self._output)


def with_v_init(network: Network, v_init: float | str) -> Network:
    """The network with another initial potential: a fraction of the threshold, or "uniform" in [0, theta)."""
    check_v_init(v_init)
    started = {name: dataclasses.replace(op, v_init=v_init) for name, op in network.neurons.items()}
    provenance = {**network.provenance, "v_init": v_init}
    return dataclasses.replace(network.replace_ops(started), provenance=provenance)


def digest(model: Model) -> str:
    """Eight digits that tell one training of a network from another."""
    total = hashlib.sha256()
    for name, value in sorted(_tensors(model).items()):
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:8]


def _tensors(model: Model) -> Mapping[str, Tensor]:
    if isinstance(model, nn.Module):
        return model.state_dict()
    if isinstance(model, ExportedProgram):
        return model.state_dict
    fields = ((node.name, field, value) for node in model.nodes for field, value in vars(node.op).items())
    return {f"{name}.{field}": value for name, field, value in fields if isinstance(value, Tensor)}


def depth(network: Network) -> int:
    """Neuron layers on the longest way from the input to the readout."""
    *_, (_, layers) = interpret(
        network.nodes, lambda node, op: 0, lambda node, op, before: before + 1, lambda node, inputs: max(inputs)
    )
    return layers


def check_delay(delay: float) -> None:
    """ConversionError for a share of the steps that there is not."""
    if not (isinstance(delay, int | float) and 0 <= delay < 1):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConversionError(f"delay: {delay} is no share of the steps. Give a number in [0, 1)")


def prepare(
    model: Model, example: Images, lossy: Iterable[LossyPass] = (), output: int | None = None
) -> tuple[Network, list[Change]]:
    """Trace, apply passes, fold: the network as it will spike, without thresholds, and what lossy passes changed."""
    if isinstance(model, Network):
        check_chosen(model, output)
        network = model.widened()
    else:
        network = trace(model, example, output)
    network, _ = early_max_pools(network)
    changes = list[Change]()
    for lossy_pass in lossy:
        network, changed = lossy_pass(network)
        changes += changed
    network = fold_affine(network)
    for node in network.nodes:
        verdict, why, remedy = VERDICTS.get(type(node.op), ("exact", "", ""))
        if verdict == "refused":
            raise ConversionError(f"{node.name} ({type(node.op).__name__}): {why}. {remedy}")
        for value in (getattr(node.op, "weight", None), getattr(node.op, "bias", None)):
            if isinstance(value, Tensor) and not all_finite(value):
                raise ConversionError(
                    f"{node.name} ({type(node.op).__name__}): its weights hold NaN or infinity. Train the model again"
                )
    if not network.neurons:
        raise ConversionError("the model has no ReLU: nothing in it would spike")
    return network, changes


def _check_options(reset: str, readout: str, spikes: str = "binary") -> None:
    choices: Sequence[tuple[str, str, tuple[str, ...]]] = (
        ("reset", reset, ("subtract", "zero")),
        ("readout", readout, ("potential", "spikes")),
        ("spikes", spikes, ("binary", "signed")),
    )
    for name, value, allowed in choices:
        if value not in allowed:
            raise ConversionError(f"{name}: {value!r} is not known. Choose from {', '.join(allowed)}")


def check_v_init(v_init: float | str) -> None:
    """ConversionError for an initial potential that there is not."""
    if v_init != "uniform" and not (isinstance(v_init, int | float) and 0 <= v_init < 1):
        raise ConversionError(f'v_init: {v_init!r} is neither a fraction of the threshold in [0, 1) nor "uniform"')


def _with_output_neurons(network: Network) -> Network:
    """The network with a neuron layer in front of the readout, unless there is one already."""
    *before, readout = network.nodes
    if isinstance(network[readout.inputs[0]].op, Neuron):
        return network
    neurons = Node(OUTPUT_NEURONS, Neuron(), readout.inputs)
    return dataclasses.replace(
        network, nodes=(*before, neurons, dataclasses.replace(readout, inputs=(OUTPUT_NEURONS,)))
    )
