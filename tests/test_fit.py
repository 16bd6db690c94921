"""K curves against the literal loop, and theorem 2 on numbers where rates are exact."""

from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import dyadic, images_for, networks, seeds

import equispike as es
from equispike.analysis.fit import trained_rates
from equispike.functional.coding import Constant, Poisson
from equispike.graph.network import Network, Node
from equispike.graph.ops import Input, Linear, Neuron, Readout


def single(seed: int, theta: float, amplitude: float, reset: Any = "subtract") -> Network:
    """One layer of six neurons, currents from -3 to 3 in steps of 1/64."""
    neurons = Neuron(torch.tensor(theta).double(), torch.tensor(amplitude).double(), reset=reset)
    return Network(
        (
            Node("input", Input((4,))),
            Node("current", Linear(dyadic(seed, 6, 4), None), ("input",)),
            Node("neurons", neurons, ("current",)),
            Node("readout", Readout(), ("neurons",)),
        )
    )


@given(seeds, st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.25, 1.0, 3.0]))
@settings(max_examples=30)
def test_theorem_2_holds_for_a_single_layer_under_constant_coding(seed: int, theta: float, amplitude: float) -> None:
    """And twice as tight: K < Omega / t. Rates are dyadic, so K is exact where t is a power of two."""
    network, x = single(seed, theta, amplitude), dyadic(seed + 1, 1, 4)
    fit = es.rate_fit(network, x, 64)
    rates = trained_rates(network, x)["neurons"]
    assume(bool(rates.any()))
    bound = float(fit.omega["neurons"]) / torch.arange(1, 65)
    assert bool((fit.k["neurons"] < bound).all())
    assert bool((fit.within["neurons"] == 1).all())
    t = 16
    floor = (t * rates).floor() / t
    exact = float((floor - rates).square().sum() / rates.square().sum())
    assert float(fit.k["neurons"][t - 1]) == pytest.approx(exact, rel=1e-14)


def test_the_bound_fails_where_theorem_2_does_not_speak() -> None:
    """Hard reset loses what exceeds the threshold, for ever: K stays, and the bound falls below it."""
    x = torch.full((1, 4), 0.75).double()
    fit = es.rate_fit(single(3, 0.875, 1.0, "zero"), x, 256)
    assert float(fit.within["neurons"][-1]) == 0
    row = fit.table([256])[0]
    assert row.within == 0
    assert row.k > row.bound == pytest.approx(2 * float(fit.omega["neurons"]) / 256)
    assert float(es.rate_fit(single(3, 0.875, 1.0), x, 256).within["neurons"][-1]) == 1


@given(networks(form="any", v_init=False), st.data(), st.booleans(), st.sampled_from([1, 400, 2**25]))
@settings(max_examples=20, deadline=None)
def test_k_is_the_literal_loop_in_every_layer(network: Network, data: Any, poisson: bool, memory: int) -> None:
    x, steps = data.draw(images_for(network)), 7
    coder = Poisson() if poisson else Constant()
    fit = es.rate_fit(network, [x], steps, coder, seed=5, memory=memory)
    entrance = network.input
    currents = coder.encode(x, torch.arange(len(x)), range(1, steps + 1), 5, entrance.scale, entrance.amplitude)
    v = {name: np.zeros((len(x), *network.shapes[name])) for name in network.neurons}
    trains, _ = reference.spiking(network, reference.array(currents.expand(steps, *x.shape)), v)
    rates = {name: reference.array(rate) for name, rate in trained_rates(network, x).items()}
    for name, train in trains.items():
        driven = [i for i in range(len(x)) if rates[name][i].any()]
        omegas = [reference.omega(rates[name][i]) if i in driven else 0.0 for i in range(len(x))]
        assert fit.omega[name].tolist() == pytest.approx(omegas, rel=1e-12)
        if not driven:
            assert bool(fit.k[name].isnan().all())
            continue
        curve = reference.k_curve(train[:, driven], rates[name][driven])
        assert np.allclose(fit.k[name].numpy(), curve.mean(1), rtol=1e-10, atol=1e-12)
        bound = 2 * np.array(omegas)[driven] / np.arange(1, steps + 1)[:, None]
        clear = np.abs(curve - bound) > 1e-9 * bound
        if clear.all():
            assert np.array_equal(fit.within[name].numpy(), (curve < bound).mean(1))


def test_trained_rates_are_currents_over_thresholds_cut_at_one() -> None:
    network, x = single(1, 0.5, 3.0), dyadic(2, 5, 4)
    currents = reference.array(x) @ reference.array(network["current"].op.weight).T  # type: ignore[union-attr]
    assert np.array_equal(trained_rates(network, x)["neurons"].numpy(), np.clip(currents / 0.5, 0, 1))


def test_results_do_not_depend_on_batches() -> None:
    network, x = single(1, 0.5, 1.0), dyadic(2, 9, 4)
    whole = es.rate_fit(network, x, 9, Poisson(), batch_size=9)
    parts = es.rate_fit(network, ((part, None) for part in x.split(4)), 9, Poisson(), batch_size=3)
    for a, b in ((whole.k, parts.k), (whole.within, parts.within), (whole.omega, parts.omega)):
        assert torch.allclose(a["neurons"], b["neurons"], rtol=1e-12)
    assert len(whole.omega["neurons"]) == 9


def test_what_cannot_be_compared_is_refused() -> None:
    network = single(1, 0.5, 1.0)
    with pytest.raises(es.SimulationError, match="timesteps"):
        es.rate_fit(network, dyadic(2, 5, 4), 0)
    with pytest.raises(es.DataError, match="there are no images"):
        es.rate_fit(network, [], 4)
    with pytest.raises(es.SimulationError, match="steps: 5 is outside 1 to 4"):
        es.rate_fit(network, dyadic(2, 5, 4), 4).table([1, 5])
