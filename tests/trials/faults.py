"""Small faults in the source: a comparison, sum, product, number or choice turned into another one."""

import ast
import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
FOLDERS = "functional", "calibrate", "simulation"

COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
SUMS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
CHOICES = {ast.And: ast.Or, ast.Or: ast.And}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor"}


class Mutant(NamedTuple):
    """A fault: the module and line of its statement, a sentence that tells it, and how to make it."""

    module: str
    line: int
    told: str
    tree: ast.Module
    parent: ast.AST
    field: str
    number: int | None
    other: ast.AST

    @contextlib.contextmanager
    def made(self) -> Iterator[ast.Module]:
        """The module's tree with the fault, as long as the context lasts."""
        node = put(self.parent, self.field, self.number, self.other)
        try:
            yield ast.fix_missing_locations(self.tree)
        finally:
            put(self.parent, self.field, self.number, node)


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


def places(tree: ast.AST, line: int) -> Iterator[tuple[ast.AST, str, int | None, int]]:
    """Where expressions stand that compute: parent, field, number in a list, and line of the statement.

    Not in messages, types or defaults.
    """
    if isinstance(tree, ast.Raise | ast.JoinedStr | ast.AnnAssign | ast.Assert | ast.ImportFrom | ast.arguments):
        return
    line = tree.lineno if isinstance(tree, ast.stmt) else line
    for field, value in ast.iter_fields(tree):
        if field in ("returns", "annotation", "decorator_list", "slice"):
            continue
        for number, item in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(item, ast.AST):
                yield tree, field, number, line
                yield from places(item, line)


def put(parent: ast.AST, field: str, number: int | None, node: ast.AST) -> ast.AST:
    """Put a node in another one's place; the other one."""
    if number is None:
        before = getattr(parent, field)
        setattr(parent, field, node)
    else:
        before = getattr(parent, field)[number]
        getattr(parent, field)[number] = node
    return before


def modules() -> Iterator[tuple[str, str]]:
    """Modules of the three folders, with their source; not the GPU's, which few machines test."""
    for folder in FOLDERS:
        for path in sorted((ROOT / "equispike" / folder).glob("*.py")):
            yield f"{folder}/{path.stem}", path.read_text(encoding="utf-8")


def mutants() -> Iterator[Mutant]:
    """Every mutant."""
    for module, source in modules():
        tree = ast.parse(source)
        told: set[str] = set()
        for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
            for parent, field, number, line in list(places(function, function.lineno)):
                node = getattr(parent, field) if number is None else getattr(parent, field)[number]
                for other in faults(node):
                    ast.copy_location(other, node)
                    change = f"{ast.unparse(node)} -> {ast.unparse(other)}"
                    name = f"{module}.py, {function.name}, line {getattr(node, 'lineno', line)}: {change}"
                    if name not in told:
                        yield Mutant(module, line, name, tree, parent, field, number, other)
                    told.add(name)
