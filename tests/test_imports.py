"""Who imports whom, and that importing the package stays cheap."""

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

import equispike

PACKAGE = Path(equispike.__file__).parent
LAYERS = (
    {"errors", "progress", "provenance"},
    {"arguments"},
    {"functional", "shown", "workers"},
    {"batches"},
    {"nn"},
    {"graph"},
    {"simulation"},
    {"calibrate", "analysis", "files"},
    {"zoo", "conversion", "results"},
    {"diagnosis", "checking", "sweep"},
    {"report"},
    {"cli"},
    {"__main__"},
)
"""Folders and modules from the bottom up: imports go to lower layers. Those of one layer do not see each other."""

LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def area(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The areas of equispike that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "equispike":
            found |= {f"equispike.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name.split(".")[1] for name in found if name.startswith("equispike.")}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_modules_import_from_lower_levels_or_their_own_folder(path: Path) -> None:
    own = area(path)
    assert own in LEVELS, f"{own}: give it a level"
    upward = {other for other in imported(path) - {own} if LEVELS.get(other, 99) >= LEVELS[own]}
    assert upward == set()


def test_imports_are_seen() -> None:
    assert imported(Path("conversion.py")) >= {"graph", "calibrate", "errors"}


def test_functional_imports_no_packages_but_torch() -> None:
    for path in MODULES:
        if area(path) == "functional":
            tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
            names = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
            names |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
            roots = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
            assert roots <= {"torch", "equispike"}


IMPORTED_AS = {"pillow": "PIL"}
"""Packages whose name is not that of what is imported."""


def named(requirements: Sequence[str]) -> set[str]:
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in requirements}
    return {IMPORTED_AS.get(name, name) for name in names}


def test_packages_are_declared_if_and_only_if_they_are_imported() -> None:
    """Those of extras are imported by name when they are needed, but for triton, which comes with torch for GPUs."""
    found: set[str] = set()
    for path in [*MODULES, Path("__init__.py")]:
        for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    source = PACKAGE.parent / "pyproject.toml"
    if not source.is_file():
        pytest.skip("installed without its sources")
    declared = named(tomllib.loads(source.read_text(encoding="utf-8"))["project"]["dependencies"])
    assert found - set(sys.stdlib_module_names) - {"equispike", "triton"} == declared


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["equispike", "equispike.errors", "equispike.progress", "equispike.files.hdf5"])
def test_importing_what_needs_no_torch_does_not_import_it(name: str) -> None:
    assert run(f"import sys, {name}; print('torch' in sys.modules)") == "False\n"


def test_every_public_name_resolves() -> None:
    names = dir(equispike)
    assert {"convert", "simulate", "check", "save", "load", "SpikeNorm", "Poisson", "Network"} <= set(names)
    assert all(callable(getattr(equispike, name)) for name in names)
    assert all(getattr(equispike, name).__name__ == name for name in names if name != "accuracy")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'convrt'"):
        equispike.convrt  # noqa: B018


def test_public_names_stay_callable_whatever_is_imported_first() -> None:
    """A module of the package that is imported must not take the place of a function of the same name."""
    modules = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in MODULES}
    assert {name for name in dir(equispike) if name in modules} == set()
    orders = itertools.islice(
        itertools.permutations(["SpikeNorm", "simulate", "convert", "accuracy", "load"]), 0, 120, 60
    )
    for order in orders:
        code = f"import equispike as es; first = [getattr(es, n) for n in {order}]; "
        code += f"assert all(callable(x) and x is getattr(es, n) for x, n in zip(first, {order})); "
        code += "assert all(callable(getattr(es, n)) for n in dir(es))"
        run(code)


def test_type_checkers_see_the_names_that_exist() -> None:
    """The imports for type checkers and the table of lazy names list the same."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    pairs = {(n.names[0].name, n.module) for n in ast.walk(blocks[0]) if isinstance(n, ast.ImportFrom)}
    assert pairs == {(name, f"equispike.{module}") for name, module in equispike._HOME.items()}


def test_an_extra_is_named_where_it_is_asked_for() -> None:
    """``extra(module, name, files)`` tells users to install equispike[name], which has to exist."""
    extras = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    sources = [path.read_text() for path in PACKAGE.rglob("*.py")]
    asked = {name for source in sources for name in re.findall(r"extra\(\"\w+\", \"(\w+)\"", source)}
    assert asked
    assert asked <= set(extras)
    parts = re.findall(r"equispike\[([\w,]+)\]", " ".join(itertools.chain(*extras.values())))
    assert {one for part in parts for one in part.split(",")} <= set(extras)


def test_what_archives_leave_out_is_named_from_the_root() -> None:
    """A name alone is left out at any depth: once, with the folder weights, that of the package went too."""
    build = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["scikit-build"]
    patterns = [*build["sdist"]["exclude"], *build["wheel"]["exclude"]]
    assert patterns
    assert all("/" in pattern.rstrip("/") for pattern in patterns)
