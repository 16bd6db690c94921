"""ONNX files: the network read computes what the model does; what does not convert or is broken is refused."""

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import exit_code
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import EXAMPLES, damaged
from torch import nn

import equispike as es
from equispike.files.onnx import read_onnx
from equispike.files.onnx.constants import CONSTANTS
from equispike.files.onnx.operations import AT_THE_END, OPERATIONS, SPLITTING
from equispike.graph.exact import fold_affine
from equispike.graph.ops import Conv, MaxPool, Neuron

onnx = pytest.importorskip("onnx")
helper = onnx.helper if hasattr(onnx, "helper") else pytest.importorskip("onnx.helper")
numpy_helper = pytest.importorskip("onnx.numpy_helper")
IMAGE = (3, 8, 8)


def weights(name: str, *shape: int, scale: float = 1.0) -> Any:
    values = np.random.default_rng(len(name) + sum(shape)).standard_normal(shape) * scale
    return numpy_helper.from_array(values.astype(np.float32), name)


def scalar(name: str, value: float) -> Any:
    return numpy_helper.from_array(np.float32(value), name)


def numbers(name: str, *values: int) -> Any:
    return numpy_helper.from_array(np.array(values, dtype=np.int64), name)


def file(path: Path, nodes: list[Any], stored: list[Any], shape: tuple[Any, ...] = IMAGE, out: str = "y") -> Path:
    given = helper.make_tensor_value_info("x", 1, ["batch", *shape])
    result = helper.make_tensor_value_info(out, 1, ["batch", None])
    model = helper.make_model(helper.make_graph(nodes, "g", [given], [result], stored))
    path.write_bytes(model.SerializeToString())
    return path


def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


