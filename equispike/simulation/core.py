"""The compiled core, if there is one."""

from importlib import import_module
from types import ModuleType

from equispike.errors import SimulationError

INTERFACE = 2
"""The core that belongs to this package says this number."""


def _load() -> ModuleType | None:
    try:
        found = import_module("equispike.simulation._core")
    except ImportError:  # installed without a compiler
        return None
    if (number := getattr(found, "interface", 1)) != INTERFACE:
        raise SimulationError(
            f"{found.__file__}: a compiled core of interface {number}, where {INTERFACE} is needed. "
            "Install equispike again"
        )
    return found


core = _load()

ISA: str = core.instruction_sets()[-1] if core else ""
"""Instruction set that the core uses: the widest of this machine."""
