"""Accuracy, latency and evaluation against counting by hand."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import dyadic, networks, same, seeds
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import equispike as es
from equispike.functional.coding import predict
from equispike.graph.network import Network, Node
from equispike.graph.ops import Input, Linear, Neuron, Readout
from equispike.progress import reporting, track

T = 9


def three_classes(v_init: Any = 0.0, classes: int = 3) -> Network:
    """Class c counts the spikes of pixel c, threshold 1."""
    one, eye = torch.tensor(1.0), torch.eye(classes)
    return Network(
        (
            Node("input", Input((classes,))),
            Node("in", Linear(eye, None), ("input",)),
            Node("n", Neuron(one, one, v_init=v_init), ("in",)),
            Node("readout", Readout(), ("n",)),
        )
    )


IMAGES = torch.tensor([[1.0, 0.5, 0.0], [0.25, 0.5, 0.25], [0.0, 0.0, 1.0], [0.5, 0.0, 0.25]])


def test_accuracy_by_hand() -> None:
    run = es.simulate(three_classes(), IMAGES, 4)
    # Image 1: no spike in step 1, then class 1 in steps 2 and 4. Image 3: class 0 in step 2, class 2 in step 4.
    assert run.predictions.T.tolist() == [[0, 0, 0, 0], [0, 1, 1, 1], [2, 2, 2, 2], [0, 0, 0, 0]]
    assert es.accuracy(run, [0, 1, 2, 2]).tolist() == [0.5, 0.75, 0.75, 0.75]
    assert es.accuracy(run, torch.tensor([0, 1, 2, 2])).dtype == torch.float64
    for labels in ([0, 1], torch.zeros(4, 1), 3):
        with pytest.raises(es.SimulationError, match="labels: shape"):
            es.accuracy(run, labels)  # type: ignore[arg-type]


@given(st.integers(2, 30), seeds, st.integers(1, 7))
@settings(max_examples=30)
def test_top_k_takes_the_k_highest_scores_and_of_equal_ones_the_lower_class(classes: int, seed: int, top: int) -> None:
    images = dyadic(seed, 6, classes, low=0, high=3)
    labels = torch.arange(6) % classes
    run = es.simulate(three_classes(classes=classes), images, 5)
    ranked = [[sorted(range(classes), key=lambda c: (-scores[c], c)) for scores in step] for step in run.readout]
    expected = [sum(int(labels[i]) in order[:top] for i, order in enumerate(step)) / 6 for step in ranked]
    assert es.accuracy(run, labels, top).tolist() == expected
    assert torch.equal(es.accuracy(run, labels), (run.predictions == labels).double().mean(1))
    found = es.evaluate(three_classes(classes=classes), [(images[:4], labels[:4]), (images[4:], labels[4:])], 5)
    assert (found.top5 is None) == (classes < 20)
    if found.top5 is not None:
        assert found.top5[0].tolist() == pytest.approx(es.accuracy(run, labels, 5).tolist())
    with pytest.raises(es.SimulationError, match="top: 0"):
        es.accuracy(run, labels, 0)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(0, 4))
def test_latency_is_the_first_step_after_which_accuracy_stays(values: list[int], target: int) -> None:
    staying = [t for t in range(1, len(values) + 1) if all(value >= target for value in values[t - 1 :])]
    accuracies = torch.tensor(values).double() / 4
    assert es.latency(accuracies, target / 4) == (min(staying) if staying else None)


@given(networks(), st.data(), st.sampled_from([es.Constant(), es.Poisson()]), st.integers(1, 3))
@settings(max_examples=25)
def test_evaluation_is_simulation_and_counting(network: Network, data: Any, coder: Any, runs: int) -> None:
    images = dyadic(data.draw(seeds), 10, *network.input.shape)
    classes = network.shapes["readout" if "readout" in network.shapes else network.nodes[-1].name][0]
    labels = torch.arange(10) % classes
    size = data.draw(st.sampled_from([1, 3, 10]))
    found = es.evaluate(network, zip(images.split(size), labels.split(size)), T, coder, 5, runs, batch_size=4)
    drawn = not coder.constant or any(op.v_init == "uniform" for op in network.neurons.values())
    assert found.seeds == tuple(range(5, 5 + (runs if drawn else 1)))
    assert found.images == 10
    for n, seed in enumerate(found.seeds):
        run = es.simulate(network, images, T, coder, seed)
        assert torch.equal(found.accuracy[n], (run.predictions == labels).sum(1).double() / 10)
        assert torch.equal(found.spike_rate[n], run.spike_rate)
        assert torch.allclose(found.ties[n], run.ties, rtol=0, atol=1e-12)
        assert torch.equal(found.predictions[n], run.predictions[-1])
        if len(found.seeds) == 1:
            assert found.spikes == pytest.approx({name: float(count.sum()) / 10 for name, count in run.counts.items()})
            for name, count in run.counts.items():
                assert torch.allclose(found.counts[name], count.double().mean(0), rtol=1e-15)
                assert torch.allclose(found.spikes_by_step[name], run.spikes[name].double().mean(1), rtol=1e-15)
    assert torch.equal(found.trained_predictions, predict(network(images))[0])
    assert found.trained == float((found.trained_predictions == labels).double().mean())
    assert (found.inputs is None) == coder.constant
    if found.inputs is not None:
        expected = T * images.abs().mean(0) / network.input.scale
        assert torch.allclose(found.inputs, expected.clamp(max=T).double(), rtol=0, atol=T * 2.0**-40)


def test_mean_and_deviation_are_over_the_seeds() -> None:
    found = es.evaluate(three_classes(), [(IMAGES, torch.tensor([0, 1, 2, 2]))], 3, es.Poisson(), runs=4)
    assert found.accuracy.shape == (4, 3)
    each = torch.stack([found.accuracy[n] for n in range(4)])
    assert len({tuple(row.tolist()) for row in each}) > 1
    assert torch.equal(found.mean, each.mean(0))
    assert torch.allclose(found.std, ((each - each.mean(0)) ** 2).sum(0).div(3).sqrt())  # n - 1
    spikes = [es.simulate(three_classes(), IMAGES, 3, es.Poisson(), seed).counts["n"].sum() for seed in range(4)]
    assert found.spikes == {"n": float(sum(spikes)) / 4 / 4}
    one = es.evaluate(three_classes(), [(IMAGES, torch.tensor([0, 1, 2, 2]))], 3, es.Poisson())
    assert one.std.tolist() == [0, 0, 0]


def test_constant_coding_needs_one_run_unless_potentials_are_random() -> None:
    labelled = [(IMAGES, torch.arange(4) % 3)]
    assert es.evaluate(three_classes(), labelled, 3, runs=5, seed=2).seeds == (2,)
    assert es.evaluate(three_classes("uniform"), labelled, 3, runs=5, seed=2).seeds == (2, 3, 4, 5, 6)


class Stream(IterableDataset[tuple[Tensor, int]]):
    """A data set without a length."""

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        yield from zip(IMAGES, [0, 1, 2, 2])


@pytest.mark.parametrize(
    "make",
    [
        lambda labels: DataLoader(TensorDataset(IMAGES, labels), batch_size=3),
        lambda labels: DataLoader(Stream(), batch_size=3),
        lambda labels: ((x[None], y[None]) for x, y in zip(IMAGES, labels)),
        lambda labels: [[IMAGES, labels.tolist()]],
        lambda labels: [(IMAGES[:2], labels[:2]), (IMAGES[:0], labels[:0]), (IMAGES[2:], labels[2:])],
    ],
)
def test_any_iterable_of_labelled_batches_gives_the_same(make: Any) -> None:
    labels = torch.tensor([0, 1, 2, 2])
    expected = es.evaluate(three_classes(), [(IMAGES, labels)], 5, es.Poisson(), runs=2)
    found = es.evaluate(three_classes(), make(labels), 5, es.Poisson(), runs=2)
    assert same(found, expected)


@pytest.mark.parametrize(
    ("batches", "options", "error", "message"),
    [
        ([IMAGES], {}, es.DataError, "without labels"),
        ([], {}, es.DataError, "there are no images"),
        ([(IMAGES, torch.arange(3))], {}, es.DataError, r"test batch 0: \(3,\) labels for 4 images"),
        (
            [(IMAGES, torch.arange(4) % 3), (IMAGES[:, :2], torch.arange(4) % 3)],
            {},
            es.DataError,
            "test batch 1: shape",
        ),
        ([(IMAGES * torch.nan, torch.arange(4))], {}, es.DataError, "NaN"),
        ([(IMAGES, torch.arange(4))], {"timesteps": 0}, es.SimulationError, "timesteps: 0"),
        ([(IMAGES, torch.arange(4))], {"runs": 0}, es.SimulationError, "runs: 0"),
        ([(IMAGES, torch.arange(4))], {"engine": "no"}, es.SimulationError, "engine"),
    ],
)
def test_unusable_input_is_refused(batches: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        es.evaluate(three_classes(), batches, **{"timesteps": 3} | options)


def test_a_network_without_thresholds_is_refused_before_anything_is_read() -> None:
    def never() -> Iterator[Tensor]:
        raise AssertionError("was read")
        yield

    with pytest.raises(es.ConversionError, match="n: has no threshold yet"):
        es.evaluate(three_classes().replace_ops({"n": Neuron()}), never(), 3)


def test_progress_is_reported_while_someone_listens() -> None:
    heard: list[tuple[str, int, int]] = []
    labelled = [(IMAGES[:2], torch.arange(2)), (IMAGES[2:], torch.arange(2))]
    with reporting(lambda *report: heard.append(report)):
        es.evaluate(three_classes(), labelled, 2, es.Poisson(), runs=2, label="mine")
    assert heard == [("mine", done, 2) for done in range(3)]
    es.evaluate(three_classes(), labelled, 2)
    assert len(heard) == 3


def test_calibration_reports_its_layers() -> None:
    heard: list[tuple[str, int, int]] = []
    network = three_classes().replace_ops({"n": Neuron()})
    with reporting(lambda *report: heard.append(report)):
        es.SpikeNorm(timesteps=2)(network, IMAGES)
    assert heard == [("n (1 of 1)", 0, 1), ("n (1 of 1)", 1, 1)]


def test_reporters_nest_and_end_with_their_block_even_on_errors() -> None:
    outer: list[int] = []
    inner: list[int] = []
    with reporting(lambda _, done, __: outer.append(done)):
        with pytest.raises(ZeroDivisionError), reporting(lambda _, done, __: inner.append(done)):
            next(1 / 0 for _ in track("ab", "x", 2))
        assert list(track("ab", "x", 2)) == ["a", "b"]
    assert list(track("ab", "x", 2)) == ["a", "b"]
    assert (inner, outer) == ([0], [0, 1, 2])


def test_the_sign_of_a_single_score_decides() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    images = torch.randn(64, 6)
    labels = (model(images)[:, 0] > 0).long()
    assert 0 < int(labels.sum()) < 64
    network = es.convert(model, images)
    found = es.evaluate(network, [(images, labels)], timesteps=64)
    run = es.simulate(network, images, timesteps=64)
    assert found.trained == 1.0
    assert float(found.mean[-1]) > 0.9
    assert torch.equal(run.predictions, (run.readout[..., 0] > 0).long())
    assert torch.equal(es.accuracy(run, labels), found.mean)
    with pytest.raises(es.SimulationError, match="one score per image"):
        es.simulate(network, images, timesteps=8, stop=es.Certain())


@pytest.mark.parametrize("method", [es.RMP(scale=0.8, timesteps=16), es.SpikeNorm(timesteps=16)])
def test_trained_is_the_trained_networks_own_accuracy_also_where_all_scores_are_negative(method: Any) -> None:
    torch.manual_seed(0)
    images = torch.rand(64, 10)
    model = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)).eval()
    with torch.no_grad():
        last = model[2]
        last.bias -= 0.25  # type: ignore[operator]
        scores = model(images)
    negative = int((scores.max(1).values <= 0).sum())
    assert negative > 0
    network = es.convert(model, [images], method=method)
    with pytest.warns(UserWarning, match=f"{negative} of 64 images have no class score above zero"):
        found = es.evaluate(network, [(images, scores.argmax(1))], timesteps=16)
    assert found.trained == 1.0


def test_a_label_that_is_no_class_is_one_error_everywhere() -> None:
    images, labels = torch.rand(5, 4), torch.tensor([0, 1, 2, 3, 1])
    network = es.convert(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)), images)
    run = es.simulate(network, images, timesteps=4)
    with pytest.raises(es.DataError, match="label 3, but the network has 3 classes, 0 to 2"):
        es.accuracy(run, labels)
    with pytest.raises(es.DataError, match="label 3, but the network has 3 classes, 0 to 2"):
        es.evaluate(network, [(images, labels)], timesteps=4)
    with pytest.raises(es.DataError, match="label -1"):
        es.accuracy(run, labels - 1)


def test_labels_of_places_are_evaluated_as_accuracy_counts_them() -> None:
    images, masks = torch.rand(12, 1, 8, 8), torch.randint(0, 2, (12, 8, 8))
    head = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 1))
    network = es.convert(head, DataLoader(TensorDataset(images, masks), 4))
    found = es.evaluate(network, DataLoader(TensorDataset(images, masks), 5), timesteps=8)
    torch.testing.assert_close(found.mean, es.accuracy(es.simulate(network, images, 8), masks))
    assert found.trained == pytest.approx(float((head(images).argmax(1) == masks).double().mean()))
    with pytest.raises(es.DataError, match=r"Give one per place, \(B, 8, 8\)"):
        es.evaluate(network, [(images, masks[:, 0, 0])], timesteps=8)
