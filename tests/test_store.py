"""A store: every point is computed by one process, once, and is there whole or not at all."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from equispike.errors import FileError
from equispike.files import store as module
from equispike.files.store import Store

SHARED = """
import os, sys, time
from pathlib import Path
from equispike.files.store import Store
file, log, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
def compute(number):
    with log.open("a") as lines: lines.write(f"{number}\\n")
    time.sleep(0.01)
    return {"square": number**2, "process": os.getpid()}
for _ in Store(file).fill([{"n": n} for n in range(count)], compute):
    pass
"""

HANGS = """
import sys, time
from pathlib import Path
from equispike.files.store import Store
def compute():
    print("begun", flush=True)
    time.sleep(600)
Store(Path(sys.argv[1])).point({"n": 0}, compute)
"""


def process(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def test_processes_on_one_file_share_the_work_and_run_no_point_twice(tmp_path: Path) -> None:
    file, log, count = tmp_path / "s.sqlite", tmp_path / "log", 40
    workers = [process(SHARED, file, log, count) for _ in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert Counter(map(int, log.read_text().split())) == Counter(range(count))
    kept = Store(file).read()
    assert {point.asked["n"]: point.found["square"] for point in kept} == {n: n**2 for n in range(count)}
    assert len({point.found["process"] for point in kept}) > 1
    assert {path.name for path in tmp_path.iterdir()} == {"s.sqlite", "log"}


def test_the_point_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    file = tmp_path / "s.sqlite"
    worker = process(HANGS, file)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "begun\n"
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    began = time.monotonic()
    assert Store(file).point({"n": 0}, lambda: {"here": os.getpid()}) == {"here": os.getpid()}
    assert time.monotonic() - began < module.LEASE / 4


def claimed(file: Path, machine: str, until: float) -> Store:
    """A store whose point {"n": 0} is another machine's."""
    store = Store(file)
    store.point({"n": 1}, dict)
    with sqlite3.connect(file) as connection:
        row = ('{"n": 0}', machine, os.getpid(), "other", until)
        connection.execute("INSERT INTO claims VALUES (?, ?, ?, ?, ?)", row)
    connection.close()
    return store


def test_a_claim_of_another_machine_holds_until_its_lease_ends(tmp_path: Path) -> None:
    ends = time.time() + 0.6
    store = claimed(tmp_path / "s.sqlite", "elsewhere", ends)
    assert store.point({"n": 0}, lambda: {"at": time.time()})["at"] >= ends


def test_a_claim_is_renewed_while_its_point_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEASE", 0.4)
    store = Store(tmp_path / "s.sqlite")

    def compute() -> dict[str, float]:
        time.sleep(1)
        connection = sqlite3.connect(store.path)
        (until,) = connection.execute("SELECT until FROM claims").fetchone()
        connection.close()
        return {"left": until - time.time()}

    assert store.point({"n": 0}, compute)["left"] > 0


def test_a_point_that_fails_is_free_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    with pytest.raises(ZeroDivisionError):
        store.point({"n": 0}, lambda: {"x": 1 / 0})
    assert store.read() == []
    assert store.point({"n": 0}, lambda: {"x": 1}) == {"x": 1}


def test_who_was_held_up_for_too_long_leaves_the_point_that_is_there(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")

    def slow() -> dict[str, str]:
        with sqlite3.connect(store.path) as connection:
            connection.execute("DELETE FROM claims")
        connection.close()
        store.point({"n": 0}, lambda: {"by": "another"})
        return {"by": "me"}

    assert store.point({"n": 0}, slow) == {"by": "another"}


def test_what_was_asked_is_compared_as_data(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    store.point({"a": 1, "b": {"x": (1, 2)}}, lambda: {"first": True})
    assert store.point({"b": {"x": [1, 2]}, "a": 1}, lambda: {"first": False}) == {"first": True}
    assert store.missing([{"a": 1}, {"a": 1, "b": {"x": [1, 2]}}]) == [0]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for place in (tmp_path / "file" / "s.sqlite", tmp_path):
        with pytest.raises(FileError, match=r"cannot be written|is a folder") as caught:
            Store(place).point({"n": 0}, dict)
        assert "\n" not in str(caught.value)


def test_files_of_the_first_version_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "old.sqlite"
    with sqlite3.connect(file) as connection:
        connection.execute(f"PRAGMA application_id = {module.ID}")
        connection.execute("PRAGMA user_version = 1")
        connection.execute("CREATE TABLE points (conditions TEXT PRIMARY KEY, document TEXT NOT NULL)")
    connection.close()
    before = file.read_bytes()
    with pytest.raises(FileError, match="has version 1; this release reads 2"):
        Store(file).point({"n": 0}, dict)
    assert file.read_bytes() == before


def test_a_message_of_sqlite_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    """The message quotes what is damaged."""
    file = tmp_path / "points.sqlite"
    Store(file).point({"n": 0}, lambda: {"square": 0})
    whole = file.read_bytes()
    for place in (b"CREATE TABLE points", b"tablepoints"):
        assert whole.count(place) == 1
        file.write_bytes(whole.replace(place, place[:-6] + b"\x84" + place[-5:]))
        with pytest.raises(FileError, match=r"points\.sqlite: is damaged\. Delete it and run again \(.*\)$"):
            Store(file).read()


def test_damage_is_told_whether_one_reads_or_writes(tmp_path: Path) -> None:
    file = tmp_path / "points.sqlite"
    Store(file).point({"n": 0}, lambda: {"square": 0})
    whole = bytearray(file.read_bytes())
    whole[100:4096] = bytes(3996)  # the first page: what tables there are
    file.write_bytes(whole)
    for use in (Store(file).read, lambda: Store(file).point({"n": 0}, dict)):
        with pytest.raises(FileError, match=r"points\.sqlite: is damaged\. Delete it and run again \(.*\)$"):
            use()


def test_nobody_is_told_to_delete_a_file_that_is_not_ours(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("all that I know " * 100)
    for use in (Store(file).read, lambda: Store(file).point({"n": 0}, dict)):
        with pytest.raises(FileError, match=r"notes\.txt: is no file of 'equispike sweep'\. Choose another one"):
            use()
    assert file.read_text() == "all that I know " * 100


def test_a_disk_that_fails_is_not_taken_for_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is to delete results because the disk is full: SQLite needs some space to read them, too."""
    file = tmp_path / "points.sqlite"
    Store(file).point({"n": 0}, lambda: {"square": 0})

    def fail(*_: object, **__: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR | 19 << 8  # SQLITE_IOERR_SHMSIZE
        raise error

    monkeypatch.setattr(sqlite3, "connect", fail)
    with pytest.raises(FileError, match=r"cannot be read\. Free some space, or wait for whoever holds it \(disk I/O"):
        Store(file).read()
    with pytest.raises(FileError, match=r"cannot be written\. Choose another place or free some space \(disk I/O"):
        Store(tmp_path / "new.sqlite").point({"n": 0}, lambda: {"square": 0})
