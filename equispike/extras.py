"""Packages that only some files need: imported when they are used, and named with the remedy where they are missing."""

from importlib import import_module
from typing import Any

from equispike.errors import EquispikeError


def extra(module: str, name: str, files: str) -> Any:
    """A module of a package that ``pip install equispike[name]`` brings, and without which there are no such files.

    Raises:
        EquispikeError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise EquispikeError(f"{files} need the package {package}. Install equispike[{name}]") from error
