"""The zoo's networks: structure as in the papers, initial weights from a seed; and each as a spiking network."""

import math
from collections import Counter
from functools import cache, partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import equispike as es
from equispike.calibrate.spike_norm import residual_neurons
from equispike.errors import EquispikeError
from equispike.graph.exact import fold_affine
from equispike.graph.network import Network
from equispike.graph.ops import Add, Affine, AvgPool, Neuron, Pad
from equispike.graph.reading.trace import trace
from equispike.nn import RateNorm
from equispike.zoo.data import load
from equispike.zoo.models import MODELS, PreActivation, Residual, alexnet, build, mnist_cnn, preact_resnet, resnet, vgg

WEIGHTED = nn.Conv2d | nn.Linear
POOLS = nn.AvgPool2d | nn.AdaptiveAvgPool2d
ACTIVATION = nn.ReLU | RateNorm


@cache
def on_meta(name: str) -> nn.Sequential:
    """The network with shapes alone: no memory, no arithmetic."""
    with torch.device("meta"):
        return MODELS[name]()


def kinds(model: nn.Module) -> list[str]:
    return [type(m).__name__ for m in model.modules() if not isinstance(m, nn.Sequential)]


def weighted(model: nn.Module) -> list[tuple[str, Any]]:
    return [(name, m) for name, m in model.named_modules() if isinstance(m, WEIGHTED)]


def image_shape(name: str) -> tuple[int, int, int]:
    return (1, 28, 28) if name.startswith("mnist") else (3, 224, 224) if name.endswith("imagenet") else (3, 32, 32)


def is_constrained(name: str) -> bool:
    return not name.startswith("preact") and not {"bn", "rnl"} & set(name.split("-"))


def sizes(name: str) -> tuple[int, int, int]:
    """Layers with weights, parameters, and multiply-accumulate operations for one image."""
    model, macs = on_meta(name).eval(), 0

    def count(module: Any, _: Any, output: Tensor) -> None:
        nonlocal macs
        macs += output[0].numel() * module.weight[0].numel()

    handles = [module.register_forward_hook(count) for _, module in weighted(model)]
    model(torch.empty(1, *image_shape(name), device="meta"))
    for handle in handles:
        handle.remove()
    return len(handles), sum(p.numel() for p in model.parameters()), macs


# ---------------------------------------------------------------------------------------------------- structure


def depth(name: str) -> int:
    """Layers with weights that the name promises; projections are not counted, extra front layers are."""
    family, *variant = name.removeprefix("mnist-").split("-")
    number = int("".join(filter(str.isdigit, family)) or {"cnn": 5, "alexnet": 8}[family])
    return number + 2 if family.startswith("resnet") and not {"basic", "junctions"} & set(variant) else number


@pytest.mark.parametrize("name", MODELS)
def test_a_network_has_the_layers_of_its_name(name: str) -> None:
    model = on_meta(name)
    main = [m for _, m in weighted(model) if isinstance(m, nn.Linear) or m.kernel_size == (3, 3)]
    assert len(main) == depth(name)
    rest = [m for _, m in weighted(model) if m not in main]
    assert len(rest) == (3 if name.startswith("preact") else 0)  # projections, one per stage but the first
    assert not any(isinstance(m, nn.MaxPool2d) for m in model.modules())
    classes = 1000 if name.endswith("imagenet") else 100 if name.endswith("cifar100") else 10
    assert main[-1].out_features == classes
    if "rnl" not in name:
        assert model.eval()(torch.empty(2, *image_shape(name), device="meta")).shape == (2, classes)


@pytest.mark.parametrize("name", MODELS)
def test_constrained_networks_have_neither_bias_nor_batch_norm(name: str) -> None:
    model, found = on_meta(name), Counter(kinds(on_meta(name)))
    if is_constrained(name):
        assert all(m.bias is None for _, m in weighted(model))
        assert found["BatchNorm2d"] == found["RateNorm"] == 0
        assert not list(model.buffers())
    elif name.startswith("preact"):  # in front of every 3x3 convolution but the first, and behind the last
        assert found["BatchNorm2d"] == found["Conv2d"] - 3
        assert [m.bias is None for _, m in weighted(model)] == [True] * found["Conv2d"] + [False]
    else:
        assert found["BatchNorm2d"] == found["Conv2d"]
        assert all(m.bias is not None for _, m in weighted(model))
    assert (found["ReLU"] == 0) == ("rnl" in name)


