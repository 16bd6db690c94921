"""Fetch the official archives of MNIST and CIFAR: verified by digest, written atomically, known members only."""

import gzip
import hashlib
import io
import tarfile
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import cast

from equispike.errors import DataError, FileError
from equispike.files.disk import write_bytes
from equispike.progress import track

TIMEOUT = 30.0  # seconds without a byte
MAX_ARCHIVE = 256 * 2**20  # bytes; the largest archive, CIFAR-10, has 170 MB
CHUNK = 2**18


@dataclass(frozen=True)
class Archive:
    """One file at the official address: its name, the MD5 that torchvision publishes, and what to take out of it."""

    name: str
    md5: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class Mirror:
    """A data set's official address, and the folder below the data folder that its members go to."""

    base: str
    folder: str
    archives: tuple[Archive, ...]


MIRRORS: dict[str, Mirror] = {
    "mnist": Mirror(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "MNIST/raw",
        tuple(
            Archive(f"{member}.gz", md5, (member,))
            for member, md5 in {
                "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
                "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
                "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
            }.items()
        ),
    ),
    "cifar10": Mirror(
        "https://www.cs.toronto.edu/~kriz/",
        "cifar-10-batches-py",
        (
            Archive(
                "cifar-10-python.tar.gz",
                "c58f30108f718f92721af3b95e74349a",
                (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"),
            ),
        ),
    ),
    "cifar100": Mirror(
        "https://www.cs.toronto.edu/~kriz/",
        "cifar-100-python",
        (Archive("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", ("train", "test", "meta")),),
    ),
}


def ensure(name: str, folder: Path, source: Mirror | None = None) -> None:
    """Download what is missing of data set `name`, so that all its members lie below `folder`.

    Args:
        source: where to fetch from, if not the official address.
    Raises:
        DataError: the address cannot be reached, or what came from it is not the official archive.
    """
    source = source or MIRRORS[name]
    target = folder / source.folder
    for archive in source.archives:
        if all((target / member).is_file() for member in archive.members):
            continue
        address = source.base + archive.name
        try:
            target.mkdir(parents=True, exist_ok=True)
            for member, content in _unpacked(_fetch(address, archive), source.folder, archive):
                write_bytes(target / member, content)
        except (OSError, FileError, HTTPException, tarfile.TarError, EOFError, zlib.error) as error:
            reason = getattr(error, "reason", None) or error
            raise DataError(
                f"{name}: {address} cannot be downloaded to {target} ({reason})."
                f" Put {', '.join(archive.members)} there yourself,"
                f" or set EQUISPIKE_DATA to a folder that has {source.folder}"
            ) from error


def _fetch(address: str, archive: Archive) -> bytes:
    """The archive at an address. OSError if it is not the official one."""
    request = urllib.request.Request(address, headers={"User-Agent": "equispike"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        announced = int(response.headers.get("Content-Length") or 0)
        data = bytearray()
        chunks = iter(lambda: cast("bytes", response.read(CHUNK)), b"")
        for chunk in track(chunks, f"downloading {archive.name}", -(-announced // CHUNK)):
            data += chunk
            if len(data) > MAX_ARCHIVE:
                raise OSError(f"more than {MAX_ARCHIVE:,} bytes, so it is not the official archive")
    if len(data) < announced:
        raise OSError(f"truncated: {len(data):,} of {announced:,} bytes came")
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if digest != archive.md5:
        raise OSError(f"its MD5 is {digest}, not {archive.md5}: altered, or not the official archive")
    return bytes(data)


def _unpacked(packed: bytes, folder: str, archive: Archive) -> Iterator[tuple[str, bytes]]:
    """Yield the known members of a .gz or .tar.gz, whatever else it holds."""
    if not archive.name.endswith(".tar.gz"):
        yield archive.members[0], gzip.decompress(packed)
        return
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as tar:
        for member in archive.members:
            try:
                info = tar.getmember(f"{folder}/{member}")
            except KeyError:
                raise OSError(f"{archive.name} holds no {folder}/{member}") from None
            content = tar.extractfile(info) if info.isfile() else None
            if content is None:
                raise OSError(f"{folder}/{member} in {archive.name} is not a plain file")
            yield member, content.read()