class Residual(nn.Module):
    """Most of what an exporter writes for a convolutional network."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.b, self.c = nn.Conv2d(4, 4, 3, padding=(1, 1), groups=2), nn.Conv2d(4, 4, 1, bias=False)
        self.drop, self.h = nn.Dropout(), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.n(self.a(x)))
        y = nn.functional.relu6(self.b(x) + 0.5 * self.c(x))
        x = torch.cat([x, nn.functional.avg_pool2d(y, 3, 1, 1)], 1)
        x = nn.functional.max_pool2d(x, 4)
        return torch.softmax(self.h(self.drop(x.view(x.size(0), -1))), 1)


def test_what_pytorch_exports_gives_the_models_scores(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = Residual().eval(), torch.randn(4, *IMAGE)
    model.n.running_mean.uniform_(-0.5, 0.5)
    options: Any = {"dynamo": False, "input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    try:
        torch.onnx.export(model, (images,), str(tmp_path / "m.onnx"), **options)
    except (AttributeError, ModuleNotFoundError, TypeError):
        pytest.skip("this torch has no exporter that needs no other package")
    network = read_onnx(tmp_path / "m.onnx")
    assert torch.allclose(torch.softmax(network(images), 1), model(images), atol=1e-6)
    assert torch.allclose(torch.softmax(fold_affine(network)(images), 1), model(images), atol=1e-6)
    assert [type(n.op) for n in network].count(MaxPool) == 1
    report = es.check(network, images)
    assert [row.converts for row in report.rows].count("refused") == 1
    converted = es.convert(network, images, lossy=[es.max_pool_to_avg])
    assert es.simulate(converted, images, 8).readout.shape == (8, 4, 5)


HEAD = [node("Flatten", "f", "v"), node("Gemm", "v w", "y", transB=1, alpha=0.5)]
F = torch.nn.functional
LAYERS: dict[str, tuple[Any, list[Any], Callable[[torch.Tensor, dict[str, torch.Tensor]], torch.Tensor]]] = {
    "conv, uneven pads": (
        node("Conv", "x k", "f", pads=[0, 1, 2, 0], strides=[2, 1]), [weights("k", 4, 3, 3, 2)],
        lambda x, t: F.conv2d(F.pad(x, (1, 0, 0, 2)), t["k"], stride=(2, 1))),
    "conv, the same size": (
        node("Conv", "x k b", "f", auto_pad="SAME_UPPER", strides=[2, 2], group=3, dilations=[1, 1]),
        [weights("k", 6, 1, 3, 3), weights("b", 6)],
        lambda x, t: F.conv2d(F.pad(x, (0, 1, 0, 1)), t["k"], t["b"], stride=2, groups=3)),
    "average without the padding": (
        node("AveragePool", "x", "f", kernel_shape=[3, 3], pads=[1, 1, 1, 1]), [],
        lambda x, t: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)),
    "average with the padding": (
        node("AveragePool", "x", "f", kernel_shape=[3, 3], pads=[0, 0, 1, 1], count_include_pad=1, strides=[3, 3]), [],
        lambda x, t: F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 3)),
    "global average": (node("GlobalAveragePool", "x", "f"), [], lambda x, t: x.mean((2, 3))),
    "mean over space": (node("ReduceMean", "x a", "f", keepdims=0), [numbers("a", -1, 2)], lambda x, t: x.mean((2, 3))),
    "batch norm": (
        node("BatchNormalization", "x s b m v", "f", epsilon=0.1),
        [weights("s", 3), weights("b", 3), weights("m", 3), numpy_helper.from_array(np.float32([1, 2, 3]), "v")],
        lambda x, t: F.batch_norm(x, t["m"], t["v"], t["s"], t["b"], eps=0.1)),
    "clip": (
        node("Clip", "x low high", "f"),
        [scalar("low", 0), scalar("high", 0.5)],
        lambda x, t: x.clamp(0, 0.5)),
    "clip from below": (node("Clip", "x low", "f"), [scalar("low", 0)], lambda x, t: x.relu()),
    "a constant per channel": (node("Mul", "k x", "f"), [weights("k", 3, 1, 1)], lambda x, t: x * t["k"]),
    "a difference": (node("Sub", "k x", "f"), [weights("k", 1, 3, 1, 1)], lambda x, t: t["k"] - x),
    "a quotient": (node("Div", "x k", "f"), [weights("k", 1)], lambda x, t: x / t["k"]),
    "side by side": (node("Concat", "x x", "f", axis=-3), [], lambda x, t: torch.cat([x, x], 1)),
    "dropout": (node("Dropout", "x", "f"), [], lambda x, t: x),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_each_operation_computes_what_it_should(tmp_path: Path, name: str) -> None:
    layer, stored, expected = LAYERS[name]
    tensors = {t.name: torch.from_numpy(np.array(numpy_helper.to_array(t))) for t in stored}
    images = torch.randn(3, *IMAGE, generator=torch.Generator().manual_seed(1))
    value = expected(images, tensors).flatten(1)
    head = weights("w", 5, value.shape[1])
    network = read_onnx(file(tmp_path / "m.onnx", [layer, *HEAD], [*stored, head]))
    scores = value @ torch.from_numpy(np.array(numpy_helper.to_array(head))).T / 2
    assert torch.allclose(network(images), scores, atol=1e-4)


def floats(name: str, *values: float) -> Any:
    return numpy_helper.from_array(np.array(values, dtype=np.float32), name)


def resize(sizes: str, *stored: Any, **attributes: Any) -> tuple[list[Any], list[Any]]:
    inputs = ["x", "", *(["s"] if sizes == "scales" else ["", "s"])]
    return [helper.make_node("Resize", inputs, ["f"], **attributes)], [*stored]


ASYMMETRIC = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
RUN: dict[str, tuple[list[Any], list[Any]]] = {
    "zeros around": ([node("Pad", "x p", "f")], [numbers("p", 0, 0, 1, 2, 0, 0, 0, 3)]),
    "zeros around some axes": (
        [helper.make_node("Pad", ["x", "p", "", "a"], ["f"])], [numbers("p", 1, 2), numbers("a", -1)]),
    "channels of zeros": ([node("Pad", "x p", "f")], [numbers("p", 0, 2, 0, 0, 0, 1, 0, 0)]),
    "margins cut off": ([node("Pad", "x p", "f")], [numbers("p", 0, 0, -1, 0, 0, 0, 0, -2)]),
    "every second pixel": (
        [node("Slice", "x s e a t", "f")],
        [numbers("s", 1, 0), numbers("e", 2**62, -1), numbers("a", 2, -1), numbers("t", 2, 3)]),
    "some channels": ([node("Slice", "x s e a", "f")], [numbers("s", -2), numbers("e", 3), numbers("a", 1)]),
    "parts": (
        [helper.make_node("Split", ["x", "s"], ["a", "b"], axis=1), node("Concat", "b a", "f", axis=1)],
        [numbers("s", 1, 2)]),
    "parts of one size": (
        [helper.make_node("Split", ["x"], ["a", "b", "c"], axis=-1, num_outputs=3), node("Add", "a b", "f")], []),
    "a sum of three": ([node("Relu", "x", "a"), node("Sum", "x a x", "f")], []),
    "a sum with a constant": ([node("Sum", "k x x", "f")], [weights("k", 3, 1, 1)]),
    "the larger of x and 0": ([node("Max", "x z", "f")], [scalar("z", 0)]),
    "a hard sigmoid": ([node("HardSigmoid", "x", "f", alpha=0.3, beta=0.6)], []),
    "a transposed convolution": (
        [node("ConvTranspose", "x k b", "f", strides=[2, 3], output_padding=[1, 0], pads=[1, 0, 0, 2],
              dilations=[1, 2])], [weights("k", 3, 4, 3, 2), weights("b", 4)]),
    "a transposed convolution of groups to a size": (
        [node("ConvTranspose", "x k", "f", strides=[2, 2], group=3, output_shape=[17, 17])],
        [weights("k", 3, 2, 3, 3)]),
    "a transposed convolution of the same size": (
        [node("ConvTranspose", "x k", "f", strides=[2, 2], auto_pad="SAME_UPPER")], [weights("k", 3, 2, 3, 3)]),
    "twice as large": resize("scales", floats("s", 1, 1, 2, 2), **ASYMMETRIC),
    "three times as wide": resize("sizes", numbers("s", 3, 3, 8, 24), mode="nearest"),
    "half as large": resize("scales", floats("s", 1, 1, 0.5, 0.5), **ASYMMETRIC),
    "twice as large, as of old": (
        [node("Upsample", "x s", "f", mode="nearest")], [floats("s", 1, 1, 2, 2)]),
    "half as large again": resize("sizes", numbers("s", 3, 3, 12, 12), mode="nearest", nearest_mode="floor"),
    "one and a half times as large, smoothly": resize("sizes", numbers("s", 3, 3, 12, 12), mode="linear"),
    "images with their channels last": (
        [node("Transpose", "x", "t", perm=[0, 2, 3, 1]), node("Relu", "t", "r"),
         node("Transpose", "r", "f", perm=[0, 3, 1, 2])], []),
    "channels last, in a vector": ([node("Transpose", "x", "f", perm=[0, 2, 3, 1])], []),
    "backwards": (
        [node("Slice", "x s e a t", "f")], [numbers("s", -1), numbers("e", -9), numbers("a", 3), numbers("t", -2)]),
    "channels in another order": ([node("Gather", "x i", "f", axis=1)], [numbers("i", 2, 0, -1, 2)]),
    "one row": (
        [node("Gather", "x i", "f", axis=2)], [numpy_helper.from_array(np.array(-2, dtype=np.int64), "i")]),
    "side by side, twice": ([node("Tile", "x r", "f")], [numbers("r", 1, 1, 1, 2)]),
    "means in every pixel": (
        [node("GlobalAveragePool", "x", "m"), node("Expand", "m s", "f")], [numbers("s", 1, 1, 4, 4)]),
    "reflected at the border": (
        [node("Pad", "x p", "f", mode="reflect")], [numbers("p", 0, 0, 1, 2, 0, 0, 0, 3)]),
    "the border again": ([node("Pad", "x p", "f", mode="edge")], [numbers("p", 0, 0, 1, 2, 0, 0, 0, 3)]),
    "between 0 and 0.4": (
        [node("Max", "z x", "a"), helper.make_node("Clip", ["a", "", "h"], ["f"])], [scalar("z", 0), scalar("h", 0.4)]),
    "the larger of two": ([node("Neg", "x", "n"), node("Max", "x n", "f")], []),
    "sums over channels": ([node("ReduceSum", "x a", "f", keepdims=0)], [numbers("a", 1)]),
    "pixels out of channels": ([node("DepthToSpace", "x", "f", blocksize=2)], []),
    "pixels out of channels, by rows": ([node("DepthToSpace", "x", "f", blocksize=2, mode="CRD")], []),
    "channels out of pixels": ([node("SpaceToDepth", "x", "f", blocksize=2)], []),
    "maxima of windows of the same size": (
        [node("MaxPool", "x", "f", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")], []),
    "averages of windows of the same size": (
        [node("AveragePool", "x", "f", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])], []),
    "the largest of all": ([node("GlobalMaxPool", "x", "f")], []),
    "sums over space": ([node("ReduceSum", "x a", "f")], [numbers("a", 2, 3)]),
    "a scale that is computed": (
        [node("Sqrt", "v", "d"), node("Div", "g d", "s"), node("Unsqueeze", "s a", "u"), node("Mul", "x u", "f")],
        [floats("v", 1, 2, 3), floats("g", 3, 2, 1), numbers("a", 1, 2)]),
    "weights that are computed": (
        [node("Mul", "k g", "s"), node("Conv", "x s", "f")], [weights("k", 4, 3, 3, 3), weights("g", 4, 1, 1, 1)]),
    "weights stored as integers": (
        [node("DequantizeLinear", "k s z", "w8", axis=0), node("Conv", "x w8", "f")],
        [numpy_helper.from_array(np.arange(-54, 54, dtype=np.int8).reshape(4, 3, 3, 3), "k"), floats("s", 1, 2, 3, 4),
         numpy_helper.from_array(np.array([0, 1, 2, -3], dtype=np.int8), "z")]),
    "another dimension, and back": (
        [node("Unsqueeze", "x a", "u"), node("Squeeze", "u a", "f")], [numbers("a", 4)]),
}  # fmt: skip


@pytest.mark.parametrize("name", RUN)
def test_a_file_computes_what_a_runtime_makes_of_it(tmp_path: Path, name: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    nodes, stored = RUN[name]
    opset = 9 if nodes[0].op_type == "Upsample" else 18
    shape = (12, 4, 4) if nodes[0].op_type == "DepthToSpace" else IMAGE
    given = helper.make_tensor_value_info("x", 1, ["batch", *shape])
    graph = helper.make_graph([*nodes, node("Flatten", "f", "y")], "g", [given],
                              [helper.make_tensor_value_info("y", 1, ["batch", None])], stored)  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    (expected,) = runtime.InferenceSession(tmp_path / "m.onnx").run(None, {"x": images.numpy()})
    torch.testing.assert_close(read_onnx(tmp_path / "m.onnx")(images), torch.from_numpy(expected), atol=1e-4, rtol=1e-4)


def test_layers_on_vectors_and_shapes_computed_in_the_graph(tmp_path: Path) -> None:
    nodes = [
        *(node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Unsqueeze", "n axis", "u")),
        *(node("Concat", "u rest", "t", axis=0), node("Reshape", "x t", "v")),
        *(node("MatMul", "v w", "m"), node("Add", "m b", "a"), node("Relu", "a", "r"), node("Identity", "r", "y")),
    ]
    zero = numpy_helper.from_array(np.array(0, dtype=np.int64), "zero")
    stored = [zero, numbers("axis", 0), numbers("rest", -1), weights("w", 192, 5), weights("b", 5)]
    network = read_onnx(file(tmp_path / "m.onnx", nodes, stored))
    images = torch.randn(3, *IMAGE)
    w, b = (torch.from_numpy(np.array(numpy_helper.to_array(t))) for t in stored[-2:])
    assert torch.allclose(network(images), torch.relu(images.flatten(1) @ w + b), atol=1e-4)
    assert [type(n.op) for n in network].count(Neuron) == 1


def test_layers_have_the_names_of_the_file(tmp_path: Path) -> None:
    conv = node("Conv", "x k", "a", name="/features/features.0/Conv")
    path = file(tmp_path / "m.onnx", [conv, node("Relu", "a", "f", name="/Relu"), *HEAD],
                [weights("k", 4, 3, 8, 8), weights("w", 5, 4)])  # fmt: skip
    names = [n.name for n in read_onnx(path)]
    assert names == [
        "input",
        "features.features.0",
        "Relu",
        "Flatten.2",
        "Gemm.3",
        "readout",
    ]
    assert isinstance(read_onnx(path)["features.features.0"].op, Conv)


def layer(kind: str, inputs: str = "x", *stored: Any, **attributes: Any) -> tuple[list[Any], list[Any]]:
    return [node(kind, inputs, "f", **attributes), *HEAD], [*stored, weights("w", 5, 192)]


REFUSED: dict[str, tuple[tuple[list[Any], list[Any]], str]] = {
    "sigmoid": (layer("Sigmoid"), "Sigmoid: not piecewise linear, so no firing rate equals it. Train with ReLU"),
    "a loop": (layer("Loop"), "Loop: is not known to the reader of ONNX files. Convert the PyTorch module"),
    "all that is unknown at once": (
        ([node("Tanh", "x", "a"), node("Erf", "a", "f"), *HEAD], [weights("w", 5, 192)]), "Erf: .*; Tanh: "),
    "softmax inside": (layer("Softmax"), "Softmax.*only at the end"),
    "images that change places": (layer("Transpose", perm=[1, 0, 2, 3]), "moves the images of a batch"),
    "some images of the batch": (
        layer("Slice", "x s e a", numbers("s", 1), numbers("e", 2), numbers("a", 0)), "takes some images of a batch"),
    "parts of the batch": (layer("Split", axis=0), "acts across the images of a batch"),
    "more images": (layer("Pad", "x p", numbers("p", 1, *[0] * 7)), "adds images to the batch"),
    "a constant without end": (
        ([node("Tile", "k s", "t"), node("Add", "x t", "f"), *HEAD],
         [weights("k", 1), numbers("s", 2**40), weights("w", 5, 192)]), "out of proportion"),
    "constants that fill the memory": (
        ([node("Expand", "k s", "t"), node("Add", "x t", "f"), *HEAD],
         [scalar("k", 1), numbers("s", 2**20, 2**20), weights("w", 5, 192)]), "out of proportion"),
    "constants that grow": (
        ([node("Concat", "k k", "a0", axis=0), *(node("Concat", f"a{n} a{n}", f"a{n + 1}", axis=0) for n in range(30)),
          node("Add", "x a30", "f"), *HEAD], [weights("k", 64), weights("w", 5, 192)]), "out of proportion"),
    "a gate": (layer("Mul", "x x"), "multiplies two data-dependent"),
    "batch norm in training": (
        layer("BatchNormalization", "x s s s s", weights("s", 3), training_mode=1), "Export the model in eval mode"),
    "a reshape that mixes images": (layer("Reshape", "x s", numbers("s", -1, 8)), "mixes the images"),
    "weights that are no numbers": (
        layer("Conv", "x k", weights("k", 3, 3, 1, 1, scale=np.nan)), "NaN or infinity"),
    "weights of another shape": (layer("Conv", "x k", weights("k", 3, 5, 1, 1)), "does not fit its input"),
    "strides of zero": (layer("Conv", "x k", weights("k", 3, 3, 1, 1), strides=[0, 0]), "Conv"),
    "a circle": (([node("Add", "x g", "f"), node("Relu", "f", "g"), *HEAD], [weights("w", 5, 192)]), "come before"),
    "a constant without a value": (
        ([node("Constant", "", "k"), node("Add", "x k", "f"), *HEAD], [weights("w", 5, 192)]), "holds 0 values"),
    "padding without end": (
        layer("AveragePool", kernel_shape=[2, 2], pads=[0, 0, 9**6, 9**6], count_include_pad=1), "proportion"),
}  # fmt: skip


def refused(path: Path, message: str) -> None:
    with pytest.raises((es.ConversionError, es.FileError), match=message) as caught:
        read_onnx(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_convert_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (nodes, stored), message = REFUSED[name]
    refused(file(tmp_path / "m.onnx", nodes, stored), message)


@pytest.mark.parametrize("shape", [("c", 8, 8), (), (3, 0, 8), (2**40, 8, 8)])
def test_images_without_a_size_are_refused(tmp_path: Path, shape: tuple[Any, ...]) -> None:
    refused(file(tmp_path / "m.onnx", *layer("Relu"), shape=shape), "fixed size|proportion")


def test_weights_in_other_files_are_not_opened(tmp_path: Path) -> None:
    outside = onnx.TensorProto(name="k", data_type=1, dims=[3, 3, 1, 1], data_location=1)
    outside.external_data.add(key="location", value="/etc/passwd")
    refused(file(tmp_path / "m.onnx", *layer("Conv", "x k", outside)), "lies in another file")


def test_shapes_that_lie_are_refused(tmp_path: Path) -> None:
    for dims in ([10**6, 10**6], [3, 3, 1, 2]):
        lying = onnx.TensorProto(name="k", data_type=1, dims=dims, raw_data=b"\0" * 36)
        refused(file(tmp_path / "m.onnx", *layer("Conv", "x k", lying)), "cannot be read")


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "missing.onnx", "no such file")
    whole = file(tmp_path / "m.onnx", *layer("Relu")).read_bytes()
    pickled = b"\x80\x04cos\nsystem\n(S'touch hacked'\ntR."
    for content in (b"", b"x" * 1000, pickled, *(whole[:end] for end in range(1, len(whole), len(whole) // 20))):
        (tmp_path / "m.onnx").write_bytes(content)
        refused(tmp_path / "m.onnx", "")


@cache
def whole() -> bytes:
    nodes, stored = layer("Conv", "x k", weights("k", 3, 3, 1, 1))
    with tempfile.TemporaryDirectory() as folder:
        return file(Path(folder, "m.onnx"), nodes, [stored[0], weights("w", 1, 192)]).read_bytes()


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[31mred", "\u202ebackwards"])
def test_names_that_cannot_be_printed_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    for kind in ("Relu", name):
        nodes, stored = layer("Relu")
        nodes[0].name, nodes[0].op_type = name, kind
        path = file(tmp_path / "m.onnx", nodes, stored)
        with pytest.raises(es.ConversionError) as refusal:
            read_onnx(path)
        assert str(refusal.value).isprintable()


def test_names_like_markup_are_printed_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes, stored = layer("Relu")
    nodes[0].name = "[/red] [bold]x"
    assert exit_code("check", str(file(tmp_path / "m.onnx", nodes, stored))) == 0
    assert "[.red] [bold]x" in capsys.readouterr().out


@given(damaged(whole))
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    message = ""
    try:
        read_onnx(tmp_path / "m.onnx")
    except es.EquispikeError as error:
        message = str(error)
    assert "\n" not in message


NAMES = st.sampled_from(["x", "k", "w", "v", "a", "b", "c", "", "nowhere"])
LENGTHS = st.sampled_from([-1, 0, 1, 2, 3, 8, 2**31, 2**62])
ATTRIBUTES = st.dictionaries(
    st.sampled_from(
        ["pads", "strides", "dilations", "kernel_shape", "axes", "axis", "group", "perm", "alpha", "value"]
    ),
    st.one_of(st.lists(LENGTHS, min_size=1, max_size=4), LENGTHS, st.just(0.5), st.just("SAME_UPPER")),
    max_size=3,
)
OF_A_GRAPH = st.tuples(
    st.sampled_from([*sorted(OPERATIONS), *sorted(CONSTANTS), *SPLITTING, *AT_THE_END, "Loop"]),
    st.lists(NAMES, max_size=3),
    st.sampled_from(["a", "b", "c", "x"]),
    ATTRIBUTES,
)


@given(st.lists(OF_A_GRAPH, min_size=1, max_size=4), st.lists(LENGTHS, max_size=3), st.sampled_from("abcx"))
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_graph_is_read_or_refused_in_one_line(
    tmp_path: Path, graph: list[tuple[str, list[str], str, dict[str, Any]]], shape: list[int], out: str
) -> None:
    """Well-formed files of senseless graphs: cycles, shapes that lie, attributes of the wrong kind or size."""
    nodes = [helper.make_node(kind, given, [result], **attributes) for kind, given, result, attributes in graph]
    stored = [weights("k", 3, 3, 1, 1), weights("w", 3, 3), numbers("v", 0, -1)]
    path = file(tmp_path / "m.onnx", nodes, stored, tuple(n if 0 < n < 2**40 else "free" for n in shape) or IMAGE, out)
    message = ""
    try:
        read_onnx(path)
    except es.EquispikeError as error:
        message = str(error)
    assert "\n" not in message
