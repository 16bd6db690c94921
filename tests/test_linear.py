"""Fixed linear maps: what a model sums up with fixed weights is kept as one operation, and every engine runs it."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from strategies import dyadic
from test_module import module
from test_trace import Forward, images
from torch import Tensor, nn

import equispike as es
from equispike.calibrate.method import Thresholds, with_thresholds
from equispike.errors import ConversionError
from equispike.files.checkpoint import load, save
from equispike.files.module import write_module
from equispike.files.nir import write_nir
from equispike.files.onnx import write_onnx
from equispike.graph import linear
from equispike.graph.exact import fold_affine, fold_amplitudes, quantize
from equispike.graph.network import Network, Node
from equispike.graph.ops import Affine, AvgPool, Conv, Input, Linear, Neuron, Op, Readout, Sparse
from equispike.graph.quantize import sum_bits
from equispike.graph.reading.trace import trace
from equispike.graph.walk import reweighted

SHAPE = (4, 6, 6)
LIES = torch.tensor([3, 1, 0])
FACTORS = torch.linspace(-1, 1, 36).view(6, 6).double()

KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "a shuffle of channels": lambda x: x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2),
    "space to depth": lambda x: x.view(-1, 4, 3, 2, 3, 2).permute(0, 1, 3, 5, 2, 4).reshape(-1, 16, 3, 3),
    "a flip and a roll": lambda x: x.flip(3).roll(2, 2),
    "a turn": lambda x: torch.rot90(x, 1, (2, 3)),
    "chosen channels": lambda x: x[:, LIES],
    "every second channel": lambda x: x[:, ::2],
    "one row": lambda x: x.select(2, 1).unsqueeze(2),
    "repeats": lambda x: x.repeat(1, 2, 1, 1).repeat_interleave(2, 3),
    "an expanded mean": lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 6, 6),
    "pixels unshuffled": lambda x: F.pixel_unshuffle(x, 2),
    "patches": lambda x: F.unfold(x, 2, stride=2).view(-1, 16, 3, 3),
    "a sum over channels": lambda x: x.sum(1, keepdim=True),
    "a mean over rows": lambda x: x.mean(2, keepdim=True),
    "a sum over columns and channels": lambda x: x.sum((1, 3)).unsqueeze(1).unsqueeze(1),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear between corners": lambda x: F.interpolate(x, size=(9, 11), mode="bilinear", align_corners=True),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "nearest of no whole number": lambda x: F.interpolate(x, size=(9, 9)),
    "reflected borders": lambda x: F.pad(x, (1, 2, 2, 1), "reflect"),
    "repeated borders": lambda x: F.pad(x, (1, 1, 1, 1), "replicate"),
    "borders in a circle": lambda x: F.pad(x, (1, 1, 1, 1), "circular"),
    "constant borders": lambda x: F.pad(x, (1, 1, 1, 1), value=0.5),
    "windows that differ": lambda x: F.adaptive_avg_pool2d(x, (4, 5)),
    "another divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "factors by position": lambda x: x * FACTORS,
    "constants by position": lambda x: 1 - x + FACTORS,
    "weights on the last axis": lambda x: F.linear(x, FACTORS[:5], FACTORS[0, :5]),
    "weights on the second last axis": lambda x: torch.matmul(FACTORS[:5], x),
    "an equation": lambda x: torch.einsum("bchw,hk->bckw", x, FACTORS[:, :4]),
    "sums so far": lambda x: x.cumsum(3),
    "parts stacked and summed": lambda x: torch.stack([x, 2 * x]).mean(0) + torch.stack([x, x], 2).sum(2),
    "parts joined in space": lambda x: torch.cat([x, x.flip(2)], 2),
    "a sum of other shapes": lambda x: x + x.mean((2, 3), keepdim=True),
    "a mean over all features": lambda x: x.mean((1, 2, 3)).reshape(-1, 1),
    "a product with factors of its terms": lambda x: torch.addmm(FACTORS[0], x[:, 0, 0], FACTORS, beta=2, alpha=0.5),
    "one channel as a map": lambda x: F.conv1d(x.flatten(2), FACTORS[:2, :4, None]),
    "rows apart": lambda x: torch.stack(x.unbind(2)[1:3], 2),
}


CLIPS: dict[str, Callable[[Tensor], Tensor]] = {
    "hardtanh": F.hardtanh,
    "a clamp from below": lambda x: x.clamp(min=0.5),
    "a clamp from above": lambda x: x.clamp(max=0.5),
    "clip": lambda x: x.clip(0, 1),
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
    "hardsigmoid": F.hardsigmoid,
    "absolute value": torch.abs,
    "a maximum with zeros": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "a maximum of two": lambda x: torch.maximum(x, x.flip(1)),
    "a minimum of two": lambda x: torch.minimum(x, 1 - x),
    "a maximum by channel": lambda x: torch.maximum(x, FACTORS[0].repeat(2)[:8]),
    "a choice": lambda x: torch.where(x > 0, x, 0.0),
    "a choice the other way round": lambda x: torch.where(x <= 0, torch.zeros_like(x), x),
    "a product with a comparison": lambda x: x * (x > 0),
}


@cache
def traced() -> dict[str, tuple[Tensor, Tensor]]:
    """Of all kinds what the model gives, and what its network gives; one trace for all."""
    torch.manual_seed(0)
    front, x = nn.Conv2d(2, 4, 3, padding=1).double(), images(2, 6, 6)
    model = Forward(lambda m, x: torch.cat([kind(torch.relu(m.front(x))).flatten(1) for kind in KINDS.values()], 1))
    model.front = front
    with torch.no_grad():
        parts = [kind(torch.relu(front(x))).flatten(1) for kind in KINDS.values()]
        given = trace(model, x)(x).split([part.shape[1] for part in parts], 1)
    return dict(zip(KINDS, zip(parts, given, strict=True), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_linear_maps_compute_what_the_model_does(kind: str) -> None:
    expected, given = traced()[kind]
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-13)


def test_moves_in_a_row_are_one_operation() -> None:
    network = trace(Forward(lambda m, x: KINDS["space to depth"](x).flip(1)), images(*SHAPE))
    assert [type(node.op) for node in network] == [Input, Sparse, Readout]


def test_images_do_not_mix() -> None:
    for mixing in (lambda x: x.flip(0), lambda x: x.roll(1, 0)):
        with pytest.raises(ConversionError, match="mixes the images of a batch"):
            trace(Forward(lambda m, x, mixing=mixing: mixing(x)), images(*SHAPE))


def test_random_numbers_are_refused() -> None:
    with pytest.raises(ConversionError, match=r"rand\): draws random numbers in eval mode too"):
        trace(Forward(lambda m, x: x * torch.rand(6, 6, dtype=torch.float64)), images(*SHAPE))


def test_clips_of_every_spelling_compute_what_the_model_does() -> None:
    torch.manual_seed(0)
    front, x = nn.Linear(6, 8).double(), 2 * images(6)
    given = trace(Forward(lambda m, x: torch.cat([clip(m.front(x)) for clip in CLIPS.values()], 1), front=front), x)(x)
    for (name, clip), part in zip(CLIPS.items(), given.split(8, 1), strict=True):
        torch.testing.assert_close(part, clip(front(x)).detach(), rtol=0, atol=1e-14, msg=name)


def test_one_layer_of_neurons_does_what_a_relu_and_its_clip_do() -> None:
    network = trace(Forward(lambda m, x: torch.relu(x).clamp(max=1.5)), images(6))
    assert [type(node.op) for node in network] == [Input, Neuron, Readout]
    assert [op.ceiling for op in network.neurons.values()] == [1.5]


@pytest.mark.parametrize("clip", ["hardtanh", "absolute value", "a maximum of two"])
def test_clips_become_the_rates_of_neurons(clip: str) -> None:
    """After 512 steps scores are as close to the trained ones as whole spikes can be."""
    torch.manual_seed(0)
    model = Forward(lambda m, x: m.back(CLIPS[clip](m.front(x))), front=nn.Linear(6, 8), back=nn.Linear(8, 3)).double()
    x = images(6)
    network = es.convert(model, x, method=es.DataNorm())
    run = es.simulate(network, x, 512)
    torch.testing.assert_close(run.readout[-1] / 512, model(x).detach(), rtol=0, atol=0.03)


def test_jumps_are_refused_truly() -> None:
    with pytest.raises(ConversionError, match=r"jumps from 0 to 0\.1, and no sum of ReLUs does"):
        trace(nn.Sequential(nn.Linear(6, 2), nn.Threshold(0.1, 0.0)), images(6).float())


# ------------------------------------------------------------------------------------------------ the operation itself


def test_maps_are_found_without_a_matrix_of_all_features() -> None:
    x = torch.randn(2, 3, 40, 40, dtype=torch.float64)
    upsample = nn.Upsample(scale_factor=2, mode="bilinear")
    op = linear.interpolated(upsample, (3, 40, 40), (3, 80, 80))
    assert op.source.shape == (4, 80 * 80)
    torch.testing.assert_close(op(x), upsample(x), rtol=0, atol=1e-14)


def test_by_hand() -> None:
    op = Sparse((3,), 2, torch.tensor([[0, 1, 0], [1, 0, 0]]), torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]))
    assert op(torch.tensor([[10.0, 1.0]])).tolist() == [[14.0, 2.0, 30.0]]
    assert reweighted(op, torch.ones_like)(torch.tensor([[10.0, 1.0]])).tolist() == [[11.0, 1.0, 10.0]]


def test_places_outside_of_the_features_are_refused() -> None:
    with pytest.raises(ConversionError, match="its sources do not fit blocks of 2 features"):
        Sparse((1,), 2, torch.tensor([[2]]), torch.ones(1, 1))


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("shift", [False, True])
def test_maps_per_channel_fold_into_the_weights(blocks: int, shift: bool) -> None:
    source = torch.tensor([[0, 3, 2], [1, 0, 0]]) if blocks == 2 else torch.tensor([[0, 7, 2, 5], [1, 0, 0, 6]])
    weight = dyadic(1, *source.shape)
    map_ = Sparse((2, 3) if blocks == 2 else (4,), 8 // blocks, source, weight)
    affine = Affine(dyadic(2, 2, low=1), dyadic(3, 2) if shift else torch.zeros(2).double())
    network = chain((2, 4), Neuron(), affine, map_)
    folded = fold_affine(network)
    x = dyadic(4, 3, 2, 4)
    assert torch.equal(folded(x), network(x))
    assert not any(isinstance(node.op, Affine) for node in folded)


# ------------------------------------------------------------------------------------------------------------ engines


def chain(shape: tuple[int, ...], *ops: Op) -> Network:
    nodes = [Node("input", Input(shape))]
    for number, op in enumerate(ops):
        nodes.append(Node(str(number), op, (nodes[-1].name,)))
    return Network((*nodes, Node("readout", Readout(), (nodes[-1].name,))))


@cache
def spiking() -> tuple[Network, Tensor]:
    """A network with a move, an interpolation, windows that differ and constants by position, on a grid."""
    torch.manual_seed(1)
    pad = linear.moved(lambda t: F.pad(t, (1, 1, 1, 1), "reflect"), (1, 6, 6), (1, 8, 8))
    shuffle = linear.moved(lambda t: t.flip(1).transpose(2, 3), (4, 6, 6), (4, 6, 6))
    larger = linear.interpolated(nn.Upsample(scale_factor=2, mode="bilinear"), (4, 6, 6), (4, 12, 12))
    shifted = linear.multiplied(
        torch.linspace(0.5, 1, 144).double().view(12, 12), (4, 12, 12), torch.full((), 0.01).double()
    )
    ops: list[Op] = [
        pad,
        Conv(torch.randn(4, 1, 3, 3).double(), torch.randn(4).double() / 8, (1, 1), (0, 0), (1, 1)),
        Neuron(),
        shuffle,
        larger,
        shifted,
        Neuron(),
        AvgPool((5, 5), (4, 4), (1, 1), count_include_pad=False),
        linear.reshaped((36,)),
        Linear(torch.randn(5, 36).double() / 4, None),
    ]
    network = chain((1, 6, 6), *ops)
    x = torch.rand(4, 1, 6, 6).double()
    thresholds = Thresholds({name: torch.tensor(1.0).double() for name in network.neurons})
    return quantize(with_thresholds(network, thresholds), 8, 16), x


@pytest.mark.parametrize("coder", [es.Constant(), es.Poisson()])
@pytest.mark.parametrize("engine", ["layerwise", "events"])
def test_engines_agree_spike_for_spike(engine: str, coder: es.Constant | es.Poisson) -> None:
    network, x = spiking()
    assert max(sum_bits(network, 16).values()) <= 53
    expected = es.simulate(network, x, 16, coder=coder, engine="stepwise")
    given = es.simulate(network, x, 16, coder=coder, engine=engine)
    assert torch.equal(given.readout, expected.readout)
    for name in network.neurons:
        assert int(expected.counts[name].sum()) > 0
        assert torch.equal(given.counts[name], expected.counts[name])


def test_files_keep_the_map(tmp_path: Path) -> None:
    network, x = spiking()
    save(network, tmp_path / "a.safetensors")
    assert torch.equal(load(tmp_path / "a.safetensors")(x), network(x))


def test_exports_to_torch_and_onnx_give_the_same_scores(tmp_path: Path) -> None:
    network, x = spiking()
    expected = es.simulate(network, x, 16).readout
    write_module(network, tmp_path / "a.py")
    assert torch.equal(module(tmp_path / "a.py").Network()(x.float(), timesteps=16).float(), expected)
    pytest.importorskip("onnxruntime")
    from test_onnx_writing import outputs

    write_onnx(network, tmp_path / "a.onnx")
    assert torch.equal(outputs(tmp_path / "a.onnx", x.float(), 16)["scores"].float(), expected)


def test_nir_refuses_the_map_truly(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"\(Sparse\): moves or adds up features, for which NIR has no node"):
        write_nir(spiking()[0], tmp_path / "a.nir")


def test_unit_spikes_go_through() -> None:
    levels = torch.tensor([0.5, 2.0, 1.0, 4.0]).double().view(4, 1)
    repeat = linear.moved(lambda t: t.repeat(1, 2, 1), (4, 3), (8, 3))
    network = chain((4, 3), Neuron(levels, levels), repeat, Neuron(torch.ones(()).double(), torch.ones(()).double()))
    folded = fold_amplitudes(network)
    x = dyadic(1, 2, 4, 3)
    assert torch.equal(folded(x), network(x))
    a, b = (es.simulate(net, x, 9, engine="stepwise") for net in (network, folded))
    assert all(torch.equal(a.counts[name], b.counts[name]) for name in a.counts)


ONE = [lambda y: y[:, 1], lambda y: y[:, 0] - y[:, 1], lambda y: y.sum(1), lambda y: y.mean(-1)]


@pytest.mark.parametrize("end", ONE)
def test_one_number_for_each_image_converts(end: Callable[[Tensor], Tensor]) -> None:
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))

        def forward(self, x: Tensor) -> Tensor:
            return end(self.body(x))

    model, x = Ends().eval(), torch.rand(4, 6)
    network = es.trace(model, x)
    assert network.shapes["readout"] == (1,)
    assert torch.allclose(network(x).flatten(), model(x), atol=1e-6)
    assert es.simulate(es.convert(model, x), x, 4).predictions.shape == (4, 4)
