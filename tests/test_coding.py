"""Input coders: the generator and its keying against a literal one, then the distribution, then the corners."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equispike.errors import SimulationError
from equispike.functional import coding
from equispike.functional.coding import Constant, Poisson, delayed, left_out, philox, predict, uniform

MASK = 2**32 - 1

# Known answers published with Random123 (kat_vectors, philox4x32-10).
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((MASK,) * 4, (MASK, MASK), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def literal_philox(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox 4x32-10 in Python integers, after the paper."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & MASK, (a >> 32) ^ c3 ^ k1, a & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def literal_word(seed: int, image: int, step: int, position: int, stream: int) -> int:
    counter = position // 4, step, image, stream
    return literal_philox(counter, (seed % 2**32, seed // 2**32))[position % 4]


def poisson(
    images: Tensor,
    indices: Tensor | None = None,
    steps: range = range(1, 9),
    seed: int = 0,
    scale: float = 1.0,
    amplitude: float = 1.0,
    coder: Poisson = Poisson(),  # noqa: B008
) -> Tensor:
    indices = torch.arange(len(images)) if indices is None else indices
    return coder.encode(images, indices, steps, seed, scale, amplitude)


def some_images(count: int = 6, features: tuple[int, ...] = (3, 5, 3), seed: int = 0) -> Tensor:
    """Signed values in [-1, 1], a good part of them zero, the number of features no multiple of four."""
    generator = torch.Generator().manual_seed(seed)
    values = 2 * torch.rand(count, *features, generator=generator) - 1
    return values * (torch.rand(values.shape, generator=generator) < 0.4)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter, key, words) -> None:
    assert tuple(int(word) for word in philox(tuple(map(torch.tensor, counter)), key)) == words  # type: ignore
    assert literal_philox(counter, key) == words


@given(words=st.tuples(*[st.integers(0, MASK)] * 6))
def test_philox_is_the_literal_one(words) -> None:
    counter, key = words[:4], words[4:]
    assert tuple(int(word) for word in philox(tuple(map(torch.tensor, counter)), key)) == literal_philox(counter, key)  # type: ignore


@pytest.mark.parametrize("seed", [0, 7, 2**32 + 5, 2**64 - 1])
def test_keying_is_the_documented_one(seed: int) -> None:
    images = some_images(3, (2, 3, 3)).double()
    numbers = [0, 41, 2**32 - 1]
    currents = poisson(images, torch.tensor(numbers), range(3, 6), seed, scale=0.75, amplitude=0.75).flatten(2)
    for t, step in enumerate(range(3, 6)):
        for row, number in enumerate(numbers):
            for position, x in enumerate(images[row].flatten().tolist()):
                limit = round(min(1.0, abs(x) / 0.75) * 2**32)
                fires = literal_word(seed, number, step, position, stream=0) < limit
                assert float(currents[t, row, position]) == (math.copysign(0.75, x) if fires else 0.0)


def test_uniform_is_the_documented_one() -> None:
    seed, numbers = 2**40 + 3, [5, 2**32 - 1]
    drawn = uniform(seed, torch.tensor(numbers), 3, (2, 5))
    expected = [[literal_word(seed, i, 0, position, 3) // 2**8 / 2**24 for position in range(10)] for i in numbers]
    assert drawn.shape == (2, 2, 5)
    assert drawn.flatten(1).tolist() == expected


def test_uniform_is_uniform() -> None:
    drawn = uniform(0, torch.arange(100), 1, (1000,)).double()
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) < 1
    assert abs(float(drawn.mean()) - 1 / 2) < 5 / math.sqrt(12 * drawn.numel())
    counts = (drawn.flatten() * 64).long().bincount(minlength=64).double()
    chi2 = float(((counts - drawn.numel() / 64) ** 2).sum() / (drawn.numel() / 64))
    assert abs(chi2 - 63) < 5 * math.sqrt(2 * 63)


@settings(max_examples=30, deadline=None)
@given(
    order=st.permutations(range(6)), batch=st.integers(1, 6), chunk=st.integers(1, 9), block=st.sampled_from([1, 7, 64])
)
def test_same_spikes_in_any_batch_order_and_chunk(order: list[int], batch: int, chunk: int, block: int) -> None:
    images, numbers = some_images(), torch.tensor([3, 14, 15, 92, 65, 35])
    whole = poisson(images, numbers, range(1, 10), seed=11)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coding, "_BLOCK", {"cpu": block})
        for rows in torch.tensor(order).split(batch):
            parts = [
                poisson(images[rows], numbers[rows], range(start, min(start + chunk, 10)), seed=11)
                for start in range(1, 10, chunk)
            ]
            assert torch.equal(torch.cat(parts), whole[:, rows])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_same_spikes_in_any_dtype(dtype: torch.dtype) -> None:
    images = (some_images() * 8).round() / 8  # exact in every dtype
    currents = poisson(images.to(dtype))
    assert currents.dtype == dtype
    assert torch.equal(currents.float(), poisson(images))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_spikes_on_a_gpu() -> None:
    images, numbers = some_images(50, (3, 32, 32)), torch.arange(50)
    on_gpu = poisson(images.cuda(), numbers.cuda(), range(1, 65))
    assert on_gpu.is_cuda
    assert torch.equal(on_gpu.cpu(), poisson(images, numbers, range(1, 65)))
    assert torch.equal(uniform(3, numbers.cuda(), 1, (7,)).cpu(), uniform(3, numbers, 1, (7,)))


def test_rows_do_not_share_draws() -> None:
    same = torch.full((4, 64), 0.5)
    currents = poisson(same, steps=range(1, 65))
    assert len({tuple(row.tolist()) for row in currents.transpose(0, 1).flatten(1)}) == 4
    assert not torch.equal(currents, poisson(same, steps=range(1, 65), seed=1))
    assert torch.equal(poisson(same, torch.zeros(4, dtype=torch.int64))[:, 0], currents[:8, 0])


def test_mean_and_variance_of_the_grey_levels() -> None:
    """Counts over T steps are binomial: every bound is five standard deviations (6e-7 each, two-sided)."""
    timesteps, images = 32, 500
    levels = torch.arange(256).double() / 255
    counts = poisson(levels.expand(images, 256), steps=range(1, timesteps + 1), seed=5).sum(0)
    draws, variance = timesteps * images, levels * (1 - levels)
    assert ((counts.mean(0) / timesteps - levels).abs() <= 5 * (variance / draws).sqrt()).all()
    inner = slice(26, 230)  # the sample variance is near normal only where T p (1 - p) is not small
    excess = (3 - 6 / timesteps + 1 / (timesteps * variance)) - 1  # kurtosis - 1 of a binomial
    error = (counts.var(0) / (timesteps * variance) - 1).abs()
    assert (error[inner] <= 5 * (excess / images).sqrt()[inner]).all()


@pytest.mark.parametrize("shift", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 4)], ids=["step", "image", "lane", "group"])
def test_neighbouring_draws_are_uncorrelated(shift: tuple[int, int, int]) -> None:
    z = 2 * poisson(torch.full((32, 256), 0.5), steps=range(1, 33)) - 1
    dt, di, dx = shift
    product = z[dt:, di:, dx:] * z[: 32 - dt, : 32 - di, : 256 - dx]
    assert abs(float(product.sum())) < 5 * math.sqrt(product.numel())


@given(seed=st.integers(0, 2**64 - 1))
@settings(max_examples=30, deadline=None)
def test_certain_inputs(seed: int) -> None:
    """p = 1 fires in every step, p = 0 in none, and |x| above the scale is p = 1."""
    currents = poisson(torch.tensor([[1.0, -1.0, 0.0, 3.0, -0.0]]), steps=range(1, 40), seed=seed)
    assert (currents == torch.tensor([1.0, -1.0, 0.0, 1.0, 0.0])).all()


@pytest.mark.parametrize("word", [0, 1, 2**31, MASK - 1, MASK])
def test_an_input_fires_where_its_word_is_below_its_limit(word: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the ends and in the middle of the words' range: the limit is round(p 2**32), and the word itself too low."""
    monkeypatch.setattr(coding, "philox", lambda counter, key: (torch.full((1, 1), word),) * 4)
    limits = torch.tensor([0.0, word, word + 0.25, word + 0.75, word + 1.0], dtype=torch.float64)
    currents = torch.cat([poisson(x[None, None] / 2**32, steps=range(1, 2)) for x in limits])
    assert currents.flatten().tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("own", "scale", "amplitude", "size"), [(None, 2.0, 2.0, 2.0), (None, 2.0, 1.0, 1.0), (4.0, 2.0, 1.0, 2.0)]
)
def test_sizes_of_spikes(own: float | None, scale: float, amplitude: float, size: float) -> None:
    """Whatever the scale of the coder, the mean current is x amplitude / scale."""
    images = torch.tensor([[0.5, -1.5, 2.0]]).double().expand(2000, 3)
    currents = poisson(images, scale=scale, amplitude=amplitude, coder=Poisson(own))
    assert set(currents.unique().tolist()) <= {-size, 0.0, size}
    expected = images[0] * amplitude / scale
    p = images[0].abs() / (own or scale)
    assert ((currents.mean((0, 1)) - expected).abs() <= 5 * size * (p * (1 - p) / (8 * 2000)).sqrt()).all()


