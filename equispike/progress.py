"""How far long work is: code that iterates says so with ``track``; whoever owns the terminal decides what is shown."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Reporter = Callable[[str, int, int], None]
"""Called with a label, the number of items done, and their total."""

T = TypeVar("T")
_reporter: ContextVar[Reporter | None] = ContextVar("reporter", default=None)


def track(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """The items, reporting before the first and after each."""
    report = _reporter.get()
    if report is None:
        yield from items
        return
    report(label, 0, total)
    for done, item in enumerate(items, start=1):
        yield item
        report(label, done, total)


@contextmanager
def reporting(reporter: Reporter) -> Generator[None]:
    """Let ``reporter`` hear of the progress of everything run inside."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)
