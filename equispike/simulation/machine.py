"""What a plan asks of a machine, which computes layers: the module ``cpu`` or ``gpu``."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from equispike.graph.network import Network
from equispike.simulation.neurons import Neurons, Shapes
from equispike.simulation.views import Current

if TYPE_CHECKING:
    from equispike.simulation.state import State


class Machine(Protocol):
    """A machine. Trains in a state are laid out as it likes."""

    @property
    def Layer(self) -> type[Any]:
        """``Layer(current, network, choose, neurons)`` prepares a current, and neurons if it drives any (or None).

        With ``choose``, by all ways between which it may choose as it runs.
        """
        ...

    @property
    def Neurons(self) -> Callable[[Network, Shapes, int, int], Neurons]:
        """``Neurons(network, shapes, images, steps)``: of layers of these shapes, without potential."""
        ...

    def suits(self, current: Current) -> bool:
        """Whether it can compute this current."""
        ...

    def multiplies(self, dtype: torch.dtype) -> bool:
        """Whether it is fast too where most neurons spike."""
        ...

    def fire(self, state: "State", name: str, layer: Any) -> None:
        """Run neurons, and the current that drives them, through the chunk; leaves their train."""
        ...

    def emit(self, state: "State", name: str, layer: Any) -> None:
        """Leave a current as a dense value."""
        ...

    def score(self, state: "State", layer: Any, scale: float) -> None:
        """Add a current, of a vector, to the scores."""
        ...

    def replay(self, state: "State", name: str) -> None:
        """Take a train from those that are given."""
        ...

    def draw(self, state: "State", name: str) -> None:
        """Leave Poisson spikes of the input, those of either sign as a train of their own."""
        ...

    def packed(self, state: "State", name: str) -> Tensor:
        """A train as bits, (T', B, positions, bytes)."""
        ...

    def bytes_per_step(self, shape: tuple[int, ...]) -> int:
        """Of the train of a layer of this shape, and one image."""
        ...
