"""Writing files whole."""

import os
import tempfile
from pathlib import Path

from equispike.errors import FileError


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
