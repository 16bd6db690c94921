"""Killed or stopped at any moment, a command that is run again ends in the files of an undisturbed one.

``python tests/trials/kills.py --tries 200 --seed 0`` runs each command once undisturbed. Then it kills commands
(SIGKILL) or stops them (SIGINT, SIGTERM) after a random time, looks for half files, and runs them again to the end.
What was stopped ends with 130 or 143 and in one line that says how to go on.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from commands import COMMANDS, finish, fresh, prepared, results, start
from shared import Attempt, draws, script

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def disturbed(line: list[str], folder: Path, after: float, by: signal.Signals) -> int:
    """Send a command a signal after some seconds; how it ended: -9, or its exit code."""
    ours, theirs = os.pipe()
    pid = start(line, folder, lambda: os.close(theirs))
    os.close(theirs)
    os.read(ours, 1)  # returns when the fork is ready
    os.close(ours)
    time.sleep(after)
    os.kill(pid, by)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def judged(line: list[str], folder: Path, by: signal.Signals, code: int, whole: dict[str, object]) -> str:
    """Say what is wrong after a command was disturbed, and after it was run again; empty for nothing."""
    said = (folder / "said").read_text().splitlines()
    if code not in (0, -by, CODES.get(by)):
        return f"ended with {code}: {said}"
    *warnings, last = said or [""]
    if by in CODES and code and ("again" not in last or not all(": warning: " in line for line in warnings)):
        return f"said {said}"
    for name, found in results(folder).items():  # ValueError or FileError: half a file
        finished = not name.endswith((".training", ".jsonl", ".sqlite", ".csv"))
        if finished and found != whole[name]:
            return f"{name} was there, and is another one"
    finish(line, folder)
    if results(folder) != whole:
        return f"run again, it made other files: {sorted(results(folder))} for {sorted(whole)}"
    return ""


def disturbances(given: Path, tries: int, seed: int, names: tuple[str, ...] = tuple(COMMANDS)) -> Iterator[Attempt]:
    """Disturb so many commands, which find what a folder holds."""
    folder = given.with_name("tried")
    seconds: dict[str, float] = {}
    whole: dict[str, dict[str, object]] = {}
    for number in range(tries):
        draw = draws(seed, number)
        command = draw.choice(names)
        line = COMMANDS[command]
        if command not in seconds:
            seconds[command] = finish(line, fresh(given, folder))
            whole[command] = results(folder)
        by = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
        after = draw.uniform(0.002, seconds[command])
        code = disturbed(line, fresh(given, folder), after, by)
        try:
            wrong = judged(line, folder, by, code, whole[command])
        except (ValueError, RuntimeError) as error:
            wrong = f"{type(error).__name__}: {error}"
        what = f"number {number}: {command}, {by.name} after {after:.3f} s"
        ended = "done before" if code == 0 else "stopped" if by in CODES else "killed"
        yield Attempt(what, wrong or ended, not wrong)


def run(tries: int, seed: int) -> Iterator[Attempt]:
    """Disturb so many commands."""
    with prepared() as given:
        yield from disturbances(given, tries, seed)


if __name__ == "__main__":
    script(__name__, "commands disturbed", 200, run)
