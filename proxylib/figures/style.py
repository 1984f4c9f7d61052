"""The look that all plots share, and names as readers know them."""

import seaborn as sns
from matplotlib.figure import Figure

from proxylib.methods import METHODS

RIGHT, WRONG = "#0072B2", "#D55E00"  # blue and vermilion: told apart by every kind of eye
MARKERS = "osD^vP*X"


def use_style() -> None:
    """The study's look: white, light grid, colour-blind-safe palette."""
    sns.set_theme("notebook", "whitegrid", "colorblind", rc={"figure.dpi": 100, "savefig.dpi": 150})


def title(metric: str) -> str:
    """`recall_at_1` → `Recall@1`, `nmi` → `NMI`."""
    return metric.replace("recall_at_", "Recall@").replace("nmi", "NMI")


def method_label(name: str) -> str:
    """`npairs` → `N-pairs`; `dynamic` is Proxy-NCA with dynamic assignment."""
    return "Proxy-NCA, dynamic" if name == "dynamic" else METHODS[name].label


def method_style(name: str) -> dict[str, object]:
    """Colour and marker of a method, the same in every plot; proxy methods have solid lines."""
    at = list(METHODS).index("proxy_nca" if name == "dynamic" else name)
    return {
        "color": sns.color_palette("colorblind")[at],
        "marker": MARKERS[at],
        "linestyle": "-" if name.startswith(("proxy", "dynamic")) else "--",
    }


def stamp(fig: Figure, text: str) -> None:
    """A small grey note below the figure's right end: what it was made from, as data set and tier.

    The note stays on the picture, so that a tier `fast` figure can't pass as the result.
    """
    fig.text(1, -0.01, text, ha="right", va="top", fontsize=9, color="0.35", gid="stamp")
