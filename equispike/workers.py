"""Who does independent pieces of work: this process, processes of this machine, or a Ray cluster."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# (cloudpickle and loky have no types)

import io
import os
import pickle
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Thread
from typing import Any, Protocol, TypeVar

import cloudpickle
import torch
from loky import ProcessPoolExecutor
from torch import Tensor

from equispike.arguments import checked_fields
from equispike.errors import EquispikeError, extra, one_line

Item = TypeVar("Item")
Done = TypeVar("Done")

TRIES = 3
"""Deaths of workers in a row, without one finished piece between them, after which the work is given up."""
AHEAD = 2
"""Pieces handed out for each worker, so that none waits for its next one."""


class Workers(Protocol):
    """Somebody who does pieces of work; what is done must not depend on who does it, nor on the order."""

    def map(self, work: Callable[[Item], Done], items: Iterable[Item]) -> Iterator[tuple[int, Done]]:
        """Results with the numbers of their items, as they come. Items are taken when there is somebody for them.

        Raises:
            EquispikeError: workers die again and again; and whatever ``work`` raises.
        """
        ...


def done_by(on: Workers | None, work: Callable[[Item], Done], items: Iterable[Item]) -> Iterator[tuple[int, Done]]:
    """Results with the numbers of their items: of workers as they come, or of this process in order."""
    return enumerate(map(work, items)) if on is None else on.map(work, items)


@checked_fields
@dataclass(frozen=True)
class Processes:
    """Processes of this machine. What dies with a process is done again by another.

    Fields:
        number: of processes.
        threads: of each; default its share of the cores that this process may use.
    """

    number: int
    threads: int | None = None

    def __post_init__(self) -> None:
        _at_least_one(self, "number", "threads")

    def map(self, work: Callable[[Item], Done], items: Iterable[Item]) -> Iterator[tuple[int, Done]]:
        """See ``Workers.map``. Each process reads the work once."""
        threads = self.threads or max(1, len(os.sched_getaffinity(0)) // self.number)
        waiting = enumerate(items)
        left: list[tuple[int, Item]] = []
        deaths = 0
        with _written(pickled(work)) as path:
            while True:
                executor = ProcessPoolExecutor(self.number, initializer=_begin, initargs=(path, threads, os.getpid()))
                pending: dict[Future[bytes], tuple[int, Item]] = {}
                try:
                    while True:
                        new, left = [*left, *islice(waiting, AHEAD * self.number - len(pending) - len(left))], []
                        for number, item in new:
                            pending[executor.submit(_do, pickled(item))] = number, item
                        if not pending:
                            return
                        for future in wait(pending, return_when=FIRST_COMPLETED).done:
                            number, _ = pending[future]
                            found = cloudpickle.loads(future.result())
                            del pending[future]
                            deaths = 0
                            yield number, found
                except BrokenProcessPool as error:
                    deaths += 1
                    if deaths > TRIES:
                        raise EquispikeError(
                            f"workers: {deaths} died one after another before anything was done, as they do where "
                            f"memory runs out. Use fewer than {self.number}"
                        ) from error
                    left = list(pending.values())
                finally:
                    executor.shutdown(wait=False, kill_workers=True)


@checked_fields
@dataclass(frozen=True)
class Ray:
    """A Ray cluster (https://docs.ray.io), or Ray on this machine alone. Needs the extra ``ray``.

    equispike has to be installed on every machine, and what the images are read from has to be there too.

    Fields:
        address: "auto" for the cluster that this machine belongs to, "ray://HOST:10001" for another one; None for a
            cluster of this machine alone, which ends with the work.
        threads: CPUs for each piece of work.
    """

    address: str | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        _at_least_one(self, "threads")

    def map(self, work: Callable[[Item], Done], items: Iterable[Item]) -> Iterator[tuple[int, Done]]:
        """See ``Workers.map``. The work lies in Ray's object store once; pieces that are lost are done again."""
        with _connected(self.address) as ray:
            place = ray.put(pickled(work))
            do = ray.remote(num_cpus=self.threads, max_retries=-1)(_fetch_and_do)
            waiting = enumerate(items)
            pending: dict[Future[Any], int] = {}
            while True:
                room = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)) // self.threads) - len(pending)
                for number, item in islice(waiting, max(room, 0)):
                    pending[do.remote([place], self.threads, pickled(item)).future()] = number
                if not pending:
                    return
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    number = pending.pop(future)
                    yield number, cloudpickle.loads(_result(ray, future))


class _Pickler(cloudpickle.Pickler):
    """Sends of a tensor that is a part of a larger one that part alone: torch would send all that it is a part of."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is Tensor and obj.layout == torch.strided and obj.untyped_storage().nbytes() > obj.nbytes:
            return obj.clone().__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return super().reducer_override(obj)


def pickled(x: object) -> bytes:
    """Bytes from which another process makes the same object with ``cloudpickle.loads``."""
    file = io.BytesIO()
    _Pickler(file).dump(x)
    return file.getvalue()


_held: dict[str, Callable[[Any], Any]] = {}
"""The work of a worker's process, by where it came from."""


@contextmanager
def _written(data: bytes) -> Generator[str]:
    """The path of a file with these bytes, which is there as long as the context lasts.

    loky would send them through a pipe that nobody empties before a process has started: it waits for each in turn, and
    for ever for one that dies as it starts.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(NamedTemporaryFile(prefix="equispike-"))
            file.write(data)
            file.flush()
        except OSError as error:
            raise EquispikeError(
                f"workers: no temporary file can be written: {error.strerror}. Free some space, or set TMPDIR"
            ) from error
        yield file.name


def _begin(path: str, threads: int, parent: int) -> None:
    Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    _held["work"] = cloudpickle.loads(Path(path).read_bytes())


def _end_with(parent: int) -> None:
    """End this process once the one that started it has ended: killed, it could not tell."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _do(item: bytes) -> bytes:
    return pickled(_held["work"](cloudpickle.loads(item)))


def _fetch_and_do(places: list[Any], threads: int, item: bytes) -> bytes:
    """The same in a process of Ray's, which keeps the last work that it was given."""
    key = places[0].hex()
    if key not in _held:
        torch.set_num_threads(threads)
        _held.clear()
        _held[key] = cloudpickle.loads(extra("ray", "ray", "clusters").get(places[0]))
    return pickled(_held[key](cloudpickle.loads(item)))


@contextmanager
def _connected(address: str | None) -> Generator[Any]:
    """Ray, connected; a connection that was there before stays."""
    ray = extra("ray", "ray", "clusters")
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {} if address else {"include_dashboard": False, "num_cpus": len(os.sched_getaffinity(0))}
    try:
        if address and address != "auto":  # where nobody listens, Ray asks again for minutes
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address or "local", log_to_driver=False, logging_level="error", **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise EquispikeError(
            f"cluster {address or 'on this machine'}: cannot be reached: {one_line(error, 100)}. Start one with 'ray "
            "start --head', or name its address"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _result(ray: Any, future: Future[Any]) -> bytes:
    """The result of a piece; an error as it was raised there."""
    try:
        return future.result()
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise EquispikeError(f"cluster: {str(error).splitlines()[0]}") from error


def _at_least_one(workers: Processes | Ray, *fields: str) -> None:
    for name in fields:
        value = getattr(workers, name)
        if value is not None and value < 1:
            raise EquispikeError(f"{type(workers).__name__}.{name}: {value}. Give a whole number from 1 on")
