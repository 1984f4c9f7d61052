import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home, so that a test neither sees nor leaves anything in the project's caches."""
    monkeypatch.setenv("PROXYLIB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def image_tree(tmp_path):
    """Six classes of five small grey images; each class is a shade, so it can be learned."""
    return grow(tmp_path / "images", 6, 5)


@pytest.fixture
def larger_tree(tmp_path):
    """Twelve classes of six, enough for the tuning to split the training half once more."""
    return grow(tmp_path / "images", 12, 6)


def grow(root, n_classes, n_images):
    rng = np.random.default_rng(0)
    for c in range(n_classes):
        folder = root / f"group{c // 3}" / f"class{c}"
        folder.mkdir(parents=True)
        for i in range(n_images):
            shade = 240 * c // n_classes + rng.integers(0, 20, (20, 24))
            Image.fromarray(np.clip(shade, 0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return root
