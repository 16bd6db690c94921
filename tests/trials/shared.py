"""Parts that trials share: their options, one line for each failure, and one with the figures at the end."""

import argparse
import contextlib
import inspect
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import NamedTuple


class Attempt(NamedTuple):
    """One attempt: what was tried, and in a word how it ended well, or at length how it failed."""

    what: str
    end: str
    good: bool = True


def options(module: ModuleType, tries: int) -> argparse.Namespace:
    """The options of a script: how many tries, drawn for which seed."""
    parser = argparse.ArgumentParser(description=inspect.getdoc(module))
    parser.add_argument("--tries", type=int, default=tries)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def tell(what: str, attempts: Iterable[Attempt]) -> int:
    """Print every attempt that failed, and how many were made of each end; return how many failed.

    A keyboard interrupt (or SIGINT) ends the trial with the figures so far.
    """
    ends: Counter[str] = Counter()
    began, failed = time.perf_counter(), 0
    with contextlib.suppress(KeyboardInterrupt):
        for attempt in attempts:
            if not attempt.good:
                failed += 1
                print(f"{attempt.what}: {attempt.end}", file=sys.__stdout__, flush=True)
            ends[attempt.end if attempt.good else "failed"] += 1
    told = "".join(f", {number:,} {end}" for end, number in sorted(ends.items()) if end != "failed")
    total = sum(ends.values())
    print(f"{total:,} {what}, {failed} failed{told}; {time.perf_counter() - began:.0f} s", file=sys.__stdout__)
    return failed


def script(name: str, what: str, tries: int, run: Callable[[int, int], Iterable[Attempt]]) -> None:
    """Run a trial as a script: exit code 1 if any attempt failed."""
    given = options(sys.modules[name], tries)
    sys.exit(tell(f"{what}, seed {given.seed}", run(given.tries, given.seed)) > 0)


def draws(seed: int, number: int) -> random.Random:
    """The random numbers of one attempt, which do not depend on the others."""
    return random.Random(f"{seed} {number}")
