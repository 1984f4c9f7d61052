"""The configuration of a run: everything that decides its result."""

import difflib
import math
from dataclasses import asdict, dataclass, fields
from typing import get_args

import torch
from torch.optim import lr_scheduler

from proxylib import datasets
from proxylib.datasets import Dataset
from proxylib.study.methods import METHODS, SUCCESSORS, complete_options
from proxylib.study.runs import backbones

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
SCHEDULERS = {
    "constant": lambda optimizer, steps: lr_scheduler.ConstantLR(optimizer, 1.0),
    "linear": lambda optimizer, steps: lr_scheduler.LinearLR(optimizer, 1.0, 0.0, max(1, steps)),
    "cosine": lambda optimizer, steps: lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps)),
}
UNFIT = {  # optimisers of torch.optim
    "Optimizer": "is only what the others have in common",
    "LBFGS": "computes the loss several times a step, and training does it once",
    "SparseAdam": "takes sparse gradients only, and the network has dense ones",
    "Muon": "takes matrices only, and the network has other parameters too",
}
# Not for the study's own network.
OF_BACKBONES = ("dropout", "freeze_batch_norm", "crop", "frozen", "embedding_start")
CHOICES = {
    "split": ("test", "validation"),
    "init": ("random", "pretrained"),
    "embedding_start": ("random", "pca"),
    "schedule": tuple(SCHEDULERS),
    "precision": tuple(PRECISIONS),
}
LOWEST = {
    **{"batch_size": 1, "dim": 1, "seed": 0, "steps": 0, "eval_every": 0, "crop": 0},
    **{"weight_decay": 0.0, "clip_grad": 0.0, "dropout": 0.0},
}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run's result. Hashable; unknown names are errors.

    Attributes:
        dataset, data_root: see `datasets.load`.
        data_options: further options of the data set, e.g. `{"distortion": 1.5}`.
        split: `"test"`: train on the training half, test on the unseen half; `"validation"`:
            both parts are cut from the training half, for choosing settings.
        method: a name in `methods.METHODS`.
        options: what shall differ from `METHODS[method].options`, e.g. `{"ratio": 0.5}`; all
            others are filled in.
        init: `"random"` or `"pretrained"`: on other scripts (`pretraining.pretrained_model`) the
            study's own network, on ILSVRC and the like all others, see `Backbone`.
        seed: of initialisation, batch order and augmentation (the data set does not change).
        steps, batch_size: training batches, and embedded points in each; 0 steps = the
            untrained network. batch_size None = the method's.
        eval_every: steps between evaluations; 0 = only before and after training.
        backbone: `"convnet"`, the study's own (`ConvNet`), or a name in `backbones.names()`.
        dim: width of the embedding.
        batch_norm: of the embedding, see `ConvNet`; None = as the method does best.
        dropout, freeze_batch_norm: see `Backbone`; not for the study's own network.
        frozen: the backbone's last part that is not trained, e.g. `"blocks.4"`; None = all is
            trained. What comes out of it is kept on disk, in half precision (trunk.py). So images
            can't be changed at random, but for `flip`, for which both views are kept.
        embedding_start: `"random"`, or `"pca"`: the principal components of the backbone's
            features of the training images. Not for the study's own network.
        crop: side of the squares cut from the images, at random places in training, from the
            middle in evaluation; 0 = whole images. Not for the study's own network.
        flip: mirror training images by chance.
        optimizer: name of a class of `torch.optim`.
        lr, proxy_lr: learning rates of the network and of the proxies; None = the method's.
        weight_decay: of the network; proxies have none.
        schedule: of both learning rates, a name in `SCHEDULERS`.
        clip_grad: largest norm of the model's gradient; 0 = any.
        precision: in which the model computes, a name in `PRECISIONS`; losses are float32.
        augment: random affine changes of the training images; None = as the method does best.
        record_bounds: add `bounds.bound_statistics` of the training classes to the history, from
            400 anchors while training, exact after it. For proxy methods only.

    Raises:
        TypeError: an unknown name, or a value of the wrong type.
        ValueError: a value out of its range.
    """

    dataset: str = "kanji"
    data_root: str = ""
    data_options: tuple[tuple[str, object], ...] = ()
    split: str = "test"
    method: str = "proxy_nca"
    options: tuple[tuple[str, object], ...] = ()
    init: str = "random"
    seed: int = 0
    steps: int = 3000
    batch_size: int | None = None
    eval_every: int = 250
    backbone: str = "convnet"
    dim: int = 64
    batch_norm: bool | None = None
    dropout: float = 0.0
    freeze_batch_norm: bool = False
    frozen: str | None = None
    embedding_start: str = "random"
    crop: int = 0
    flip: bool = False
    optimizer: str = "Adam"
    lr: float | None = None
    proxy_lr: float | None = None
    weight_decay: float = 0.0
    schedule: str = "constant"
    clip_grad: float = 0.0
    precision: str = "float32"
    augment: bool | None = None
    record_bounds: bool = False

    def __post_init__(self):
        choices = dict(CHOICES)
        if self.backbone != "convnet":
            choices["backbone"] = ("convnet", *backbones.names())
        for name, expected in choices.items():
            if (value := getattr(self, name)) not in expected:
                near = difflib.get_close_matches(str(value), expected, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                names = ", ".join(expected)
                if name == "backbone":
                    names = "convnet, googlenet, or those in timm.list_models()"
                raise ValueError(f"{name}={value!r}: expected one of {names}{hint}")
        options = complete_options(self.method, dict(self.options))
        method = METHODS[self.method]
        for name in ("batch_size", "lr", "proxy_lr", "augment", "batch_norm"):
            if getattr(self, name) is None:
                self._put(name, getattr(method, name))
        self._put("options", tuple(sorted(options.items())))
        self._put("data_options", tuple(sorted(dict(self.data_options).items())))
        self._check_types()
        for name, low in LOWEST.items():
            if not getattr(self, name) >= low:
                raise ValueError(f"{name}={getattr(self, name)}: expected {low} or more")
        for name in ("lr", "proxy_lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected a positive number")
        if self.seed >= 2**63:
            raise ValueError(f"seed={self.seed}: expected less than 2⁶³")
        if self.dropout >= 1:
            raise ValueError(f"dropout={self.dropout}: expected less than 1")
        if self.backbone == "convnet":
            for name in OF_BACKBONES:
                if (value := getattr(self, name)) and value != "random":
                    raise ValueError(
                        f"{name}={value!r}: the study's own network has no such thing; choose "
                        "another backbone"
                    )
        for name in ("augment", "crop"):
            if self.frozen and (value := getattr(self, name)):
                raise ValueError(
                    f"{name}={value!r}: what the frozen part makes of the images is kept, so they "
                    f"can't change: {name}={type(value)()}, or frozen=None"
                )
        optimizer = getattr(torch.optim, self.optimizer, None)
        if not (isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)):
            raise ValueError(f"optimizer={self.optimizer!r}: torch.optim has no such optimizer")
        if self.optimizer in UNFIT:
            raise ValueError(f"optimizer={self.optimizer!r}: it {UNFIT[self.optimizer]}")
        if self.record_bounds and (not method.has_proxies or self.method in SUCCESSORS):
            raise ValueError(f"record_bounds: {self.method} has no proxies that we know bounds for")

    def _check_types(self) -> None:
        for field in fields(self):
            value, kinds = getattr(self, field.name), get_args(field.type) or (field.type,)
            if float in kinds and type(value) is int:
                value = float(value)  # 1 and 1.0 are one configuration
                self._put(field.name, value)
            if "options" not in field.name and type(value) not in kinds:
                raise TypeError(f"{field.name}={value!r}: expected {field.type}")
            if type(value) is float and not math.isfinite(value):
                raise ValueError(f"{field.name}={value}: expected a finite number")

    def _put(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def data(self) -> tuple[Dataset, Dataset]:
        """(training classes, classes to evaluate on), disjoint.

        If the data set has queries of its own, they are in the second part only.
        """
        dataset = datasets.load(self.dataset, self.data_root or None, **dict(self.data_options))
        train_half, test_half = datasets.zero_shot_split(dataset)
        if self.split == "validation":
            train_half, test_half = datasets.validation_split(train_half)
        return train_half.without_queries(), test_half


def describe(config: RunConfig) -> dict:
    """The configuration as plain values, for JSON."""
    options = {name: dict(getattr(config, name)) for name in ("data_options", "options")}
    return {**asdict(config), **options}
