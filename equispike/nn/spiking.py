"""A converted network as a module that runs one step at a time, and that trains on through its spikes."""
# pyright: reportUnknownMemberType=false
# (some of torch's own signatures lack types)

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from equispike.errors import EquispikeError
from equispike.functional.coding import uniform
from equispike.functional.integrate import Reset, if_step, signed_step

LEARNT = ("weight", "bias")
"""Tensors of operations that are parameters; all others are buffers."""


class Surrogate(Protocol):
    """Slope that a spike is given where gradients pass, since its own is zero."""

    def __call__(self, distance: Tensor) -> Tensor:
        """Slope at a distance of the potential from the threshold, in thresholds."""
        ...


@dataclass(frozen=True)
class Triangle:
    """Slope 1 at the threshold, falling to 0 at that distance on both sides (Esser et al., 2016).

    >>> Triangle()(torch.tensor([-2.0, -0.5, 0.0, 0.25]))
    tensor([0.0000, 0.5000, 1.0000, 0.7500])
    """

    width: float = 1.0

    def __call__(self, distance: Tensor) -> Tensor:
        return (1 - distance.abs() / self.width).clamp(min=0)


TRIANGLE = Triangle()


class Potentials(NamedTuple):
    """Neurons between two steps: potentials, and of signed ones the spikes sent so far; both (B, *features)."""

    v: Tensor
    sent: Tensor | None


@dataclass(frozen=True)
class State:
    """A network between two steps.

    Fields:
        step: steps done.
        neurons: by layer.
    """

    step: int
    neurons: Mapping[str, Potentials]


