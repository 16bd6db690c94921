"""Compile the GPU's kernels for several chips, which needs none of them, and print the shared memory of each as JSON.

A process of its own: where there is no GPU, the tests' kernels are interpreted.
"""

import json
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from equispike.simulation.gpu import kernels as gpu_kernels
from equispike.simulation.gpu import layers as gpu

POINTERS = {
    **dict.fromkeys(["source", "spikes", "plus", "minus"], "*i8"),
    **dict.fromkeys(["units", "base", "tap_weights", "thresholds", "v"], "*fp32"),
    **dict.fromkeys(["where", "tapped", "arrived", "counts", "fired", "windows"], "*i32"),
    **dict.fromkeys(["taps", "limits", "numbers"], "*i64"),
    "digits": "*i8",
}


def compiled(kernel: Any, chip: int, out: str, constants: dict[str, Any], warps: int = 4, stages: int = 3) -> int:
    names = kernel.arg_names
    types = {name: POINTERS.get(name, "i32") for name in names} | {"out": out} | dict.fromkeys(constants, "constexpr")
    types = {name: types[name] for name in names}
    aligned: Any = {(n,): [["tt.divisibility", 16]] for n, name in enumerate(names) if types[name].startswith("*")}
    given: Any = {(names.index(name),): value for name, value in constants.items()}
    options = {"num_warps": warps, "num_stages": stages}
    source = ASTSource(kernel, types, given, aligned)
    return triton.compile(source, target=GPUTarget("cuda", chip, 32), options=options).metadata.shared


def products(chip: int, channels: int, digits: int, flag: bool) -> dict[str, int]:
    tiles = gpu.tiles(channels, digits)
    sizes = {"inputs": channels, "depth": max(channels, tiles.deep), "count": digits}
    sizes |= {"rows": tiles.rows, "cols": tiles.cols, "deep": tiles.deep}
    shape = tiles.warps, tiles.stages
    flags = {"based": flag, "tap": flag, "hard": flag}
    return {
        f"fire {channels}x{digits}": compiled(gpu_kernels.fire, chip, "*i8", flags | sizes, *shape),
        f"sums {channels}x{digits}": compiled(gpu_kernels.sums, chip, "*i32", {"add": flag} | sizes, *shape),
    }


def main() -> None:
    found: dict[int, dict[str, int]] = {}
    for chip in (89, 90):
        found[chip] = {
            name: compiled(getattr(gpu_kernels, name), chip, "*i8", {"block": gpu.PROGRAM})
            for name in ("pool", "tally", "draw")
        }
        for fires in (True, False):
            flags = {"gathers": True, "tap": True, "fires": fires, "hard": not fires, "block": gpu.PROGRAM}
            found[chip][f"integrate {fires}"] = compiled(
                gpu_kernels.integrate, chip, "*i8" if fires else "*fp32", flags
            )
        for n, (channels, digits) in enumerate([(16, 4), (48, 1), (256, 4)]):
            found[chip] |= products(chip, channels, digits, flag=n % 2 == 0)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
