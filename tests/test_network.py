"""Networks as data: what is refused when one is built, what its table says, and how its values are computed."""

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import images_for, networks
from torch import Tensor

from equispike.errors import ConversionError, EquispikeError, SimulationError
from equispike.graph.network import Network, Node, values_of
from equispike.graph.ops import Add, AvgPool, Concat, Conv, Flatten, Input, Linear, Neuron, Pad, Readout, map_tensors


def small() -> Network:
    """(3, 8, 8) -> conv to (4, 4, 4) -> relu -> pool to (4, 2, 2) -> flatten -> 5 classes."""
    return Network(
        (
            Node("input", Input((3, 8, 8))),
            Node("conv", Conv(torch.ones(4, 3, 3, 3), torch.ones(4), (2, 2), (1, 1), (1, 1)), ("input",)),
            Node("relu", Neuron(torch.tensor(2.0), torch.tensor(2.0)), ("conv",)),
            Node("pool", AvgPool((2, 2), (2, 2), (0, 0)), ("relu",)),
            Node("flatten", Flatten(), ("pool",)),
            Node("fc", Linear(torch.ones(5, 16), None), ("flatten",)),
            Node("relu2", Neuron(torch.tensor([1.0, 2.0, 3.0, 4.0, 0.5]), torch.ones(5)), ("fc",)),
            Node("readout", Readout(), ("relu2",)),
        )
    )


# ---------------------------------------------------------------------------------------------------- validation

