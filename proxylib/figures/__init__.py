"""The study's plots, and saving: PNG + CSV of the data + JSON provenance."""

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

__all__ = [
    "MARKERS",
    "RIGHT",
    "WRONG",
    "circle",
    "convergence",
    "gallery",
    "image_grid",
    "method_label",
    "method_style",
    "provenance",
    "provenance_table",
    "proxy_ratio",
    "save",
    "save_metrics",
    "stamp",
    "switches",
    "title",
    "use_style",
]
