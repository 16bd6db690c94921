"""Files and functions of equispike that one call passes through: a simulation, a conversion, a point of a sweep.

Counted with ``sys.setprofile`` in a second call, when modules are loaded and plans are made only for what is new.
``--show`` lists the files in the order in which they are entered, with their functions: the way to follow by reading.

``python -m benchmarks.passes`` takes the MNIST CNN of the package and 4 images. The numbers do not depend on the
machine, but for the compiled core: without one, a simulation passes through another engine.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import equispike as es
from equispike.sweep import Point, sweep
from equispike.zoo import data, store

PACKAGE = Path(es.__file__).parent
AIMS = {"simulate": 15, "convert": 22, "sweep": 26}
"""Files that each of them should pass through at most."""


def passed(call: Callable[[], object]) -> tuple[dict[str, list[str]], int]:
    """Functions by file, in the order in which they are entered first, and how deep they call each other."""
    found: dict[str, list[str]] = {}
    depth = deepest = 0

    def enter(frame: FrameType, event: str, _: object) -> None:
        nonlocal depth, deepest
        code = frame.f_code
        path = Path(code.co_filename)
        if event not in ("call", "return") or not path.is_relative_to(PACKAGE):
            return
        depth += 1 if event == "call" else -1
        deepest = max(deepest, depth)
        functions = found.setdefault(str(path.relative_to(PACKAGE)), [])
        if code.co_qualname not in functions:
            functions.append(code.co_qualname)

    sys.setprofile(enter)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found, deepest


def calls(folder: Path) -> dict[str, Callable[[], object]]:
    """The calls that are counted, by name."""
    digits = data.load("mnist-sample")
    model, _ = store.load_model("mnist-cnn")
    images = digits.test.take(4).floats()
    method = es.SpikeNorm(timesteps=20)
    network = es.convert(model, images, method=method)
    names = iter(range(100))

    def one_point() -> None:
        file = folder / f"{next(names)}.sqlite"
        sweep(model, digits.train.take(4), digits.test.take(4), [Point(es.DataNorm())], 20, file, "mnist-cnn")

    return {
        "simulate": lambda: es.simulate(network, images, timesteps=20),
        "convert": lambda: es.convert(model, images, method=method),
        "sweep": one_point,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", choices=AIMS, help="list the files and functions of this call")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, call in calls(Path(folder)).items():
            call()
            files, deepest = passed(call)
            count = sum(map(len, files.values()))
            print(f"{name}: {len(files)} files (aim: {AIMS[name]}), {count} functions, {deepest} deep")
            if name == asked.show:
                for file, functions in files.items():
                    print(f"  {file}: {', '.join(functions)}")


if __name__ == "__main__":
    main()
