"""The study's plots, and saving: PNG + CSV of the data + JSON provenance."""

from proxylib.figures.comparison import method_curves, method_points
from proxylib.figures.curves import convergence
from proxylib.figures.pictures import circle, gallery, image_grid
from proxylib.figures.ratios import proxy_ratio, switches
from proxylib.figures.saving import provenance, provenance_table, save, save_metrics
from proxylib.figures.style import (
    MARKERS,
    RIGHT,
    WRONG,
    method_label,
    method_style,
    stamp,
    title,
    use_style,
)
from proxylib.figures.verdicts import VERDICTS, ledger, rotation
from proxylib.figures.walks import walk

__all__ = [
    "MARKERS",
    "RIGHT",
    "VERDICTS",
    "WRONG",
    "circle",
    "convergence",
    "gallery",
    "image_grid",
    "ledger",
    "method_curves",
    "method_label",
    "method_points",
    "method_style",
    "provenance",
    "provenance_table",
    "proxy_ratio",
    "rotation",
    "save",
    "save_metrics",
    "stamp",
    "switches",
    "title",
    "use_style",
    "walk",
]
