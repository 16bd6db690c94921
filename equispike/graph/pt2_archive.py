"""The members of a .pt2 file of ``torch.export.save``: its JSON, and its weights as the bytes that they are."""

import json
import math
from typing import Any, cast
from zipfile import ZIP_STORED, ZipFile

import torch
from torch import Tensor

from equispike.errors import FileError

Json = dict[str, Any]

VERSIONS = "0", 8, 20
"""Of the archive, and of the layout of its JSON: the major one, and the newest minor one known. Major ones break."""

OTHERWISE = "If you trust it, load it with torch.export.load and pass the program"
LONGEST = 2**25
"""Bytes of JSON; the text of a thousand layers takes some five million."""

TYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
STRIDED = 7
"""Numbers that stand for types, and for the layout of a tensor without tricks."""


class Archive:
    """Members of the zip, none compressed, and together no larger than the file."""

    def __init__(self, archive: ZipFile, size: int) -> None:
        self._archive, self._left = archive, size
        names = archive.namelist()
        models = [name for name in names if name.count("/") == 2 and name.endswith(".json") and "/models/" in name]
        if any(name.endswith("serialized_exported_program.json") for name in names):
            raise FileError(f"it has the layout of torch before 2.8. {OTHERWISE}")
        if len(models) != 1:
            raise FileError(f"it holds {len(models)} models. Save one program with torch.export.save")
        self.root, _, name = models[0].removesuffix(".json").split("/")
        version = self._bytes("archive_version").decode().strip()
        document = self._json(f"models/{name}.json")
        schema = document["schema_version"]
        major, minor = int(schema["major"]), int(schema["minor"])
        if version != VERSIONS[0] or major != VERSIONS[1] or minor > VERSIONS[2]:
            raise FileError(f"it is of version {version}, {major}.{minor}, which is not known. {OTHERWISE}")
        if self._bytes("byteorder") != b"little":
            raise FileError("its numbers are not in little-endian order. Save it on a machine where they are")
        self.module: Json = document["graph_module"]
        self._stored: dict[str, tuple[str, Json]] = {}
        for kind in ("constants", "weights"):
            config = self._json(f"data/{kind}/{name}_{kind}_config.json")["config"]
            self._stored |= {key: (f"data/{kind}/{meta['path_name']}", meta) for key, meta in config.items()}
        self._payloads: dict[str, bytearray] = {}

    def _bytes(self, name: str) -> bytes:
        member = self._archive.getinfo(f"{self.root}/{name}")
        if member.compress_type != ZIP_STORED:
            raise ValueError(f"{name} is compressed, which torch does not do")
        self._left -= member.file_size
        if self._left < 0:
            raise ValueError(f"{name} claims more bytes than the file holds")
        return self._archive.read(member)

    def _json(self, name: str) -> Json:
        text = self._bytes(name)
        if len(text) > LONGEST:
            raise ValueError(f"{name} is out of proportion")
        return cast("Json", json.loads(text))

    def tensor(self, key: str) -> Tensor:
        """A weight by its name in the model."""
        path, meta = self._stored[key]
        if meta["use_pickle"] or meta["tensor_meta"] is None:
            raise FileError(f"{key} is stored as a pickle, which can run code. Save plain tensors")
        if path not in self._payloads:
            self._payloads[path] = bytearray(self._bytes(path))
        return _tensor(key, self._payloads[path], meta["tensor_meta"])


def _tensor(key: str, payload: bytearray, meta: Json) -> Tensor:
    dtype = TYPES.get(meta["dtype"])
    if dtype is None or meta["layout"] != STRIDED:
        raise FileError(f"{key} is of a type that no weight of a network has. Save it in float32")
    sizes, strides = ([whole(only(n, "as_int")) for n in meta[field]] for field in ("sizes", "strides"))
    offset = whole(only(meta["storage_offset"], "as_int"))
    count = len(payload) // dtype.itemsize
    if len(sizes) != len(strides):
        raise ValueError(f"{key} has {len(strides)} strides for {len(sizes)} dimensions")
    last = offset + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
    if math.prod(sizes) > count or (math.prod(sizes) and last >= count):
        raise ValueError(f"{key} of shape {tuple(sizes)} claims more numbers than the {count} that are stored")
    if not math.prod(sizes):
        return torch.empty(sizes, dtype=dtype)
    return torch.frombuffer(payload, dtype=dtype, count=count).as_strided(sizes, strides, offset)


def one(union: Json) -> tuple[str, Any]:
    """Kind and value of what may be of several kinds."""
    ((kind, value),) = union.items()
    return str(kind), value


def only(union: Json, kind: str) -> Any:
    found, value = one(union)
    if found != kind:
        raise ValueError(f"{found} where {kind} is expected")
    return value


def whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError(f"{value!r} is no size")
    return value
