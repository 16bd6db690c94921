"""Commands on files: what is in one, and converted networks for other tools."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, cast

from cyclopts import Parameter

from equispike.cli.shared import out, require_writable
from equispike.cli.source import read_network
from equispike.errors import EquispikeError, FileError


def export_command(
    source: Annotated[str, Parameter(help="A file from 'equispike convert', or a NIR file.")],
    /,
    *,
    to: Annotated[
        Literal["nir", "onnx", "torch"],
        Parameter(
            help="nir: the exchange format of neuromorphic tools. onnx: a file that ONNX Runtime runs, all steps. "
            "torch: a Python file that needs torch alone."
        ),
    ] = "nir",
    out_file: Annotated[
        Path | None, Parameter(name="--out", help="Default: SOURCE's name with the ending .nir, .onnx or .py.")
    ] = None,
    profile: Annotated[
        Literal["portable", "compact"] | None,
        Parameter(
            help="nir: portable has convolutions and neurons, one threshold per layer, for most tools; compact has sum "
            "pools, flattening, linear layers and a threshold per channel too. Default: portable."
        ),
    ] = None,
    bits: Annotated[
        int | None,
        Parameter(
            help="Round weights and thresholds to integers of so many bits first, 4 to 16: spikes are then exact."
        ),
    ] = None,
) -> None:
    """Write a converted network for other tools, and say what each of them will do with it.

    Example: equispike export network.safetensors --to nir --bits 8 --out network.nir
    """
    if profile is not None and to != "nir":
        raise EquispikeError("--profile: is for --to nir")
    if not Path(source).name:
        raise FileError(f"{source}: is no file. Give one from 'equispike convert'")
    path = out_file or Path(source).with_suffix({"nir": ".nir", "onnx": ".onnx", "torch": ".py"}[to])
    require_writable(path)
    from equispike.files.module import write_module
    from equispike.files.nir import write_nir
    from equispike.files.onnx import write_onnx
    from equispike.graph.quantize import quantize

    network = read_network(source)
    if bits is not None:
        network = quantize(network, bits, per_channel=to != "nir" or profile == "compact")
    match to:
        case "nir":
            notes = write_nir(network, path, profile or "portable")
        case "onnx":
            notes = write_onnx(network, path)
        case "torch":
            notes = write_module(network, path)
    if several := cast("list[object]", network.provenance.get("inputs", [])):
        notes.append(f"Takes one tensor: the {len(several)} inputs of the model as equispike.join_inputs joins them.")
    for note in notes:
        out.print(note)
    out.print(f"{path}: written.")


def info_command(
    file: Annotated[
        Path, Parameter(help="A network, a trained model, a NIR or ONNX file, or results (JSON or SQLite).")
    ],
    /,
) -> None:
    """Say what is in a file: of a network its layers and how it was converted, of a model how it was trained.

    Example: equispike info network.safetensors
    """
    from equispike.cli.source import is_model, is_network, read_model
    from equispike.files.onnx import provenance_in
    from equispike.files.store import Store, is_store
    from equispike.graph.network import Network

    name = str(file)
    if is_network(name):
        network = read_network(name)
        out.print(str(network))
        _print_facts(network.provenance)
    elif file.suffix == ".onnx" and (converted := provenance_in(file)) is not None:
        out.print(f"{file}: a converted network with its time loop, for ONNX Runtime.")
        _print_facts(converted)
    elif is_model(name):
        model, card = read_model(name)
        if isinstance(model, Network):
            out.print(f"{file}: a trained network, to be converted.\n{model}")
        _print_facts(card)
    elif is_store(file):
        points = Store(file).read()
        out.print(f"{file}: {len(points)} points. Draw them with: equispike report {file}")
        for point in points:
            out.print(", ".join(f"{key} {_short(value)}" for key, value in point.asked.items()))
    else:
        from equispike.report.read import read_runs

        for document, path in read_runs([file]):
            out.print(f"{path}: {len(document['runs'])} runs. Draw them with: equispike report {path}")
            _print_facts({key: value for key, value in document.items() if key not in ("runs", "classes")})


def _print_facts(facts: Mapping[str, object]) -> None:
    for key, value in facts.items():
        out.print(f"{key}: {_short(value)}")


def _short(value: object) -> str:
    """A fact on one line; of what else was tried only how much it was."""
    from equispike.provenance import in_words

    if isinstance(value, Mapping):
        inner = cast("Mapping[str, object]", value)
        known = "name" in inner
        return in_words(inner) if known else ", ".join(f"{key} {_short(item)}" for key, item in inner.items())
    if isinstance(value, list):
        items = cast("list[object]", value)
        if any(isinstance(item, Mapping) and "name" not in item for item in items):
            return f"{len(items)} of them"
        return ", ".join(map(_short, items)) or "none"
    return str(value)
