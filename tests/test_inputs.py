"""Models of several inputs: they lie side by side in one tensor, and give what the model gives, in spikes too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import exit_code
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader

import equispike as es
from equispike.analysis.causes import causes
from equispike.analysis.fit import misfit
from equispike.analysis.operating_range import operating_range
from equispike.batches import hold
from equispike.conversion import prepare
from equispike.diagnosis import diagnose
from equispike.errors import ConversionError, DataError, EquispikeError
from equispike.files.module import write_module
from equispike.files.onnx import read_onnx
from equispike.functional.coding import Coder
from equispike.functional.inputs import Shape, join_inputs, layout, split_inputs
from equispike.graph.network import Network, Node
from equispike.graph.ops import Concat, Flatten, Readout
from equispike.graph.reading.program import parts
from equispike.nn import from_relu, rate_norms, with_rate_norm
from equispike.provenance import as_data
from equispike.zoo.data import load
from equispike.zoo.store import load_model

COUNT = 4
sizes = st.integers(1, 5)
vectors = st.tuples(sizes)


@st.composite
def several(draw: st.DrawFn) -> list[Shape]:
    images = st.tuples(*[sizes] * draw(st.integers(1, 3)))
    return draw(st.lists(images | vectors, min_size=1, max_size=4))


def values(shapes: list[Shape]) -> tuple[Tensor, ...]:
    return tuple(torch.arange(1.0, COUNT * torch.Size(shape).numel() + 1).view(COUNT, *shape) + i / 8
                 for i, shape in enumerate(shapes))  # fmt: skip


@given(several())
def test_inputs_come_back_from_what_they_were_joined_to(shapes: list[Shape]) -> None:
    inputs = values(shapes)
    joined = join_inputs(inputs)
    assert tuple(joined.shape[1:]) == layout(shapes)[0]
    assert int(joined.count_nonzero()) == sum(x.numel() for x in inputs)
    for found, x in zip(split_inputs(joined, shapes), inputs, strict=True):
        assert torch.equal(found, x)


@given(several())
def test_the_operations_that_take_them_apart_give_each_of_them(shapes: list[Shape]) -> None:
    entrance, found = parts(shapes)
    nodes = [Node("input", entrance)]
    ends: list[str] = []
    for number, ops in enumerate(found):
        name = "input"
        for op in (*ops, Flatten()):
            nodes.append(Node(f"{number}.{len(nodes)}", op, (name,)))
            name = nodes[-1].name
        ends.append(name)
    nodes += [Node("all", Concat((1.0,) * len(ends)), tuple(ends)), Node("readout", Readout(), ("all",))]
    inputs = values(shapes)
    assert torch.equal(Network(tuple(nodes))(inputs), torch.cat([x.flatten(1) for x in inputs], 1))


class Sensors(nn.Module):
    """Two images of different sizes and a vector; the last input is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2))
        self.right = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
        self.facts = nn.Sequential(nn.Linear(20, 16), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(8 * 16 + 16, 32), nn.ReLU(), nn.Linear(32, 5))

    def forward(self, image: Tensor, depth: Tensor, facts: Tensor, spare: Tensor) -> Tensor:
        seen = self.left(image) + self.right(depth)
        return self.head(torch.cat([seen.flatten(1), self.facts(facts)], 1))


def sensors() -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    return Sensors().eval(), tuple(torch.rand(6, *shape) for shape in ((3, 8, 8), (1, 4, 4), (20,), (2,)))


@pytest.mark.parametrize("coder", [es.Constant(), es.Poisson()], ids=["constant", "poisson"])
def test_engines_and_batches_give_the_same_spikes(coder: Coder) -> None:
    model, inputs = sensors()
    network = es.quantize(es.convert(model, [(inputs, None)]), bits=8)
    expected = es.simulate(network, inputs, 12, coder, seed=3, engine="stepwise")
    assert min(int(count.sum()) for count in expected.counts.values()) > 0
    for engine, batch in (("layerwise", 6), ("events", 6), ("auto", 2)):
        run = es.simulate(network, inputs, 12, coder, seed=3, engine=engine, batch_size=batch)  # type: ignore[arg-type]
        assert torch.equal(run.readout, expected.readout)
        assert all(torch.equal(count, expected.counts[name]) for name, count in run.counts.items())


