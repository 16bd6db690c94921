"""Random small networks on which arithmetic is exact.

Every number is dyadic: a small integer over a power of two, and average pools have windows of 1, 2 or 4 elements. Sums
and products of such numbers are exact in any order, so two computations that should agree agree to the last bit, in
float64 and, in simulations of some dozen steps, in float32. (What divides by a threshold asks for ``powers_of_two``.)

>>> from hypothesis import given
>>> @given(networks(), st.data())
... def test(network, data):
...     images = data.draw(images_for(network))
"""

import dataclasses
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from hypothesis import strategies as st
from torch import Tensor

from equispike.analysis.evaluation import Evaluation
from equispike.graph.network import Network, Node
from equispike.graph.ops import Add, Affine, AvgPool, Concat, Conv, Flatten, Input, Linear, Neuron, Op, Pad, Readout

Draw = Callable[[st.SearchStrategy[Any]], Any]
Form = Literal["activation", "balanced", "any"]

POWERS = (0.25, 0.5, 1.0, 2.0)


def dyadic(seed: int, *shape: int, low: int = -8, high: int = 8, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random integers from low to high (both included), divided by 8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high + 1, shape, generator=generator).to(dtype) / 8


seeds = st.integers(0, 2**32 - 1)

SEARCH = "EQUISPIKE_EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("EQUISPIKE_EXAMPLES", "100"))
"""Damaged files to read; thousands are for a search of their own."""


def wounded(data: bytes, draw: random.Random) -> bytes:
    """A file with one to four wounds: a byte changed; a stretch filled, cut out or copied over another; no end."""
    found = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        if not found:
            break
        near = min(len(found), draw.choice([64, 1024, len(found)]))  # headers lie in front
        place, length = draw.randrange(near), draw.choice([1, 2, 4, 8, 64, 512])
        match draw.choice(["change", "change", "change", "number", "fill", "cut", "move", "end"]):
            case "change":
                found[place] ^= draw.randint(1, 255)
            case "number":
                found[place : place + 8] = draw.choice([0, 1, 2**31, 2**32 - 1, 2**40, 2**63]).to_bytes(8, "little")
            case "fill":
                found[place : place + length] = bytes([draw.choice([0, 1, 127, 128, 255])] * length)
            case "cut":
                del found[place : place + length]
            case "move":
                other = draw.randrange(len(found))
                found[other : other + length] = found[place : place + length]
            case _:
                del found[place:]
    return bytes(found)


@st.composite
def damaged(draw: Draw, whole: Callable[[], bytes]) -> bytes:
    """A wounded file."""
    return wounded(whole(), random.Random(draw(seeds)))


@st.composite
def images_for(draw: Draw, network: Network, most: int = 3, signed: bool | None = None) -> Tensor:
    """One to ``most`` images for a network: multiples of 1/8 in [-1, 1], or if not ``signed`` in [0, 1]."""
    signed = draw(st.booleans()) if signed is None else signed
    batch = draw(st.integers(1, most))
    return dyadic(draw(seeds), batch, *network.input.shape, low=-8 if signed else 0, dtype=network.dtype)


