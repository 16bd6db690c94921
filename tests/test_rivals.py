"""Thresholds that others set, which experiments compare with: literal loops."""

from dataclasses import replace

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
from experiments.two_runs import SMALL, answer, first_steps


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


def neuron(currents: list[float], v: float) -> tuple[list[int], list[float]]:
    """Spikes of one neuron with threshold 1 and soft reset; its potentials before each reset, and the last."""
    spikes, potentials = [], []
    for current in currents:
        v += current
        potentials.append(v)
        spikes.append(int(v >= 1))
        v -= spikes[-1]
    return spikes, [*potentials, v]


@given(seeds, st.integers(2, 16))
@settings(max_examples=15)
def test_two_runs_are_their_literal_loops_neuron_by_neuron(seed: int, timesteps: int) -> None:
    images = dyadic(seed, 3, 2, 6, 6, low=0)
    network = es.convert(drive(chain(seed % 10**6, bias=True), images), images, es.DataNorm(), v_init=0.5)
    powers = {name: 2.0 ** op.threshold.double().log2().round() for name, op in network.neurons.items()}  # exact sums
    network = network.to(torch.float64).replace_ops(
        {name: replace(network.neurons[name], threshold=power, amplitude=power) for name, power in powers.items()}
    )
    early, images = first_steps(timesteps), images.double()

    def through(kind: str, steps: int, silent: dict[str, np.ndarray]) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
        values = {network.nodes[0].name: images.expand(steps, *images.shape)}
        left: dict[str, np.ndarray] = {}
        for node in network.nodes[1:]:
            before = [values[name] for name in node.inputs]
            if node.name not in network.neurons:
                values[node.name] = torch.stack([node.op(*(x[t] for x in before)) for t in range(steps)])
                continue
            theta, amplitude = (t.expand(before[0].shape[1:]) for t in (node.op.threshold, node.op.amplitude))
            spikes, left[node.name] = np.zeros(before[0].shape), np.zeros(before[0].shape[1:])
            for place in np.ndindex(*before[0].shape[1:]):
                currents = (before[0][(slice(None), *place)] / theta[place]).tolist()
                v = 0.5
                if kind == "COS":
                    first, potentials = neuron(currents[:early], v)
                    if potentials[-1] < 0 and any(first):
                        v -= max(1.0, min(p for p, z in zip(potentials, first, strict=False) if z) - (1 - SMALL))
                    elif potentials[-1] >= 1:
                        silent_at = [p for p, z in zip(potentials, first, strict=False) if not z]
                        v += max(1.0, 1 + SMALL - max(silent_at, default=-np.inf))
                own, potentials = neuron(currents, v)
                left[node.name][place] = potentials[-1]
                if not silent or silent[node.name][place] > SMALL:
                    spikes[(slice(None), *place)] = own
            values[node.name] = torch.from_numpy(spikes) * amplitude
        return values[network.nodes[-1].name].sum(0), left

    one, _ = through("one run", timesteps, {})
    cos, _ = through("COS", timesteps - early, {})
    srp, _ = through("SRP", timesteps - early, through("SRP", early, {})[1])
    for kind, wanted in (("one run", one), ("SRP", srp), ("COS", cos)):
        torch.testing.assert_close(answer(kind, network, images, timesteps), wanted, rtol=1e-12, atol=1e-12)  # type: ignore[arg-type]
    assert torch.equal(one, es.simulate(network, images, timesteps).readout[-1])