def test_a_model_of_several_inputs_is_read_and_its_parts_have_names() -> None:
    model, inputs = sensors()
    network, _ = prepare(model, inputs)
    torch.testing.assert_close(network(inputs), model(*inputs))
    assert {"image", "depth", "facts", "left.0", "facts.0"} < {node.name for node in network}
    assert not any(node.name.startswith("spare") for node in network)
    report = es.check(model, inputs)
    assert report.convertible
    assert report.rows[0].operation == "input"
    assert report.rows[0].count == 3


def test_digits_whose_columns_come_in_two_inputs_spike_as_whole_ones(tmp_path: Path) -> None:
    """Even columns in one input and odd ones in another, added up: the same currents, so the same predictions."""
    trained, _ = load_model("mnist-cnn")
    assert isinstance(trained, nn.Module)

    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = trained

        def forward(self, even: Tensor, odd: Tensor) -> Tensor:
            return self.body(even + odd)

    splits = load("mnist-sample")
    stripes = (torch.arange(28) % 2 == 0).float()

    def apart(images: Tensor) -> tuple[Tensor, Tensor]:
        return images * stripes, images * (1 - stripes)

    calibration, test = splits.train.take(64).floats(), splits.test.take(40)
    whole = es.convert(trained, calibration)
    network = es.convert(Halves(), DataLoader([(apart(x), 0) for x in calibration], batch_size=16))  # type: ignore[arg-type]
    assert {name.removeprefix("body."): value.flatten().tolist() for name, value in network.thresholds.items()} == {
        name: pytest.approx(value.flatten().tolist()) for name, value in whole.thresholds.items()
    }
    path = tmp_path / "halves.safetensors"
    es.save(network, path)
    images = test.floats()
    found = es.evaluate(es.load(path), [(apart(images), test.labels)], timesteps=32)
    expected = es.evaluate(whole, [(images, test.labels)], timesteps=32)
    assert found.trained == expected.trained > 0.9
    assert float((found.mean - expected.mean).abs().max()) <= 1 / len(test)
    assert float(expected.mean[-1]) > 0.9


def test_exports_take_the_inputs_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, inputs = sensors()
    network = es.quantize(es.convert(model, [(inputs, None)]), bits=8)
    run = es.simulate(network, inputs, 8)
    write_module(network, tmp_path / "sensors.py")
    scope: dict[str, Any] = {"__name__": "sensors", "__file__": str(tmp_path / "sensors.py")}
    exec((tmp_path / "sensors.py").read_text(), scope)
    assert torch.equal(scope["Network"]()(es.join_inputs(inputs), 8)[-1].double(), run.readout[-1].double())
    es.save(network, tmp_path / "sensors.safetensors")
    assert exit_code("export", str(tmp_path / "sensors.safetensors"), "--to", "onnx") == 0
    assert "the 4 inputs of the model as equispike.join_inputs" in capsys.readouterr().out
    runtime = pytest.importorskip("onnxruntime").InferenceSession(tmp_path / "sensors.onnx")
    fed = {"images": es.join_inputs(inputs).numpy(), "timesteps": np.array(8)}
    assert np.array_equal(runtime.run(None, fed)[0][-1], run.readout[-1].numpy())


def test_programs_of_several_inputs() -> None:
    model, inputs = sensors()
    batch = torch.export.Dim("batch")
    free = tuple({0: batch} for _ in inputs)
    program = torch.export.export(model, inputs, dynamic_shapes=free)
    torch.testing.assert_close(prepare(program, inputs)[0](inputs), model(*inputs))
    own = {0: torch.export.Dim("other")}
    apart = torch.export.export(Apart(), inputs[:2], dynamic_shapes=({0: batch}, own))
    with pytest.raises(ConversionError, match=r"mixes the images of a batch"):
        prepare(apart, inputs[:2], output=1)