@pytest.mark.parametrize("name", MODELS)
def test_dropout_stands_after_every_relu_but_those_before_a_pool_and_in_paths_only(name: str) -> None:
    model = on_meta(name)
    drops = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    blocks = [m for m in model.modules() if isinstance(m, Residual)]
    if not drops:
        assert name.startswith(("preact", "mnist-resnet8")) or {"bn", "half", "narrow", "slim"} & set(name.split("-"))
        return
    if blocks:
        assert [kinds(block.path) for block in blocks] == [["Conv2d", "ReLU", "Dropout", "Conv2d"]] * len(blocks)
        assert len(drops) == len(blocks)
        return
    parts = [*model.features, *model.classifier]  # type: ignore[misc]
    for part, following in pairwise(parts):
        if isinstance(part, ACTIVATION):
            assert isinstance(following, POOLS | nn.Dropout)
        else:
            assert not isinstance(following, nn.Dropout)
    assert len(drops) + sum(isinstance(part, POOLS) for part in parts) == depth(name) - 1


def test_a_vgg_reads_smaller_images_too_since_its_last_pool_is_global() -> None:
    model = build("vgg11-half-rnl-cifar10").eval()
    last = [m for m in model.modules() if isinstance(m, POOLS)][-1]
    x = torch.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)
    assert torch.equal(last(x), nn.AvgPool2d(2)(x))
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 10)


VGG_CHANNELS = {
    11: [64, 128, 256, 256, 512, 512, 512, 512],
    13: [64, 64, 128, 128, 256, 256, 512, 512, 512, 512],
    16: [64, 64, 128, 128, *[256] * 3, *[512] * 6],
    19: [64, 64, 128, 128, *[256] * 4, *[512] * 8],
}


@pytest.mark.parametrize("number", VGG_CHANNELS)
def test_vgg_has_the_channels_and_pools_of_its_paper(number: int) -> None:
    for name, hidden, side in (("cifar10", 512, 1), ("bn-cifar100", 4096, 1), ("imagenet", 4096, 7)):
        model = on_meta(f"vgg{number}-{name}")
        convolutions = [m for _, m in weighted(model) if isinstance(m, nn.Conv2d)]
        assert [m.out_channels for m in convolutions] == VGG_CHANNELS[number]
        assert all((m.kernel_size, m.stride, m.padding) == ((3, 3), (1, 1), (1, 1)) for m in convolutions)
        inside, last = [m for _, m in weighted(model) if isinstance(m, nn.Linear)][:2], weighted(model)[-1][1]
        assert [(m.in_features, m.out_features) for m in inside] == [(512 * side**2, hidden), (hidden, hidden)]
        assert last.in_features == hidden
        pools = [m for m in model.modules() if isinstance(m, POOLS)]
        assert [m.kernel_size for m in pools if isinstance(m, nn.AvgPool2d)] == [2] * (5 if side > 1 else 4)
        assert [m.output_size for m in pools if isinstance(m, nn.AdaptiveAvgPool2d)] == [1] * (side == 1)


@pytest.mark.parametrize("number", [20, 32, 44, 56])
def test_resnet_for_32_pixels_has_three_stages_behind_three_plain_layers(number: int) -> None:
    model, blocks = on_meta(f"resnet{number}-cifar10"), (number - 2) // 6
    assert kinds(model.front) == ["Conv2d", "ReLU"] * 3  # type: ignore[arg-type]
    assert [m.out_channels for _, m in weighted(model.front)] == [16] * 3  # type: ignore[arg-type]
    paths = [[m for _, m in weighted(block.path)] for block in model.modules() if isinstance(block, Residual)]
    assert [[m.out_channels for m in path] for path in paths] == [
        [n, n] for n in (16, 32, 64) for _ in range(blocks)
    ]  # fmt: skip
    strides = [[m.stride[0] for m in path] for path in paths]
    assert strides == [[2 if b and not b % blocks else 1, 1] for b in range(3 * blocks)]
    shortcuts = Counter(type(block.shortcut).__name__ for block in model.modules() if isinstance(block, Residual))
    assert shortcuts == {"Identity": 3 * blocks - 2, "Subsample": 2}


def test_resnet_34_reaches_56_pixels_by_three_plain_layers_and_a_pool() -> None:
    model = on_meta("resnet34-imagenet")
    front = [m for _, m in weighted(model.front)]  # type: ignore[arg-type]
    assert [(m.kernel_size, m.stride, m.out_channels) for m in front] == [
        ((3, 3), (s, s), 64) for s in (2, 1, 1)
    ]  # fmt: skip
    assert model.front(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 64, 56, 56)
    blocks = [block for block in model.modules() if isinstance(block, Residual)]
    assert Counter(block.path[-1].out_channels for block in blocks) == {64: 3, 128: 4, 256: 6, 512: 3}  # type: ignore[index]
    assert model.stages(torch.empty(1, 64, 56, 56, device="meta")).shape == (1, 512, 7, 7)


