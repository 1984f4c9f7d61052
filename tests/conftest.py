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
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    for c in range(6):
        folder = root / f"group{c // 3}" / f"class{c}"
        folder.mkdir(parents=True)
        for i in range(5):
            pixels = np.clip(40 * c + rng.integers(0, 20, (20, 24)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return root
