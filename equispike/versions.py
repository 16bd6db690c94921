"""What a result depends on beside its own settings."""

import platform
from importlib.metadata import version

import torch


def versions() -> dict[str, str]:
    """Versions of equispike, torch and Python."""
    return {"equispike": version("equispike"), "torch": torch.__version__, "python": platform.python_version()}