@pytest.mark.parametrize(("number", "blocks"), [(18, [2, 2, 2, 2]), (34, [3, 4, 6, 3])])
def test_pre_activation_stands_in_front_of_the_weights(number: int, blocks: list[int]) -> None:
    model = on_meta(f"preact{number}-cifar10")
    found = [block for block in model.modules() if isinstance(block, PreActivation)]
    assert Counter(block.path[-1].out_channels for block in found) == dict(
        zip((64, 128, 256, 512), blocks, strict=True)
    )  # type: ignore[index]
    for block in found:
        assert kinds(block.before) == ["BatchNorm2d", "ReLU"]
        assert kinds(block.path) == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d"]
    assert kinds(model.head) == ["BatchNorm2d", "ReLU", "AdaptiveAvgPool2d", "Flatten", "Linear"]  # type: ignore[arg-type]
    assert kinds(model.front) == ["Conv2d"]  # type: ignore[arg-type]


def test_type_a_shortcuts_take_every_second_pixel_and_add_channels_of_zeros() -> None:
    shortcut = resnet(8).stages[1].shortcut  # type: ignore[index, union-attr]
    x = torch.rand(2, 16, 5, 6)
    y = shortcut(x)  # type: ignore[operator]
    assert torch.equal(y[:, :16], x[:, :, [0, 2, 4]][:, :, :, [0, 2, 4]])
    assert y.shape == (2, 32, 3, 3)
    assert not y[:, 16:].any()
    assert not list(shortcut.parameters())  # type: ignore[union-attr]


def test_constrained_layers_in_order() -> None:
    block = ["Conv2d", "ReLU", "AvgPool2d"]
    assert kinds(mnist_cnn()) == [*block * 3, "Flatten", "Linear", "ReLU", "Dropout", "Linear"]


def test_stored_names_of_the_mnist_networks_stay() -> None:
    """Weights in the package are stored under them."""
    expected = ["features.0.weight", "features.3.weight", "features.6.weight"]
    assert list(mnist_cnn().state_dict()) == [*expected, "classifier.1.weight", "classifier.4.weight"]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    layers = [
        [*(f"features.{n}.{p}" for p in ("weight", "bias")), *(f"features.{n + 1}.{p}" for p in norm)]
        for n in (0, 4, 8)
    ]
    linear = [f"classifier.{n}.{p}" for n in (1, 4) for p in ("weight", "bias")]
    assert list(mnist_cnn(constrained=False).state_dict()) == [*chain(*layers, linear)]


def test_sizes_inside_of_mnist_networks() -> None:
    for model, expected in (
        (mnist_cnn(), [(32, 14, 14), (32, 7, 7), (32, 3, 3), (288,)]),
        (alexnet(width=0.25), [(16, 14, 14), (48, 7, 7), (64, 3, 3), (576,)]),
    ):
        found: list[tuple[int, ...]] = []
        for module in model.eval().modules():
            if isinstance(module, nn.AvgPool2d | nn.Flatten):
                module.register_forward_hook(lambda *a, found=found: found.append(tuple(a[2].shape[1:])))
        assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)
        assert found == expected


def test_width_multiplies_channels_and_hidden_neurons() -> None:
    assert mnist_cnn(width=8)(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    for thin, full in (
        (vgg(11, width=0.125), on_meta("vgg11-cifar10")),
        (resnet(20, width=0.125), on_meta("resnet20-cifar10")),
        (preact_resnet(18, width=0.125), on_meta("preact18-cifar10")),
        (alexnet(width=0.125), on_meta("mnist-alexnet-bn")),
    ):
        pairs = zip(weighted(thin)[:-1], weighted(full)[:-1], strict=True)
        assert all(8 * a.weight.shape[0] == b.weight.shape[0] for (_, a), (_, b) in pairs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(vgg, 12), "vgg depth: 12 is not one of 11, 13, 16, 19"),
        (partial(vgg, 16, 64), "vgg size: 64 is not one of 32, 224"),
        (partial(resnet, 18), r"resnet depth: 18 is not one of 6 n \+ 2"),
        (partial(resnet, 20, 224), "resnet depth: 20 is not one of 18, 34"),
        (partial(resnet, 20, 28), "resnet size: 28"),
        (partial(preact_resnet, 20), "preact_resnet depth: 20 is not one of 18, 34"),
        (partial(preact_resnet, 18, 64), "preact_resnet size: 64"),
    ],
)
def test_sizes_that_a_family_does_not_have_are_refused(make: Any, message: str) -> None:
    with pytest.raises(EquispikeError, match=message):
        make()


