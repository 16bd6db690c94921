"""A user's model as it can be read: out of its wrappers, and copied, so that it stays as it is."""

import copy
import inspect
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from equispike.errors import ConversionError


def copied(model: nn.Module) -> nn.Module:
    """The model in eval mode, without gradients; nothing that the copy does reaches the one given.

    Raises:
        ConversionError: a model of TorchScript, or with layers that do not know their sizes yet.
    """
    model = _unwrapped(model)
    name = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise ConversionError(
            f"{name}: is TorchScript, whose layers cannot be told apart. Convert the module that it was made of"
        )
    if any(
        isinstance(t, UninitializedParameter | UninitializedBuffer) for t in (*model.parameters(), *model.buffers())
    ):
        raise ConversionError(f"{name}: has lazy layers without weights. Run one batch through it, and train it, first")
    try:
        own = copy.deepcopy(model)
    except Exception:  # computed tensors (pruning), locks, whatever hangs on a module
        own = _rebuilt(model, {})
    return own.eval().requires_grad_(False)


def dynamic(model: nn.Module, sizes: list[Any]) -> tuple[Any, ...]:
    """Free sizes of the inputs as ``torch.export`` takes them: those of ``*args`` are one entry of their own."""
    kinds = [p.kind for p in inspect.signature(model.forward).parameters.values()]
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL) if inspect.Parameter.VAR_POSITIONAL in kinds else len(sizes)
    return (*sizes[:named], tuple(sizes[named:])) if named < len(sizes) else tuple(sizes)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model in DataParallel, DistributedDataParallel or torch.compile."""
    wrapper = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
    inner: Any = getattr(cast("Any", model), "module" if wrapper else "_orig_mod", None)
    return _unwrapped(inner) if isinstance(inner, nn.Module) else model


def _rebuilt(module: nn.Module, done: dict[int, nn.Module]) -> nn.Module:
    """The module built again of its parts: parameters, buffers and tensors copied, all else the same."""
    if id(module) in done:
        return done[id(module)]
    new = done[id(module)] = module.__class__.__new__(module.__class__)
    fields: dict[str, Any] = new.__dict__
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            fields[name] = value.detach().clone()
        else:
            fields[name] = copy.copy(cast("Any", value)) if isinstance(value, dict | list) else value
    for kind, wrap in (("_parameters", nn.Parameter), ("_buffers", Tensor.clone)):
        stored = fields[kind].items()
        fields[kind] = {name: None if t is None else wrap(t.detach().clone()) for name, t in stored}
    children: dict[str, nn.Module | None] = fields["_modules"]
    fields["_modules"] = {name: None if child is None else _rebuilt(child, done) for name, child in children.items()}
    return new
