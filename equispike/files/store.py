"""A store of results in one SQLite file that several processes share: none runs a point twice, none loses one."""

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from platform import node
from typing import Any, NamedTuple
from uuid import uuid4

from equispike.errors import FileError
from equispike.workers import Workers, done_by

Asked = Mapping[str, Any]
"""All that a point depends on, as JSON-able data: its key."""
Found = dict[str, Any]
"""The result of a point, as JSON-able data."""

ID, _VERSION = 0x65717370, 2  # "eqsp", where SQLite files say whose they are
MAGIC = b"SQLite format 3\0"
LEASE = 60.0
"""Seconds for which a claim holds unless it is renewed; its process renews it four times as often."""
POLL, PATIENCE = 0.2, 30.0
"""Seconds between looks at points that others compute, and to wait for others to finish writing."""

_UNWRITTEN = "cannot be written. Choose another place or free some space"
_UNREAD = "cannot be read. Free some space, or wait for whoever holds it"
_DAMAGED = "is damaged. Delete it and run again"
_FOREIGN = "is no file of 'equispike sweep'. Choose another one"
_PASSING = {
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM,
}  # fmt: skip
"""Errors of SQLite that say nothing about the file."""

_TABLES = (
    "CREATE TABLE points (asked TEXT PRIMARY KEY, found TEXT NOT NULL)",
    "CREATE TABLE claims (asked TEXT PRIMARY KEY, machine TEXT NOT NULL, process INTEGER NOT NULL,"
    " claim TEXT NOT NULL, until REAL NOT NULL)",
)


class Kept(NamedTuple):
    """A point in a store."""

    asked: dict[str, Any]
    found: Found


@dataclass(frozen=True)
class Store:
    """Points in an SQLite file, which is made when the first one is computed.

    A point is claimed before it is computed. A claim ends with its process, or when it was not renewed for a minute;
    then another process computes the point. Use a disk of this machine: network drives lock files unreliably.

    >>> import tempfile
    >>> store = Store(Path(tempfile.mkdtemp()) / "points.sqlite")
    >>> store.point({"n": 3}, lambda: {"square": 9})
    {'square': 9}
    >>> store.point({"n": 3}, lambda: 1 / 0)  # it is there: nothing is computed
    {'square': 9}
    """

    path: Path

    def point(self, asked: Asked, compute: Callable[[], Found]) -> Found:
        """Return the stored result; without one, compute it and store it. Waits while another process does.

        Raises:
            FileError: the file is damaged, of another kind, or cannot be written.
        """
        for _ in self.fill([asked], lambda _: compute()):
            pass
        key = key_of(asked)
        with self._reading() as connection:
            (found,) = connection.execute("SELECT found FROM points WHERE asked = ?", [key]).fetchone()
        return _loaded(self.path, key, found).found

    def fill(self, asked: Sequence[Asked], compute: Callable[[int], Found], on: Workers | None = None) -> Iterator[int]:
        """Compute the points that the file does not hold, sharing them with other processes, until all are there.

        Args:
            asked: the points.
            compute: takes a point's number; whatever it raises ends the work, and the point is free again.
            on: who computes; default this process, which alone writes to the file.
        Yields:
            the number of each point that was computed here, once it is stored.
        """
        while to_do := self.missing(asked):
            held: dict[int, str] = {}  # claims by number
            claimed: list[int] = []  # numbers in the order in which they are handed out
            try:
                with self._renewing(held):
                    handed_out = self._claims(asked, to_do, held, claimed)
                    for place, found in done_by(on, compute, handed_out):
                        number = claimed[place]
                        self._keep(key_of(asked[number]), found, held[number])
                        del held[number]
                        yield number
            finally:
                with suppress(FileError):
                    self._let_go(held)
            if not claimed:
                time.sleep(POLL)

    def missing(self, asked: Sequence[Asked]) -> list[int]:
        """Numbers of the points that the file does not hold yet; the file need not exist."""
        if not os.path.exists(self.path) or not self.path.stat().st_size:  # whoever was killed may leave an empty file
            return list(range(len(asked)))
        with self._reading() as connection:
            known = {key for (key,) in connection.execute("SELECT asked FROM points")}
        return [number for number, point in enumerate(asked) if key_of(point) not in known]

    def read(self) -> list[Kept]:
        """Return every point, in the order of what was asked.

        Raises:
            FileError: the file is missing, damaged or of another kind.
        """
        if not os.path.isfile(self.path):
            raise FileError(f"{self.path}: no such file")
        with self._reading() as connection:
            rows = connection.execute("SELECT asked, found FROM points ORDER BY asked").fetchall()
        return [_loaded(self.path, *row) for row in rows]

    def _claims(
        self, asked: Sequence[Asked], numbers: Sequence[int], held: dict[int, str], claimed: list[int]
    ) -> Iterator[int]:
        """Claim the points that are free, one when it is asked for; both records hold what was claimed."""
        for number in numbers:
            claim = uuid4().hex
            if self._claimed(key_of(asked[number]), claim):
                held[number] = claim
                claimed.append(number)
                yield number

    def _keep(self, key: str, found: Found, claim: str) -> None:
        """Store a point and end its claim; whoever was held up for too long finds it there, and leaves it."""
        with self._writing() as connection:
            connection.execute("INSERT OR IGNORE INTO points VALUES (?, ?)", [key, json.dumps(found)])
            connection.execute("DELETE FROM claims WHERE claim = ?", [claim])

    def _let_go(self, held: Mapping[int, str]) -> None:
        if held:
            with self._writing() as connection:
                connection.executemany("DELETE FROM claims WHERE claim = ?", [(claim,) for claim in held.values()])

    def _claimed(self, key: str, claim: str) -> bool:
        with self._writing() as connection:
            if connection.execute("SELECT 1 FROM points WHERE asked = ?", [key]).fetchone():
                return False
            other = connection.execute("SELECT machine, process, until FROM claims WHERE asked = ?", [key]).fetchone()
            if other and _alive(*other):
                return False
            row = [key, _machine(), os.getpid(), claim, time.time() + LEASE]
            connection.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)", row)
            return True

    @contextmanager
    def _renewing(self, held: Mapping[int, str]) -> Generator[None]:
        """Renew the claims that are held, as long as the block lasts."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(LEASE / 4):
                with suppress(FileError), self._writing() as connection:
                    until = time.time() + LEASE
                    rows = [(until, claim) for claim in list(held.values())]
                    connection.executemany("UPDATE claims SET until = ? WHERE claim = ?", rows)

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    @contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        """A transaction: all of it or, if the process dies, nothing."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{self.path}: {_UNWRITTEN} ({error.strerror})") from error
        with _opened(self.path, _UNWRITTEN, "mode=rwc") as connection:
            connection.execute("BEGIN IMMEDIATE")
            new = not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            if new:
                connection.execute(f"PRAGMA application_id = {ID}")
                connection.execute(f"PRAGMA user_version = {_VERSION}")
                for table in _TABLES:
                    connection.execute(table)
            _check(connection, self.path)
            if new:
                connection.execute("COMMIT")
                with suppress(sqlite3.OperationalError):  # busy: the next one that opens the file does it
                    connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def _reading(self) -> Generator[sqlite3.Connection]:
        here = os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK)  # where SQLite puts its locks
        with _opened(self.path, _UNREAD, "mode=rw" if here else "mode=ro&immutable=1") as connection:
            connection.execute("PRAGMA query_only = ON")
            _check(connection, self.path)
            yield connection


