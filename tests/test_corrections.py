"""Corrections for a number of steps: literal loops, what they leave alone, and what is chosen."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import dyadic, seeds
from test_calibrate import chain, drive
from torch import Tensor, nn

import equispike as es
from equispike.batches import hold
from equispike.calibrate.choice import NEAREST
from equispike.calibrate.corrections import RIDGE_PENALTIES, correct
from equispike.calibrate.data_norm import PERCENTILES
from equispike.calibrate.method import halves, score_errors
from equispike.conversion import with_spikes, with_v_init
from equispike.graph.ops import Conv, Readout
from equispike.zoo.data import load
from equispike.zoo.store import load_model

T = 5


def calibrated(seed: int, images: Tensor, reset: Any = "subtract", spikes: Any = "binary") -> es.Network:
    network = es.convert(drive(chain(seed, bias=True), images), images, es.DataNorm(), reset=reset, v_init=0.5)
    return with_spikes(network, spikes)


@given(
    seeds,
    st.sampled_from([("subtract", "binary"), ("zero", "binary"), ("subtract", "signed")]),
    st.sampled_from(
        [es.Bias(T), es.Bias(T, passes=2), es.StepBias(T), es.StepBias(T, passes=3, rate=1.0), es.Potential(T)]
    ),
)
@settings(max_examples=25)
def test_corrections_are_the_literal_loops(seed: int, kind: tuple[str, str], correction: Any) -> None:
    images = dyadic(seed, 3, 2, 6, 6, low=0)
    assume(bool(images.any()))
    network = calibrated(seed % 10**6, images, *kind)
    fields = {k: v for k, v in vars(correction).items() if k != "timesteps"}
    literal = {es.Bias: reference.bias, es.StepBias: reference.step_bias, es.Potential: reference.potential}
    chosen = partial(literal[type(correction)], **fields)
    expected = reference.corrected_chain(network, reference.array(images), T, chosen)
    for name, op in correct(network, images, [correction]).neurons.items():
        v, table = expected[name]
        if isinstance(correction, es.Potential):
            assert isinstance(op.v_init, Tensor)
            np.testing.assert_allclose(op.v_init.numpy(), v, rtol=1e-9, atol=1e-9, err_msg=name)
        else:
            assert op.drive is not None
            rows = np.broadcast_to(op.drive.numpy(), table.shape)
            np.testing.assert_allclose(rows, table, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("correction", [es.Bias(T), es.StepBias(T), es.Potential(T)], ids=str)
def test_corrections_are_in_the_unit_of_each_channels_current(correction: Any) -> None:
    """Where a current and its threshold are half as large, and the spikes as they were, so is the correction."""
    images, unit = dyadic(5, 12, 2, 6, 6, low=0), torch.tensor([1.0, 2.0, 8.0]).double().view(3, 1, 1)
    network = calibrated(7, images)
    conv, neuron = network["c1"].op, network.neurons["n1"]
    assert isinstance(conv, Conv)
    assert conv.bias is not None
    assert neuron.threshold is not None
    smaller = replace(conv, weight=conv.weight / unit[..., None], bias=conv.bias / unit.flatten())
    slopes = network.replace_ops({"c1": smaller, "n1": replace(neuron, threshold=neuron.threshold / unit)})
    assert torch.equal(slopes(images), network(images))
    found, expected = (correct(own, images, [correction]).neurons["n1"] for own in (slopes, network))
    if isinstance(correction, es.Potential):
        assert isinstance(found.v_init, Tensor)
        assert isinstance(expected.v_init, Tensor)
        assert torch.equal(found.v_init * unit, expected.v_init)
    else:
        assert found.drive is not None
        assert expected.drive is not None
        assert torch.equal(found.drive * unit.flatten(), expected.drive)


@given(seeds, st.integers(3, 12))
@settings(max_examples=25)
def test_the_readout_is_fitted_as_if_each_image_were_left_out_in_turn(seed: int, count: int) -> None:
    images = dyadic(seed, count, 2, 6, 6, low=0)
    network = calibrated(seed % 10**6, images)
    readout = correct(network, images, [es.RidgeReadout(T)]).nodes[-1].op
    assert isinstance(readout, Readout)
    assert readout.mix is not None
    assert readout.shift is not None
    scores, trained = es.simulate(network, images, T).readout[-1].double() / T, network(images)
    mix, shift = reference.ridge(scores.numpy(), trained.numpy(), RIDGE_PENALTIES)
    found = scores @ readout.mix.double().T + readout.shift
    np.testing.assert_allclose(found.numpy(), scores.numpy() @ mix.T + shift, rtol=1e-6, atol=1e-6)


def test_a_delay_that_is_given_is_kept_and_the_readout_fitted_to_it() -> None:
    network = es.convert(model(), pictures(), timesteps=8, delay=0.75)
    chosen: Any = network.provenance["chosen"]
    assert {way["delay"] for way in (chosen, *chosen["others"])} == {0.75}
    plain = es.convert(model(), pictures(), es.DataNorm(), v_init=0.5, delay=0.75)
    run = es.simulate(plain, pictures(), 8)
    readout = correct(plain, pictures(), [es.RidgeReadout(8)]).readout
    assert readout.mix is not None
    assert readout.shift is not None
    late = (run.totals[7] - run.totals[5]).double() / 2
    mix, shift = reference.ridge(late.numpy(), model()(pictures()).detach().numpy(), RIDGE_PENALTIES)
    np.testing.assert_allclose(
        (late @ readout.mix.double().T + readout.shift).numpy(), late.numpy() @ mix.T + shift, rtol=1e-4, atol=1e-4
    )


def test_a_corrected_readout_moves_scores_and_no_spike() -> None:
    images = dyadic(5, 12, 2, 6, 6, low=0)
    network = calibrated(7, images)
    before = es.simulate(network, images, T)
    after = es.simulate(correct(network, images, [es.RidgeReadout(T)]), images, T)
    assert all(torch.equal(before.counts[name], after.counts[name]) for name in before.counts)

    def error(run: es.Run) -> float:
        scores, trained = run.readout[-1].double() / T, network(images).double()
        return float((scores - trained).square().sum())

    assert error(after) < error(before)


def test_a_readout_that_cannot_be_fitted_is_refused() -> None:
    images = dyadic(5, 12, 2, 6, 6, low=0)
    counted = es.convert(chain(7), images, es.DataNorm(), readout="spikes")
    with pytest.raises(es.CalibrationError, match="counts spikes"):
        correct(counted, images, [es.RidgeReadout(T)])
    with pytest.raises(es.CalibrationError, match="at least three images"):
        correct(calibrated(7, images), images[:2], [es.RidgeReadout(T)])


@pytest.mark.parametrize("correction", [es.Bias(T), es.StepBias(T), es.Potential(T), es.RidgeReadout(T)], ids=str)
def test_the_trained_function_stays_and_neither_order_nor_batches_count(correction: Any) -> None:
    images = dyadic(3, 12, 2, 6, 6, low=0)
    network = calibrated(7, images)
    found = correct(network, images, [correction])
    assert torch.equal(found(images), network(images))
    assert found.thresholds.keys() == network.thresholds.keys()
    assert all(torch.equal(found.thresholds[name], theta) for name, theta in network.thresholds.items())
    for batches in (images.split(5), images.flip(0)):
        again = correct(network, batches, [correction])
        for name in found.neurons:
            for field in ("drive", "v_init"):
                one, other = (getattr(n.neurons[name], field) for n in (found, again))
                assert torch.equal(one, other) if isinstance(one, Tensor) else one == other
        mixes = [n.nodes[-1].op.mix for n in (found, again) if isinstance(n.nodes[-1].op, Readout)]
        assert mixes == [None, None] or torch.equal(*mixes)


@pytest.mark.parametrize("spikes", ["binary", "signed"])
def test_corrections_take_away_the_mean_errors_of_channels(spikes: Any) -> None:
    images, timesteps = load("mnist-sample").train.take(16).floats(), 4
    network = es.convert(load_model("mnist-cnn")[0], images, es.DataNorm(99.0), v_init=0.5, spikes=spikes)

    def errors(network: es.Network) -> float:
        run, trained = es.simulate(network, images, timesteps), network.values(images, network.neurons)
        total = 0.0
        for name, op in network.neurons.items():
            error = op.amplitude * run.sent(name) / timesteps - trained[name]
            total += float(error.movedim(1, 0).flatten(1).mean(1).abs().sum())
        return total

    before = errors(network)
    for correction in (es.Bias(timesteps), es.StepBias(timesteps), es.Potential(timesteps)):
        assert errors(correct(network, images, [correction])) < 0.95 * before


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    return nn.Sequential(*layers).double()


def pictures() -> Tensor:
    return torch.rand(40, 4, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("spikes", ["binary", "signed"])
def test_convert_takes_what_is_best_for_the_steps_and_says_what_it_tried(spikes: Any) -> None:
    network = es.convert(model(), pictures(), timesteps=6, spikes=spikes)
    chosen: Any = network.provenance["chosen"]
    assert len(chosen["others"]) == len(PERCENTILES) + 3 * NEAREST - 1
    assert all(chosen["error"] <= other["error"] for other in chosen["others"])
    corrections = {other["correction"].replace("(timesteps=6)", "") for other in (chosen, *chosen["others"])}
    assert corrections >= {"none", "Bias", "StepBias"}
    assert sum(word.endswith("RidgeReadout") for word in corrections) >= 1
    assert (chosen["fitted"], chosen["held_out"]) == (30, 10)
    assert all(op.spikes == spikes for op in network.neurons.values())
    method = es.DataNorm(network.provenance["method"]["percentile"], per_channel=True)  # type: ignore[index]
    told: Any = network.provenance.get("corrections", [])
    corrections = [getattr(es, c["name"])(**{k: v for k, v in c.items() if k != "name"}) for c in told]
    assert network.readout.delay == network.provenance["delay"] == chosen["delay"]
    again = es.convert(
        model(), pictures(), method, v_init=0.5, delay=chosen["delay"], spikes=spikes, correct=corrections
    )
    assert torch.equal(es.simulate(network, pictures(), 6).readout, es.simulate(again, pictures(), 6).readout)
    shuffled = es.convert(model(), pictures().flip(0).split(7), timesteps=6, spikes=spikes)
    assert shuffled.provenance["method"] == network.provenance["method"]


def test_a_method_that_is_given_is_kept_and_long_runs_get_no_table() -> None:
    network = es.convert(model(), pictures(), es.DataNorm(98.0), timesteps=64)
    chosen: Any = network.provenance["chosen"]
    assert chosen["method"] == "DataNorm(percentile=98)"
    assert {chosen["correction"], *(other["correction"] for other in chosen["others"])} == {
        "none",
        "Bias(timesteps=64)",
        "RidgeReadout(timesteps=64)",
        "Bias(timesteps=64), RidgeReadout(timesteps=64)",
    }


def test_data_norm_chooses_the_percentile_of_the_smallest_error() -> None:
    network = es.convert(model(), pictures(), es.DataNorm(None, timesteps=6), v_init=0.5)
    chosen: Any = network.provenance["chosen"]
    assert chosen["errors"][f"{chosen['percentile']:g}"] == min(chosen["errors"].values())
    expected = es.convert(model(), pictures(), es.DataNorm(chosen["percentile"]), v_init=0.5)
    assert all(torch.equal(network.thresholds[name], theta) for name, theta in expected.thresholds.items())


def test_held_out_images_are_others_and_the_same_in_any_order() -> None:
    images = pictures()
    first, again = (halves(hold(batches)) for batches in (images, images.flip(0).split(9)))
    assert torch.equal(first.fitted, again.fitted)
    assert torch.equal(first.held_out, again.held_out)
    assert (len(first.fitted), len(first.held_out)) == (30, 10)
    assert not {tuple(x.tolist()) for x in first.fitted} & {tuple(x.tolist()) for x in first.held_out}
    assert len(halves(hold(images[:1])).held_out) == 1


def test_the_error_of_scores_is_that_of_their_differences() -> None:
    delays, trained = (0.0, 0.5), model()(pictures()).detach()
    errors = score_errors(es.convert(model(), pictures(), es.DataNorm()), pictures(), 7, delays)
    for delay, error in zip(delays, errors, strict=True):
        network = es.convert(model(), pictures(), es.DataNorm(), delay=delay)
        found = es.simulate(network, pictures(), 7).readout[-1] / 7
        a, b = (scores - scores.mean(1, keepdim=True) for scores in (found, trained))
        assert error == pytest.approx(float((a - b).square().sum() / b.square().sum()), rel=1e-4)


def test_of_one_score_the_error_is_that_of_its_value() -> None:
    network = es.convert(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), torch.rand(5, 3), es.DataNorm())
    images = torch.rand(5, 3)
    (error,) = score_errors(network, images, 7, [0.0])
    found, trained = es.simulate(network, images, 7).readout[-1] / 7, network(images)
    assert error == pytest.approx(float((found - trained).square().sum() / trained.square().sum()), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timesteps": 0}, "timesteps: 0 is less than 1"),
        ({"delay": 1.0}, "delay: 1.0 is no share of the steps"),
        ({"delay": -0.5, "timesteps": 4}, "delay: -0.5 is no share of the steps"),
        ({"timesteps": 4, "correct": [es.Bias(4)]}, "timesteps: chooses a correction"),
        ({"spikes": "signed", "reset": "zero"}, "signed spikes need soft reset"),
        ({"spikes": "both"}, "spikes: 'both' is not known"),
        ({"v_init": "uniform", "correct": [es.Bias(4)]}, "potentials begin at random"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: Any, message: str) -> None:
    with pytest.raises(es.EquispikeError, match=message):
        es.convert(model(), pictures(), **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: es.Bias(0),
        lambda: es.Bias(4, passes=0),
        lambda: es.StepBias(4, rate=0.0),
        lambda: es.Potential(-1),
        lambda: es.DataNorm(None),
        lambda: es.DataNorm(99.0, timesteps=4),
        lambda: es.DataNorm(None, timesteps=0),
    ],
)
def test_settings_out_of_range_are_refused_at_once(make: Any) -> None:
    with pytest.raises(es.CalibrationError):
        make()


def test_corrections_of_one_number_of_steps_add_up() -> None:
    images = pictures()
    network = with_v_init(es.convert(model(), images, es.DataNorm()), 0.5)
    both = correct(network, images, [es.Potential(T), es.Bias(T)])
    for op in both.neurons.values():
        assert isinstance(op.v_init, Tensor)
        assert op.drive is not None
        assert op.drive.shape == (1, 8)
    assert all(op.drive is None for op in network.neurons.values())
