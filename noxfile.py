"""`nox -s benchmark -- simulation --network vgg16 --batch 64`: the peers in an environment, one benchmark in it."""

import nox

PEERS = "spikingjelly", "snntorch", "sinabs"


@nox.session(venv_backend="venv", reuse_venv=True)
def benchmark(session: nox.Session) -> None:
    """Run benchmarks/NAME.py, the first argument, with the others; default: simulation."""
    session.install("-c", "constraints.txt", ".", "matplotlib")
    # Without their dependencies, which would replace torch or need hardware: these are the ones that simulations use.
    session.install("-c", "constraints.txt", "--no-deps", *PEERS, "nirtorch")
    session.install("-c", "constraints.txt", "h5py", "loguru", "nir", "pbr", "scipy", "tqdm")
    name, *options = session.posargs or ["simulation"]
    session.run("python", f"benchmarks/{name}.py", *options)
