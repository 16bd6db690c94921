"""Tests that cannot fail are none: small faults in functional, calibrate and simulation are to be found by the tests.

``python tests/trials/mutants.py --tries 200 --seed 0 --kept mutants.jsonl`` draws places in the source, and turns a
comparison, sum, product, number or choice at each into another one. Once, all tests run on a copy of the package that
notes which statements each test reaches. For a mutant those that reach its statement run, the cheapest first,
until one fails. A mutant that passes all of them has survived, and is printed: a test is missing there, or the two
programs are one. A script fails if a mutant survives that is not in ``mutants.txt``, the list of those that were read.

What was found stands in the file ``--kept``, for one state of the source; a second call goes on, and tries those that
survived again. Tests of a mutant run in a fork that has collected them, and there its code takes the place of the sound
one, so that a mutant takes no longer than its tests. What tests compute as they are collected is sound.
"""

import argparse
import ast
import builtins
import contextlib
import gc
import hashlib
import inspect
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import NamedTuple

import hypothesis
import pytest
import torch
from faults import ROOT, Mutant, modules, mutants
from shared import Attempt, tell

FILES = (
    "analysis arguments batches calibrate check coding convert corrections early_exit events events_calibration exact "
    "fit frames inputs integrate levels linear max_pool network nn operations quantize rate rate_inference "
    "rate_norm recording residual simulate spiking standardise statistics values"
)
"""The files among the tests that run."""
PATIENCE = 20.0
"""Seconds that the tests of a mutant may take on the sound program; dearer ones are left out."""
ROOM = 16 * 2**30
"""Bytes of addresses for a mutant."""
READ = frozenset(
    line.partition("  #")[0] for line in Path(__file__).with_suffix(".txt").read_text().splitlines() if "  #" in line
)
"""Mutants that were read, and are no faults; why stands behind each."""


class Cost(NamedTuple):
    """A test, its seconds of processor time, and the statements that it reaches, by module and line."""

    test: str
    seconds: float
    reached: list[str]


class Noting(ast.NodeTransformer):
    """Puts a note before each statement of a module's functions."""

    def __init__(self, module: str) -> None:
        self.module = module

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self._block(node)
        return node

    def _block(self, node: ast.AST) -> None:
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            block = getattr(node, field, None)
            if not isinstance(block, list):
                continue
            for inner in block:
                self._block(inner)
            if block and isinstance(block[0], ast.stmt):
                noted = [(ast.parse(f"_reached.add('{self.module} {one.lineno}')").body[0], one) for one in block]
                setattr(node, field, [part for pair in noted for part in pair])


def noting(module: str, source: str) -> str:
    """The source of a module whose statements note that they were reached, in ``builtins._reached``."""
    tree = Noting(module).visit(ast.parse(source))
    head = "import builtins\n_reached = builtins.__dict__.setdefault('_reached', set())\n"
    body = ast.unparse(ast.fix_missing_locations(tree))
    assert "from __future__" not in body, module
    return head + body


class Watch:
    """Notes the cost of each test, and what it reaches when nothing is remembered (a plugin of pytest)."""

    def __init__(self, path: Path) -> None:
        self.costs: list[Cost] = []
        self.path = path

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        reached: set[str] = builtins.__dict__.setdefault("_reached", set())
        reached.clear()
        for module in [module for name, module in sys.modules.items() if name.startswith("equispike.")]:
            for function in [one for one in vars(module).values() if hasattr(one, "cache_clear")]:
                function.cache_clear()
        began = time.process_time()
        found = yield
        seconds = round(time.process_time() - began, 3)
        self.costs.append(Cost(item.nodeid, seconds, sorted(reached)))
        return found

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus == 0:
            self.path.write_text(json.dumps(self.costs))


class Trial:
    """Collects all tests, and then tries mutants, each in a fork with their tests (a plugin of pytest)."""

    def __init__(self, drawn: list[Mutant], known: list[Cost], kept: Path, minutes: float) -> None:
        self.drawn, self.known, self.kept, self.minutes = drawn, known, kept, minutes
        self.forked = False

    def pytest_sessionstart(self) -> None:
        """No smaller failing examples are looked for."""
        phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
        hypothesis.settings.register_profile("brief", hypothesis.settings.get_profile("fixed"), phases=phases)
        hypothesis.settings.load_profile("brief")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items, before = {item.nodeid: item for item in session.items}, earlier(self.kept)
        self.known = [cost for cost in self.known if cost.test in items]
        print(f"{len(self.known):,} tests of {len(items):,}", file=sys.__stdout__, flush=True)
        if not before and (wrong := self.end(affordable(self.known), items, None)) != "survived":
            raise RuntimeError(f"without a fault, the cheapest tests end as if one was {wrong}")
        until = time.monotonic() + 60 * self.minutes
        for mutant in self.drawn:
            if not before.get(mutant.told, "").startswith(("found", "no mutant")) and time.monotonic() < until:
                concerned = [cost for cost in self.known if f"{mutant.module} {mutant.line}" in cost.reached]
                tests = affordable(concerned)
                end = self.end(tests, items, mutant) if tests else "reached by no test"
                if end == "survived" and len(tests) < len(concerned):
                    end = f"survived {len(tests)} of {len(concerned)} tests"
                with self.kept.open("a") as lines:
                    lines.write(json.dumps({"mutant": mutant.told, "end": end}) + "\n")
        return True

    def end(self, tests: list[Cost], items: dict[str, pytest.Item], mutant: Mutant | None) -> str:
        """Run tests in a fork, with a fault: found, found by time (or by the end of the process), or survived."""
        if pid := os.fork():
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            return ENDS.get(code, "found by time")
        self.forked = True
        resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        code = 99
        try:
            if mutant and not infected(mutant):
                code = 98
                return ""
            for cost, following in itertools.zip_longest(tests, tests[1:]):
                # of processor time, whoever computes; it ends the process
                signal.setitimer(signal.ITIMER_PROF, 10 + 5 * cost.seconds)
                nextitem = items[following.test] if following else None
                items[cost.test].ihook.pytest_runtest_protocol(item=items[cost.test], nextitem=nextitem)
            code = 0
        finally:
            os._exit(code)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self.forked and report.failed:
            os._exit(1)


