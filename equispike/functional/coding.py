r"""From images to input currents, and from scores to classes.

Every random number comes from Philox 4x32-10, a function of a counter and a key that keeps no state (Salmon et al.,
2011, "Parallel random numbers: as easy as 1, 2, 3"). A draw is therefore the same in any batch, order, chunk of steps,
engine and device. The keying, exactly, so that another engine can repeat it; all numbers are unsigned 32-bit:

    counter = (input index // 4, step, image index, stream)        key = (seed mod 2**32, seed // 2**32)
    word    = output word number (input index % 4) of philox(counter, key)

- input index: flat index over the features of one image, in C order.
- step: 1, 2, ..., T for a draw in that step; 0 for a draw before the first step.
- image index: the number of the image in its data set, whatever batch it travels in.
- stream: 0 for the input coder, n > 0 for the initial potential of the n-th neuron layer.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast

import torch
from torch import Tensor

from equispike.arguments import checked_fields
from equispike.errors import SimulationError
from equispike.functional.inputs import Images, all_finite, inputs_of, join_inputs

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_MASK = 0xFFFFFFFF
_WORD = 2**32
# Counters worked on at once: on a CPU the block stays in the cache, elsewhere it amortises the launches.
_BLOCK = {"cpu": 2**16}
_BLOCK_ELSEWHERE = 2**22

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(counter: Words, key: tuple[int, int]) -> Words:
    r"""Philox 4x32-10: four random words from a counter of four and a key of two (Salmon et al., 2011).

    .. math:: (c_0, c_1, c_2, c_3) \leftarrow
        (\mathrm{hi}(M_1 c_2) \oplus c_1 \oplus k_0,\; \mathrm{lo}(M_1 c_2),\;
         \mathrm{hi}(M_0 c_0) \oplus c_3 \oplus k_1,\; \mathrm{lo}(M_0 c_0))

    ten times, with :math:`k_i \leftarrow k_i + w_i` in between.

    Args:
        counter: four int64 tensors with values in [0, 2**32), of shapes that broadcast.
        key: two ints in [0, 2**32).
    Returns:
        four int64 tensors with values in [0, 2**32), of the broadcast shape.

    >>> zero = torch.tensor(0)
    >>> [f"{int(word):08x}" for word in philox((zero, zero, zero, zero), (0, 0))]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # int64 wraps: the bit pattern of the product is right, and the arithmetic shift spoils only bits that
        # the mask removes. c1 and c3 are only ever XORed, so they may carry high bits until the end.
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = ((product1 >> 32) ^ (c1 ^ k0)) & _MASK, product1
        c2, c3 = ((product0 >> 32) ^ (c3 ^ k1)) & _MASK, product0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1 & _MASK, c2, c3 & _MASK


