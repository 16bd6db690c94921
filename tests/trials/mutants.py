"""Tests that cannot fail are none: small faults in functional, calibrate and simulation are to be found by their tests.

``python tests/trials/mutants.py --tries 200 --seed 0`` draws places in the source, turns a comparison, sum, product,
number or choice at each into another one, and runs the test files of that module on a copy of the package, until one
fails. A mutant that passes them all has survived, and is printed: a test is missing there, or the two programs are one.
A script fails if a mutant survives that is not in SAME, the list of those that were read.
"""

import ast
import contextlib
import copy
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis  # noqa: F401  loaded here, so that each fork has it
import pytest
import torch
from shared import Attempt, draws, script

ROOT = Path(__file__).parent.parent.parent
SECONDS = 240
"""Processor time for the tests of a mutant; one that computes for longer has been noticed."""
TESTS = {
    "functional/integrate": "integrate simulate",
    "functional/coding": "coding simulate frames",
    "functional/inputs": "inputs",
    "functional/numeric": "quantize exact events",
    "functional/rate": "rate rate_norm",
    "functional/statistics": "statistics calibrate",
    "calibrate/choice": "corrections convert",
    "calibrate/corrections": "corrections",
    "calibrate/data_norm": "calibrate statistics",
    "calibrate/layers": "calibrate corrections",
    "calibrate/method": "calibrate rate_norm",
    "calibrate/rate_norm": "rate_norm calibrate",
    "calibrate/rmp": "calibrate events_calibration",
    "calibrate/scores": "corrections",
    "calibrate/spike_norm": "calibrate events_calibration",
    "simulation/state": "simulate spiking recording",
    "simulation/stop": "early_exit",
    "simulation/stepwise": "simulate spiking",
    "simulation/layerwise": "simulate frames",
    "simulation/trains": "events recording",
    "simulation/currents": "simulate events",
    "simulation/run": "simulate recording arguments",
}
"""Modules, and the files among the tests that hold them."""
SAME: frozenset[str] = frozenset()
"""Mutants that were read, and compute the same."""

COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
SUMS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
CHOICES = {ast.And: ast.Or, ast.Or: ast.And}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor"}


def faults(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in a node's place."""
    other = copy.deepcopy(node)
    match other:
        case ast.Compare(ops=[op]) if type(op) in COMPARISONS:
            other.ops = [COMPARISONS[type(op)]()]
        case ast.BinOp(op=op, left=left) if type(op) in SUMS and not isinstance(left, ast.Constant | ast.JoinedStr):
            other.op = SUMS[type(op)]()
        case ast.BoolOp(op=op):
            other.op = CHOICES[type(op)]()
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            other = other.operand
        case ast.Constant(value=bool(value)):
            other.value = not value
        case ast.Constant(value=int(value) | float(value)):
            other.value = value + 1
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in CALLS:
            setattr(other, "id" if isinstance(other, ast.Name) else "attr", CALLS[name])
        case ast.IfExp(body=body):
            other = body
        case _:
            return
    yield other


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Where expressions stand that compute: parent, field, and number in a list; not in messages, types or defaults."""
    if isinstance(tree, ast.Raise | ast.JoinedStr | ast.AnnAssign | ast.Assert | ast.ImportFrom | ast.arguments):
        return
    for field, value in ast.iter_fields(tree):
        if field in ("returns", "annotation", "decorator_list", "slice"):
            continue
        for number, item in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(item, ast.AST):
                yield tree, field, number
                yield from places(item)


def put(parent: ast.AST, field: str, number: int | None, node: ast.AST) -> None:
    if number is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[number] = node


def mutants(module: str) -> list[tuple[str, str]]:
    """Every mutant of a module: a line that tells it, and its source."""
    tree = ast.parse((ROOT / "equispike" / f"{module}.py").read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    found: dict[str, str] = {}
    for function in functions:
        for parent, field, number in list(places(function)):
            whole = getattr(parent, field)
            node = whole if number is None else whole[number]
            for other in faults(node):
                before, after = ast.unparse(node), ast.unparse(other)
                put(parent, field, number, ast.copy_location(other, node))
                line = f"{module}.py, {function.name}, line {getattr(node, 'lineno', 0)}: {before} -> {after}"
                found.setdefault(line, ast.unparse(ast.fix_missing_locations(tree)))
                put(parent, field, number, node)
    return list(found.items())


def survives(module: str, source: str, folder: Path) -> bool:
    """Run the tests of a module in a fork, with this source in its place."""
    path = folder / "equispike" / f"{module}.py"
    whole = path.read_text(encoding="utf-8")
    path.write_text(source, encoding="utf-8")
    try:
        pid = os.fork()
        if not pid:
            code = 99
            try:
                resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
                os.chdir(folder)
                sys.path[:] = [str(folder), str(folder / "tests"), *sys.path[1:]]
                sys.dont_write_bytecode = True
                names = [f"tests/test_{name}.py" for name in TESTS[module].split()]
                with open(os.devnull, "w") as nowhere:
                    os.dup2(nowhere.fileno(), 1)
                    os.dup2(nowhere.fileno(), 2)
                    with contextlib.suppress(SystemExit):
                        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *names]))
            finally:
                os._exit(code)
        return os.waitpid(pid, 0)[1] == 0
    finally:
        path.write_text(whole, encoding="utf-8")


def run(tries: int, seed: int) -> Iterator[Attempt]:
    """Test so many mutants, drawn from all modules alike."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("equispike", "tests"):
            shutil.copytree(
                ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "weights", "trials")
            )
        shutil.copytree(ROOT / "equispike/zoo/weights", folder / "equispike/zoo/weights")
        shutil.copy(ROOT / "pyproject.toml", folder)
        sound: set[str] = set()
        for number in range(tries):
            draw = draws(seed, number)
            module = draw.choice(sorted(TESTS))
            line, source = draw.choice(mutants(module))
            if module not in sound:
                assert survives(module, (ROOT / "equispike" / f"{module}.py").read_text(), folder), module
                sound.add(module)
            lives = survives(module, source, folder)
            yield Attempt(line, "survived" if lives else "found", not lives or line in SAME)


if __name__ == "__main__":
    script(__name__, "mutants", 200, run)
