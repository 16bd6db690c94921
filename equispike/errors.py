"""The errors that equispike raises on purpose: each names the place, the reason and the remedy."""

import inspect
import warnings
from importlib import import_module
from typing import Any


class EquispikeError(ValueError):
    """Bad input of any kind. The command line prints it as one line and exits with code 2."""

    def __str__(self) -> str:
        """The text on one line, whatever names and values of files stand in it."""
        text = super().__str__()
        return text if text.isprintable() else one_line(text, None)


class ConversionError(EquispikeError):
    """The model holds something that cannot be expressed with integrate-and-fire neurons."""


class CalibrationError(EquispikeError):
    """No threshold follows: a layer stays silent on the calibration images, or an option is out of its range."""


class SimulationError(EquispikeError):
    """The network cannot be simulated with this input: shapes, indices, number of steps or memory."""


class FileError(EquispikeError):
    """A file is missing, truncated, altered, foreign, or of a version that this release does not read."""


class DataError(EquispikeError):
    """Images are missing, damaged, without labels, of the wrong shape or type, or not finite."""


class CalibrationWarning(UserWarning):
    """A threshold that had to be made up, or that clips much: the network runs, and the reader should know."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn of a line of the user's: the one that called the package."""
    level, frame = 1, inspect.currentframe()
    while frame and str(frame.f_globals.get("__name__", "")).partition(".")[0] == "equispike":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def one_line(error: object, most: int | None = 300) -> str:
    r"""The text of an error on one line, as far as it can be printed: what stands in a file may hold anything.

    >>> one_line("no such\n\x1b[31mlayer")
    'no such [31mlayer'
    """
    return " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())[:most]


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