ENTRY, EXIT = Node("input", Input((4,))), Node("readout", Readout(), ("input",))
INVALID = {
    "no nodes": ((), "one input"),
    "no input": ((EXIT,), "one input"),
    "no readout": ((ENTRY,), "one readout"),
    "two inputs": ((ENTRY, Node("other", Input((4,))), EXIT), "one input"),
    "two readouts": ((ENTRY, EXIT, Node("again", Readout(), ("input",))), "one readout"),
    "readout not last": ((ENTRY, EXIT, Node("relu", Neuron(), ("input",))), "last node"),
    "input not first": ((Node("relu", Neuron(), ("input",)), ENTRY, EXIT), "first node"),
    "a name twice": (
        (ENTRY, Node("a", Neuron(), ("input",)), Node("a", Neuron(), ("a",)), EXIT), "^a: two nodes have this name"
    ),
    "reads itself": ((ENTRY, Node("a", Neuron(), ("a",)), EXIT), "^a: reads a, which does not come before it"),
    "reads a later one": (
        (ENTRY, Node("a", Neuron(), ("b",)), Node("b", Neuron(), ("input",)), EXIT), "^a: reads b, which"
    ),
    "reads nothing": ((ENTRY, Node("a", Neuron()), EXIT), r"^a \(Neuron\): has 0 inputs, expected 1"),
    "reads two": ((ENTRY, Node("a", Neuron(), ("input", "input")), EXIT), r"^a \(Neuron\): has 2 inputs, expected 1"),
    "sum of nothing": ((ENTRY, Node("a", Add(())), EXIT), r"^a \(Add\): has 0 inputs"),
    "sum with too few coefficients": (
        (ENTRY, Node("a", Add((1.0,)), ("input", "input")), EXIT), r"^a \(Add\): has 2 inputs, expected 1"
    ),
    "weights that do not fit": (
        (ENTRY, Node("a", Linear(torch.ones(2, 3), None), ("input",)), EXIT), r"^a \(Linear\): does not fit its input"
    ),
    "bias that does not fit": (
        (ENTRY, Node("a", Linear(torch.ones(2, 4), torch.ones(3)), ("input",)), EXIT), r"^a \(Linear\): does not fit"
    ),
    "convolution of a vector": (
        (ENTRY, Node("a", Conv(torch.ones(2, 4, 3), None, (1,), (0,), (1,)), ("input",)), EXIT), r"^a \(Conv\): does"
    ),
    "sum of unequal shapes": (
        (
            *(ENTRY, Node("a", Linear(torch.ones(1, 4), None), ("input",))),
            *(Node("sum", Add((1.0, 1.0)), ("input", "a")), EXIT),
        ),
        r"^sum \(Add\): .* without broadcasting",
    ),
    "padding of too few axes": (
        (Node("input", Input((2, 4, 4))), Node("a", Pad((1, 1), (1, 1)), ("input",)), EXIT), r"^a \(Pad\): does not fit"
    ),
    "padding of the images": (
        (ENTRY, Node("a", Pad((1, 0), (0, 0)), ("input",)), EXIT), r"^a \(Pad\): does not fit"
    ),
    "padding that cuts too much": (
        (ENTRY, Node("a", Pad((-3,), (-2,)), ("input",)), EXIT), r"^a \(Pad\): does not fit"
    ),
    "padding that leaves nothing": (
        (ENTRY, Node("a", Pad((-2,), (-2,)), ("input",)), EXIT), r"^a \(Pad\): leaves nothing of its input"
    ),
    "threshold of other channels": (
        (ENTRY, Node("a", Neuron(torch.ones(3), torch.ones(3)), ("input",)), EXIT), r"^a \(Neuron\): does not fit"
    ),
    "threshold that broadcasts": (
        (ENTRY, Node("a", Neuron(torch.ones(3, 1), torch.ones(())), ("input",)), EXIT), r"^a \(Neuron\): "
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
def test_what_makes_no_sense_is_refused(name: str) -> None:
    nodes, message = INVALID[name]
    with pytest.raises(ConversionError, match=message):
        Network(nodes)


def test_a_changed_network_is_checked_again() -> None:
    with pytest.raises(ConversionError, match=r"^fc \(Linear\): does not fit"):
        small().replace_ops({"pool": AvgPool((4, 4), (4, 4), (0, 0))})


def test_an_operation_is_judged_by_its_inputs_wherever_it_stands() -> None:
    """The same operation object in a network where it fits and in one where it does not."""
    op = Linear(torch.ones(2, 4), None)
    for _ in range(2):
        network = Network((ENTRY, Node("a", op, ("input",)), Node("readout", Readout(), ("a",))))
        assert network.shapes["a"] == (2,)
        with pytest.raises(ConversionError, match="does not fit"):
            Network((Node("input", Input((3,))), Node("a", op, ("input",)), Node("readout", Readout(), ("a",))))


# -------------------------------------------------------------------------------------------------------- table


def test_table_has_the_numbers_counted_by_hand() -> None:
    rows = {row.layer: row for row in small().table()}
    assert [(row.type, row.shape) for row in rows.values()] == [
        ("Input", (3, 8, 8)), ("Conv", (4, 4, 4)), ("Neuron", (4, 4, 4)), ("AvgPool", (4, 2, 2)), ("Flatten", (16,)),
        ("Linear", (5,)), ("Neuron", (5,)), ("Readout", (5,)),
    ]  # fmt: skip
    assert {name: row.parameters for name, row in rows.items() if row.parameters} == {
        "conv": 4 * 3 * 9 + 4, "fc": 5 * 16,
    }  # fmt: skip
    assert {name: row.neurons for name, row in rows.items() if row.neurons} == {"relu": 64, "relu2": 5}
    assert {name: row.macs for name, row in rows.items() if row.macs} == {"conv": 64 * 27, "fc": 80}
    assert {name: row.threshold for name, row in rows.items() if row.threshold} == {"relu": "2", "relu2": "0.5 .. 4"}


def test_macs_of_a_grouped_convolution_count_its_groups() -> None:
    op = Conv(torch.ones(4, 1, 3), None, (1,), (1,), (1,), groups=4)
    nodes = Node("input", Input((4, 10))), Node("conv", op, ("input",)), Node("readout", Readout(), ("conv",))
    assert Network(nodes).table()[1].macs == 4 * 10 * 3


def test_a_network_without_thresholds_shows_dashes() -> None:
    network = small().replace_ops({"relu": Neuron(), "relu2": Neuron()})
    assert [row.threshold for row in network.table() if row.neurons] == ["-", "-"]
    assert network.thresholds == {}


def test_printing_gives_aligned_columns() -> None:
    header, *lines = str(small()).splitlines()
    assert header.split() == ["Layer", "Type", "Shape", "Parameters", "Neurons", "MACs", "Threshold"]
    assert len(lines) == 8
    assert lines[1].split() == ["conv", "Conv", "4", "x", "4", "x", "4", "112", "1,728"]
    ends = [line.rindex(number) + len(number) for line, number in ((lines[1], "1,728"), (lines[5], "80"))]
    assert ends == [header.index("MACs") + len("MACs")] * 2
    assert not any(line.endswith(" ") for line in (header, *lines))


# ------------------------------------------------------------------------------------------- looking at a network


def test_parts_of_a_network() -> None:
    network = small()
    assert network["conv"] is network.nodes[1]
    assert list(network) == list(network.nodes)
    assert list(network.neurons) == ["relu", "relu2"]
    assert list(network.thresholds) == ["relu", "relu2"]
    assert network.input.shape == (3, 8, 8)
    assert {name: [n.name for n in nodes] for name, nodes in network.consumers.items()}["flatten"] == ["fc"]
    assert network.consumers["readout"] == []


def test_a_reader_that_reads_twice_is_one_consumer() -> None:
    nodes = ENTRY, Node("sum", Add((1.0, 1.0)), ("input", "input")), Node("readout", Readout(), ("sum",))
    assert [node.name for node in Network(nodes).consumers["input"]] == ["sum"]
    assert torch.equal(Network(nodes)(torch.ones(2, 4)), torch.full((2, 4), 2.0))


@settings(max_examples=40)
@given(networks())
def test_another_type_and_back(network: Network) -> None:
    single = network.to(torch.float32)
    assert (network.dtype, single.dtype) == (torch.float64, torch.float32)
    assert all(threshold.dtype == torch.float32 for threshold in single.thresholds.values())
    back = single.to(torch.float64)
    for node, other in zip(network, back, strict=True):
        assert {k: str(v) for k, v in vars(node.op).items()} == {k: str(v) for k, v in vars(other.op).items()}


def test_a_network_does_not_change() -> None:
    network = small()
    changed = network.replace_ops({"relu": Neuron()})
    assert network.thresholds["relu"] == 2.0
    assert list(changed.thresholds) == ["relu2"]
    with pytest.raises(AttributeError):
        network.nodes = ()  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------------- values


def literal(network: Network, x: Tensor) -> dict[str, Tensor]:
    """Every value, one node after the other, nothing freed."""
    values: dict[str, Tensor] = {}
    for node in network.nodes:
        values[node.name] = node.op(x) if isinstance(node.op, Input) else node.op(*(values[n] for n in node.inputs))
    return values


@settings(max_examples=40)
@given(networks(form="any", powers_of_two=True), st.data())
def test_values_are_those_of_a_literal_loop(network: Network, data: st.DataObject) -> None:
    images = data.draw(images_for(network))
    wanted = data.draw(st.sets(st.sampled_from([node.name for node in network])))
    expected, values = literal(network, images), network.values(images, wanted)
    assert set(values) == wanted
    assert all(torch.equal(values[name], expected[name]) for name in wanted)
    assert all(tuple(v.shape[1:]) == network.shapes[name] for name, v in values.items())
    assert torch.equal(network(images), expected[network.nodes[-1].name])


def test_values_not_wanted_are_freed_on_the_way() -> None:
    network, alive = small(), weakref.WeakValueDictionary[str, Tensor]()
    held: dict[str, set[str]] = {}
    for name, value in values_of(network, torch.ones(2, 3, 8, 8), {node.name for node in network}):
        alive[name] = value
        del value
        held[name] = set(alive)
    assert "conv" in held["conv"]
    assert "conv" not in held["pool"]
    assert "relu" not in held["flatten"] | held["fc"]


# ------------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("shape", [(), (3, 8, 8), (2, 1, 8, 8), (2, 3, 8), (2, 3, 8, 8, 1), (2, 192)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SimulationError, match=r"this network takes \(B, 3, 8, 8\)"):
        small()(torch.zeros(shape))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_images_that_are_not_finite_are_refused(value: float) -> None:
    images = torch.zeros(2, 3, 8, 8)
    images[1, 2, 3, 4] = value
    with pytest.raises(SimulationError, match="NaN or infinity") as caught:
        small().values(images)
    assert isinstance(caught.value, EquispikeError)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.uint8])
