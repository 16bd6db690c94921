"""Fetch the official archives of MNIST and CIFAR: verified by digest, written atomically, known members only."""

import gzip
import hashlib
import os
import shutil
import sys
import tarfile
import time
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO

from equispike.errors import DataError

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
        packed = target / archive.name
        try:
            target.mkdir(parents=True, exist_ok=True)
            _fetch(address, packed, archive.md5)
            _unpack(packed, source.folder, archive.members)
            packed.unlink()
        except (OSError, HTTPException, tarfile.TarError, EOFError, zlib.error) as error:
            reason = getattr(error, "reason", None) or error
            raise DataError(
                f"{name}: {address} cannot be downloaded to {target} ({reason})."
                f" Put {', '.join(archive.members)} there yourself,"
                f" or set EQUISPIKE_DATA to a folder that has {source.folder}"
            ) from error


def _fetch(address: str, path: Path, md5: str) -> None:
    """Download `address` to `path`, which appears only once its digest is right."""
    request = urllib.request.Request(address, headers={"User-Agent": "equispike"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        announced = int(response.headers.get("Content-Length") or 0)
        digest = hashlib.md5(usedforsecurity=False)
        start = time.monotonic()

        def copy(out: IO[bytes]) -> None:
            received = 0
            while chunk := response.read(CHUNK):
                received += len(chunk)
                if received > MAX_ARCHIVE:
                    raise OSError(f"more than {MAX_ARCHIVE:,} bytes, so it is not the official archive")
                digest.update(chunk)
                out.write(chunk)
                _show(path.name, received, announced, start)
            if received < announced:
                raise OSError(f"truncated: {received:,} of {announced:,} bytes came")
            if digest.hexdigest() != md5:
                raise OSError(f"its MD5 is {digest.hexdigest()}, not {md5}: altered, or not the official archive")

        _write_atomically(path, copy)


def _unpack(packed: Path, folder: str, members: tuple[str, ...]) -> None:
    """Take the known members out of a .gz or .tar.gz, whatever else it holds, to the folder it lies in."""
    if not packed.name.endswith(".tar.gz"):
        with gzip.open(packed) as content:
            _write_atomically(packed.with_suffix(""), lambda out: shutil.copyfileobj(content, out))
        return
    with tarfile.open(packed, "r:gz") as tar:
        for member in members:
            try:
                info = tar.getmember(f"{folder}/{member}")
            except KeyError:
                raise OSError(f"{packed.name} holds no {folder}/{member}") from None
            content = tar.extractfile(info) if info.isfile() else None
            if content is None:
                raise OSError(f"{folder}/{member} in {packed.name} is not a plain file")
            _write_atomically(packed.parent / member, lambda out, c=content: shutil.copyfileobj(c, out))


def _write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write beside `path` and rename, so that a file under its final name is whole. Parallel downloads do not meet."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as out:
            write(out)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _show(name: str, received: int, announced: int, start: float) -> None:
    """One line on standard error that is written over, on a terminal only."""
    if not sys.stderr.isatty():
        return
    rate = received / max(time.monotonic() - start, 1e-3)
    total = f" of {announced / 1e6:.0f}" if announced else ""
    end = "\n" if received == announced else ""
    print(f"\r{name}: {received / 1e6:.0f}{total} MB, {rate / 1e6:.1f} MB/s ", end=end, file=sys.stderr, flush=True)
