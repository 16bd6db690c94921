"""Models and networks that commands are given: packaged names, files, and functions of the user's own."""

import os
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, cast

from cyclopts import Parameter

from equispike.errors import FileError, one_line

if TYPE_CHECKING:
    from torch import nn

    from equispike.conversion import Model
    from equispike.graph.network import Network

Source = Annotated[
    str,
    Parameter(
        help="The trained model: a name (mnist-cnn, mnist-cnn-bn, mnist-cnn-rnl, resnet20-cifar10), a file from "
        "'equispike train', an ONNX file, or package.module:factory or FILE.py:factory, a Python function without "
        "arguments that returns the module, or the module itself, or a program of torch.export; "
        "package.module:factory@FILE fills it with the weights in a .safetensors or .pth file."
    ),
]


def read_model(source: str, output: int | None = None) -> "tuple[Model, dict[str, Any]]":
    """The trained model that a source names, and its card; user code is imported only for package.module:factory.

    An ONNX file is read for one output, and its card has the shape of its images. Of other models the output is chosen
    when they are traced.
    """
    if is_packaged(source):
        from equispike.zoo.store import load_model

        return load_model(source)
    if source.endswith(".onnx"):
        from equispike.files.onnx import read_onnx

        network = read_onnx(source, output)
        return network, {"shape": network.input.shape}
    if ":" in source:
        place, _, weights = source.partition("@")
        model = cast("Model", imported(place))
        return _filled(model, source, weights) if weights else _checked(model, source), {}
    return _from_file(source)


def imported(place: str) -> Any:
    """Import ``package.module:name`` or ``FILE.py:name``: what a function returns when called without arguments, or
    the object itself.

    Raises:
        FileError: it cannot be imported, needs arguments, or raises.
    """
    module, _, name = place.rpartition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = _from_path(Path(module)) if module.endswith(".py") else import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever the user's module may raise
        absent = isinstance(error, ImportError | AttributeError | FileNotFoundError)
        remedy = "Give package.module:factory or FILE.py:factory" if absent else "Mend it first"
        raise FileError(
            f"{place}: cannot be imported: {type(error).__name__}: {one_line(error, 200)}. {remedy}"
        ) from error
    if not callable(found) or _is_model(found):
        return found
    try:
        return found()
    except Exception as error:  # whatever the user's function may raise
        reason = f"{type(error).__name__}: {one_line(error, 200)}"
        remedy = "Give a function that needs no arguments" if isinstance(error, TypeError) else "Mend it first"
        raise FileError(f"{place}: failed when it was called without arguments: {reason}. {remedy}") from error


def _from_path(path: Path) -> ModuleType:
    """The module in a file, which may import what lies beside it, as if it were run."""
    path = path.resolve(strict=True)
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    name = str(path) if known else path.stem  # a file may be called as a module that is loaded already
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = module_from_spec(spec)  # dataclasses and pickle look for it there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def is_packaged(source: str) -> bool:
    """Tell the name of a network that comes with its weights; such a name never means a file."""
    from equispike.zoo.models import MODELS
    from equispike.zoo.store import bundled

    return source in MODELS and bundled(source).is_file()


def is_model(source: str) -> bool:
    """Tell what stands for a trained model, or for one of torch's own files, which are refused with a remedy."""
    from equispike.zoo.store import torch_file

    return is_packaged(source) or source.endswith((".safetensors", ".onnx", ".pt2")) or bool(torch_file(source))


def is_network(source: str) -> bool:
    """Tell a file that holds a converted network, of this package or in NIR."""
    from equispike.files.checkpoint import kind_of

    if is_packaged(source) or ":" in source:
        return False
    return is_nir(source) or kind_of(source) == "equispike.network"


def is_nir(source: str) -> bool:
    """Tell a file that is read as NIR: by its name."""
    return Path(source).suffix == ".nir"


def read_network(source: str) -> "Network":
    """The converted network in a file of this package, or in a NIR file."""
    from equispike.files import checkpoint
    from equispike.files.nir import read_nir

    if is_packaged(source) or ":" in source or source.endswith((".onnx", ".py")):
        raise FileError(f"{source}: is a trained model. Convert it first: equispike convert {source} --out FILE")
    return read_nir(source) if is_nir(source) else checkpoint.load(source)


def name_of(card: "dict[str, Any]", source: str) -> str:
    """The network's own name, or that of its file."""
    return str(card.get("name", Path(source).name))


def _is_model(value: object) -> bool:
    from torch import nn
    from torch.export import ExportedProgram

    return isinstance(value, nn.Module | ExportedProgram)


def _checked(model: "Model", source: str) -> "Model":
    if not _is_model(model):
        raise FileError(
            f"{source}: is or returned a {type(cast('object', model)).__name__}, not a torch.nn.Module. "
            "Give a function that returns the trained module"
        )
    return model


def _filled(model: "Model", source: str, weights: str) -> "Model":
    from torch import nn

    from equispike.zoo.store import load_weights

    if not isinstance(_checked(model, source), nn.Module):
        raise FileError(f"{source}: returned a program, which has its weights. Leave {weights} out")
    load_weights(cast("nn.Module", model), weights)
    return model


def _from_file(source: str) -> "tuple[Model, dict[str, Any]]":
    from equispike.zoo.models import MODELS
    from equispike.zoo.store import load_model, torch_file

    if source not in MODELS and not source.endswith(".pt2") and not os.path.isfile(source):
        raise FileError(
            f"{source}: no such file, and no network of that name comes with equispike. 'equispike models' lists "
            "those that do; give package.module:factory for a model in Python"
        )
    if source.endswith(".py"):
        raise FileError(f"{source}: say which function in it returns the model: {source}:factory")
    if source.endswith(".pt2"):
        raise FileError(
            f"{source}: a program of torch.export.save, and loading one can run code from the file. If you trust it, "
            "write a function that returns torch.export.load(FILE), and give package.module:factory"
        )
    match "weights" if _is_foreign(source) else torch_file(source):
        case "TorchScript":
            raise FileError(
                f"{source}: is a TorchScript file, which does not hold the model's own code. Write a function that "
                "builds the model, and give package.module:factory"
            )
        case "weights":
            raise FileError(
                f"{source}: is a file of weights without the network that they belong to. Write a function "
                f"that builds it, and give package.module:factory@{source}"
            )
        case _:
            return load_model(source)


def _is_foreign(source: str) -> bool:
    """Tell a safetensors file of another program."""
    from equispike.files.checkpoint import KINDS, kind_of

    kind = kind_of(source)
    return kind is not None and kind not in KINDS
