"""Thresholds that others set, which experiments compare with: literal loops."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import dyadic, seeds
from test_calibrate import chain, drive

import equispike as es
from equispike.graph.network import values_of
from experiments.local_balancing import BATCH, LocalThresholdBalancing
from experiments.nearest_steps import GRID, NearestSteps


def activations(network: es.Network, images: torch.Tensor) -> dict[str, np.ndarray]:
    """Trained activations by layer, (B, C, places)."""
    values = values_of(network, images, set(network.neurons))
    return {name: value.flatten(2).numpy() if value.ndim > 2 else value[..., None].numpy() for name, value in values}


@given(seeds, st.integers(1, 3 * BATCH))
@settings(max_examples=15)
def test_local_balancing_grows_by_twice_the_mean_of_what_it_cuts_off(seed: int, count: int) -> None:
    images = dyadic(seed, count, 2, 6, 6, low=0)
    network = drive(chain(seed % 10**6, bias=True), images)
    found = es.convert(network, images, LocalThresholdBalancing()).thresholds
    for name, values in activations(network, images).items():
        theta = np.zeros(values.shape[1])
        for first in range(0, count, BATCH):
            for c in range(len(theta)):
                theta[c] += 2 * np.maximum(values[first : first + BATCH, c] - theta[c], 0).mean()
        theta[theta == 0] = max(theta.max(), 1e-300)
        np.testing.assert_allclose(found[name].flatten().numpy(), theta, rtol=1e-9)


@given(seeds, st.integers(2, 9))
@settings(max_examples=15)
def test_nearest_steps_has_the_smallest_error_of_its_grid(seed: int, timesteps: int) -> None:
    images = dyadic(seed, 3, 2, 6, 6, low=0)
    network = drive(chain(seed % 10**6, bias=True), images)
    found = es.convert(network, images, NearestSteps(timesteps)).thresholds

    def error(values: np.ndarray, theta: float) -> float:
        steps = np.clip(np.floor(values * timesteps / theta + 0.5), 0, timesteps)
        return float(((theta / timesteps * steps - values) ** 2).sum())

    for name, values in activations(network, images).items():
        for c, theta in enumerate(found[name].flatten().numpy()):
            if values[:, c].any():
                best = min(error(values[:, c], values[:, c].max() * part / GRID) for part in range(1, GRID + 1))
                assert error(values[:, c], float(theta)) <= best * (1 + 1e-9) + 1e-12
