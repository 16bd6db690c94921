"""Work is shared out without a difference to what comes of it."""

import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import dyadic, networks, same, seeds

import equispike as es
from equispike import workers
from equispike.analysis.evaluation import Evaluation
from equispike.batches import Pair
from equispike.conversion import digest
from equispike.workers import AHEAD, Processes, Ray, Workers
from equispike.zoo.data import load
from equispike.zoo.data.parts import Shard
from equispike.zoo.store import load_model

T = 6


def square(x: int) -> tuple[int, int]:
    time.sleep(0.02)
    return x * x, os.getpid()


def refuse(x: int) -> int:
    raise es.DataError(f"number {x}: is refused")


@given(networks(), st.data(), st.sampled_from([es.Constant(), es.Poisson()]))
@settings(max_examples=20)
def test_parts_merge_in_any_order_to_the_whole(network: es.Network, data: Any, coder: Any) -> None:
    images = dyadic(data.draw(seeds), 12, *network.input.shape)
    labels = torch.arange(12) % network.shapes[network.nodes[-1].name][0]
    whole = es.evaluate(network, [(images, labels)], T, coder, runs=2)
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, 11), max_size=3))), 12]
    parts = [es.evaluate(network, [(images[a:b], labels[a:b])], T, coder, runs=2, first=a) for a, b in pairwise(cuts)]
    merged, *others = data.draw(st.permutations(parts))
    for part in others:
        merged = merged.merge(part)
    assert same(merged, whole)
    assert list(merged.own) == [0]  # parts in a row are one, or merging many of them would take quadratic time


def test_parts_that_do_not_belong_together_are_refused() -> None:
    model, _ = load_model("mnist-cnn")
    test = load("mnist-sample").test
    network = es.convert(model, test.take(4).floats(), es.DataNorm())  # any thresholds will do
    part = es.evaluate(network, test.take(4).batches(4), 2)
    with pytest.raises(es.SimulationError, match="share images"):
        part.merge(part)
    with pytest.raises(es.SimulationError, match="differ in seeds, steps or layers"):
        part.merge(es.evaluate(network, test.take(4).batches(4), 3, first=4))
    with pytest.raises(es.SimulationError, match="first: -1 is less than 0"):
        es.evaluate(network, test.take(4).batches(4), 2, first=-1)


def test_killed_processes_lose_nothing_and_items_wait_until_there_is_somebody_for_them() -> None:
    found: dict[int, int] = {}
    taken: list[int] = []

    def items() -> Iterator[int]:
        for n in range(24):
            taken.append(n)
            yield n

    for number, (value, process) in Processes(2).map(square, items()):
        assert number not in found
        assert len(taken) <= len(found) + 2 * AHEAD
        found[number] = value
        if number in (3, 9):
            os.kill(process, signal.SIGKILL)
    assert found == {n: n * n for n in range(24)}


def test_errors_come_as_they_were_raised_and_deaths_without_end_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(es.DataError, match="number 7: is refused"):
        list(Processes(1).map(refuse, [7]))
    large = partial(max, bytes(2**20))  # more than a pipe holds
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(es.EquispikeError, match=r"workers: \d died one after another .* Use fewer than 2"):
        list(Processes(2, threads=1).map(large, [b"1"]))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(es.EquispikeError, match=r"workers: no temporary file .*: No such file.*set TMPDIR"):
        list(Processes(2, threads=1).map(large, [b"1"]))


def test_workers_end_with_the_process_that_started_them() -> None:
    ended, held = os.pipe()
    if not (driver := os.fork()):
        parent = os.getpid()
        if not os.fork():
            workers._end_with(parent)
        os._exit(0)
    os.close(held)
    os.waitpid(driver, 0)
    assert os.read(ended, 1) == b""  # nobody holds the other end any more
    os.close(ended)


@pytest.mark.parametrize(("kind", "field"), [(Processes, "number"), (Processes, "threads"), (Ray, "threads")])
def test_numbers_below_one_are_refused(kind: Any, field: str) -> None:
    for wrong in (0, -1):
        with pytest.raises(es.EquispikeError, match=rf"{kind.__name__}.{field}: .*whole number from 1 on"):
            kind(**{**({"number": 1} if kind is Processes else {}), field: wrong})


@pytest.fixture(scope="module")
def digits() -> tuple[es.Network, Any, Evaluation]:
    model, _ = load_model("mnist-cnn")
    data = load("mnist-sample")
    network = es.quantize(es.convert(model, data.train.take(64).floats(), es.DataNorm(99.9)), 8)
    part = data.test.take(60)
    return network, part, es.evaluate(network, part.batches(60), 16, es.Poisson(), runs=2)


