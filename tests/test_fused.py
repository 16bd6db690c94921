"""The GPU's scan is if_scan, in Triton's interpreter where there is no GPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import dyadic, seeds

from equispike.functional.integrate import if_scan

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

from equispike.simulation.fused import BLOCK, fused_scan  # noqa: E402


@given(
    st.integers(1, 9),
    st.integers(1, 3),
    st.sampled_from([(5,), (3, 4, 5), (2, 3), (BLOCK + 3,)]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["subtract", "zero"]),
    st.sampled_from([torch.float32, torch.float64]),
    seeds,
)
@settings(max_examples=30)
def test_the_fused_scan_is_the_scan(steps, batch, shape, per_channel, fixed, reset, dtype, seed) -> None:  # type: ignore[no-untyped-def]
    currents = dyadic(seed, 1 if fixed else steps, batch, *shape, dtype=dtype).to(DEVICE)
    if len(shape) == 3 and seed % 2:
        currents = currents.flatten(0, 1).contiguous(memory_format=torch.channels_last).view_as(currents)
    currents = currents.expand(steps, *currents.shape[1:])
    levels = (shape[0], *(1,) * (len(shape) - 1)) if per_channel else ()
    threshold = dyadic(seed + 1, *levels, low=1, dtype=dtype).to(DEVICE)
    v = dyadic(seed + 2, batch, *shape, dtype=dtype).to(DEVICE)
    before = v.clone()
    spikes, after = fused_scan(currents, threshold, reset, v)
    expected, left = if_scan(currents, threshold, reset, v)
    assert torch.equal(spikes, expected)
    assert torch.equal(after, left)
    assert spikes.stride() == expected.stride()
    assert torch.equal(v, before)