def test_constant() -> None:
    images, numbers = some_images(), torch.arange(6)
    assert torch.equal(Constant().encode(images, numbers, range(1, 9), 0, 0.7, 0.7), images[None])
    halved = Constant().encode(images, numbers, range(5, 6), 0, scale=2.0, amplitude=1.0)
    assert torch.equal(halved, images[None] / 2)
    assert Constant.constant
    assert not Poisson.constant


def test_shapes_of_nothing() -> None:
    assert poisson(torch.zeros(2, 3, 4)).shape == (8, 2, 3, 4)
    assert poisson(torch.zeros(0, 3, 4)).shape == (8, 0, 3, 4)
    assert poisson(torch.ones(2, 3), steps=range(1, 1)).shape == (0, 2, 3)


ONE = torch.tensor([0])


@pytest.mark.parametrize("coder", [Constant(), Poisson()])
@pytest.mark.parametrize(
    ("images", "indices", "steps", "seed", "scale", "message"),
    [
        (torch.ones(1, 2), ONE, range(1, 2), 0, 0.0, "scale"),
        (torch.ones(1, 2), ONE, range(1, 2), 0, math.nan, "scale"),
        (torch.ones(1, 2), ONE, range(1, 2), 0, math.inf, "scale"),
        (torch.tensor([[math.nan]]), ONE, range(1, 2), 0, 1.0, "images"),
        (torch.ones(1, 2, dtype=torch.uint8), ONE, range(1, 2), 0, 1.0, "images"),
        (torch.ones(1, 2), ONE - 1, range(1, 2), 0, 1.0, "indices"),
        (torch.ones(1, 2), ONE + 2**32, range(1, 2), 0, 1.0, "indices"),
        (torch.ones(1, 2), ONE.int(), range(1, 2), 0, 1.0, "indices"),
        (torch.ones(2, 2), ONE, range(1, 2), 0, 1.0, "indices"),
        (torch.ones(1, 2), ONE, range(2), 0, 1.0, "steps"),
    ],
)
def test_refusals(coder, images, indices, steps, seed, scale, message) -> None:
    with pytest.raises(SimulationError, match=message):
        coder.encode(images, indices, steps, seed, scale, 1.0)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_are_64_bits(seed: int) -> None:
    with pytest.raises(SimulationError, match="seed"):
        poisson(torch.ones(1, 2), seed=seed)
    with pytest.raises(SimulationError, match="seed"):
        uniform(seed, ONE, 1, (2,))