def uniform(seed: int, indices: Tensor, stream: int, features: tuple[int, ...]) -> Tensor:
    """Random numbers in [0, 1), drawn before the first step: the upper 24 bits of each word, over 2**24.

    Args:
        seed: in [0, 2**64).
        indices: number of each image in its data set, (B,), int64.
        stream: n > 0 for the n-th neuron layer.
        features: shape of one image's draw.
    Returns:
        (B, *features), float32 (exact in it), on the device of ``indices``.
    """
    key = key_for(seed, indices)
    size = math.prod(features)
    groups = torch.arange(-(-size // 4), device=indices.device)
    zero = torch.zeros((), dtype=torch.int64, device=indices.device)
    words = torch.stack(philox((groups, zero, indices[:, None], zero + stream), key), dim=-1)
    return ((words >> 8).float() / 2**24).flatten(1)[:, :size].reshape(-1, *features)


class Coder(Protocol):
    """Turns images into the input currents of the first layer. Any object with these two members is one.

    ``encode`` depends on its arguments alone: engines ask for steps in chunks of any size, once or several times, and
    for images in any batch. Draw random numbers from ``uniform`` or ``philox``, keyed by seed and the images' numbers.
    """

    constant: ClassVar[bool]
    """Whether the current is the same in every step; ``encode`` then returns one step for all."""

    def encode(
        self, images: Tensor, indices: Tensor, steps: range, seed: int, scale: float, amplitude: float
    ) -> Tensor:
        """Input currents of these steps.

        Args:
            images: (B, *features), floating point.
            indices: number of each image in its data set, (B,), int64, in [0, 2**32).
            steps: which steps, within 1, ..., T.
            seed: in [0, 2**64).
            scale: largest |x| seen in calibration.
            amplitude: size of one input spike, in the network's units; a step's mean current is x amplitude / scale.
        Returns:
            (len(steps), B, *features), or (1, B, *features) of a constant coder; dtype and device of the images.
        Raises:
            SimulationError: an argument is out of its range.
        """
        ...


@dataclass(frozen=True)
class Constant:
    """Analog input: the current is x amplitude / scale in every step (Rueckauer et al., 2017)."""

    constant: ClassVar[bool] = True

    def encode(
        self, images: Tensor, indices: Tensor, steps: range, seed: int, scale: float, amplitude: float
    ) -> Tensor:
        """See :meth:`Coder.encode`. Exactly x where amplitude equals scale; draws nothing."""
        _check(images, indices, steps, scale, amplitude)
        currents = images.unsqueeze(0)
        return currents if amplitude == scale else currents * (amplitude / scale)


@checked_fields
@dataclass(frozen=True)
class Poisson:
    r"""Signed random spikes: :math:`a\,\mathrm{sign}(x)` with probability :math:`\min(1, |x|/s)` in every step.

    Sengupta et al. (2019), section 4.1. An input fires where its word < round(p 2**32), halves to even and p in
    float64: p = 1 always fires, p = 0 never does.

    Args:
        scale: s, the |x| that fires in every step; None takes the largest |x| seen in calibration. Spikes of another
            scale are s / calibrated times as large, so the mean current stays that of :class:`Constant`.
    """

    scale: float | None = None
    constant: ClassVar[bool] = False

    def encode(
        self, images: Tensor, indices: Tensor, steps: range, seed: int, scale: float, amplitude: float
    ) -> Tensor:
        """See :meth:`Coder.encode`. Groups of four inputs that are all zero draw nothing."""
        _check(images, indices, steps, scale, amplitude)
        key = key_for(seed, indices)
        limits = self.limits(images, scale)
        if self.scale is not None:
            amplitude *= self.scale / scale

        size = images.shape[1:].numel()
        padded = torch.nn.functional.pad(limits.flatten(1), (0, -size % 4))
        groups = padded.reshape(len(images), padded.shape[1] // 4, 4)
        currents = images.new_zeros(len(steps), *groups.shape)
        times = torch.arange(steps.start, steps.stop, steps.step, device=images.device)[:, None]
        stream = torch.zeros((), dtype=torch.int64, device=images.device)
        live = groups.any(dim=2).nonzero()
        size_of_block = _block(images.device, len(steps))
        for start in range(0, len(live), size_of_block):
            row, group = live[start : start + size_of_block].T
            own = groups[row, group]  # (N, 4)
            spikes = own.sign().to(images.dtype) * amplitude
            words = philox((group, times, indices[row], stream), key)
            currents[:, row, group] = (torch.stack(words, dim=-1) < own.abs()) * spikes
        return currents.flatten(2)[..., :size].reshape(len(steps), *images.shape)

    def limits(self, images: Tensor, scale: float) -> Tensor:
        """An input fires where its word is below its limit's size; the sign is that of its spikes.

        Returns:
            sign(x) round(p 2**32), in the shape of the images, int64, in [-2**32, 2**32]; ``scale`` as in ``encode``.
        """
        if self.scale is not None:
            _check_positive("Poisson.scale", self.scale)
        return (self.probability(images, scale) * _WORD).round().long() * images.sign().long()

    def probability(self, images: Tensor, scale: float) -> Tensor:
        """Probability of a spike in a step, in the shape of the images, float64; ``scale`` as in ``encode``."""
        return (images.double().abs() / (self.scale or scale)).clamp(max=1.0)


@checked_fields
@dataclass(frozen=True)
class Frames:
    r"""One frame for each step: the current of step t is frame t times amplitude / scale. Videos, and frames of events.

    Neurons add up what every frame brings, so rates approach what the trained network makes of the mean frame.

    Args:
        batch_first: images come as (B, T, *features), as a ``DataLoader`` makes them, instead of (T, B, *features).
    """

    batch_first: bool = False
    constant: ClassVar[bool] = False

    def arrange(self, images: Images, features: tuple[int, ...], timesteps: int) -> Tensor:
        """The frames by image, (B, T, *features); several inputs joined, frame by frame.

        Raises:
            SimulationError: there are not T frames of these features for each image.
        """
        axes = ("B", "T") if self.batch_first else ("T", "B")
        parts = cast("tuple[Tensor, ...]", inputs_of(images))
        given = " and ".join(str(tuple(part.shape)) for part in parts)
        wanted = f"images: shape {given}. With {self} this network takes ({', '.join([*axes, *map(str, features)])})"
        if any(part.ndim < 3 for part in parts):
            raise SimulationError(wanted)
        parts = tuple(part if self.batch_first else part.movedim(0, 1) for part in parts)
        if len({part.shape[:2] for part in parts}) > 1:
            raise SimulationError(f"{wanted}, and the same T and B for each of its inputs")
        joined = join_inputs(tuple(part.flatten(0, 1) for part in parts))
        if tuple(joined.shape[1:]) != features:
            raise SimulationError(f"{wanted}; batch_first swaps T and B")
        count = parts[0].shape[1]
        if count != timesteps:
            axis = axes.index("T")
            raise SimulationError(
                f"images: {count} frames for {timesteps} time-steps, and each step takes one. Simulate {count} steps, "
                f"or repeat frames: images.repeat_interleave(k, {axis})"
            )
        return joined.view(*parts[0].shape[:2], *features)

    def encode(
        self, images: Tensor, indices: Tensor, steps: range, seed: int, scale: float, amplitude: float
    ) -> Tensor:
        """See :meth:`Coder.encode`, of images as ``arrange`` returns them, (B, T, *features); draws nothing."""
        _check(images, indices, steps, scale, amplitude)
        if steps and max(steps[0], steps[-1]) > images.shape[1]:
            raise SimulationError(
                f"images: {images.shape[1]} frames, and step {max(steps[0], steps[-1])} takes one more"
            )
        currents = images[:, [t - 1 for t in steps]].movedim(1, 0)
        return currents if amplitude == scale else currents * (amplitude / scale)


def by_image(coder: Coder) -> Coder:
    """The coder of images that :meth:`Frames.arrange` arranged already; any other one as it is."""
    return Frames(batch_first=True) if isinstance(coder, Frames) else coder


def predict(readout: Tensor) -> tuple[Tensor, Tensor]:
    """The class with the highest score; equal scores go to the lowest class, which torch.argmax does not promise.

    A single score is that of class 1 against class 0, whose score is zero: its sign decides.

    Args:
        readout: score of every class, (..., classes), e.g. (T, B, classes).
    Returns:
        classes, int64, and whether the highest score was reached more than once, bool, both (...).
    Raises:
        SimulationError: a score is NaN.
    """
    if readout.isnan().any():
        raise SimulationError("readout: a score is NaN; weights, biases, thresholds and images must be finite")
    if readout.shape[-1] == 1:
        return (readout > 0).squeeze(-1).long(), (readout == 0).squeeze(-1)
    best = readout == readout.amax(dim=-1, keepdim=True)
    classes = torch.arange(readout.shape[-1], device=readout.device)
    return classes.where(best, readout.shape[-1]).amin(dim=-1), best.sum(dim=-1) > 1


def left_out(delay: float, timesteps: int) -> int:
    """Steps at the beginning that scores leave out after so many: that share of them, but never all.

    >>> [left_out(0.5, t) for t in (1, 2, 3, 4)]
    [0, 1, 1, 2]
    """
    return min(math.floor(delay * timesteps), timesteps - 1)


def delayed(totals: Tensor, delay: float) -> Tensor:
    r"""Sums over the last steps, as large as those over all steps would be (delayed readout; Bu et al., 2025).

    .. math:: s(t) = \frac{t}{t - d} \, (S(t) - S(d)), \qquad d = \lfloor \text{delay} \cdot t \rfloor

    Deep layers are silent at first, and what arrives in the first steps is no rate yet.

    Args:
        totals: S, the sums over all steps after each step, (T, B, *outputs).
        delay: share of the steps that are left out, in [0, 1).
    """
    if not delay:
        return totals
    before = torch.tensor([left_out(delay, t) for t in range(1, len(totals) + 1)], device=totals.device)
    steps = torch.arange(1, len(totals) + 1, device=totals.device)
    factor = (steps.double() / (steps - before)).view(-1, *(1,) * (totals.ndim - 1))
    exact = torch.cat([torch.zeros_like(totals[:1]), totals]).double()
    return ((exact[1:] - exact[before]) * factor).to(totals.dtype)


def _block(device: torch.device, steps: int) -> int:
    """Groups to draw at once for this many steps."""
    return max(1, _BLOCK.get(device.type, _BLOCK_ELSEWHERE) // max(1, steps))


def key_for(seed: int, indices: Tensor) -> tuple[int, int]:
    """The key of all draws; SimulationError if the seed or an image's number does not fit into its words."""
    if not 0 <= seed < 2**64:
        raise SimulationError(f"seed: {seed} is outside [0, 2**64); pass a non-negative 64-bit integer")
    _check_indices(indices, len(indices))
    return seed & _MASK, seed >> 32


def _check(images: Tensor, indices: Tensor, steps: range, scale: float, amplitude: float) -> None:
    if not images.is_floating_point():
        raise SimulationError(f"images: {images.dtype} is not floating point; scale the images as in training")
    if not all_finite(images):
        raise SimulationError("images: a value is NaN or infinite; clean or normalise the images")
    if steps and (min(steps[0], steps[-1]) < 1 or max(steps[0], steps[-1]) >= _WORD):
        raise SimulationError(f"steps: {steps} leaves [1, 2**32); the first step is step 1")
    _check_positive("scale", scale)
    _check_positive("amplitude", amplitude)
    _check_indices(indices, len(images))


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise SimulationError(f"{name}: {value} is not a positive, finite number; pass the largest |x| of the inputs")


def _check_indices(indices: Tensor, count: int) -> None:
    if indices.dtype != torch.int64 or indices.shape != (count,):
        raise SimulationError(
            f"indices: {indices.dtype} of shape {tuple(indices.shape)}; pass one int64 number per image, ({count},)"
        )
    if not count:
        return
    least, most = indices.aminmax()
    if int(least) < 0 or int(most) >= _WORD:
        raise SimulationError("indices: a number is outside [0, 2**32); pass the images' positions in the data set")
