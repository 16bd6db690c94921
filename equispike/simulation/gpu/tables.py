"""Tables that the GPU's kernels look up: where each element of a kernel finds its spikes, and the weights in digits."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from equispike.functional.inputs import listed
from equispike.graph.network import Network
from equispike.simulation.currents import Term
from equispike.simulation.trains import padded, widen


@dataclass(frozen=True)
class Tiles:
    """Output positions, output channels and input channels that one program multiplies, its warps, and its stages.

    Half the stages hold blocks on their way from memory: each load waits for the one that says where it reads.
    """

    rows: int
    cols: int
    deep: int
    warps: int
    stages: int


@dataclass(frozen=True, eq=False)
class Gather:
    """Products with the spikes of one train.

    Attributes:
        train: whose.
        windows: source positions that are summed up first, (cells, most), -1 where a window has fewer; None if none is.
        where: cell or position that each element of the kernel reads, (kernel, positions), -1 for none.
        digits: of the weights, (count, outputs, kernel * depth), int8.
        inputs: channels of the train; ``depth``: of the digits, in whole blocks.
    """

    train: str
    windows: Tensor | None
    where: Tensor
    digits: Tensor
    inputs: int
    depth: int


@dataclass(frozen=True, eq=False)
class Taps:
    """Additions by single spikes: reads of (position, channel) pairs, one after the other.

    Attributes:
        trains: of each read; ``shifts``: output c reads channel c - shift.
        where: source position by read and output position, -1 for none.
        weights: (reads, channels).
    """

    trains: tuple[str, ...]
    shifts: tuple[int, ...]
    where: Tensor
    weights: Tensor


def gather_of(term: Term, whole: Tensor, count: int, tiles: Tiles, device: torch.device) -> Gather:
    """Tables of products with a train; ``whole`` are the weights as integers of ``count`` digits."""
    kernel, inputs, outputs = term.weight.shape
    where, windows = _reads(term)
    deep = tiles.deep
    depth = -(-inputs // deep) * deep
    wide = -(-outputs // tiles.cols) * tiles.cols
    rest = F.pad(whole.view(kernel, inputs, outputs), (0, wide - outputs, 0, depth - inputs)).permute(2, 0, 1)
    digits: list[Tensor] = []
    for _ in range(count):
        digit = ((rest + 128) & 255) - 128
        digits.append(digit.to(torch.int8).reshape(wide, kernel * depth))
        rest = (rest - digit) >> 8
    return Gather(
        term.train,
        None if windows is None else windows.to(device),
        where.to(device),
        torch.stack(digits).to(device),
        padded(inputs),
        depth,
    )


def _distinct(ranges: Tensor) -> tuple[Tensor, list[tuple[int, int]]]:
    """Which of the ranges it is, (positions, kernel), -1 for empty ones; and the ranges."""
    table = listed(ranges)
    found = sorted({(first, last) for row in table for first, last in row if first < last})
    place = {own: n for n, own in enumerate(found)}
    rows = [[place.get((first, last), -1) for first, last in row] for row in table]
    return torch.tensor(rows, dtype=torch.int32).view(ranges.shape[:2]), found


def _reads(term: Term) -> tuple[Tensor, Tensor | None]:
    """Places that each element of the kernel reads, (kernel, positions), and the windows that are summed up before."""
    _, _, width = term.extent
    (row, rows), (col, cols) = _distinct(term.rows), _distinct(term.cols)
    y, x = row[:, None, :, None], col[None, :, None, :]
    single = all(last - first == 1 for first, last in (*rows, *cols))
    if single:
        starts = [torch.tensor([first for first, _ in own] + [0], dtype=torch.int32) for own in (rows, cols)]
        cell = starts[0][y.long()] * width + starts[1][x.long()]
        windows = None
    else:
        cell = y * len(cols) + x
        covered = [_covered(own, other, width) for own in rows for other in cols]
        most = max(map(len, covered), default=1)
        windows = torch.tensor([own + [-1] * (most - len(own)) for own in covered], dtype=torch.int32)
    where = torch.where((y < 0) | (x < 0), -1, cell)
    kernel, positions = where.shape[2:].numel(), where.shape[:2].numel()
    return where.permute(2, 3, 0, 1).reshape(kernel, positions).contiguous(), windows


def _covered(rows: Sequence[int], cols: Sequence[int], width: int) -> list[int]:
    """Positions in a range of rows and one of columns."""
    return [row * width + col for row in range(rows[0], rows[1]) for col in range(cols[0], cols[1])]


def taps_of(terms: tuple[Term, ...], positions: int, channels: int, network: Network) -> Taps:
    """Reads of all taps in the order in which the core makes them."""
    trains: list[str] = []
    shifts: list[int] = []
    where: list[list[int]] = []
    weights: list[Tensor] = []
    for term in terms:
        width = term.extent[2]
        rows, cols = listed(term.rows), listed(term.cols)
        own = widen(term.weight, channels)
        for ky in range(term.rows.shape[1]):
            for kx in range(term.cols.shape[1]):
                reads = [_covered(row[ky], col[kx], width) for row in rows for col in cols]
                for n in range(max(map(len, reads))):
                    trains.append(term.train)
                    shifts.append(term.shift)
                    where.append([read[n] if n < len(read) else -1 for read in reads])
                    weights.append(own[ky * term.cols.shape[1] + kx])
    table = torch.tensor(where, dtype=torch.int32).view(-1, positions)
    values = torch.stack(weights) if weights else torch.zeros(0, channels, dtype=network.dtype)
    return Taps(tuple(trains), tuple(shifts), table.to(network.device), values.to(network.device))
