"""Several processes, each with a copy of the model and a part of every batch (torchrun)."""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

_by_itself = False


def size() -> int:
    """Number of processes that train together."""
    if _by_itself or not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size()


@contextmanager
def alone() -> Iterator[None]:
    """Inside this block the process group is ignored: each process does all by itself."""
    global _by_itself
    before, _by_itself = _by_itself, True
    try:
        yield
    finally:
        _by_itself = before


def rank() -> int:
    """Which of them this is, 0 … size − 1."""
    return dist.get_rank() if size() > 1 else 0


@contextmanager
def processes(device: str) -> Iterator[None]:
    """Join the processes that torchrun started, if it did.

    Args:
        device: `"cpu"` (they talk through gloo) or `"cuda"` (nccl; each takes its own GPU).
    """
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        yield
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield
        dist.barrier()  # who leaves first would abort while others still talk to it
    finally:
        dist.destroy_process_group()


def share(n: int) -> slice:
    """This process's part of n things, as equal as can be."""
    return slice(n * rank() // size(), n * (rank() + 1) // size())


def check_batch(batch_size: int) -> None:
    """Raises ValueError if a batch can't be dealt evenly."""
    if batch_size % size():
        raise ValueError(
            f"batch_size={batch_size}: expected a multiple of the {size()} processes, for each "
            "embeds an equal part"
        )


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, part: Tensor) -> Tensor:
        parts = [torch.empty_like(part) for _ in range(size())]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient[share(len(gradient))]


def gather(embeddings: Tensor) -> Tensor:
    """The whole batch (B, D) from everybody's part (B / size, D), with gradient.

    Every process then has the loss of the whole batch. Its gradient comes back from all of them,
    `size` times in sum; DistributedDataParallel takes the mean, so it is that of one process.
    """
    return _Gather.apply(embeddings) if size() > 1 else embeddings


def gather_rows(rows: Tensor) -> Tensor:
    """Everybody's rows (any number each) on the CPU, in order of rank, without gradient."""
    if size() == 1:
        return rows
    parts = [None] * size()
    dist.all_gather_object(parts, rows.cpu())
    return torch.cat(parts)


class _Joint(nn.Module):
    """Model and objective in one module, so that DDP synchronises the gradients of both."""

    def __init__(self, model: nn.Module, objective: nn.Module, dtype: torch.dtype | None):
        super().__init__()
        self.model, self.objective, self.dtype = model, objective, dtype

    def forward(self, images: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype is not None):
            embeddings = self.model(images)
        embeddings = gather(embeddings.float() if self.dtype else embeddings)
        return self.objective(embeddings, *batch), embeddings


def joint(model: nn.Module, objective: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Model and objective as one function for `training.train`.

    Args:
        dtype: in which the model computes; None = float32. Losses always are.

    Returns:
        (this process's images, *the whole batch) → loss and embeddings of the whole batch;
        gradients are averaged over the processes at each backward pass.
    """
    module = _Joint(model, objective, dtype)
    if size() == 1 or not any(p.requires_grad for p in module.parameters()):
        return module
    # Buffers are the same everywhere, but for what `same_buffers` sees to.
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return DistributedDataParallel(module, **{name: False})


def synchronized(model: nn.Module) -> nn.Module:
    """The model, its layers of batch norm taking the statistics of the whole batch (GPUs only)."""
    if size() > 1 and next(model.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model


@torch.no_grad()
def same_buffers(model: nn.Module) -> None:
    """Everybody takes the running statistics of process 0: on CPUs each gathers its own."""
    if size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
