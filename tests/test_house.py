"""Rules of the house: how much there is in a room, and that one name means one thing."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

import equispike

PACKAGE = Path(equispike.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}

MOST_MODULES, MOST_LINES = 12, 400


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_folder_has_more_than_twelve_modules() -> None:
    """Not counted: what makes a folder a package, or a command."""
    modules = Counter(path.parent for path in MODULES if path.stem not in ("__init__", "__main__"))
    assert {folder: n for folder, n in modules.items() if n > MOST_MODULES} == {}


def test_no_module_has_more_than_four_hundred_lines() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}


def test_every_module_says_what_it_is() -> None:
    assert [name_of(path) for path, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_no_two_modules_import_each_other_by_any_way() -> None:
    """Imports at the top of a module; those inside functions are there to be late."""
    known = {name_of(path): path for path in MODULES}
    imports: dict[str, set[str]] = {}
    for name, path in known.items():
        found: set[str] = set()
        for node in TREES[path].body:
            if isinstance(node, ast.ImportFrom) and node.module:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {name if name in known else node.module for name in names}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        imports[name] = found & set(known) - {name}
    below: dict[str, set[str]] = {}
    while ready := [name for name in imports if name not in below and imports[name] <= set(below)]:
        below |= {name: imports[name] for name in ready}
    assert sorted(set(imports) - set(below)) == []


FIXED = {"RateNorm", "load"}
"""Names of two things that are both in the reference: the method and the layer, a network and a data set."""


def public_names(tree: ast.Module) -> set[str]:
    """Functions, classes, constants and types that a module defines."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {own.id for target in targets for own in ast.walk(target) if isinstance(own, ast.Name)}
    return {name for name in found if not name.startswith("_")}


def test_one_name_means_one_thing() -> None:
    counts = Counter(name for tree in TREES.values() for name in public_names(tree))
    assert {name for name, n in counts.items() if n > 1} == FIXED


QUESTIONS = re.compile(r"(What|Whether|How|Of|That|Those|If|In)\b")
SCRIPTS = sorted(path for name in ("experiments", "benchmarks") for path in (PACKAGE.parent / name).glob("*.py"))


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=lambda path: path.stem)
def test_docstrings_begin_with_a_verb_or_name_the_thing(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    found = [(n, ast.get_docstring(n) or "") for n in ast.walk(tree) if isinstance(n, kinds)]
    assert [getattr(node, "name", path.stem) for node, text in found if QUESTIONS.match(text)] == []


OPERATIONS = {
    *("Input", "Conv", "Linear", "Sparse", "AvgPool", "MaxPool", "WinnerPool", "LeakyReLU", "Affine", "Flatten", "Pad"),
    *("Add", "Concat", "Neuron", "Readout", "Weighted", "Weights", "Sum", "Move"),
}
TAKE_APART = {"equispike.graph.ops", "equispike.graph.walk", "equispike.simulation.currents"}
"""Modules that may tell all operations apart, beside the folder of files: what an operation is, how values pass it, and
how spikes do."""


def _name(expression: ast.AST) -> str:
    return str(getattr(expression, "id", getattr(expression, "attr", "")))


def told_apart(function: ast.FunctionDef) -> int:
    """Conditions of a function that ask for kinds of operations."""

    def asks(condition: ast.expr) -> bool:
        calls = [
            n for n in ast.walk(condition) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "isinstance"
        ]
        return any(_name(kind) in OPERATIONS for call in calls for kind in ast.walk(call.args[1]))

    return sum(asks(node.test) for node in ast.walk(function) if isinstance(node, ast.If | ast.IfExp))


def test_operations_are_told_apart_in_few_places() -> None:
    ladders = {
        f"{name_of(path)}.{node.name}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and told_apart(node) > 5
        if name_of(path) not in TAKE_APART and "files" not in path.parts
    }
    assert ladders == set()