def test_images_take_the_networks_type(dtype: torch.dtype) -> None:
    assert small().check_images(torch.ones(2, 3, 8, 8, dtype=dtype)).dtype == torch.float32


def test_no_images_give_no_values() -> None:
    assert small()(torch.zeros(0, 3, 8, 8)).shape == (0, 5)


# --------------------------------------------------------------------------------------------------- operations


def test_neurons_stand_for_clipped_activations() -> None:
    x = torch.tensor([-1.0, 0.5, 2.0, 8.0])
    assert Neuron()(x).tolist() == [0, 0.5, 2, 8]
    assert Neuron(ceiling=6.0)(x).tolist() == [0, 0.5, 2, 6]
    assert Neuron(torch.tensor(2.0), torch.tensor(1.0))(x).tolist() == [0, 0.25, 1, 4]
    assert Neuron(torch.tensor(2.0), torch.tensor(1.0), ceiling=6.0)(x).tolist() == [0, 0.25, 1, 3]


def test_sums_and_concatenations_weigh_their_inputs() -> None:
    x, y = torch.ones(1, 2), torch.full((1, 2), 3.0)
    assert Add((1.0, -2.0))(x, y).tolist() == [[-5, -5]]
    assert Concat((2.0, 1.0))(x, y).tolist() == [[2, 2, 3, 3]]


