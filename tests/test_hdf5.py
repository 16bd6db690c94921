"""The process that reads HDF5 files: it sends what the file holds, and whatever a file does to it is one line."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import equispike as es
from equispike.files import hdf5
from equispike.files.nir import read_nir

h5py = pytest.importorskip("h5py")


def build(path: Path) -> Path:
    """Groups, an empty one, numbers of several types, and text of any length."""
    with h5py.File(path, "w") as file:
        inner = file.create_group("outer/inner")
        inner["doubles"] = np.arange(6.0).reshape(2, 3)
        inner["one"] = np.float32(0.5)
        inner["none"] = np.zeros((0, 3), dtype="i2")
        inner["flags"] = np.array([True, False])
        inner["ends"] = np.arange(4, dtype=">i4")
        file["outer/name"] = "größer\n"
        file.create_dataset("words", data=[["a", "longer"], ["", "c"]], dtype=h5py.string_dtype())
        file.create_group("outer/empty")
    return path


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, str):
        return a == b
    return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())


def test_the_child_sends_what_the_file_holds(tmp_path: Path) -> None:
    path = build(tmp_path / "a.h5")
    sent, here = hdf5.read_hdf5(path), hdf5.contents(path)
    assert same(sent, here)
    inner = sent["outer"]["inner"]
    assert inner["doubles"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (inner["one"].item(), inner["none"].shape, inner["flags"].tolist()) == (0.5, (0, 3), [True, False])
    assert inner["ends"].tolist() == [0, 1, 2, 3]
    assert (sent["outer"]["name"], sent["outer"]["empty"]) == ("größer\n", {})
    assert sent["words"].tolist() == [["a", "longer"], ["", "c"]]


def test_groups_that_hold_themselves_come_to_an_end(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["round"] = file["/"]
    group, depth = hdf5.contents(path), 0
    while group:
        group, depth = group["round"], depth + 1
    assert depth == hdf5.DEEPEST


def refused(path: Path, message: str) -> None:
    with pytest.raises(es.FileError, match=message) as caught:
        read_nir(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_file_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build(tmp_path / "a.nir")
    with h5py.File(path, "r+") as file:
        file["behind"] = np.zeros(2**12)
    data = bytearray(path.read_bytes())
    size = data.index(b"GCOL") + 8  # of the table of strings: as much again, which the library reads as empty for ever
    data[size : size + 8] = (2 * int.from_bytes(data[size : size + 8], "little")).to_bytes(8, "little")
    path.write_bytes(data)
    monkeypatch.setattr(hdf5, "SECONDS", 2)
    refused(path, r"no end of it in 2 s\. The file is damaged: write it again")


@pytest.mark.skipif(sys.platform != "linux", reason="bounds of memory are Linux's")
def test_a_file_that_unfolds_in_memory_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.nir", "w") as file:
        file.create_dataset("words", data=["x" * 2**20, *[""] * 2**12], dtype=h5py.string_dtype())  # 16 GiB in a table
    refused(tmp_path / "a.nir", "Unable to allocate")


def test_a_child_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(tmp_path / "missing.nir", "no such file")
    monkeypatch.setattr(sys, "executable", "false")
    refused(build(tmp_path / "a.nir"), r"the HDF5 library failed on it \(exit status 1\)")
