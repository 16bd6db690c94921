"""Reading HDF5 files of strangers: plain values only, and memory bounded by the size of the file."""

from pathlib import Path
from typing import Any, cast

import numpy as np

from equispike.errors import FileError
from equispike.extras import extra

MOST_COMPRESSED = 1032
"""Bytes that one byte can stand for in deflate; a file that claims more holds nothing behind its shapes."""

MOST = 2**31
"""Bytes that a file may unfold to, or four times its own size if that is more: zeros between groups and in kernels pack
well, but what unfolds further is made to fill the memory."""

Fields = dict[str, Any]
"""Values of a group by name: a string, or an array of numbers or strings."""


def hdf5() -> Any:
    """The package h5py. EquispikeError if it is missing."""
    return extra("h5py", "nir", "NIR files")


class Reader:
    """An open file, and how many bytes it may still give.

    Links to other places or other files, and datasets that lie in other files, are refused.
    """

    def __init__(self, path: Path) -> None:
        self._h5py = hdf5()
        if not path.is_file():
            raise FileError(f"{path}: no such file")
        size = path.stat().st_size
        self._left = min(MOST_COMPRESSED * size, max(MOST, 4 * size))
        self.file: Any = self._h5py.File(path, "r")

    def close(self) -> None:
        self.file.close()

    def group(self, parent: Any, name: str) -> Any:
        """A group inside a group. ValueError if there is none."""
        found = self._linked(parent, name)
        if not isinstance(found, self._h5py.Group):
            raise ValueError(f"{name}: is missing, or no group")
        return found

    def names(self, group: Any) -> list[str]:
        return [str(name) for name in group]

    def fields(self, group: Any) -> Fields:
        """The datasets of a group; groups inside it are left out."""
        found: Fields = {}
        for name in self.names(group):
            item = self._linked(group, name)
            if isinstance(item, self._h5py.Dataset):
                found[name] = self._value(name, item)
        return found

    def _linked(self, parent: Any, name: str) -> Any:
        link = parent.get(name, getlink=True)
        if link is None:
            return None
        if not isinstance(link, self._h5py.HardLink):
            raise ValueError(f"{name}: is a link to another place. Copy what it names into the file")
        return parent[name]

    def _value(self, name: str, dataset: Any) -> Any:
        if dataset.external or dataset.is_virtual:
            raise ValueError(f"{name}: lies in another file. Copy it into this one")
        if dataset.shape is None:
            raise ValueError(f"{name}: holds no value")
        self._left -= dataset.size * dataset.dtype.itemsize
        if self._left < 0:
            raise ValueError(f"{name}: its shape {dataset.shape} claims more than a file of this size may hold")
        if self._h5py.check_string_dtype(dataset.dtype) is not None:
            value: Any = dataset.asstr()[()]
            return value
        if dataset.dtype.kind not in "fiub" or dataset.dtype.itemsize > 8:
            raise ValueError(f"{name}: of type {dataset.dtype}, which is neither text nor numbers")
        numbers = cast("np.ndarray[Any, Any]", np.asarray(dataset[()]))
        if not bool(np.isfinite(numbers).all()):
            raise ValueError(f"{name}: holds NaN or infinity")
        return numbers
