"""equispike: run a trained ReLU network as spikes, and know what was lost.

>>> import equispike as es
>>> network = es.convert(model, batches, method=es.RMP(scale=0.8))   # doctest: +SKIP
>>> run = es.simulate(network, images, timesteps=128)                # doctest: +SKIP

Names are loaded when first used, so that importing the package does not import torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from equispike.analysis.accuracy import accuracy as accuracy
    from equispike.analysis.accuracy import evaluate as evaluate
    from equispike.analysis.accuracy import latency as latency
    from equispike.analysis.fit import rate_fit as rate_fit
    from equispike.calibrate.corrections import Bias as Bias
    from equispike.calibrate.corrections import Potential as Potential
    from equispike.calibrate.corrections import RidgeReadout as RidgeReadout
    from equispike.calibrate.corrections import StepBias as StepBias
    from equispike.calibrate.data_norm import DataNorm as DataNorm
    from equispike.calibrate.data_norm import ModelNorm as ModelNorm
    from equispike.calibrate.rate_norm import RateNorm as RateNorm
    from equispike.calibrate.rmp import RMP as RMP
    from equispike.calibrate.spike_norm import SpikeNorm as SpikeNorm
    from equispike.checking import check as check
    from equispike.conversion import convert as convert
    from equispike.errors import CalibrationError as CalibrationError
    from equispike.errors import CalibrationWarning as CalibrationWarning
    from equispike.errors import ConversionError as ConversionError
    from equispike.errors import DataError as DataError
    from equispike.errors import EquispikeError as EquispikeError
    from equispike.errors import FileError as FileError
    from equispike.errors import SimulationError as SimulationError
    from equispike.files.checkpoint import load as load
    from equispike.files.checkpoint import save as save
    from equispike.functional.coding import Coder as Coder
    from equispike.functional.coding import Constant as Constant
    from equispike.functional.coding import Frames as Frames
    from equispike.functional.coding import Poisson as Poisson
    from equispike.functional.inputs import join_inputs as join_inputs
    from equispike.graph.exact import quantize as quantize
    from equispike.graph.lossy import leaky_relu_to_pairs as leaky_relu_to_pairs
    from equispike.graph.lossy import max_pool_to_avg as max_pool_to_avg
    from equispike.graph.lossy import max_pool_to_winner as max_pool_to_winner
    from equispike.graph.network import Network as Network
    from equispike.graph.reading.trace import trace as trace
    from equispike.simulation.run import Run as Run
    from equispike.simulation.run import simulate as simulate
    from equispike.simulation.stop import Certain as Certain
    from equispike.simulation.stop import Stable as Stable
    from equispike.workers import Processes as Processes
    from equispike.workers import Ray as Ray

_PLACES = {
    "analysis.accuracy": ("accuracy", "evaluate", "latency"),
    "analysis.fit": ("rate_fit",),
    "calibrate.corrections": ("Bias", "Potential", "RidgeReadout", "StepBias"),
    "calibrate.data_norm": ("DataNorm", "ModelNorm"),
    "calibrate.rate_norm": ("RateNorm",),
    "calibrate.rmp": ("RMP",),
    "calibrate.spike_norm": ("SpikeNorm",),
    "checking": ("check",),
    "conversion": ("convert",),
    "errors": (
        "CalibrationError",
        "CalibrationWarning",
        "ConversionError",
        "DataError",
        "EquispikeError",
        "FileError",
        "SimulationError",
    ),
    "files.checkpoint": ("load", "save"),
    "functional.coding": ("Coder", "Constant", "Frames", "Poisson"),
    "functional.inputs": ("join_inputs",),
    "graph.exact": ("quantize",),
    "graph.lossy": ("leaky_relu_to_pairs", "max_pool_to_avg", "max_pool_to_winner"),
    "graph.network": ("Network",),
    "graph.reading.trace": ("trace",),
    "simulation.stop": ("Certain", "Stable"),
    "simulation.run": ("Run", "simulate"),
    "workers": ("Processes", "Ray"),
}
_HOME = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return version("equispike")
    if name not in _HOME:
        raise AttributeError(f"module 'equispike' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"equispike.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(_HOME)
