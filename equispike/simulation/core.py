"""The compiled core, if there is one."""

from importlib import import_module
from types import ModuleType


def _load() -> ModuleType | None:
    try:
        return import_module("equispike.simulation._core")
    except ImportError:  # installed without a compiler
        return None


core = _load()

ISA: str = core.instruction_sets()[-1] if core else ""
"""Instruction set that the core uses: the widest of this machine."""