ENDS = {0: "survived", 1: "found by a test", 98: "no mutant: its functions hold other names", 99: "found by an error"}


def infected(mutant: Mutant) -> bool:
    """Give the functions of a module, wherever they are held, the code that they have with the fault, if they can."""
    path = str(ROOT / "equispike" / f"{mutant.module}.py")
    with mutant.made() as tree:
        faulty = codes(compile(tree, path, "exec"))
    for one in gc.get_objects():
        if type(one) is FunctionType and one.__code__.co_filename == path and one.__name__ != "<lambda>":
            other = faulty[place(one.__code__)]
            if other.co_freevars != one.__code__.co_freevars:
                return False
            one.__code__ = other
    return True


def codes(code: CodeType) -> dict[tuple[str, int], CodeType]:
    """All functions in a compiled module, by name and line."""
    inner = [one for one in code.co_consts if isinstance(one, CodeType)]
    return {place(code): code} | {key: found for one in inner for key, found in codes(one).items()}


def place(code: CodeType) -> tuple[str, int]:
    return code.co_qualname, code.co_firstlineno


def earlier(kept: Path) -> dict[str, str]:
    """How mutants ended in calls before."""
    lines = kept.read_text().splitlines() if kept.exists() else []
    return {one["mutant"]: one["end"] for one in map(json.loads, lines)}


def outcome(folder: Path, files: list[str], plugin: object) -> int:
    """Run files of tests in a fork, in a folder with a copy of the package; its exit code, or less than 0: killed."""
    pid = os.fork()
    if not pid:
        code = 99
        try:
            resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))
            os.chdir(folder)
            sys.path[:0] = [str(folder), str(folder / "tests")]
            sys.dont_write_bytecode = True
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
            with contextlib.suppress(SystemExit):
                options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=no"]
                code = int(pytest.main([*options, *files], plugins=[plugin]))
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def copied(folder: Path) -> None:
    """Copy the package and its tests, as they are."""
    leave = shutil.ignore_patterns("__pycache__", "trials")
    for part in ("equispike", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=leave, dirs_exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", folder)


def costs(kept: Path) -> list[Cost]:
    """What each test costs and reaches, the cheapest first: kept in a folder beside the results, or found out."""
    results = kept.with_suffix(".tests")
    results.mkdir(exist_ok=True)
    sources, found = dict(modules()), list[Cost]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copied(folder)
        for module, source in sources.items():
            (folder / f"equispike/{module}.py").write_text(noting(module, source), encoding="utf-8")
        for file in FILES.split():
            tests = (folder / f"tests/test_{file}.py").read_text(encoding="utf-8")
            digest = hashlib.sha256(f"{tests} {sources}".encode()).hexdigest()
            if not (path := results / f"{file}-{digest[:16]}.json").exists():
                code = outcome(folder, [f"tests/test_{file}.py"], Watch(path))
                assert code == 0, f"tests/test_{file}.py ends with {code}, without a fault in the program"
                print(f"tests/test_{file}.py: watched", file=sys.__stdout__, flush=True)
            found += [Cost(*one) for one in json.loads(path.read_text())]
    return sorted(found, key=lambda cost: cost.seconds)


def affordable(tests: list[Cost]) -> list[Cost]:
    """The cheapest tests, for as long as anybody waits for a mutant."""
    totals = itertools.accumulate(cost.seconds for cost in tests)
    return [cost for cost, total in zip(tests, totals, strict=True) if total <= PATIENCE] or tests[:1]


def run(tries: int, seed: int, kept: Path, minutes: float) -> Iterator[Attempt]:
    """Try so many mutants, drawn from all, for so long."""
    torch.set_num_threads(1)
    torch.export.export(torch.nn.Linear(1, 1), (torch.ones(1, 1),))  # loads much, which forks then have
    everyone = list(mutants())
    drawn = random.Random(seed).sample(everyone, min(tries, len(everyone)))
    known = costs(kept)
    print(f"{len(everyone):,} mutants", file=sys.__stdout__, flush=True)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    os.chdir(ROOT)
    files = [f"tests/test_{name}.py" for name in FILES.split()]
    trial = Trial([mutant for mutant in drawn if mutant.told not in READ], known, kept.absolute(), minutes)
    options = ["-o", "addopts=", "-p", "no:terminal", "-p", "no:cacheprovider", "-p", "no:xdist"]
    assert pytest.main([*options, *files], plugins=[trial]) == 0
    ends = earlier(kept) | {mutant.told: "read, and no fault" for mutant in drawn if mutant.told in READ}
    for mutant in drawn:
        if end := ends.get(mutant.told):
            yield Attempt(mutant.told, end, end.startswith(("found", "read", "no mutant")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=inspect.getdoc(sys.modules[__name__]))
    parser.add_argument("--tries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, default=Path("mutants.jsonl"), help="what was found")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no mutant later")
    given = parser.parse_args()
    sys.exit(tell(f"mutants, seed {given.seed}", run(given.tries, given.seed, given.kept, given.minutes)) > 0)
