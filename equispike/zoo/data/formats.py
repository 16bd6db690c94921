"""Readers for the files in which MNIST and CIFAR are distributed. Files are not trusted: nothing in them runs."""

import math
import pickle
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from equispike.errors import DataError

MAX_PICKLE = 512 * 2**20  # bytes; the largest official file, CIFAR-100's training part, has 155 MB


def read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes (MNIST's format), of `ndim` dimensions.

    The header's sizes must account for every byte of the file, so no more than its size is ever allocated.

    Raises:
        DataError: missing, truncated, overlong, of another type or number of dimensions.
    """
    header = 4 + 4 * ndim
    size = _size(path)
    with path.open("rb") as file:
        start = file.read(header)
        if len(start) < header or start[:4] != bytes([0, 0, 8, ndim]):
            raise DataError(
                f"{path}: not an IDX file of unsigned bytes with {ndim} dimensions (starts with {start[:4].hex()})."
                " Remove it, and it is downloaded again"
            )
        shape = struct.unpack(f">{ndim}I", start[4:])
        if size != header + math.prod(shape):
            raise DataError(
                f"{path}: the header announces {shape}, which needs {header + math.prod(shape):,} bytes,"
                f" but the file has {size:,}. Remove it, and it is downloaded again"
            )
        return np.frombuffer(file.read(), np.uint8).reshape(shape)


def read_pickle(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle of plain values and NumPy arrays (CIFAR's format); Python 2 strings become str.

    Raises:
        DataError: missing, too large, damaged, or it asks for anything but NumPy arrays; then nothing was run.
    """
    if _size(path) > MAX_PICKLE:
        raise DataError(f"{path}: {_size(path):,} bytes, more than the {MAX_PICKLE:,} of any official file")
    with path.open("rb") as file:
        try:
            content = _ArrayUnpickler(file, encoding="latin1").load()
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        except Exception as error:  # a damaged pickle raises almost anything
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"{path}: damaged pickle ({reason}). Remove it, and it is downloaded again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, not a dictionary")
    return {key: _array(value) for key, value in cast("dict[str, Any]", content).items()}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


@dataclass
class _Dtype:
    """Stands in for numpy.dtype while a pickle is read."""

    code: str

    def __setstate__(self, state: object) -> None:
        """Byte order and the like, which single bytes do not need."""


class _Array:
    """Stands in for numpy.ndarray while a pickle is read: bytes and a shape, checked against each other."""

    value: NDArray[np.uint8] = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or dtype.code not in ("u1", "|u1", "uint8") or fortran:
            raise DataError("holds an array that is not of unsigned bytes in C order")
        raw = data.encode("latin1") if isinstance(data, str) else data
        if math.prod(shape) != len(raw):
            raise DataError(f"holds an array of shape {shape} with {len(raw):,} bytes")
        self.value = np.frombuffer(raw, np.uint8).reshape(shape)


def _array(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value


class _ArrayUnpickler(pickle.Unpickler):
    """Resolves the four globals that an array's pickle holds, and not even these to NumPy: to inert stand-ins.

    They are methods and None, whose attributes a pickle's BUILD instruction cannot replace.
    """

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        name = f"{module_name}.{global_name}"
        if re.fullmatch(r"numpy\.(_)?core\.multiarray\._reconstruct", name):
            return self._reconstruct
        if name == "numpy.ndarray":
            return None
        if name == "numpy.dtype":
            return self._dtype
        if name == "_codecs.encode":
            return self._encode
        raise DataError(f"the pickle asks for {name}, which no data file needs. It was not run; do not trust the file")

    def _reconstruct(self, *_: object) -> _Array:
        return _Array()

    def _dtype(self, code: str, *_: object) -> _Dtype:
        return _Dtype(code)

    def _encode(self, text: str, *_: object) -> bytes:
        return text.encode("latin1")
