"""Training on several processes, one per GPU, as torchrun starts them; on one process nothing here does anything."""
# pyright: reportUnknownMemberType=false
# (some of torch's own signatures lack types)

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from equispike.errors import EquispikeError


@contextmanager
def processes(device: str) -> Generator[torch.device]:
    """Join the processes of torchrun, if it started this one, for the time of the block; yields this one's device.

    Args:
        device: "cpu" or "cuda"; with several processes each takes the GPU of its local number.
    Raises:
        EquispikeError: there is no such device.
    """
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise EquispikeError(f"device {device!r}: not here. Use cpu" + (", or cuda" * torch.cuda.is_available()))
    if "RANK" not in os.environ:
        yield torch.device(device)
        return
    chosen = torch.device(device, int(os.environ["LOCAL_RANK"])) if device == "cuda" else torch.device(device)
    if device == "cuda":
        if (gpus := torch.cuda.device_count()) <= int(os.environ["LOCAL_RANK"]):
            raise EquispikeError(f"torchrun: more processes than GPUs here, {gpus}. Use --nproc-per-node {gpus}")
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield chosen
        # Threads of the group free the tensors of the last sum. If Python is gone by then, the process ends with an
        # abort; while all wait for each other, they get to it.
        dist.barrier()
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process, 0 if it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wrapped(model: nn.Module) -> nn.Module:
    """The model with its gradients averaged over all processes; on GPUs, batch norm takes all processes' images."""
    if not dist.is_initialized():
        return model
    on_gpu = next(model.parameters()).device.type == "cuda"
    synchronised = cast("nn.Module", nn.SyncBatchNorm.convert_sync_batchnorm(model)) if on_gpu else model
    return DistributedDataParallel(synchronised)


def from_first(tensor: Tensor) -> Tensor:
    """The first process's tensor, in all of them."""
    if not dist.is_initialized():
        return tensor
    sent = tensor.cuda() if dist.get_backend() == "nccl" else tensor
    sent = sent.clone(memory_format=torch.contiguous_format)
    dist.broadcast(sent, 0)
    return sent.to(tensor.device)


def share_buffers(model: nn.Module) -> None:
    """Give all processes the first one's buffers, in place: what batch norm saw on CPUs differs between them."""
    if dist.is_initialized():
        for buffer in model.buffers():
            buffer.copy_(from_first(buffer))


def total(values: list[float], device: torch.device) -> list[float]:
    """Sum over processes, number by number."""
    if not dist.is_initialized():
        return values
    numbers = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(numbers)
    return cast("list[float]", numbers.tolist())
