"""From a file of ``torch.export.save`` (.pt2) to a Program.

The file is read as data: a zip whose JSON lists the calls, and whose other members are the bytes of the weights. No
expression in it is evaluated, no pickle opened and no operation looked up but those that convert.
"""

from collections.abc import Callable, Mapping
from operator import getitem
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, cast
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor

from equispike.errors import ConversionError, FileError, one_line
from equispike.graph.aten import RESHAPES, SOFTMAXES, SPLITS, TRANSLATIONS, flat
from equispike.graph.network import LARGEST
from equispike.graph.program import BATCH_SIZE, FREE_BATCH, Program
from equispike.graph.pt2_archive import OTHERWISE, TYPES, Archive, Json, one, only, whole

FxNode = torch.fx.Node

BATCH = 1_000_003
"""Stands for the number of images where a shape is to consist of numbers."""

KEYWORD = 2
"""The kind of an argument that is given by its name."""


aten: Any = torch.ops.aten
FOLDED: tuple[object, ...] = (
    *RESHAPES, aten.t.default, aten.transpose.int, aten.permute.default, aten.unsqueeze.default, aten.clone.default,
    aten.detach.default, aten.alias.default, aten.contiguous.default, aten.lift_fresh_copy.default, aten.neg.default,
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.sqrt.default, aten.rsqrt.default,
    aten.pow.Tensor_Scalar, aten.exp.default, aten.sum.dim_IntList, aten.mean.dim, aten.linalg_vector_norm.default,
    aten._weight_norm.default, aten.mv.default, aten.dot.default, aten.vdot.default, aten.mm.default,
    aten.matmul.default, aten.gt.Scalar, aten.where.self, aten.where.Scalar, aten.where.ScalarOther,
    aten.where.ScalarSelf,
)  # fmt: skip
"""What may be computed from weights alone. None of these reads files, draws numbers or changes its arguments."""

ALIASES: frozenset[object] = frozenset(
    {
        *RESHAPES, *SPLITS, aten.slice.Tensor, aten.contiguous.default, aten.detach.default, aten.alias.default,
        aten.dropout.default, aten.feature_dropout.default, aten.pixel_shuffle.default, aten.channel_shuffle.default,
        aten.to.dtype, aten.to.dtype_layout, aten.t.default, aten.transpose.int, aten.permute.default,
        aten.unsqueeze.default,
    }
)  # fmt: skip
"""What may give a view of its first argument, so that changing one in place changes the other."""

STORED = {
    "parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name",
}  # fmt: skip
"""Kinds of inputs that are weights, and where each says its name in the model."""

PLAIN: dict[str, tuple[type, ...]] = {
    "as_int": (int,), "as_float": (float, int), "as_bool": (bool,), "as_string": (str,),
}  # fmt: skip
OPERATORS: Mapping[str, Any] = {str(op): op for op in (*TRANSLATIONS, *FOLDED, *SPLITS, *SOFTMAXES)}
ASSERTIONS = "aten._assert_scalar.default", "aten._assert_tensor_metadata.default", "aten.sym_constrain_range.default"