@st.composite
def networks(
    draw: Draw,
    calibrated: bool = True,
    form: Form = "activation",
    per_channel: bool = True,
    powers_of_two: bool = False,
    affine: bool = False,
    reset: Literal["subtract", "zero"] | None = None,
    v_init: bool = True,
    ceilings: bool = True,
    spike_readout: bool | None = None,
    drives: bool = True,
    signed: bool = True,
    plain: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Network:
    """A random network of one to three blocks and a linear head, on vectors or on 1d or 2d images.

    Args:
        calibrated: neurons have thresholds.
        form: "activation" (amplitude = threshold), "balanced" (all amplitudes 1), "any" (amplitudes of their own).
        per_channel: some layers have a threshold per channel (in the form "any", an amplitude per channel too).
        powers_of_two: thresholds are powers of two, else positive multiples of 1/8.
        affine: per-channel affine maps stand between the other operations.
        reset: of all neurons; None: each has one of the two.
        v_init: some neurons start above 0, at a dyadic fraction of the threshold or at a random one.
        ceilings: some neurons stand for a clipped ReLU.
        drives: some neurons have a drive, constant or by step.
        plain: neither of these two, nor potentials of each channel.
        signed: some neurons with soft reset send negative spikes too.
        spike_readout: the readout reads neurons rather than currents; None: either.
        dtype: of all tensors.
    """
    b = _Builder(
        draw,
        calibrated,
        form,
        per_channel,
        powers_of_two,
        affine,
        reset,
        v_init,
        ceilings,
        drives,
        signed,
        plain,
        dtype,
    )
    b.start()
    for _ in range(draw(st.integers(1, 3))):
        draw(st.sampled_from([b.layer, b.layer, b.residual, b.concat]))()
        if b.space and draw(st.booleans()):
            b.pool()
        if not draw(st.integers(0, 3)):
            b.pad()
    if b.space:
        b.add("flatten", Flatten())
    if draw(st.booleans()):
        b.linear()
        b.neuron()
    b.linear()
    if draw(st.booleans()) if spike_readout is None else spike_readout:
        b.neuron()
    elif not any(isinstance(node.op, Neuron) for node in b.nodes):
        b.neuron()
        b.linear()
    b.readout()
    return Network(tuple(b.nodes))


@dataclass
class _Builder:
    """A network that grows at its end. Each method draws the details of one operation and appends it."""

    draw: Draw
    calibrated: bool
    form: Form
    per_channel: bool
    powers_of_two: bool
    affine_maps: bool
    reset: Literal["subtract", "zero"] | None
    v_init: bool
    ceilings: bool
    drives: bool
    signed: bool
    plain: bool
    dtype: torch.dtype
    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def readout(self) -> None:
        scale, classes = self.draw(st.sampled_from(POWERS)), self.shape[0]
        special = self.calibrated and self.drives and not self.plain and self.draw(st.booleans())
        mix = dyadic(self.draw(seeds), classes, classes + 1, dtype=self.dtype) if special else None
        delay = self.draw(st.sampled_from([0.0, 0.5, 0.75])) if self.calibrated and not self.plain else 0.0
        self.add("readout", Readout(scale, *(() if mix is None else (mix[:, 1:], mix[:, 0])), delay=delay))

    @property
    def last(self) -> str:
        return self.nodes[-1].name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.shapes[self.last]

    @property
    def space(self) -> tuple[int, ...]:
        return self.shape[1:]

    def add(self, kind: str, op: Op, *inputs: str) -> str:
        node = Node(f"{len(self.nodes)}.{kind}", op, inputs or ((self.last,) if self.nodes else ()))
        self.nodes.append(node)
        values = (torch.zeros(1, *self.shapes[name], dtype=self.dtype) for name in node.inputs)
        self.shapes[node.name] = op.shape if isinstance(op, Input) else tuple(op(*values).shape[1:])
        return node.name

    def tensor(self, *shape: int, low: int = -8) -> Tensor:
        return dyadic(self.draw(seeds), *shape, low=low, dtype=self.dtype)

    def start(self) -> None:
        rank = self.draw(st.integers(0, 2))
        space = tuple(self.draw(st.integers(3, 6)) for _ in range(rank))
        shape = (self.draw(st.integers(1, 3 if rank else 6)), *space)
        scale = self.draw(st.sampled_from([1.0, 2.0]))
        amplitude = {"activation": scale, "balanced": 1.0}.get(self.form) or self.draw(st.sampled_from(POWERS))
        self.add("input", Input(shape, scale, amplitude))

    def neuron(self) -> None:
        op = Neuron(
            ceiling=self.draw(st.sampled_from([None, 0.5, 1.0, 2.0])) if self.ceilings else None,
            reset=self.reset or self.draw(st.sampled_from(["subtract", "zero"])),
            v_init=self.draw(st.sampled_from([0.0, 0.0, 0.5, 0.25, "uniform"])) if self.v_init else 0.0,
        )
        along = (self.shape[0], *(1,) * len(self.space))
        special = self.calibrated and not self.plain
        if self.v_init and special and not self.draw(st.integers(0, 4)):
            op = dataclasses.replace(op, v_init=self.tensor(*along))
        if self.drives and special and not self.draw(st.integers(0, 3)):
            op = dataclasses.replace(op, drive=self.tensor(self.draw(st.integers(1, 4)), self.shape[0]))
        if self.signed and special and op.reset == "subtract" and not self.draw(st.integers(0, 2)):
            op = dataclasses.replace(op, spikes="signed")
        if self.calibrated:
            threshold = self.levels(self.powers_of_two)
            amplitude = {"activation": threshold, "balanced": torch.ones_like(threshold)}.get(self.form)
            if amplitude is None:
                amplitude = self.levels(powers_of_two=True)
            op = dataclasses.replace(op, threshold=threshold, amplitude=amplitude)
        self.add("neuron", op)

    def levels(self, powers_of_two: bool) -> Tensor:
        """Positive numbers, one for the layer or one per channel."""
        shape = (self.shape[0], *(1,) * len(self.space)) if self.per_channel and self.draw(st.booleans()) else ()
        if not powers_of_two:
            return self.tensor(*shape, low=1)
        generator = torch.Generator().manual_seed(self.draw(seeds))
        return torch.tensor(POWERS, dtype=self.dtype)[torch.randint(len(POWERS), shape, generator=generator)]

    def linear(self) -> None:
        bias = self.draw(st.booleans())
        out = self.draw(st.integers(1, 5))
        self.add("linear", Linear(self.tensor(out, *self.shape), self.tensor(out) if bias else None))
        self.affine()

    def conv(self, keep_shape: bool = False) -> None:
        rank, channels = len(self.space), self.shape[0]
        groups = self.draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
        if keep_shape:
            out, kernel = channels, tuple(self.draw(st.sampled_from([1, 3])) for _ in range(rank))
            stride = dilation = (1,) * rank
            padding = tuple(k // 2 for k in kernel)
        else:
            out = groups * self.draw(st.integers(1, 2))
            kernel = tuple(self.draw(st.integers(1, min(3, n))) for n in self.space)
            stride = tuple(self.draw(st.integers(1, 2)) for _ in range(rank))
            padding = tuple(self.draw(st.integers(0, 1)) for _ in range(rank))
            dilation = tuple(
                self.draw(st.integers(1, 2 if 2 * (k - 1) < n else 1)) for k, n in zip(kernel, self.space, strict=True)
            )
        bias = self.tensor(out) if self.draw(st.booleans()) else None
        weight = self.tensor(out, channels // groups, *kernel)
        self.add("conv", Conv(weight, bias, stride, padding, dilation, groups))
        self.affine()

    def weights(self, keep_shape: bool = False) -> None:
        """A convolution, or on vectors a linear layer."""
        if self.space:
            self.conv(keep_shape)
        elif keep_shape:
            self.add("linear", Linear(self.tensor(*self.shape, *self.shape), None))
        else:
            self.linear()

    def pool(self) -> None:
        rank = len(self.space)
        kernel = tuple(self.draw(st.integers(1, min(2, n))) for n in self.space)
        stride = tuple(self.draw(st.integers(1, 2)) for _ in range(rank))
        padding = tuple(self.draw(st.integers(0, k // 2)) for k in kernel)
        self.add("pool", AvgPool(kernel, stride, padding, self.draw(st.booleans()), self.draw(st.booleans())))
        self.affine()
        if self.draw(st.booleans()):
            self.neuron()

    def pad(self) -> None:
        """Up to one row of zeros at each end of each axis, channels too, or one cut off where there are enough.

        Sometimes zeros between all pixels as well.
        """
        amounts = st.integers(-1, 1)
        ends = [
            (self.draw(amounts), self.draw(amounts)) if n > 2 else (0, self.draw(st.integers(0, 1))) for n in self.shape
        ]
        before, after = zip(*ends, strict=True)
        zeros = self.draw(st.integers(0, 1)) if self.space and not self.draw(st.integers(0, 3)) else 0
        self.add("pad", Pad(before, after, (0, *(zeros for _ in self.space)) if zeros else ()))

    def affine(self) -> None:
        if self.affine_maps and self.draw(st.booleans()):
            scale = self.tensor(self.shape[0]) if self.draw(st.booleans()) else self.tensor(1).repeat(self.shape[0])
            shift = self.tensor(self.shape[0]) if self.draw(st.booleans()) else torch.zeros_like(scale)
            self.add("affine", Affine(scale, shift))

    def layer(self) -> None:
        self.weights()
        if self.draw(st.integers(0, 3)):
            self.neuron()

    def residual(self) -> None:
        """Two branches and their sum, behind each of which a neuron may stand; the shortcut may be the identity."""
        fork = self.last
        self.weights(keep_shape=True)
        if self.draw(st.booleans()):
            self.neuron()
            self.weights(keep_shape=True)
        branch, shortcut = self.last, fork
        if self.draw(st.booleans()):
            shape = self.shapes[fork]
            weight = self.tensor(shape[0], shape[0], *(1,) * (len(shape) - 1))
            ones = (1,) * (len(shape) - 1)
            op = Conv(weight, None, ones, (0,) * len(ones), ones) if ones else Linear(weight, None)
            shortcut = self.add("shortcut", op, fork)
        self.add("add", Add(self.coefficients()), branch, shortcut)
        self.affine()
        if self.draw(st.booleans()):
            self.neuron()

    def concat(self) -> None:
        """The features so far, and a branch of the same size beside them."""
        fork = self.last
        self.weights(keep_shape=True)
        if self.draw(st.booleans()):
            self.neuron()
        self.add("concat", Concat(self.coefficients()), fork, self.last)
        self.affine()
        if self.draw(st.booleans()):
            self.neuron()

    def coefficients(self) -> tuple[float, float]:
        return self.draw(st.sampled_from([(1.0, 1.0), (1.0, -1.0), (0.5, 2.0)]))


def same(a: Evaluation, b: Evaluation) -> bool:
    """All that was counted is equal, bit for bit."""
    numbers = ("accuracy", "ties", "spike_rate", "predictions", "trained_predictions")
    return (
        all(torch.equal(getattr(a, name), getattr(b, name)) for name in numbers)
        and a.trained == b.trained
        and all(torch.equal(count, b.counts[name]) for name, count in a.counts.items())
        and all(torch.equal(count, b.spikes_by_step[name]) for name, count in a.spikes_by_step.items())
        and (a.inputs is None) == (b.inputs is None)
        and (a.inputs is None or b.inputs is None or torch.equal(a.inputs, b.inputs))
    )
