"""A diagnosis names the layer and the cause, and only remedies that were measured."""

import pytest
import torch

import equispike as es
from equispike.analysis.causes import Causes
from equispike.conversion import Converter
from equispike.diagnosis import Diagnosis, Remedy, _remedies, diagnose
from equispike.zoo.data import load
from equispike.zoo.store import load_model


@pytest.fixture(scope="module")
def found():
    digits = load("mnist-sample")
    model, _ = load_model("mnist-cnn")
    validation = digits.validation.take(60)
    calibration = [digits.train.take(32).floats()]

    def run(method, timesteps, **options):
        return diagnose(model, calibration, validation.floats(), validation.labels, method, timesteps, **options)

    return run


def test_too_low_a_threshold(found):
    low = found(es.RMP(0.1, 16), 32)
    assert low.worst.largest == "clipping"
    assert low.accuracy < low.trained - 0.1
    names = [remedy.name for remedy in low.remedies]
    assert names[0].startswith("method=DataNorm(")
    assert low.remedies[0].accuracy > low.accuracy + 0.1
    assert names[0] in low.sentence
    assert f"{low.remedies[0].accuracy:.1%}" in low.sentence
    assert [r.accuracy for r in low.remedies] == sorted((r.accuracy for r in low.remedies), reverse=True)


def test_parts_that_undo_each_other_do_not_name_the_layer():
    flooded = Causes("flooded", inherited=28.0, clipping=27.6, quantisation=0.1, unevenness=0.0, total=0.4)
    short = Causes("short", inherited=0.1, clipping=0.0, quantisation=0.6, unevenness=0.2, total=0.7)
    found = Diagnosis(0.9, 0.2, 5.0, 8, 100, (flooded, short), (Remedy("more", 0.3, 5.0),))
    assert found.worst is short
    assert flooded.lost == 0.4
    assert "short loses most, by quantisation (60% of its rates)" in found.sentence


def test_too_few_steps(found):
    short = found(es.DataNorm(), 6)
    assert short.worst.largest == "quantisation"
    remedies = {remedy.name: remedy for remedy in short.remedies}
    assert remedies["timesteps=24"].accuracy > short.accuracy
    assert "method=DataNorm(percentile=100)" not in remedies  # done already


def test_a_remedy_is_what_its_name_says(found):
    lowered = found(es.DataNorm(), 6, v_init=0.5)
    assert "v_init=0.5" not in {remedy.name for remedy in lowered.remedies}
    remedy = next(r for r in found(es.DataNorm(), 6).remedies if r.name == "v_init=0.5")
    assert (remedy.accuracy, remedy.spike_rate) == (lowered.accuracy, lowered.spike_rate)
    hard = found(es.DataNorm(), 6, reset="zero")
    assert "reset='subtract'" in {remedy.name for remedy in hard.remedies}


def test_other_percentiles_are_tried_from_the_same_start():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    for options, late in (({"delay": 0.5}, {"delay": 0.5}), ({"method": es.DataNorm(97.0), "v_init": 0.5}, {})):
        tried = _remedies(es.convert(model, torch.rand(8, 4), **options), (), 4)
        name = "method=DataNorm(percentile=99.9), v_init=0.5" + ", delay=0.5" * len(late)
        assert tried[name] == {"method": es.DataNorm(99.9), "v_init": 0.5, **late}
        assert ("delay=0.5" in tried) == (not late)
        assert all(change["v_init"] == 0.5 for change in tried.values() if change.get("method"))
    tried = _remedies(es.convert(model, torch.rand(8, 4), es.DataNorm(97.0)), (), 4)
    assert tried["method=DataNorm(percentile=99.9)"] == {"method": es.DataNorm(99.9)}


def test_a_correction_is_measured_where_it_fits_the_cause(found, monkeypatch):
    digits = load("mnist-sample")
    convert = Converter(load_model("mnist-cnn")[0], digits.train.take(32).floats())
    judged = digits.validation.take(60)

    def measured(**options):
        run = es.simulate(convert(**options), judged.floats(), 4)
        return float((run.predictions[-1] == judged.labels).double().mean()), float(run.spike_rate[-1])

    few = found(es.DataNorm(99.0), 4)
    remedies = {remedy.name: (remedy.accuracy, remedy.spike_rate) for remedy in few.remedies}
    assert remedies["correct=[Bias(4)]"] == measured(method=es.DataNorm(99.0), correct=[es.Bias(4)])
    assert remedies["convert(timesteps=4)"] == measured(timesteps=4)
    assert min(remedies["correct=[Bias(4)]"], remedies["convert(timesteps=4)"])[0] > few.accuracy
    corrected = _remedies(convert(es.DataNorm(99.0), correct=[es.Bias(4)]), few.layers, 4)
    clipped = [Causes("1", 0.0, 0.3, 0.1, 0.2, 0.3)]
    names = {*corrected, *_remedies(convert(es.DataNorm(99.0)), clipped, 4)}
    assert not any(name.startswith("correct") for name in names)
    assert not any(name.startswith("convert") for name in corrected)
    assert "convert(timesteps=33)" not in _remedies(convert(es.DataNorm(99.0)), few.layers, 33)  # no longer few
    uneven = Causes("1", 0.0, 0.0, 0.1, 0.2, 0.3)
    monkeypatch.setattr("equispike.diagnosis.causes", lambda _: [uneven])
    found_again = {remedy.name: remedy for remedy in found(es.DataNorm(99.0), 4).remedies}
    assert found_again["correct=[StepBias(4)]"].accuracy > few.accuracy
    assert found_again["spikes='signed'"].accuracy == measured(method=es.DataNorm(99.0), spikes="signed")[0]


def test_where_little_is_lost_nothing_is_tried(found):
    well = found(es.DataNorm(99.9), 64)
    assert well.remedies == ()
    assert well.sentence.endswith("Little is lost.")
    assert len(well.layers) == 4


def test_where_nothing_helps_it_says_so(found, monkeypatch):
    monkeypatch.setattr("equispike.diagnosis._remedies", lambda *_: {"timesteps=1": {"simulated": 1}})
    assert "None of the remedies tried helped" in found(es.DataNorm(), 6).sentence
    assert torch.is_grad_enabled()