class NeuronLayer(nn.Module):
    """Integrate-and-fire neurons, one step per call; they keep nothing.

    Args:
        threshold, amplitude: shape () or (C, 1, ...).
        reset, signed, v_init, drive: as of ``Neuron`` in ``graph.ops``.
        stream, seed: of potentials that start at random.
    """

    threshold: Tensor
    amplitude: Tensor
    drive: Tensor | None

    def __init__(
        self,
        threshold: Tensor,
        amplitude: Tensor,
        reset: Reset,
        signed: bool,
        v_init: float | Literal["uniform"] | Tensor,
        drive: Tensor | None,
        surrogate: Surrogate,
        stream: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.register_buffer("threshold", threshold.clone())
        self.register_buffer("amplitude", amplitude.clone())
        self.register_buffer("drive", None if drive is None else drive.clone())
        self.reset: Reset = reset
        self.signed, self.surrogate, self.stream, self.seed = signed, surrogate, stream, seed
        self.fraction: float | Literal["uniform"] = 0.0 if isinstance(v_init, Tensor) else v_init
        self.register_buffer("v_init", v_init.clone() if isinstance(v_init, Tensor) else None)

    def start(self, current: Tensor) -> Potentials:
        """Potentials before the first step, for currents of that shape."""
        sent = torch.zeros_like(current) if self.signed else None
        if isinstance(self.v_init, Tensor):
            return Potentials(self.v_init.expand_as(current).contiguous(), sent)
        if isinstance(self.fraction, str):
            images = torch.arange(len(current), device=current.device)
            drawn = uniform(self.seed, images, self.stream, tuple(current.shape[1:])).to(current.dtype)
            return Potentials(drawn * self.threshold, sent)
        return Potentials(torch.full_like(current, self.fraction) * self.threshold, sent)

    def forward(self, current: Tensor, before: Potentials, step: int) -> tuple[Tensor, Potentials]:
        """Spikes in {0, a}, or {-a, 0, a}, and potentials after this step (1, 2, ...)."""
        if self.drive is not None:
            row = self.drive[min(step, len(self.drive)) - 1]
            current = current + row.view(-1, *[1] * (current.ndim - 2))
        spikes, v, *sent = cast(
            "tuple[Tensor, ...]",
            _Step.apply(current, *before, self.threshold, self.amplitude, self.reset, self.surrogate),
        )
        return spikes, Potentials(v, sent[0] if self.signed else None)


class _Step(torch.autograd.Function):
    """One step as ``functional.integrate`` has it; gradients take each spike for a step with the surrogate's slope."""

    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        v: Tensor,
        sent: Tensor | None,
        threshold: Tensor,
        amplitude: Tensor,
        reset: Reset,
        surrogate: Surrogate,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(v + current, sent, threshold, amplitude)
        ctx.reset, ctx.surrogate = reset, surrogate
        if sent is None:
            return if_step(current, v, threshold, reset, amplitude)
        after = signed_step(current, v, sent, threshold, amplitude)
        ctx.mark_non_differentiable(after[2])
        return after

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        u, sent, threshold, amplitude = cast("tuple[Tensor, Tensor | None, Tensor, Tensor]", ctx.saved_tensors)
        slope = ctx.surrogate((u - threshold) / threshold) / threshold
        if sent is not None:
            slope = slope + ctx.surrogate(u / threshold) / threshold * (sent > 0)
        through = 1 - threshold * slope if ctx.reset == "subtract" else (u < threshold).to(u.dtype) - u * slope
        to_u = grads[0] * amplitude * slope + grads[1] * through
        return to_u, to_u, None, None, None, None, None


class Operation(nn.Module):
    """Any other operation of a network, its weights and biases as parameters.

    Args:
        op: a dataclass that is called with the values of its inputs.
    """

    def __init__(self, op: Any) -> None:
        super().__init__()
        self.kind = op
        for field in dataclasses.fields(op):
            value = getattr(op, field.name)
            if isinstance(value, Tensor) and field.name in LEARNT:
                self.register_parameter(field.name, nn.Parameter(value.clone()))
            elif isinstance(value, Tensor):
                self.register_buffer(field.name, value.clone())

    @property
    def op(self) -> Any:
        """The operation with the tensors as they are now."""
        tensors = dict((*self.named_parameters(), *self.named_buffers()))
        return dataclasses.replace(self.kind, **tensors)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.op(*inputs)

    def extra_repr(self) -> str:
        return type(self.kind).__name__


class Spiking(nn.Module):
    """A network of neurons as a module: each call is one step of time. Made by ``Network.module``.

    Weights and biases are parameters, thresholds and all else buffers. ``layers`` holds a module for each node, by its
    name with ``_`` for ``.``, so hooks see the currents and spikes of every layer. Spikes have surrogate gradients; for
    one that goes on to the next training step, call :meth:`reset` first.

    Attributes:
        state: after the last step; None before the first. It may be kept, and set again.
    """

    def __init__(self, nodes: Sequence[tuple[str, nn.Module, tuple[str, ...]]]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        self.nodes = [(name, self._key(name, layer), inputs) for name, layer, inputs in nodes]
        self.state: State | None = None

    def _key(self, name: str, layer: nn.Module) -> str:
        key = name.replace(".", "_")
        while key in self.layers or hasattr(self.layers, key):
            key += "_"
        self.layers[key] = layer
        return key

    def reset(self) -> None:
        """Go back to before the first step."""
        self.state = None

    def forward(self, x: Tensor) -> Tensor:
        """Go one step on: class scores of this step (B, classes) for the input of this step (B, *features).

        The scores of ``simulate`` are their sums over the steps, or what ``functional.coding.delayed`` makes of these.
        """
        scores, self.state = self.step(x, self.state)
        return scores

    def step(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """The same without keeping anything: scores, and the state after this step.

        Raises:
            EquispikeError: the state is of another number of images.
        """
        number, before = 1, cast("Mapping[str, Potentials]", {})
        if state is not None:
            number, before = state.step + 1, state.neurons
        values: dict[str, Tensor] = {}
        after: dict[str, Potentials] = {}
        for name, key, inputs in self.nodes:
            layer, given = self.layers[key], [values[one] for one in inputs]
            if not isinstance(layer, NeuronLayer):
                values[name] = layer(*given) if inputs else layer(cast("Operation", layer).kind.on_grid(x))
                continue
            potentials = before[name] if name in before else layer.start(given[0])
            if potentials.v.shape != given[0].shape:
                raise EquispikeError(
                    f"{name}: its potentials are of {len(potentials.v)} images, and {len(given[0])} came. Call reset() "
                    "before other images"
                )
            values[name], after[name] = layer(given[0], potentials, number)
        return values[self.nodes[-1][0]], State(number, after)

    def ops(self) -> dict[str, Any]:
        """The operations with their weights as they are now: ``network.replace_ops(module.ops())`` has learnt them."""
        layers = {name: self.layers[key] for name, key, _ in self.nodes}
        return {name: layer.op for name, layer in layers.items() if isinstance(layer, Operation)}