def evaluated(digits: tuple[es.Network, Any, Evaluation], on: Workers) -> bool:
    network, part, alone = digits
    found = es.evaluate(network, part.batches(7), 16, es.Poisson(), runs=2, on=on)
    return same(found, alone)


def test_parts_of_tensors_are_sent_without_the_rest(digits: tuple[es.Network, Any, Evaluation]) -> None:
    network, part, _ = digits
    whole = torch.arange(10_000)
    assert len(workers.pickled({"a": [whole[3:5]]})) < 1_000
    found = cloudpickle.loads(workers.pickled((whole[3:5], whole.reshape(100, 100).T, whole[:0])))
    assert [x.tolist() for x in found] == [[3, 4], whole.reshape(100, 100).T.tolist(), []]
    shard = next(part.batches(2).shards())
    assert len(workers.pickled(shard)) < 2 * 28 * 28 + 2_000
    (tally,) = es.evaluate(network, part.take(2).batches(2), 50).tallies
    assert tally.predictions[0].untyped_storage().nbytes() == 16  # of the last step alone


def test_processes_find_what_one_finds(digits: tuple[es.Network, Any, Evaluation]) -> None:
    assert evaluated(digits, Processes(2))


class Backwards:
    """Workers who do all pieces before they answer for the last one first, and get and give everything as bytes."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    def map(self, work: Any, items: Any) -> Iterator[tuple[int, Any]]:
        self.items = [copied(item) for item in items]
        done = [copied(copied(work)(item)) for item in self.items]
        return reversed(list(enumerate(done)))


def copied(x: Any) -> Any:
    return cloudpickle.loads(cloudpickle.dumps(x))


NORMS = es.DataNorm(), es.DataNorm(99.0), es.DataNorm(90.0, per_channel=True), es.DataNorm(None, timesteps=3)


@given(networks(calibrated=False, v_init=False), seeds, st.sampled_from(NORMS), st.integers(1, 12))
@settings(max_examples=8)
def test_thresholds_are_the_same_in_pieces_of_any_size(network: es.Network, seed: int, norm: Any, size: int) -> None:
    images = dyadic(seed, 12, *network.input.shape, low=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", es.CalibrationWarning)
        alone = es.convert(network, images, norm)
        shared = es.convert(network, images.split(size), norm, on=Backwards())
    assert digest(shared) == digest(alone)


def test_those_who_measure_thresholds_read_their_own_images() -> None:
    model, _ = load_model("mnist-cnn")
    batches = load("mnist-sample").train.take(20).batches(7)
    alone, elsewhere = es.convert(model, batches, correct=[es.Bias(2)]), Backwards()
    for on in (elsewhere, Processes(1, torch.get_num_threads())):  # threads decide how torch orders sums
        shared = es.convert(model, batches, correct=[es.Bias(2)], on=on)
        assert digest(shared) == digest(alone)
        assert shared.provenance == alone.provenance
    assert [type(item) for item in elsewhere.items] == [Shard] * 3
    with pytest.raises(es.ConversionError, match=r"workers: ModelNorm\(\) measures in one process. Leave them out"):
        es.convert(model, batches, es.ModelNorm(), on=elsewhere)


def test_shards_of_a_folder_carry_their_own_paths_alone(tmp_path: Path) -> None:
    from PIL import Image

    from equispike.zoo.data.folder import read_folder

    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for n in range(3):
                Image.new("RGB", (9, 9), (40 * n, 0, 200)).save(tmp_path / part / name / f"{n}.png")
    _, test = read_folder(tmp_path, "mine", 8)
    shards = list(test.batches(2).shards())
    assert [len(shard.part.files) for shard in shards] == [2, 2, 2]
    read = [shard.read((3, 8, 8)) for shard in shards]
    expected = list(test.batches(2))
    assert all(torch.equal(a, b) and torch.equal(c, d) for (a, c), (b, d) in zip(read, expected, strict=True))


def test_a_part_without_images_is_refused_by_workers_too(digits: tuple[es.Network, Any, Evaluation]) -> None:
    network, part, _ = digits
    for on in (None, Processes(1)):
        with pytest.raises(es.DataError, match="there are no images"):
            es.evaluate(network, part[:0].batches(7), 2, on=on)


def test_a_pair_reads_itself() -> None:
    pair = Pair(torch.zeros(2, 3), torch.tensor([0, 1]))
    assert len(pair) == 2
    assert pair.read((3,))[1].tolist() == [0, 1]
