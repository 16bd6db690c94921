"""The event-driven engine against the specification, spike for spike, on networks with exact arithmetic."""

import os
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import images_for, networks, seeds
from test_simulate import same

import equispike as es
from equispike.simulation import events as engine
from equispike.simulation import plan as planning

pytestmark = pytest.mark.skipif(not engine.installed(), reason="installed without a compiler: there is no core")

T = 11
EXAMPLES = int(os.environ.get("EQUISPIKE_EXAMPLES", "120"))
coders = st.sampled_from([es.Constant(), es.Poisson(), es.Poisson(scale=0.5)])
everything = st.tuples(networks(form="any"), st.data())


@given(everything, coders, seeds, st.sampled_from([1, 2, 7]), st.integers(1, T), st.sampled_from([1, 2, 3]))
@settings(max_examples=EXAMPLES)
def test_events_are_stepwise_spike_for_spike(
    drawn: Any, coder: Any, seed: int, batch: int, chunk: int, threads: int
) -> None:
    network, data = drawn
    network = network.to(data.draw(st.sampled_from([torch.float32, torch.float64])))
    images = data.draw(images_for(network))
    reference = es.simulate(network, images, T, coder, seed, engine="stepwise")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "LONGEST", chunk)
        patch.setattr(engine, "DENSE_ABOVE", data.draw(st.sampled_from([0.0, 0.1, 0.3])))
        patch.setattr(planning, "ISA", data.draw(st.sampled_from(planning.core.instruction_sets())))  # type: ignore
        patch.setattr(torch, "get_num_threads", lambda: threads)
        for name in ("events", "auto"):
            same(es.simulate(network, images, T, coder, seed, engine=name, batch_size=batch), reference)
