"""The study's plots, and saving: PNG + CSV of the data + JSON provenance."""

from proxylib.study.figures.curves import convergence, method_curves, proxy_ratio, rotation
from proxylib.study.figures.full_tier import published
from proxylib.study.figures.pictures import circle, gallery, image_grid
from proxylib.study.figures.rows import ladder, method_points, occupancy, switches, walk
from proxylib.study.figures.saving import (
    provenance,
    provenance_table,
    save,
    save_metrics,
    show,
    stamp,
)
from proxylib.study.figures.style import RIGHT, WRONG, method_label, method_style, title, use_style
from proxylib.study.figures.verdicts import VERDICTS, ledger

__all__ = ["RIGHT", "VERDICTS", "WRONG", "circle", "convergence", "gallery", "image_grid", "ledger"]
__all__ += ["method_curves", "method_label", "method_points", "method_style", "provenance"]
__all__ += ["provenance_table", "proxy_ratio", "published", "rotation", "save", "save_metrics"]
__all__ += ["ladder", "occupancy", "show", "stamp", "switches", "title", "use_style", "walk"]
