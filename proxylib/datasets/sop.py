"""Stanford Online Products: 22,634 products, the first 11,318 train (paper section 5)."""

from collections.abc import Callable
from pathlib import Path

from proxylib.datasets.base import Dataset
from proxylib.datasets.fetch import download
from proxylib.datasets.photos import Annotations, begin, build, install

CREDIT = "Stanford Online Products: Oh Song et al. 2016; for research, see its site"
URL = "http://ftp.cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip"
HASH = "md5:7f73d41a2f44250d4779881525aea32e"
# annotations, first class, last class, images
SPLITS = (("Ebay_train.txt", 1, 11_318, 59_551), ("Ebay_test.txt", 11_319, 22_634, 60_502))
ADVICE = (
    "`proxylib fetch sop` downloads about 3 GB (project page: "
    "https://cvgl.stanford.edu/projects/lifted_struct/), or say in data_root where your copy is. "
    "Expected: Ebay_train.txt, Ebay_test.txt and bicycle_final/*.JPG … toaster_final/*.JPG"
)


def fetch(say: Callable[[str], None] = print, progress: bool = False) -> Path:
    """Download and unpack to `data/sop/Stanford_Online_Products`; see `fetch.install`."""
    return install("sop", lambda: [download(URL, HASH, progress)], _read, say, progress)


def load(data_root: str | Path = "", size: int = 256, allow_partial: bool = False) -> Dataset:
    """Stanford Online Products as it unpacks, checked to be whole.

    59,551 images of 11,318 products train, 60,502 of 11,316 others test. Class names are the kind
    of product and its number, e.g. `bicycle_final/1`.

    Args:
        data_root: the folder Stanford_Online_Products or the one it is in; default `data/sop`.
        size: side in pixels that every image is squeezed to.
        allow_partial: use the images that are there; classes with fewer than 2 are left out.

    Raises: see `datasets.load`.
    """
    n_images, n_train = sum(split[-1] for split in SPLITS), SPLITS[0][2]
    return build(_read(data_root, allow_partial), n_images, n_train, CREDIT, size)


def _read(data_root: str | Path, partial: bool = False) -> Annotations:
    found = begin("sop", data_root, "Stanford_Online_Products", ADVICE, partial)
    names = {}
    for name, first, last, n_images in SPLITS:
        rows = found.table(name, "image_id class_id super_class_id path")
        found.count(f"{name}, images", len(rows), n_images)
        for label, _, path, line in rows.values():
            if not first <= label <= last:
                found.problems["label"].append(
                    f"{name}:{line}: class_id {label}, expected {first} … {last}"
                )
            names.setdefault(label, f"{path.split('/')[0]}/{label}")
            found.add(found.root, path, label - 1, f"{name}:{line}")
    found.class_names = [names.get(c, str(c)) for c in range(1, SPLITS[-1][2] + 1)]
    return found
