"""Files on disk: written whole, and read under one rule for what goes wrong."""

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from equispike.errors import ConversionError, EquispikeError, FileError, one_line

DAMAGED = "The file is damaged: write it again, or ask for it again"


@contextmanager
def reading(path: str | os.PathLike[str], fault: str, verdicts: bool = False) -> Generator[None]:
    """Name the file in whatever error reading it ends with, in one line.

    Args:
        path: the file.
        fault: what to say of the file, between its name and the reason.
        verdicts: a ConversionError inside stays one: it judges the network in the file, and not the file.
    Raises:
        FileError: there is no such file, or reading it ended with any error but those that may pass: that a package is
            missing, or one that names the file already.
    """
    if not os.path.isfile(path):
        raise FileError(f"{path}: no such file")
    try:
        yield
    except EquispikeError as error:
        if type(error) is EquispikeError or str(error).startswith(str(path)):
            raise
        if verdicts and isinstance(error, ConversionError):
            raise ConversionError(f"{path}: {one_line(error, None)}") from error
        raise FileError(f"{path}: {fault}: {one_line(error)}") from error
    except ValueError as error:
        raise FileError(f"{path}: {fault}: {one_line(error)}") from error
    except (OSError, LookupError, TypeError, ArithmeticError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise FileError(f"{path}: {fault}: {reason}. {DAMAGED}") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file whole, or leave it as it was. FileError if that is not possible."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".part", delete=False) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise FileError(
            f"{path}: cannot be written: {error.strerror}. Choose another place or free some space"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
