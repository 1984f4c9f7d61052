"""The images of the batches, read ahead by other processes where they are files."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from proxylib.samplers import Stream


def read(images, indices: Iterable[Tensor], workers: int = 0) -> Iterator[Tensor]:
    """Images in batches.

    Args:
        images: (N, C, H, W) uint8, a tensor or `datasets.ImageFiles`.
        indices: (b,) int64 each, which images; taken ahead if there are workers.
        workers: processes that read; not for tensors.

    Yields:
        (b, C, H, W) uint8 on the CPU.
    """
    if isinstance(images, Tensor) or not workers:
        return (images[chosen] for chosen in indices)
    lists = (chosen.tolist() for chosen in indices)
    unused = torch.Generator()  # else it draws from the one that dropout draws from
    loader = DataLoader(images, batch_sampler=lists, num_workers=workers, generator=unused)
    return iter(loader)


def image_batches(
    images, stream: Stream, part: slice = slice(None), workers: int = 0
) -> Iterator[tuple[tuple[Tensor, ...], Tensor, Callable[[], dict[str, Tensor]]]]:
    """Batches, the images of their points, and where the stream stood after each.

    Args:
        images, workers: see `read`. With workers the stream runs ahead of the training, so it
            needs a generator of its own.
        stream: of the objective.
        part: of each batch, whose images are wanted: one process of several reads its own.

    Yields:
        batch; images (b, C, H, W); a function that gives the stream's `state_dict` from which
        the batches after this one follow.
    """
    sent = deque()
    ahead = not isinstance(images, Tensor) and workers

    def indices() -> Iterator[Tensor]:
        for batch in stream:
            state = partial(dict, stream.state_dict()) if ahead else stream.state_dict
            sent.append((batch, state))
            yield batch[0][part]

    for pixels in read(images, indices(), workers):
        batch, state = sent.popleft()
        yield batch, pixels, state
