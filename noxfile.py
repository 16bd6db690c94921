"""The other packages in environments of their own.

`nox -s benchmark -- simulation --network vgg16 --batch 64`: one benchmark beside them. `nox -s nir`: do they read our
NIR files as we mean them? `nox -s nir_versions`: does each version of nir open them? `nox -s compare`: our
conversion beside SpikingJelly's. `nox -s few_steps`: the same at few steps. `nox -s architectures`: do networks of
torchvision and timm convert? `nox -s lowest`, `nox -s latest`: the tests with the oldest and the newest dependencies.
`nox -s wheels`: what is released.
"""

import tomllib
from pathlib import Path

import nox

PEERS = "spikingjelly", "snntorch", "sinabs", "norse"


@nox.session(venv_backend="venv", reuse_venv=True)
def benchmark(session: nox.Session) -> None:
    """Run benchmarks/NAME.py, the first argument, with the others; default: simulation."""
    with_peers(session)
    name, *options = session.posargs or ["simulation"]
    session.run("python", "-m", f"benchmarks.{name}", *options)


@nox.session(venv_backend="venv", reuse_venv=True)
def nir(session: nox.Session) -> None:
    """Load NIR files in SpikingJelly, sinabs and Norse and compare every neuron.

    Arguments go to benchmarks/nir_readers.py.
    """
    with_peers(session)
    session.run("python", "-m", "benchmarks.nir_readers", *session.posargs)


@nox.session(venv_backend="venv", reuse_venv=True)
def compare(session: nox.Session) -> None:
    """Set this package's conversion beside SpikingJelly's; options go to benchmarks/converters.py."""
    with_peers(session)
    session.run("python", "-m", "benchmarks.converters", *session.posargs)


@nox.session(venv_backend="venv", reuse_venv=True)
def few_steps(session: nox.Session) -> None:
    """Set few steps beside SpikingJelly's converter; options go to benchmarks/few_steps.py."""
    with_peers(session)
    session.run("python", "-m", "benchmarks.few_steps", *session.posargs)


@nox.session(venv_backend="venv", reuse_venv=True)
@nox.parametrize("version", ["1.0.4", "1.0.8"])
def nir_versions(session: nox.Session, version: str) -> None:
    """The tests of NIR files with another version of nir."""
    session.install("-c", "constraints.txt", ".[nir]", "pytest", "hypothesis", f"nir=={version}")
    session.run("python", "-m", "pytest", "-q", "tests/test_nir.py")


@nox.session(venv_backend="venv", reuse_venv=True)
def architectures(session: nox.Session) -> None:
    """Read networks of torchvision and timm and compare their scores; arguments go to benchmarks/architectures.py."""
    session.install("-c", "constraints.txt", "-e", ".")
    # without their dependencies, which would replace torch
    session.install("-c", "constraints.txt", "--no-deps", "torchvision", "timm", "pyyaml", "pillow")
    session.run("python", "-m", "benchmarks.architectures", *session.posargs)


@nox.session(venv_backend="venv", reuse_venv=True)
def lowest(session: nox.Session) -> None:
    """The tests with the oldest version of everything that pyproject.toml admits; arguments go to pytest."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    bounds = [*project["dependencies"], *extras["nir"], *extras["onnx"], *extras["pandas"]]
    session.install("-e", ".", *(bound.replace(">=", "==") for bound in bounds), "pytest", "hypothesis")
    session.run("python", "-m", "pytest", "-q", *(session.posargs or ["tests"]))


@nox.session(venv_backend="venv", reuse_venv=True)
def latest(session: nox.Session) -> None:
    """The tests with the newest version of everything, torch too; arguments go to pytest."""
    session.install("--upgrade", "--upgrade-strategy", "eager", "-e", ".[test]")
    session.run("python", "-m", "pytest", "-q", *(session.posargs or ["tests"]))


@nox.session(venv_backend="venv", reuse_venv=True)
def wheels(session: nox.Session) -> None:
    """Into dist/: wheels with the core for this system (Linux: needs Docker), one without it, and the source.

    The one without is installed and evaluates a network that comes with it, from an empty folder.
    """
    session.install("cibuildwheel", "build")
    session.run("python", "-m", "build", "--outdir", "dist", "--sdist")
    session.run("python", "-m", "build", "--outdir", "dist", "--wheel", "-C", "wheel.cmake=false")
    session.install("-c", "constraints.txt", "--force-reinstall", *map(str, Path("dist").glob("*-py3-none-any.whl")))
    with session.chdir(session.create_tmp()):
        session.run("equispike", "evaluate", "mnist-cnn", "--timesteps", "8", "--images", "50")
    session.run("python", "-m", "cibuildwheel", "--output-dir", "dist")


def with_peers(session: nox.Session) -> None:
    session.install("-c", "constraints.txt", "-e", ".", "matplotlib")
    # Without their dependencies, which would replace torch or need hardware: these are the ones that simulations use.
    session.install("-c", "constraints.txt", "--no-deps", *PEERS, "nirtorch")
    session.install("-c", "constraints.txt", "h5py", "loguru", "nir", "pbr", "requests", "scipy", "tqdm")
