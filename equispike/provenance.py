"""The origin of a result, as data: settings of methods and coders, and where and when it was computed."""

import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

TELLING = "percentile", "scale", "timesteps"
"""Settings that come first."""

UNSAID = "reset", "readout", "seed", "coder", "scales", "trial", "tolerance"
"""Settings that have a place of their own wherever a method is shown, or by which another one was chosen."""


def as_data(value: object) -> Any:
    """JSON-able data that tell a setting: of a dataclass its name and fields, but for those that its repr leaves out.

    >>> from equispike import ModelNorm
    >>> as_data(ModelNorm())
    {'name': 'ModelNorm', 'reset': 'subtract', 'readout': 'potential'}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {"name": type(value).__name__} | {
            f.name: as_data(getattr(value, f.name)) for f in fields(value) if f.repr
        }
    if isinstance(value, Mapping):
        return {str(key): as_data(item) for key, item in cast("Mapping[object, object]", value).items()}
    if isinstance(value, Sequence):
        return [as_data(item) for item in cast("Sequence[object]", value)]
    return {"name": getattr(value, "__name__", type(value).__name__)}


def in_words(data: Mapping[str, Any], **known: object) -> str:
    """A setting as a reader would write it, without what is off or said elsewhere.

    Args:
        data: as ``as_data`` gives it.
        known: fields that were chosen afterwards.

    >>> in_words({"name": "RMP", "scale": None, "timesteps": 100, "reset": "subtract"}, scale=0.8)
    'RMP(scale=0.8, timesteps=100)'
    >>> in_words({"name": "DataNorm", "per_channel": True, "percentile": 99.9})
    'DataNorm(percentile=99.9, per_channel=True)'
    >>> in_words({"name": "DataNorm", "percentile": 95.0})
    'DataNorm(percentile=95)'
    >>> in_words({"name": "Bias", "passes": 5, "timesteps": 8})
    'Bias(timesteps=8, passes=5)'
    """
    told = {key: value for key, value in {**data, **known}.items() if key in data and key not in ("name", *UNSAID)}
    told = {key: told[key] for key in sorted(told, key=lambda key: key not in TELLING)}  # files hold them by alphabet
    usual = None, False, "unity", "maximum", "weighted"
    settings = ", ".join(f"{key}={_word(value)}" for key, value in told.items() if value not in usual)
    return f"{data['name']}({settings})" if settings else str(data["name"])


def set_for(provenance: Mapping[str, Any]) -> int | None:
    """The number of time-steps that a network's thresholds or corrections were set for; None if for none.

    >>> set_for({"corrections": [{"name": "StepBias", "timesteps": 8}]}), set_for({})
    (8, None)
    """
    told: list[Mapping[str, Any]] = [provenance.get("chosen", {}), *provenance.get("corrections", ())]
    found: list[int] = [one["timesteps"] for one in told if "timesteps" in one]
    return max(found, default=None)


def _word(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # 95, however it was typed
    return in_words(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else repr(value)


def versions() -> dict[str, str]:
    """Versions of equispike, torch and Python."""
    return {"equispike": version("equispike"), "torch": version("torch"), "python": platform.python_version()}


def circumstances() -> dict[str, object]:
    """Date (UTC), command, processor and system of what runs now."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _command() -> str:
    """The line that was typed, as far as Python knows; ``python -m equispike`` is the command ``equispike``."""
    if not sys.argv[0]:
        return "python"
    program = Path(sys.argv[0])
    return shlex.join(["equispike" if program.name == "__main__.py" else program.name, *sys.argv[1:]])


def processor() -> str:
    """The processor's own name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
