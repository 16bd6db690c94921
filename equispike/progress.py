"""Progress of long work: code that iterates tells it with ``track``; whoever owns the terminal decides what is shown.

Nobody need ask for it: on a terminal or in a notebook, one line shows all work that takes longer than two seconds, and
is gone when the work is done. ``with reporting(silent):`` switches it off; any other function that is called like
``silent`` hears of it instead.
"""

import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TextIO, TypeVar

Reporter = Callable[[str, int, int], None]
"""Called with a label, the number of items done, and their total (0 where it is not known)."""

SHOWN_AFTER = 2.0
"""Seconds before work is worth a line."""

T = TypeVar("T")
_reporter: ContextVar[Reporter | None] = ContextVar("reporter", default=None)
_inside: ContextVar[bool] = ContextVar("inside", default=False)


def track(items: Iterable[T], label: str, total: int, alone: bool = False) -> Iterator[T]:
    """The items, reporting before the first and after each.

    Args:
        alone: say nothing inside of other work that reports.
    """
    report = _reporter.get() or _line()
    if report is None or (alone and _inside.get()):
        yield from items
        return
    before = _inside.get()
    _inside.set(True)
    try:
        report(label, 0, total)
        for done, item in enumerate(items, start=1):
            yield item
            report(label, done, total)
    finally:
        _inside.set(before)
        if isinstance(report, Line):
            report.end(label)


@contextmanager
def reporting(reporter: Reporter) -> Generator[None]:
    """Let ``reporter`` hear of the progress of everything run inside."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


def silent(label: str, done: int, total: int, text: str = "") -> None:
    """A reporter that shows nothing."""


class Line:
    r"""A reporter that keeps one line, on a terminal or in a notebook.

    Args:
        stream: to write to.
        clock: seconds.

    >>> import io
    >>> times, written = iter([0.0, 1.0, 4.0, 8.0]), io.StringIO()
    >>> line = Line(written, lambda: next(times))
    >>> for done in range(4): line("counting", done, 4)
    >>> written.getvalue().split("\r")
    ['', 'counting: 50 %, 4 s left', 'counting: 75 %, 3 s left']
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.clock, self.wide = stream, clock, 0
        self.running: dict[str, tuple[float, str]] = {}

    def __call__(self, label: str, done: int, total: int) -> None:
        """See ``Reporter``."""
        now = self.clock()
        began = now if not done else self.running.get(label, (now, ""))[0]
        self.running[label] = began, f"{label}: {_so_far(done, total, now - began)}"
        self._show(now)

    def end(self, label: str) -> None:
        """Forget this work: it is done, or was broken off."""
        self.running.pop(label, None)
        self._show(self.clock())

    def _show(self, now: float) -> None:
        text = (", ".join(text for since, text in self.running.values() if now - since >= SHOWN_AFTER))[:100]
        if text or self.wide:
            self.stream.write(f"\r{text.ljust(self.wide)}" + ("" if text else "\r"))
            self.stream.flush()
        self.wide = len(text)


def _so_far(done: int, total: int, seconds: float) -> str:
    if not total or not done:
        return f"{done} done"
    return f"{100 * done // total} %, {seconds * (total - done) / done:.0f} s left"


@cache
def _shown() -> Line:
    return Line(sys.stderr)


def _line() -> Line | None:
    """The line of this terminal or notebook; None where output goes to a file or nobody."""
    stream = sys.stderr
    if stream is None or not ("ipykernel" in sys.modules or stream.isatty()):
        return None
    line = _shown()
    line.stream = stream
    return line
