"""The images of the batches: read ahead where they are files, augmented, on the device."""

from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from proxylib import retrieval
from proxylib.objectives import Objective
from proxylib.study.runs import distributed
from proxylib.study.runs.augmentation import Augmentation


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


def embed(model: nn.Module, images, normalize: bool = True, workers: int = 0) -> Tensor:
    """`retrieval.embed` with reading processes; of several processes each embeds a part.

    Args:
        model, normalize: as there.
        images, workers: see `read`.

    Returns:
        (N, D) on the CPU, in every process the whole.
    """
    mine = torch.arange(len(images))[distributed.share(len(images))].split(64)
    part = retrieval.embed(model, read(images, mine, workers), normalize)
    return distributed.gather_rows(part)


class Batches:
    """What `training.train` takes: batches of an objective with their images, without end.

    Args:
        objective: whose batches; it also tells the device they go to.
        images: (N, C, H, W) uint8 of the training points, a tensor or `datasets.ImageFiles`.
        batch_size: embedded points of a batch; of several processes each reads its own part.
        generator: source of the batches' order and of the augmentation.
        augment: random changes of the images.
        workers: processes that read image files ahead.
    """

    def __init__(
        self,
        objective: Objective,
        images,
        batch_size: int,
        generator: torch.Generator,
        augment: Augmentation,
        device: torch.device | str = "cpu",
        workers: int = 0,
    ):
        distributed.check_batch(batch_size)
        self.images, self.batch_size, self.generator = images, batch_size, generator
        self.augment, self.device, self.workers = augment, device, workers
        self.part = distributed.share(batch_size)
        from_memory = isinstance(images, Tensor)
        # What is read ahead is drawn ahead: such batches must not share a generator with the rest.
        self.stream = objective.batches(batch_size, generator if from_memory else _child(generator))
        self.state = self.stream.state_dict
        self.ahead = bool(workers) and not from_memory

    def __iter__(self) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """Batch and images (b, C, H, W), both on the device."""
        sent = deque()

        def indices() -> Iterator[Tensor]:
            for batch in self.stream:
                state = partial(dict, self.stream.state_dict()) if self.ahead else self.state
                sent.append((batch, state))
                yield batch[0][self.part]

        for pixels in read(self.images, indices(), self.workers):
            batch, self.state = sent.popleft()
            pixels = pixels.to(self.device)
            pixels = self.augment(pixels, self.generator, self.batch_size, self.part)
            yield tuple(part.to(self.device) for part in batch), pixels

    def state_dict(self) -> dict[str, Tensor]:
        """From where the batches after the last one follow, however many were read ahead."""
        return self.state()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict`; to be called before the first batch."""
        self.stream.load_state_dict(state)


def _child(generator: torch.Generator) -> torch.Generator:
    seed = torch.randint(2**62, (), generator=generator).item()
    return torch.Generator().manual_seed(seed)