def test_scale_of_a_coder_is_checked() -> None:
    with pytest.raises(SimulationError, match=r"Poisson\.scale"):
        poisson(torch.ones(1, 2), coder=Poisson(-1.0))


@pytest.mark.parametrize("classes", [1, 2, 10, 1000])
def test_equal_scores_go_to_the_lowest_class(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    readout = torch.randint(0, 3, (7, 50, classes), generator=generator).double()
    predictions, ties = predict(readout)
    for scores, prediction, tie in zip(
        readout.flatten(0, 1).tolist(), predictions.flatten().tolist(), ties.flatten().tolist(), strict=True
    ):
        both = scores if classes > 1 else [0.0, *scores]  # a single score is that of class 1
        assert prediction == both.index(max(both))
        assert tie == (both.count(max(both)) > 1)


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 40))
def test_delayed_scores_are_the_sums_of_the_last_steps_made_as_large_as_those_of_all(delay: float, steps: int) -> None:
    inputs = torch.randint(-8, 9, (steps, 2, 3), generator=torch.Generator().manual_seed(steps)).double()
    scores = delayed(inputs.cumsum(0), delay)
    for t in range(1, steps + 1):
        early = left_out(delay, t)
        assert delay * t - 1 < early <= delay * t
        assert early < t
        last = inputs[early:t].sum(0)
        assert torch.equal(scores[t - 1], last if not early else last * (t / (t - early)))


def test_delayed_scores_of_a_current_that_stays_are_its_sums() -> None:
    totals = 3.0 * torch.arange(1.0, 17)[:, None, None]
    assert torch.equal(delayed(totals, 0.75), totals)
    assert delayed(totals, 0.0) is totals


def test_predict_refuses_nan() -> None:
    with pytest.raises(SimulationError, match="NaN"):
        predict(torch.tensor([[0.0, math.nan]]))