def is_store(path: Path) -> bool:
    """Tell an SQLite file by its first bytes."""
    if not os.path.isfile(path):
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def key_of(asked: Asked) -> str:
    """The text under which a point is kept."""
    return json.dumps(asked, sort_keys=True)


def _loaded(path: Path, asked: str, found: str) -> Kept:
    try:
        return Kept(json.loads(asked), json.loads(found))
    except (ValueError, TypeError, RecursionError) as error:
        raise FileError(f"{path}: holds a damaged point: {error}. Delete the file and run again") from error


@contextmanager
def _opened(path: Path, complaint: str, options: str) -> Generator[sqlite3.Connection]:
    """A connection for which whatever a hostile file may hold besides tables has no effect."""
    if os.path.isdir(path):
        raise FileError(f"{path}: is a folder. Give a file name")
    address = f"{path.absolute().as_uri()}?{options}"
    try:
        with closing(sqlite3.connect(address, uri=True, isolation_level=None, timeout=PATIENCE)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            yield connection
    except (sqlite3.Error, UnicodeDecodeError) as error:  # a message of SQLite's may quote damaged bytes
        passing = getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING
        raise FileError(
            f"{path}: {complaint if passing else _DAMAGED if is_store(path) else _FOREIGN} ({error})"
        ) from error


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """FileError unless the file is one of ours: made by us, with our tables as we made them and nothing else."""
    marks = [connection.execute(f"PRAGMA {mark}").fetchone()[0] for mark in ("application_id", "user_version")]
    if marks[0] == ID and marks[1] != _VERSION:
        raise FileError(f"{path}: has version {marks[1]}; this release reads {_VERSION}. Run again into another file")
    schema = connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    if marks[0] != ID or schema != [(table,) for table in _TABLES]:
        raise FileError(f"{path}: {_FOREIGN}")


def _machine() -> str:
    """This machine, or the part of it (a container) within which a process number means one process."""
    try:
        return f"{node()} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return node()


def _alive(machine: str, process: int, until: float) -> bool:
    if time.time() > until:
        return False
    if machine != _machine():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True
