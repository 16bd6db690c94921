"""The neurons' scan as one GPU kernel: the potential stays in a register while all steps of a chunk pass by.

``if_scan`` reads and writes the potential in every step; here each current is read once and each spike written once,
which is all the memory traffic that the layer needs. Steps, thresholds and resets are those of ``if_scan``, to the bit.
"""
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false, reportMissingImports=false
# pyright: reportUntypedFunctionDecorator=false, reportIndexIssue=false, reportMissingTypeStubs=false
# pyright: reportArgumentType=false, reportOperatorIssue=false
# (Triton's language has no types)

import torch
import triton
import triton.language as tl
from torch import Tensor

from equispike.functional.integrate import Reset

BLOCK = 256
"""Neurons of one program."""


@triton.jit
def _scan(currents, thresholds, v, spikes, steps, stride, size, features, soft: tl.constexpr, block: tl.constexpr):
    neuron = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    here = neuron < size
    threshold = tl.load(thresholds + neuron % features, here, other=0.0)
    u = tl.load(v + neuron, here, other=0.0)
    for t in range(steps):
        u += tl.load(currents + t * stride + neuron, here, other=0.0)
        fires = u >= threshold
        tl.store(spikes + t * size + neuron, fires.to(u.dtype), here)
        u = tl.where(fires, u - threshold if soft else 0.0, u)
    tl.store(v + neuron, u, here)


def fused_scan(currents: Tensor, threshold: Tensor, reset: Reset, v_init: Tensor) -> tuple[Tensor, Tensor]:
    """``if_scan`` with spikes of size 1, for float32 and float64 on a GPU.

    Args:
        currents: weighted input of every step, (T, B, *features); one step expanded over time is read as such.
        threshold: theta, broadcastable to the features.
        reset: "subtract" or "zero".
        v_init: potential before the first step, (B, *features).
    Returns:
        spikes in {0, 1}, (T, B, *features), and the potential after the last step, (B, *features).
    """
    first = currents[0]
    dense = first.is_contiguous() or (first.ndim == 4 and first.is_contiguous(memory_format=torch.channels_last))
    if not dense:
        currents = currents.contiguous()
    # everything lies in memory as one step of the currents does, so that a neuron has one place in all of them
    v = torch.empty_like(currents[0]).copy_(v_init)
    thresholds = torch.empty_like(currents[0][:1]).copy_(threshold)
    spikes = torch.empty_strided((len(currents), *v.shape), (v.numel(), *v.stride()), dtype=v.dtype, device=v.device)
    programs = (triton.cdiv(v.numel(), BLOCK),)
    _scan[programs](
        currents, thresholds, v, spikes, len(currents), currents.stride(0), v.numel(), thresholds.numel(),
        reset == "subtract", BLOCK,
    )  # fmt: skip
    return spikes, v
