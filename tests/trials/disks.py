"""Disks that are full, read-only or gone, and files that cannot be renamed or synchronised, cost one line and no file.

``python tests/trials/disks.py --tries 200 --seed 0`` runs each command where its files are there already, from before,
and lets the disk fail: no space left behind a random number of bytes, no writing at all, the folder removed at a random
time, ``rename`` refused as by a network drive, the quota told when a file is synchronised. The command ends well or in
one line with exit code 2, the files from before are whole, nothing half lies about; and when the disk is mended, it
ends well. The first two kinds need to mount a file system, so they run for root alone.
"""

import errno
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from commands import COMMANDS, finish, fresh, prepared, results, start
from shared import Attempt, draws, script

MOUNTED = "full", "read-only"
KINDS = ("no rename", "over quota", "folder gone", *(MOUNTED if os.geteuid() == 0 else ()))
BLOCK = 4096
PROGRESS = ".training", ".jsonl"
"""Endings of files that tell how far a training has come."""
ROOM = 32 * 2**20
"""Bytes of the disk that is filled."""


def refuse(names: tuple[str, ...], reason: int) -> Callable[[], None]:
    """Let functions of ``os`` fail for this reason, in the command's fork."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(reason, os.strerror(reason))

    def ready() -> None:
        for name in names:
            setattr(os, name, fail)

    return ready


@contextmanager
def disk(folder: Path) -> Generator[None]:
    """A small file system of its own in this folder, which is empty."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "trial", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def failing(kind: str, folder: Path, left: int) -> Generator[None]:
    """Let the disk be read-only, or full but for so many bytes, as long as the context lasts; else nothing happens."""
    filler = folder / "filler"
    if kind == "full":
        stats = os.statvfs(folder)
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, stats.f_bavail * stats.f_frsize - left))
    elif kind == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    yield
    if kind == "full":
        filler.unlink()
    elif kind == "read-only":
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)


def ended(line: list[str], folder: Path, ready: Callable[[], None], said: Path, gone: float | None) -> tuple[int, str]:
    """Run a command; its exit code, and what is wrong with what it said. After ``gone`` seconds the folder goes."""
    pid = start(line, folder, ready, str(said))
    if gone is not None:
        time.sleep(gone)
        shutil.rmtree(folder, ignore_errors=True)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    words = [text for text in said.read_text().splitlines() if ": warning: " not in text]
    if code not in (0, 2) or (code and (len(words) != 1 or not words[0].startswith("equispike: "))):
        return code, f"ended with {code}: {words[:3]}"
    return code, ""


def left_over(folder: Path, before: set[str]) -> set[str]:
    """Files that a command has left and that were not there: what it resumes from does not count."""
    found = {path.name for path in folder.iterdir()} - before
    return {name for name in found if not name.endswith(("-wal", "-shm", *PROGRESS))}


def tried(kind: str, command: str, given: Path, draw: random.Random, seconds: float, whole: dict[str, Any]) -> str:
    """Say what is wrong after a command met such a disk; empty for nothing."""
    line, folder, said, ready = COMMANDS[command], given.with_name("disk"), given.with_name("said"), lambda: None
    if kind == "folder gone":
        code, wrong = ended(line, fresh(given, folder), ready, said, draw.uniform(0, seconds))
        finish(line, fresh(given, folder))
        return wrong or ("" if code or results(folder) == whole else "made other files")
    if kind == "no rename":
        ready = refuse(("replace", "rename"), draw.choice([errno.ESTALE, errno.EBUSY, errno.EACCES]))
    elif kind == "over quota":
        ready = refuse(("fsync",), errno.EDQUOT)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with disk(folder) if kind in MOUNTED else nullcontext():
        shutil.copytree(given, folder, dirs_exist_ok=True)
        written = sum(path.stat().st_size for path in given.glob("out*"))
        with failing(kind, folder, draw.randrange(0, 2 * written + BLOCK, BLOCK)):
            _, wrong = ended(line, folder, ready, said, None)
        return wrong or judged(line, folder, {path.name for path in given.iterdir()}, whole)


def judged(line: list[str], folder: Path, before: set[str], whole: dict[str, Any]) -> str:
    """Say what is wrong once the disk is mended, and after the command was run again; empty for nothing."""
    for name, found in results(folder).items():  # ValueError or FileError: half a file
        if not name.endswith(PROGRESS) and found != whole[name]:
            return f"{name} was there, and is another one"
    if more := left_over(folder, before):
        return f"left {sorted(more)}"
    finish(line, folder)
    return "" if results(folder) == whole else "run again, it made other files"


def disturbances(
    given: Path, tries: int, seed: int, names: tuple[str, ...] = tuple(COMMANDS), kinds: tuple[str, ...] = KINDS
) -> Iterator[Attempt]:
    """Let the disk fail so many times."""
    seconds: dict[str, float] = {}
    whole: dict[str, dict[str, Any]] = {}
    for number in range(tries):
        draw = draws(seed, number)
        command, kind = draw.choice(names), draw.choice(kinds)
        made = given.with_name(f"made {command}")
        if command not in seconds:
            seconds[command] = finish(COMMANDS[command], fresh(given, made))
            whole[command] = results(made)
            (made / "said").unlink()
        try:
            wrong = tried(kind, command, made, draw, seconds[command], whole[command])
        except (ValueError, RuntimeError) as error:
            wrong = f"{type(error).__name__}: {error}"
        yield Attempt(f"number {number}: {command}, {kind}", wrong or kind, not wrong)


def run(tries: int, seed: int) -> Iterator[Attempt]:
    """Let the disk fail so many times."""
    with prepared() as given:
        yield from disturbances(given, tries, seed)


if __name__ == "__main__":
    script(__name__, "disks", 200, run)
