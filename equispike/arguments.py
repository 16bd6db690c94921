"""Arguments of public functions, checked where they enter: what is meant is taken, the rest refused in one line."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (what users pass has no types)

import inspect
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from equispike.errors import (
    CalibrationError,
    ConversionError,
    DataError,
    EquispikeError,
    FileError,
    SimulationError,
    one_line,
)

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")
_MOST = 2**31
"""Of anything that is counted."""


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function's arguments be checked by their names (``CHECKS``); its defaults are taken as they are."""
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            default = signature.parameters[name].default
            if value is None and default is not None and name in NEEDED:
                raise EquispikeError(f"{name}: None. Give a number")
            if name in CHECKS and value is not default:
                bound.arguments[name] = CHECKS[name](name, value)
        return function(*bound.args, **bound.kwargs)

    return call


def checked_fields(kind: type[C]) -> type[C]:
    """The same for the fields of a dataclass."""
    made = checked(cast("Callable[..., None]", kind.__init__))
    setattr(kind, "__init__", made)  # noqa: B010 (its type is that of any class)
    return kind


def tensor_of(value: Any) -> Any:
    """A tensor for a NumPy array that can be one; anything else as it is."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.ascontiguousarray(cast("np.ndarray[Any, Any]", value)))
    return value


def told(value: Any) -> str:
    """An argument in a few words: None, numbers and strings as they are, a class as such, anything else by its type."""
    if value is None or isinstance(value, int | float):
        return str(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, str):
        return repr(value[:40])
    return f"a {type(value).__name__}"


def moving_to(target: Any) -> Callable[[Tensor], Tensor]:
    """Put tensors on that device, or into that floating-point type. EquispikeError if torch cannot do it here."""
    try:
        moved = torch.empty(0).to(target)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise EquispikeError(f"to: {one_line(error, 150)}. Use cpu, or a device that torch finds here") from error
    if not moved.is_floating_point():
        raise EquispikeError(f"to: {target}. Use a floating-point type")
    return lambda tensor: tensor.to(target)


def whole(name: str, value: Any, error: type[EquispikeError] = SimulationError) -> int:
    """A whole number, also as 8.0, a NumPy number or a tensor of one; refused otherwise, and out of all proportion."""
    number = value.item() if isinstance(value, np.generic | Tensor | np.ndarray) and _single(value) else value
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if not isinstance(number, int) or isinstance(number, bool):
        said = str(number) if isinstance(number, float) else told(value)
        raise error(f"{name}: {said}. Give a whole number")
    if abs(number) > _MOST and name != "seed":
        raise error(f"{name}: {number} is out of all proportion. Give a smaller number")
    return number


def _single(value: Any) -> bool:
    return isinstance(value, np.generic) or int(np.prod(tuple(value.shape))) == 1


def _whole(error: type[EquispikeError] = SimulationError) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else whole(name, value, error)


def _number(error: type[EquispikeError]) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> Any:
        number = value.item() if isinstance(value, np.generic | Tensor) and _single(value) else value
        if number is not None and (not isinstance(number, int | float) or isinstance(number, bool)):
            raise error(f"{name}: {told(value)}. Give a number")
        if number is not None and not math.isfinite(number):
            raise error(f"{name}: {number}. Give a finite number")
        return number if number is None or abs(number) < _MOST else float(number)

    return check


def _network(name: str, value: Any) -> Any:
    if isinstance(value, nn.Module) or (isinstance(value, type) and issubclass(value, nn.Module)):
        raise SimulationError(f"{name}: {told(value)}. Convert it first: es.convert(model, images)")
    if isinstance(value, type) or not (hasattr(value, "nodes") and hasattr(value, "neurons")):
        raise SimulationError(f"{name}: {told(value)}. Give a network, as es.convert returns it")
    return value


def _model(name: str, value: Any) -> Any:
    if isinstance(value, type):
        raise ConversionError(f"{name}: {told(value)}. Give an instance, built and trained: {value.__name__}(...)")
    if isinstance(value, str | os.PathLike):
        raise ConversionError(f"{name}: a file name. Build the module and load its weights, or read the file first")
    return value


def _images(error: type[EquispikeError]) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> Any:
        value = tensor_of(value)
        if isinstance(value, tuple | list):
            value = tuple(map(tensor_of, cast("Sequence[object]", value)))
        parts = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,)
        if not parts:
            raise error(f"{name}: holds no tensor. Give a batch of images, (B, *features)")
        wrong = [part for part in parts if not isinstance(part, Tensor)]
        if wrong:
            raise error(
                f"{name}: {told(wrong[0])}. Give a tensor or NumPy array (B, *features), or a tuple of them for "
                "a model of several inputs; es.evaluate takes DataLoaders"
            )
        return value

    return check


def _instance(error: type[EquispikeError], example: str, *attributes: str) -> Callable[[str, Any], Any]:
    """A check for objects that have these attributes."""

    def check(name: str, value: Any) -> Any:
        if value is None or (not isinstance(value, type) and all(hasattr(value, each) for each in attributes)):
            return value
        raise error(f"{name}: {told(value)}. Give an instance, such as {example}")

    return check


def _several(error: type[EquispikeError], example: str, *attributes: str) -> Callable[[str, Any], Any]:
    """A check for sequences of objects that have these attributes."""
    one = _instance(error, example, *attributes)

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, tuple | list):
            raise error(f"{name}: {told(value)}. Give a list, such as {example}")
        items = cast("Sequence[object]", value)
        if None in [item if item is None else 0 for item in items]:
            raise error(f"{name}: holds None. Give a list, such as {example}")
        return [one(name, item) for item in items]

    return check


def _passes(name: str, value: Any) -> Any:
    passes: Any = (value,) if callable(value) else value
    if not isinstance(passes, Iterable) or isinstance(passes, str | bytes | Tensor | np.ndarray):
        raise ConversionError(f"{name}: {told(value)}. Give passes, such as [es.max_pool_to_avg]")
    passes = tuple(passes)
    for one in passes:
        if not callable(one) or isinstance(one, type | nn.Module) or hasattr(one, "reset"):  # a method is no pass
            raise ConversionError(f"{name}: holds {told(one)}. Give passes, such as [es.max_pool_to_avg]")
    return passes


def _path(name: str, value: Any) -> Any:
    if not isinstance(value, str | os.PathLike):
        raise FileError(f"{name}: {told(value)}. Give the name of a file")
    if "\0" in os.fspath(cast("str", value)):
        raise FileError(f"{name}: a file name with a zero byte. Give another one")
    return value


def _labels(name: str, value: Any) -> Any:
    try:
        return torch.as_tensor(tensor_of(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name}: {told(value)}. Give one class number per image") from error


def _indices(name: str, value: Any) -> Any:
    try:
        return None if value is None else torch.as_tensor(tensor_of(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise SimulationError(f"{name}: {told(value)}. Give one whole number per image") from error


def _names(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    kinds = isinstance(value, Collection) and not isinstance(value, Tensor | np.ndarray)
    if not kinds or not all(isinstance(one, str) for one in value):
        raise SimulationError(f"{name}: {told(value)}. Give the names of neuron layers")
    return value


def _word(error: type[EquispikeError]) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> Any:
        if value is not None and not isinstance(value, str):
            raise error(f"{name}: {told(value)}. Give one of the words that its documentation lists")
        return value

    return check


def _start(name: str, value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return value
    raise ConversionError(f'{name}: {told(value)}. Give a fraction of the threshold in [0, 1), or "uniform"')


def _flag(name: str, value: Any) -> Any:
    if not isinstance(value, bool | np.bool_):
        raise EquispikeError(f"{name}: {told(value)}. Give True or False")
    return bool(value)


def _series(name: str, value: Any) -> Any:
    series = cast("Tensor", _labels(name, value))
    if series.ndim != 1 or series.is_complex():
        raise SimulationError(f"{name}: of shape {tuple(series.shape)}. Give one number per step, (T,)")
    return series


def _run(name: str, value: Any) -> Any:
    if isinstance(value, type) or not hasattr(value, "predictions"):
        raise SimulationError(f"{name}: {told(value)}. Give a run, as es.simulate returns it")
    return value


CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "network": _network,
    "model": _model,
    "images": _images(SimulationError),
    "example": _images(ConversionError),
    "run": _run,
    "path": _path,
    "labels": _labels,
    "accuracies": _series,
    "others": _series,
    "per_channel": _flag,
    "after": _flag,
    "batch_first": _flag,
    "front": _instance(CalibrationError, "es.DataNorm()", "reset", "readout", "__call__"),
    "sums": _word(CalibrationError),
    "statistic": _word(CalibrationError),
    "indices": _indices,
    "coder": _instance(SimulationError, "es.Poisson()", "encode", "constant"),
    "method": _instance(ConversionError, "es.RMP()", "reset", "readout", "__call__"),
    "stop": _instance(SimulationError, "es.Stable(8)", "settled"),
    "on": _instance(SimulationError, "es.Processes(4)", "map"),
    "address": _word(SimulationError),
    "lossy": _passes,
    "correct": _several(ConversionError, "[es.Bias(16)]", "timesteps", "__call__"),
    "spikes": _word(ConversionError),
    "v_init": _start,
    "engine": _word(SimulationError),
    "reset": _word(ConversionError),
    "readout": _word(ConversionError),
    "residual": _word(CalibrationError),
    "trains": _names,
    "potentials": _names,
    "output": _whole(ConversionError),
    "bits": _whole(ConversionError),
    "scale": _number(CalibrationError),
    "percentile": _number(CalibrationError),
    "tolerance": _number(CalibrationError),
    "target": _number(SimulationError),
    "lead": _number(SimulationError),
    "rate": _number(CalibrationError),
    "trial": _whole(CalibrationError),
    **dict.fromkeys(
        (
            *("timesteps", "seed", "runs", "batch_size", "memory", "verify", "top", "steps", "passes"),
            *("first", "number", "threads"),
        ),
        _whole(),
    ),
}
"""Checks by the names that arguments have everywhere."""

NEEDED = {
    *("timesteps", "seed", "runs", "verify", "top", "steps", "bits", "tolerance", "target", "lead"),
    *("trial", "memory", "batch_size", "passes", "rate", "first", "number", "threads"),
}
"""Numbers for which None stands only where it is the default."""
