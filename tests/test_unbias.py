"""Networks without bias and batch norm, from trained ones whose biases shrink to nothing."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command import exit_code
from torch import nn

from equispike.errors import EquispikeError
from equispike.nn import with_rate_norm
from equispike.zoo.data import load
from equispike.zoo.models import build, preact_resnet, resnet, vgg
from equispike.zoo.recipes import Recipe
from equispike.zoo.store import load_model, save_model
from equispike.zoo.train import Progress, accuracy_of, train
from equispike.zoo.unbias import folded

RECIPE = Recipe(epochs=4, batch=50, lr=0.02, clip=0.5, unbias=2.0)


def biases(model: nn.Module) -> list[nn.Parameter]:
    return [value for name, value in model.named_parameters() if name.endswith("bias")]


def used(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """The model with statistics and biases as if it were trained."""
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 1:
                value.add_(0.1 * torch.randn_like(value))
        for _ in range(20):
            model.train()(images)
    return model.eval()


@pytest.mark.parametrize(
    ("trained", "plain"),
    [
        (lambda: vgg(11, width=0.1, constrained=False, dropout=0.0), lambda: vgg(11, width=0.1, hidden=4096)),
        (lambda: resnet(8, width=0.5, constrained=False), lambda: resnet(8, width=0.5)),
    ],
)
def test_folded_it_scores_as_trained(trained, plain):
    torch.manual_seed(0)
    images = torch.randn(8, 3, 32, 32)
    model, target = used(trained(), images), plain()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    same = folded(model, target).eval()
    assert torch.allclose(same(images), model(images), rtol=1e-4, atol=1e-4)
    assert [type(layer) for layer in same.modules()] == [type(layer) for layer in target.modules()]
    assert len(biases(same)) == sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in same.modules())
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())


def test_rate_norm_layers_become_relus_of_the_same_rates():
    torch.manual_seed(0)
    images = torch.randn(8, 3, 32, 32)
    model = used(with_rate_norm(vgg(11, width=0.1, constrained=False, dropout=0.0), momentum=None), images)
    same = folded(model, vgg(11, width=0.1, hidden=4096)).eval()  # nothing is above the largest input seen
    assert torch.allclose(same(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("trained", "plain", "reason"),
    [
        (lambda: vgg(11, width=0.1, constrained=False), lambda: vgg(11, width=0.2), "other shapes"),
        (lambda: with_rate_norm(resnet(8, constrained=False)), lambda: resnet(8), "weights of sums"),
        (preact_resnet, preact_resnet, "weights of sums"),
    ],
)
def test_what_cannot_be_folded_is_refused(trained, plain, reason):
    with pytest.raises(EquispikeError, match=reason):
        folded(trained(), plain())


def test_a_trained_network_without_biases_is_kept_and_remains_good(tmp_path: Path):
    sample = load("mnist-sample")
    parts = sample.train.take(2000), sample.validation.take(300)
    start = folded(load_model("mnist-cnn-rnl")[0], build("mnist-cnn"))
    given = [bias.detach().clone() for bias in biases(start)]
    trained = train(start, *parts, RECIPE)
    assert trained.best.number >= 2
    assert not biases(trained.model)
    found = accuracy_of(trained.model, parts[1])
    assert found == trained.best.validation_accuracy
    assert found > 0.97
    assert all(torch.equal(bias, before) for bias, before in zip(biases(start), given, strict=True))
    save_model(tmp_path / "x.safetensors", "mnist-cnn", trained.model, {})
    images = sample.test.take(10).floats()
    assert torch.equal(load_model(tmp_path / "x.safetensors")[0](images), trained.model(images))


def test_the_last_epoch_counts_where_biases_shrink_to_the_end():
    sample = load("mnist-sample")
    start = folded(load_model("mnist-cnn-rnl")[0], build("mnist-cnn"))
    recipe = replace(RECIPE, epochs=2, unbias=2.0, lr=1e-9)  # nothing learns, so biases are missed
    trained = train(start, sample.train.take(100), sample.validation.take(100), recipe)
    assert trained.best.number == 2
    first, last = (epoch.validation_accuracy or 0.0 for epoch in trained.history)
    assert first > last
    assert not biases(trained.model)


def test_interrupted_while_biases_shrink_it_ends_in_the_same_weights(tmp_path: Path):
    sample = load("mnist-sample")
    parts = sample.train.take(100), sample.validation.take(50)
    start = folded(load_model("mnist-cnn-rnl")[0], build("mnist-cnn"))

    def stop(progress: Progress) -> None:
        if progress.step == 3:  # in the second epoch of two steps
            raise KeyboardInterrupt

    undisturbed, file = train(start, *parts, RECIPE), tmp_path / "run.training"
    with pytest.raises(KeyboardInterrupt):
        train(start, *parts, RECIPE, report=stop, checkpoint=file)
    resumed = train(start, *parts, RECIPE, checkpoint=file, resume=True)
    for name, value in undisturbed.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value)


def test_gradients_are_shortened_to_their_largest_norm():
    sample = load("mnist-sample")
    torch.manual_seed(0)
    model = build("mnist-cnn")
    recipe = Recipe(epochs=1, batch=100, lr=0.1, momentum=0.0, weight_decay=0.0, dropout=0.0, clip=0.01, nesterov=False)
    recipe = replace(recipe, schedule=lambda epoch, epochs: 1.0)
    trained = train(model, sample.train.take(100), sample.validation.take(10), recipe)
    moved = [
        float((after - before).square().sum())
        for before, after in zip(model.parameters(), trained.model.parameters(), strict=True)
    ]
    assert sum(moved) ** 0.5 == pytest.approx(0.1 * 0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mnist-cnn", "biases are to go"),
        ("mnist-cnn-bn", "without batch norm"),
    ],
)
def test_networks_and_recipes_that_it_is_not_for_are_refused(name, reason):
    sample = load("mnist-sample")
    parts = sample.train.take(100), sample.validation.take(10)
    with pytest.raises(EquispikeError, match=reason):
        train(build(name), *parts, RECIPE)
    with pytest.raises(EquispikeError, match="for 5 epochs, and there are 4"):
        train(folded(load_model("mnist-cnn-rnl")[0], build("mnist-cnn")), *parts, replace(RECIPE, unbias=5.0))


def test_the_command_takes_a_trained_network_and_the_name_of_one_without(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules["equispike.zoo.recipes"].RECIPES, "unbias", replace(RECIPE, epochs=1, unbias=1.0))
    out = tmp_path / "x.safetensors"
    line = ["train", "--start", "mnist-cnn-rnl", "--model", "mnist-cnn", "--recipe", "unbias", "--out", str(out)]
    assert exit_code(*line) == 0
    model, card = load_model(out)
    assert not biases(model)
    assert card["started_from"]["name"] == "mnist-cnn-rnl"
    assert card["test_accuracy"] > 0.97
    assert exit_code("train", "--model", "mnist-cnn", "--recipe", "unbias", "--out", str(out)) == 2
    assert "--start" in capsys.readouterr().err