def read(path: str | PathLike[str]) -> Program:
    """The trained model in a file that ``torch.export.save`` wrote; takes the place of a module in ``trace``.

    Args:
        path: of a program in evaluation mode with a free batch size, whose inputs are images (B, *features) of a
            fixed shape.
    Raises:
        FileError: the file is missing, damaged, no such file, or of a version that is not known.
        ConversionError: it holds what no network of images does.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{path}: no such file")
    try:
        with ZipFile(path) as archive:
            return _Reader(Archive(archive, path.stat().st_size)).program()
    except ConversionError as error:
        raise ConversionError(f"{path}: {one_line(error, None)}") from error
    except (
        ArithmeticError, AttributeError, BadZipFile, EOFError, LookupError, NotImplementedError, OSError, RuntimeError,
        TypeError, ValueError,
    ) as error:  # fmt: skip
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        reason = kind + one_line(error)
        raise FileError(f"{path}: cannot be read as a program of torch.export: {reason}") from error


class Unknown(NamedTuple):
    """An operation of a file that does not convert, to be refused by its name."""

    name: str

    def __str__(self) -> str:
        return self.name

    def __call__(self) -> None:
        raise NotImplementedError(self.name)


class _Reader:
    """Walks the calls once. ``known``: what each name stands for, a node of the graph or the batch size.

    ``storage`` says of each name in whose memory it may lie. A call that changes one in place becomes one that does
    not, and whose result that name stands for from then on; other names of that memory are out of date: ``stale``.
    """

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.calls: Json = archive.module["graph"]
        self.graph = torch.fx.Graph()
        self.constants: dict[str, Tensor] = {}
        self.known: dict[str, Any] = {}
        self.storage: dict[str, str] = {}
        self.stale: set[str] = set()
        self.left = LARGEST
        self.batch: object = None

    def program(self) -> Program:
        """What the file holds. ConversionError if that is no model of images."""
        signature = self.archive.module["signature"]
        images: list[str] = []
        for kind, entry in map(one, signature["input_specs"]):
            if kind == "user_input":
                images.append(_name(only(entry["arg"], "as_tensor")))
            elif kind in STORED:
                self._constant(_name(entry["arg"]), self.archive.tensor(entry[STORED[kind]]))
            else:
                raise ConversionError(f"has an input of the kind {kind}. Export a model whose inputs are images")
        if not images:
            raise ConversionError("has no input. Export a model of images")
        for name in images:
            self._images(name)
        for call in self.calls["nodes"]:
            self._call(call)
        outputs = list(map(one, signature["output_specs"]))
        if strange := {kind for kind, _ in outputs} - {"user_output", "buffer_mutation"}:
            raise ConversionError(f"gives {', '.join(sorted(strange))}. Export the model in eval mode")
        given = (only(entry["arg"], "as_tensor") for kind, entry in outputs if kind == "user_output")
        nodes = tuple(self._node(_name(entry)) for entry in given)
        self.graph.output(nodes)
        return Program(self.graph, self.constants, tuple(node.name for node in nodes))

    def _images(self, name: str) -> None:
        sizes = [one(n) for n in self.calls["tensor_values"][name]["sizes"]]
        if not sizes or sizes[0][0] != "as_expr":
            raise ConversionError(f"is for batches of one size. {FREE_BATCH}")
        if any(kind != "as_int" for kind, _ in sizes[1:]):
            raise ConversionError("takes images of any size. Export it with a fixed size of the images")
        if self.batch not in (None, sizes[0][1]["expr_str"]):
            raise ConversionError("takes inputs of several batch sizes. Export them with one Dim")
        self.batch = sizes[0][1]["expr_str"]
        self._know(name, self.graph.placeholder(name), self._value(name))

    def _constant(self, name: str, value: Tensor) -> None:
        node = self.graph.placeholder(name)
        self.constants[node.name] = value
        self._know(name, node, value)

    def _know(self, name: str, node: FxNode, value: Tensor) -> None:
        if name in self.known:
            raise ValueError(f"{name} is given twice")
        node.meta["val"] = value
        self.known[name], self.storage[name] = node, name

    def _node(self, name: str) -> FxNode:
        if name in self.stale:
            raise ConversionError(
                f"{name}: is changed in place by way of another tensor. Save program.run_decompositions({{}}) instead"
            )
        node = self.known.get(name)
        if not isinstance(node, FxNode):
            raise ValueError(f"{name} is read and does not come before")
        return node

    def _value(self, name: str) -> Tensor:
        """Shape and type that the file states, as a tensor that takes no memory."""
        meta = self.calls["tensor_values"][name]
        dtype = TYPES.get(meta["dtype"])
        if dtype is None:
            raise ConversionError(f"{name}: is of a type that no network of images has. Use float32")
        return torch.empty((), dtype=dtype).expand([self._size(*one(n)) for n in meta["sizes"]])

    def _size(self, kind: str, value: Any) -> int:
        if kind == "as_int":
            return whole(value)
        return BATCH if value["expr_str"] == self.batch else 1  # else several batches, which are refused as such

    def _call(self, call: Json) -> None:
        target = str(call["target"]).removeprefix("torch.ops.")
        outputs = list(map(one, call["outputs"]))
        if target in ASSERTIONS:
            return
        if outputs and all(kind == "as_sym_int" for kind, _ in outputs):
            self.known |= {str(entry["as_name"]): BATCH_SIZE for _, entry in outputs}
            return
        if not outputs or any(kind not in ("as_tensor", "as_tensors") for kind, _ in outputs):
            raise ConversionError(f"{target}: gives no tensor, so what it does is not known. {OTHERWISE}")
        plain, in_place = _functional(target)
        operator: Any = OPERATORS.get(plain, Unknown(target))
        given = [(item["kind"] == KEYWORD, str(item["name"]), self._argument(item["arg"])) for item in call["inputs"]]
        positional = [value for keyword, _, value in given if not keyword]
        keywords = {name: value for keyword, name, value in given if keyword and value is not None}
        names = [_name(entry) for _, entries in outputs for entry in flat([entries])]
        read = [node for node in flat([positional, list(keywords.values())]) if isinstance(node, FxNode)]
        if all(node.name in self.constants for node in read):
            self._constant(names[0], self._folded(names, operator, positional, keywords))
        else:
            node = self.graph.create_node("call_function", operator, tuple(positional), keywords, name=names[0])
            node.meta["nn_module_stack"] = _stack(call)
            self._results(node, names, single=len(outputs) == 1 and outputs[0][0] == "as_tensor")
        first = next((_name(item["arg"]["as_tensor"]) for item in call["inputs"] if "as_tensor" in item["arg"]), None)
        if first is not None and (in_place or operator in ALIASES):
            self.storage |= dict.fromkeys(names, self.storage[first])
        if first is not None and in_place:
            self.stale |= {name for name, place in self.storage.items() if place == self.storage[first]}
            self.stale -= {first, names[0]}
            self.known[first] = self.known[names[0]]

    def _results(self, node: FxNode, names: list[str], single: bool) -> None:
        values = [self._value(name) for name in names]
        if single:
            self._know(names[0], node, values[0])
            return
        node.meta["val"] = values
        for number, (name, value) in enumerate(zip(names, values, strict=True)):
            part = self.graph.call_function(getitem, (node, number))
            part.meta["nn_module_stack"] = node.meta["nn_module_stack"]
            self._know(name, part, value)

    def _folded(self, names: list[str], operator: Any, positional: list[Any], keywords: Json) -> Tensor:
        """What is computed from weights alone."""

        def call(change: Callable[[Tensor], Tensor]) -> Tensor:
            def lookup(node: FxNode) -> Tensor:
                return change(self.constants[node.name])

            return operator(*torch.fx.map_arg(positional, lookup), **torch.fx.map_arg(keywords, lookup))

        if operator not in FOLDED or BATCH_SIZE in flat(positional):
            raise ConversionError(f"{names[0]} ({operator}): is computed without the images. {OTHERWISE}")
        self.left -= call(lambda t: t.to("meta")).numel()
        if self.left < 0:
            raise ValueError(f"{names[0]} is out of proportion")
        return call(lambda t: t)

    def _argument(self, argument: Json) -> Any:
        kind, value = one(argument)
        if kind == "as_tensor":
            return self._node(_name(value))
        if kind == "as_tensors":
            return [self._node(_name(entry)) for entry in value]
        if kind == "as_name":
            return self.known[value]
        if kind in ("as_optional_tensor", "as_sym_int"):
            return self._argument(value)
        if kind in ("as_optional_tensors", "as_sym_ints"):
            return [self._argument(entry) for entry in value]
        if kind == "as_scalar_type":
            return TYPES[value]
        if kind in ("as_none", "as_memory_format", "as_layout", "as_device"):
            return None
        plain = PLAIN.get(kind.removesuffix("s"))
        if plain is None:
            raise ConversionError(f"has an argument of the kind {kind}. {OTHERWISE}")
        if not all(type(item) in plain for item in (cast("list[Any]", value) if kind.endswith("s") else [value])):
            raise ValueError(f"an argument of the kind {kind} is {value!r}")
        return value


def _functional(target: str) -> tuple[str, bool]:
    """The operation that computes the same and changes nothing, if there is one; and whether that is another one."""
    space, _, rest = target.partition(".")
    function, _, overload = rest.partition(".")
    plain = f"{space}.{function.removesuffix('_')}.{overload}"
    return (plain, True) if function.endswith("_") and plain in OPERATORS else (target, False)


def _name(entry: Json) -> str:
    return str(entry["name"])


def _stack(call: Json) -> dict[str, tuple[str, str]]:
    """Paths and classes of the modules around a call, from the outermost."""
    stack: dict[str, tuple[str, str]] = {}
    for entry in str(call["metadata"].get("nn_module_stack", "")).split(";"):
        key, _, rest = entry.partition(",")
        path, _, kind = rest.rpartition(",")
        if key and not key.startswith("_empty_nn_module_stack"):
            stack[key] = path, kind
    return stack
