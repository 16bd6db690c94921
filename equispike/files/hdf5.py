"""Reading HDF5 files of strangers: plain values only, in a process of its own, with bounds on its memory and time.

The HDF5 library may loop for ever, or crash, on a damaged file. So it reads in a child process, which sends numbers and
text back: one line of JSON that names them, then the bytes of the numbers.
"""

import io
import json
import math
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from equispike.errors import extra
from equispike.files.disk import DAMAGED

MOST_COMPRESSED = 1032
"""Bytes that one byte can stand for in deflate; a file that claims more holds nothing behind its shapes."""

MOST_BYTES = 2**31
"""Bytes that a file may unfold to, or four times its own size if that is more: zeros between groups and in kernels pack
well, but what unfolds further is made to fill the memory."""

_OWN = 2**30
"""Bytes of address space for the child itself, beside twice what the file may unfold to."""

SECONDS = 10
"""Processor time to read a file, and a second more for each MiB of it; four times as long by the clock."""

DEEPEST = 4
"""Groups inside groups that are read; a NIR file has no deeper ones."""

REFUSED = 3
"""How the child ends when it has said what is wrong with the file."""

Fields = dict[str, Any]
"""What a group holds, by name: a string, an array of numbers or strings, or another group."""


def package() -> Any:
    """The package h5py. EquispikeError if it is missing."""
    return extra("h5py", "nir", "NIR files")


def read_hdf5(path: Path) -> Fields:
    """Read what a file holds, without links to other places or other files.

    Raises:
        ValueError: what is wrong with it, in one line.
    """
    package()
    seconds = SECONDS + path.stat().st_size // 2**20
    endless = f"the HDF5 library found no end of it in {seconds} s. {DAMAGED}"
    command = [sys.executable, "-P", "-m", __name__, str(path), str(seconds)]
    paths = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"}  # its threads take address space
    try:
        child = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=4 * seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(endless) from error
    if child.returncode == -signal.SIGXCPU:
        raise ValueError(endless)
    if child.returncode == REFUSED:
        raise ValueError(child.stdout.decode())
    if child.returncode != 0:
        said = child.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ValueError(f"the HDF5 library failed on it (exit status {child.returncode}) {said}. {DAMAGED}")
    stream = io.BytesIO(child.stdout)
    return _received(json.loads(stream.readline()), stream)


def contents(path: Path) -> Fields:
    """As ``read_hdf5``, in this process, which a damaged file may stop."""
    with package().File(path, "r") as file:
        return _Reader(most(path)).fields(file, "", DEEPEST)


def most(path: Path) -> int:
    """Bytes that a file may unfold to."""
    size = path.stat().st_size
    return min(MOST_COMPRESSED * size, max(MOST_BYTES, 4 * size))


class _Reader:
    """Walks an open file. ``left``: how many bytes it may still give."""

    def __init__(self, left: int) -> None:
        self._h5py = package()
        self._left = left

    def fields(self, group: Any, place: str, depth: int) -> Fields:
        """Read what a group holds; groups further down than ``depth`` are left out."""
        found: Fields = {}
        for name in map(str, group):
            where = f"{place}/{name}" if place else name
            if not isinstance(group.get(name, getlink=True), self._h5py.HardLink):
                raise ValueError(f"{where}: is a link to another place. Copy what it names into the file")
            item = group[name]
            if isinstance(item, self._h5py.Dataset):
                found[name] = self._value(where, item)
            elif depth and isinstance(item, self._h5py.Group):
                found[name] = self.fields(item, where, depth - 1)
        return found

    def _value(self, where: str, dataset: Any) -> Any:
        if dataset.external or dataset.is_virtual:
            raise ValueError(f"{where}: lies in another file. Copy it into this one")
        if dataset.shape is None:
            raise ValueError(f"{where}: holds no value")
        self._left -= dataset.size * dataset.dtype.itemsize
        if self._left < 0:
            raise ValueError(f"{where}: its shape {dataset.shape} claims more than a file of this size may hold")
        if self._h5py.check_string_dtype(dataset.dtype) is not None:
            text: Any = dataset.asstr()[()]
            return text if isinstance(text, str) else np.asarray(text).astype(str)
        if dataset.dtype.kind not in "fiub" or dataset.dtype.itemsize > 8:
            raise ValueError(f"{where}: of type {dataset.dtype}, which is neither text nor numbers")
        numbers = cast("np.ndarray[Any, Any]", np.asarray(dataset[()], order="C"))
        if not bool(np.isfinite(numbers).all()):
            raise ValueError(f"{where}: holds NaN or infinity")
        return numbers


def _send(fields: Fields, stream: IO[bytes]) -> None:
    arrays: list[np.ndarray[Any, Any]] = []

    def described(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: described(item) for name, item in cast("Fields", value).items()}
        if isinstance(value, str):
            return value
        arrays.append(value)
        return [value.dtype.str, value.shape]

    stream.write(json.dumps(described(fields)).encode() + b"\n")
    for array in arrays:
        stream.write(array.data if array.size else b"")


def _received(value: Any, stream: IO[bytes]) -> Any:
    if isinstance(value, dict):
        return {name: _received(item, stream) for name, item in cast("Fields", value).items()}
    if isinstance(value, str):
        return value
    dtype, shape = np.dtype(value[0]), value[1]
    return np.ndarray(shape, dtype, stream.read(math.prod(shape) * dtype.itemsize))


def _limit(path: Path, seconds: int) -> None:
    """Bound this process's memory and processor time, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind, wanted in (
        (resource.RLIMIT_AS, 2 * most(path) + _OWN),
        (resource.RLIMIT_CPU, seconds),
    ):
        hard = resource.getrlimit(kind)[1]
        with suppress(ValueError, OSError):  # macOS refuses bounds of the address space
            resource.setrlimit(kind, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _main(file: str, seconds: str) -> int:
    path = Path(file)
    _limit(path, int(seconds))
    try:
        _send(contents(path), sys.stdout.buffer)
    except Exception as error:  # whatever h5py makes of a damaged file
        reason = " ".join((str(error) or type(error).__name__).split())[:300]
        sys.stdout.buffer.write(reason.encode(errors="replace"))
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