def test_input_and_readout_change_units() -> None:
    x = torch.tensor([[2.0]])
    assert Input((1,), scale=4.0, amplitude=1.0)(x).item() == 0.5
    assert Readout(0.25)(x).item() == 0.5


def test_map_tensors_leaves_the_original() -> None:
    op = Linear(torch.ones(2, 2), None)
    doubled = map_tensors(op, lambda t: 2 * t)
    assert (op.weight.sum(), doubled.weight.sum(), doubled.bias) == (4, 8, None)


@pytest.mark.parametrize(
    ("weight", "stride", "said"),
    [(torch.ones(2, 1, 3, 3), (0, 0), "does not fit"), (torch.ones(2, 1, 3, 3, 3), (1, 1), "5 dimensions")],
)
def test_a_convolution_that_cannot_be_is_refused_by_name(
    weight: torch.Tensor, stride: tuple[int, ...], said: str
) -> None:
    nodes = (
        Node("input", Input((1, 8, 8))),
        Node("conv", Conv(weight, None, stride, (0, 0), (1, 1)), ("input",)),
        Node("readout", Readout(), ("conv",)),
    )
    with pytest.raises(ConversionError, match=said):
        Network(nodes)


@pytest.mark.parametrize("target", ["nowhere", "meta:x", torch.int32])
def test_a_device_that_there_is_not_is_refused_in_one_line(target: object) -> None:
    with pytest.raises(EquispikeError, match=r"^to: "):
        small().to(target)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_there_is_not_is_refused_in_one_line() -> None:
    with pytest.raises(EquispikeError, match=r"^to: .*Use cpu"):
        small().to("cuda")


def test_dilation_of_a_single_weight_means_nothing() -> None:
    """Given to oneDNN with such strides, as channels last have, it ended the process (torch 2.13)."""
    x = torch.empty_strided((3, 2, 1, 1), (2, 1, 2, 2)).copy_(torch.arange(6.0).view(3, 2, 1, 1))
    weight, bias = torch.tensor([0.5, -1.0, 2.0, 0.25]).view(4, 1, 1, 1), torch.arange(4.0)
    dilated, plain = (Conv(weight, bias, (1, 2), (1, 1), (1, d), groups=2) for d in (2, 1))
    assert torch.equal(dilated(x), plain(x.reshape(3, 2, 1, 1)))
    assert dilated(x).shape == (3, 4, 3, 2)
