"""Passes that keep the network's function, in one place: each takes a Network and returns a new one."""

from equispike.graph.fold import fold_affine as fold_affine
from equispike.graph.quantize import quantize as quantize
from equispike.graph.units import fold_amplitudes as fold_amplitudes
from equispike.graph.units import fold_drives as fold_drives
from equispike.graph.units import fold_thresholds as fold_thresholds
from equispike.graph.units import mixing_as_layer as mixing_as_layer
from equispike.graph.units import normalise_weights as normalise_weights
from equispike.graph.units import rescale as rescale
from equispike.graph.units import sum_pools as sum_pools