# ---------------------------------------------------------------------------------------------- initial weights


@pytest.mark.parametrize(
    "model",
    [mnist_cnn(), vgg(11, width=0.25), resnet(20), resnet(20, constrained=False), preact_resnet(18, width=0.25)],
)
def test_initial_weights_have_the_papers_standard_deviation(model: nn.Module) -> None:
    """Sengupta et al., 2019, section 7.1; 5 standard errors of a standard deviation over n draws are 5 / sqrt(2 n)."""
    normalised = any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    for name, module in weighted(model):
        n = module.weight.numel()
        if isinstance(module, nn.Linear):
            expected = math.sqrt(2 / module.in_features)
        else:
            outputs = module.kernel_size[0] ** 2 * module.out_channels
            in_path = ".path." in name and not normalised
            expected = math.sqrt(2) / outputs if in_path else math.sqrt(2 / outputs)
        assert module.weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * n)), name
        assert abs(module.weight.mean().item()) < 5 * expected / math.sqrt(n), name
        assert module.bias is None or not module.bias.any()


def test_scores_of_a_black_image_are_zero_without_bias() -> None:
    for model in (build("mnist-cnn"), vgg(11, width=0.125), resnet(20, width=0.5)):
        shape = (1, 1, 28, 28) if model[0][0].in_channels == 1 else (1, 3, 32, 32)  # type: ignore[index]
        assert not model(torch.zeros(shape)).any()


def test_build_depends_on_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    first = build("mnist-cnn", seed=3).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(5)
    again, other = build("mnist-cnn", seed=3).state_dict(), build("mnist-cnn", seed=4).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["features.0.weight"], other["features.0.weight"])


def test_unknown_name_lists_known_ones() -> None:
    with pytest.raises(EquispikeError, match=r"'vgg'.*mnist-cnn, mnist-cnn-bn"):
        build("vgg")


# ------------------------------------------------------------------------------------------- as spiking networks


@cache
def digits(channels: int, side: int) -> Tensor:
    """Real digits; in color, each channel with a contrast of its own."""
    images = load("mnist-sample").train.take(2).floats().double()
    if channels == 3:
        images = F.pad(images, (2, 2, 2, 2)) * torch.tensor([1.0, 0.75, 0.5]).view(3, 1, 1)
    return images.repeat_interleave(side // images.shape[-1], 2).repeat_interleave(side // images.shape[-1], 3)


CONVERTED: dict[str, tuple[Any, tuple[int, int, int]]] = {
    "mnist-cnn": (mnist_cnn, (1, 28, 28)),
    "mnist-cnn-bn": (partial(mnist_cnn, constrained=False), (1, 28, 28)),
    "alexnet": (partial(alexnet, constrained=True, width=0.05), (1, 28, 28)),
    "alexnet-bn": (partial(alexnet, width=0.05), (1, 28, 28)),
    "vgg16": (partial(vgg, 16, width=0.1), (3, 32, 32)),
    "vgg11-bn": (partial(vgg, 11, constrained=False, width=0.1), (3, 32, 32)),
    "vgg16-imagenet": (partial(vgg, 16, 224, 20, width=0.05), (3, 224, 224)),
    "resnet20": (partial(resnet, 20), (3, 32, 32)),
    "resnet8-bn": (partial(resnet, 8, constrained=False), (3, 32, 32)),
    "resnet8, front=0": (partial(resnet, 8, front=0), (3, 32, 32)),
    "resnet8, front=0, junction=False": (partial(resnet, 8, front=0, junction=False), (3, 32, 32)),
    "resnet34-imagenet": (partial(resnet, 34, 224, 20, width=0.05), (3, 224, 224)),
    "preact18": (partial(preact_resnet, 18, width=0.1), (3, 32, 32)),
    "preact18-imagenet": (partial(preact_resnet, 18, 224, width=0.05), (3, 224, 224)),
}


@cache
def read(name: str) -> tuple[nn.Module, Tensor, Network]:
    """The network in float64, after training as far as batch norm goes; images; and what trace reads, once for all."""
    make, (channels, side, _) = CONVERTED[name]
    torch.manual_seed(0)
    model, images = make().double().eval(), digits(channels, side)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model, images, trace(model, images)


@pytest.mark.parametrize("name", CONVERTED)
def test_traced_and_folded_networks_compute_what_the_model_does(name: str) -> None:
    model, images, network = read(name)
    with torch.no_grad():
        expected = model(images)
    assert bool(expected.any())
    folded = fold_affine(network)
    assert not any(isinstance(node.op, Affine) for node in folded)
    for found in (network(images), folded(images)):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12 * float(expected.abs().max()))
    assert len(network.neurons) == sum(isinstance(m, nn.ReLU) for m in model.modules())


