"""How a network of torchvision is fine-tuned: settings of a run, by name."""

PHOTOS = ("cub200", "cars196", "sop")
# Images are resized to 256×256 by the data sets; these are the squares that the network sees.
RECIPE_FIELDS = {
    "study": {},
    "patent": {
        "backbone": "googlenet",
        "init": "pretrained",
        "crop": 227,
        "dim": 64,
        "optimizer": "RMSprop",
        "lr": 1e-4,
        "proxy_lr": 1e-2,
        "augment": False,
    },
    "today": {
        "backbone": "resnet50",
        "init": "pretrained",
        "freeze_batch_norm": True,
        "crop": 224,
        "flip": True,
        "dim": 512,
        "batch_size": 128,
        "optimizer": "AdamW",
        "lr": 1e-4,
        "proxy_lr": 1e-2,
        "weight_decay": 1e-4,
        "schedule": "cosine",
        "clip_grad": 10.0,
        "augment": False,
    },
}
RECIPES = tuple(RECIPE_FIELDS)


def recipe(name: str, method: str) -> dict[str, object]:
    """Arguments of `RunConfig`.

    - `"study"`: none; the study's own small network from a random start.
    - `"patent"`: section 5 of the paper: GoogLeNet with batch norm, from ILSVRC, images of
      256×256, random crops of 227, embeddings of 64, RMSprop, batches of 32, of 128 for the tuple
      methods. The learning rates are ours; the text has none.
    - `"today"`: what would be a sensible start now; ours, not tuned.

    Raises:
        ValueError: an unknown name.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe={name!r}: expected one of {', '.join(RECIPES)}")
    fields = dict(RECIPE_FIELDS[name])
    if name == "patent":
        fields["batch_size"] = 32 if method.startswith("proxy") else 128
    return fields


def default_recipe(dataset: str) -> str:
    """`"patent"` for the patent's own data sets, else `"study"`."""
    return "patent" if dataset in PHOTOS else "study"


def data_options(name: str, dataset: str) -> dict[str, object]:
    """Options of the data set, so that its images have the size the recipe's network takes.

    256×256 pixels for networks of torchvision, 32×32 for the study's own.
    """
    size = 32 if name == "study" else 256
    return {} if size == (256 if dataset in PHOTOS else 32) else {"size": size}
