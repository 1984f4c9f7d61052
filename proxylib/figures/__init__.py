"""The study's plots, and saving: PNG + CSV of the data + JSON provenance."""

from proxylib.figures.comparison import method_curves, method_points
from proxylib.figures.curves import convergence
from proxylib.figures.pictures import circle, gallery, image_grid
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
    "method_curves",
    "method_label",
    "method_points",
    "method_style",
    "provenance",
    "provenance_table",
    "save",
    "save_metrics",
    "stamp",
    "title",
    "use_style",
]