@pytest.mark.parametrize("readout", ["potential", "spikes"])
@pytest.mark.parametrize("name", CONVERTED)
def test_networks_convert_and_simulate(name: str, readout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, traced = read(name)
    monkeypatch.setattr("equispike.conversion.trace", lambda *_: traced)
    network = es.convert(model, images, es.DataNorm(), readout=readout)
    assert len(network.thresholds) == len(traced.neurons) + (readout == "spikes")
    run = es.simulate(network, images, 3, verify=0 if "imagenet" in name else 1)
    assert run.readout.shape == (3, 2, traced.shapes["readout"][0])
    assert all(int(run.counts[layer].sum()) > 0 for layer in list(network.neurons)[:1])
    assert run.mismatch is None or run.mismatch < 1e-3  # the largest activation is the threshold, to the last bit


def test_type_a_shortcuts_are_pools_of_single_pixels_and_padding() -> None:
    network = read("resnet20")[2]
    pads = [node for node in network if isinstance(node.op, Pad)]
    assert [(p.op.before, p.op.after) for p in pads] == [
        ((0, 0, 0), (16, 0, 0)), ((0, 0, 0), (32, 0, 0)),
    ]  # fmt: skip
    for pad in pads:
        columns = network[pad.inputs[0]]
        rows = network[columns.inputs[0]]
        assert isinstance(columns.op, AvgPool)
        assert isinstance(rows.op, AvgPool)
        assert [(op.kernel, op.stride) for op in (rows.op, columns.op)] == [((1, 1), (2, 1)), ((1, 1), (1, 2))]
        assert isinstance(network[rows.inputs[0]].op, Neuron)
        assert [type(node.op) for node in network.consumers[pad.name]] == [Add]


@pytest.mark.parametrize(
    ("name", "front", "residual"),
    [("resnet20", 3, 18), ("resnet8, front=0", 1, 6), ("resnet8, front=0, junction=False", 1, 3)],
)
def test_sengupta_s_ablation(name: str, front: int, residual: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figure 3: the switches that make each variant, and where thresholds are one."""
    model, images, traced = read(name)
    layers = list(traced.neurons)
    assert residual_neurons(traced) == layers[front:]
    assert len(layers) == front + residual
    monkeypatch.setattr("equispike.conversion.trace", lambda *_: traced)
    method = es.SpikeNorm(timesteps=2, residual="unity", readout="potential")
    thresholds = es.convert(model, images, method).thresholds
    assert len({float(thresholds[layer]) for layer in layers[front - 1 :]}) == 1
    sums = [node for node in traced if isinstance(node.op, Add)]
    behind = {type(reader.op).__name__ for node in sums for reader in traced.consumers[node.name]}
    assert ("Neuron" in behind) == ("junction" not in name)
    assert ("Conv" in behind) == ("junction" in name)  # spikes of several layers, summed, feed a convolution


# ------------------------------------------------------------------------------------------------------ the page


def row(name: str) -> str:
    layers, parameters, macs = sizes(name)
    shape = " x ".join(map(str, image_shape(name)))
    return f"| `{name}` | {layers} | {shape} | {parameters:,} | {macs / 1e6:,.1f} M |"


def test_the_page_of_networks_lists_them_with_their_sizes() -> None:
    """To write the table again: print("\\n".join(map(row, listed())))."""
    page = (Path(__file__).parents[1] / "docs" / "networks.md").read_text(encoding="utf-8")
    found = [line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 6]
    assert found == [row(name) for name in listed()]


def listed() -> list[str]:
    """The page says how the others are named: those for 100 classes, and those with Rate Norm layers."""
    return [name for name in MODELS if not name.endswith("cifar100") and "rnl" not in name.split("-")]


def test_networks_that_the_page_does_not_list_are_named_after_those_that_it_does() -> None:
    special = {"mnist-alexnet-quarter-rnl", "vgg11-half-rnl-cifar10"}
    for name in MODELS.keys() - set(listed()) - special:
        twin = name.replace("cifar100", "cifar10")
        twin = twin.replace("-rnl", "") if name.startswith("preact") else twin.replace("-rnl", "-bn")
        assert twin in listed(), name