class Apart(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x.relu(), y.relu()


def test_onnx_files_of_several_inputs_and_outputs(tmp_path: Path) -> None:
    helper = pytest.importorskip("onnx.helper")
    given = [helper.make_tensor_value_info(name, 1, ["batch", *shape]) for name, shape in (("x", (2, 4)), ("y", (3,)))]
    nodes = [
        helper.make_node("Flatten", ["x"], ["v"]),
        helper.make_node("Concat", ["v", "y"], ["c"], axis=1),
        helper.make_node("Relu", ["c"], ["f"]),
        helper.make_node("Gelu", ["f"], ["g"]),
    ]
    results = [helper.make_tensor_value_info(name, 1, ["batch", None]) for name in ("g", "f")]
    path = tmp_path / "two.onnx"
    path.write_bytes(helper.make_model(helper.make_graph(nodes, "g", given, results)).SerializeToString())
    x, y = torch.randn(5, 2, 4), torch.randn(5, 3)
    network = read_onnx(path, output=1)
    assert torch.equal(network((x, y)), torch.cat([x.flatten(1), y], 1).relu())
    assert es.check(network, (x, y), output=1).convertible
    assert exit_code("check", str(path), "--output", "1") == 0
    for output, message in ((None, "has 2 outputs. Choose one"), (0, "Gelu"), (2, "model returns 2")):
        with pytest.raises(ConversionError, match=message):
            read_onnx(path, output)
    with pytest.raises(ConversionError, match="output: 2"):
        es.convert(network, [((x, y), None)], output=2)


def test_analyses_take_the_inputs_as_simulate_does() -> None:
    model, inputs = sensors()
    network = es.convert(model, [(inputs, None)])
    run, joined = es.simulate(network, inputs, 8), join_inputs(inputs)
    assert causes(run) == causes(es.simulate(network, joined, 8))
    assert operating_range(network, inputs, 8) == operating_range(network, joined, 8)
    assert misfit(run).keys() == run.counts.keys()
    truth = model(*inputs).argmax(1)
    found = diagnose(model, [(inputs, truth)], inputs, truth, timesteps=4)
    assert found.trained == 1.0
    assert found.images == len(joined)


def test_layers_of_rate_norm_are_calibrated_on_several_inputs() -> None:
    torch.manual_seed(0)
    model = Facts().eval()
    inputs = torch.rand(6, 8), torch.rand(6, 3)
    learnt = from_relu(model, [(inputs, None)]).eval()
    torch.testing.assert_close(learnt(*inputs), model(*inputs))
    network = es.convert(learnt, [(inputs, None)], es.RateNorm())
    assert network.provenance["method"] == as_data(es.RateNorm())
    assert len(rate_norms(with_rate_norm(model, example=inputs))) == 1


class Facts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.relu, self.head = nn.Linear(8, 9), nn.Linear(3, 9), nn.ReLU(), nn.Linear(9, 2)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.head(self.relu(self.first(first) + self.second(second)))


def test_what_does_not_go_together_is_refused() -> None:
    model, inputs = sensors()
    network = es.convert(model, [(inputs, None)])
    with pytest.raises(DataError, match=r"of 6, 5 images. Give every image all of its inputs"):
        es.simulate(network, (inputs[0], inputs[1][:5]), 4)
    with pytest.raises(DataError, match=r"calibration batch 0: inputs: of shapes \(3, 8, 8\), \(3, 8\)"):
        hold([((inputs[0], inputs[0][..., 0]), None)])
    with pytest.raises(DataError, match="holds a str"):
        hold([((inputs[0], "labels"), None)])
    with pytest.raises(DataError, match=r"images of type torch.int64"):
        hold([((inputs[0], torch.arange(6)[:, None]), None)])
    with pytest.raises(EquispikeError, match=r"shape \(6, 4, 8, 8\)"):
        es.simulate(network, inputs[:2], 4)
    with pytest.raises(ConversionError, match=r"could not read it with inputs of shape \(6, 3, 8, 8\) and"):
        es.convert(model, [(inputs[:2], None)])
    with pytest.raises(ConversionError, match="holds no tensor"):
        es.check(model, ())
