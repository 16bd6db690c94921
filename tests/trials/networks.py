"""Random networks on which sums are exact spike alike, whoever simulates them and however the work is cut.

``python tests/trials/networks.py --tries 10000 --seed 0`` draws networks, images and coders as the tests do
(tests/strategies.py), simulates them step by step, and then with each engine, numbers of threads, batches, chunks of
steps, and images in shards: scores and counts are to be the same to the last bit, and spikes that differ are counted.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from shared import Attempt, script

import equispike as es
from equispike.simulation import cpu, plan

sys.path.insert(0, str(Path(__file__).parent.parent))
from strategies import images_for, networks, seeds

T = 11
CODERS = es.Constant(), es.Poisson(), es.Poisson(scale=0.5)


def spikes_apart(run: es.Run, other: es.Run) -> int:
    """Spikes that differ, and one more if scores do."""
    apart = not torch.equal(run.readout, other.readout)
    for mine, theirs in ((run.counts, other.counts), (run.negative, other.negative)):
        assert mine.keys() == theirs.keys()
        apart += sum(int((mine[name] - theirs[name]).abs().sum()) for name in mine)
    return int(apart)


def ways(data: Any, images: torch.Tensor) -> Iterator[tuple[str, torch.Tensor, dict[str, Any]]]:
    """Ways to simulate the images, with the numbers of those that each takes."""
    everybody = torch.arange(len(images))
    for engine in ("layerwise", "events", "auto"):
        batch, memory = data.draw(st.sampled_from([1, 2, 7])), data.draw(st.sampled_from([1, 2**12, 2**25]))
        yield engine, everybody, {"engine": engine, "batch_size": batch, "memory": memory}
    cut = data.draw(st.integers(0, len(images)))
    order = torch.tensor(data.draw(st.permutations(range(len(images)))), dtype=torch.int64)
    for part in (order[:cut], order[cut:]):
        if len(part):
            yield "a shard", part, {"engine": "auto"}


def tried(network: es.Network, data: Any, seed: int) -> Iterator[Attempt]:
    """One network, simulated in every way."""
    network = network.to(data.draw(st.sampled_from([torch.float32, torch.float64])))
    images, coder = data.draw(images_for(network, most=5)), data.draw(st.sampled_from(CODERS))
    literal = es.simulate(network, images, T, coder, seed, engine="stepwise")
    threads = data.draw(st.sampled_from([1, 2, 3]))
    chunk, dense = data.draw(st.integers(1, T)), data.draw(st.sampled_from([0.0, 0.1, 0.3]))
    with (
        patch.object(torch, "get_num_threads", lambda: threads),
        patch.object(plan, "LONGEST", chunk),
        patch.object(cpu, "DENSE_ABOVE", dense),
        patch.object(cpu, "MULTIPLIES", data.draw(st.booleans())),
    ):
        for way, part, how in ways(data, images):
            run = es.simulate(network, images[part], T, coder, seed, indices=part, **how)
            expected = literal if len(part) == len(images) and way != "a shard" else None
            if expected is None:
                expected = es.simulate(network, images[part], T, coder, seed, indices=part, engine="stepwise")
            apart = spikes_apart(run, expected)
            what = f"{way} {how}, {threads} threads, {coder}, seed {seed}, {network!r}"
            yield Attempt(what, f"{apart} spikes differ" if apart else f"by {way} the same", not apart)


def run(tries: int, seed: int) -> Iterator[Attempt]:
    """Try so many networks."""
    found: list[Attempt] = []

    @seeded(seed)
    @settings(
        max_examples=tries, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(networks(form="any"), st.data(), seeds)
    def every(network: es.Network, data: Any, drawn: int) -> None:
        found.extend(tried(network, data, drawn))

    every()
    yield from found


if __name__ == "__main__":
    script(__name__, "simulations", 1000, run)
