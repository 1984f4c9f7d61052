"""C10 to C12: what larger batches, fixed norms and turned queries do to Proxy-NCA."""

import pandas as pd

from proxylib.study.claims.claim import (
    FIXED,
    NOT_TESTED,
    PATENTED,
    Finding,
    claim,
    verdict_of,
)
from proxylib.study.claims.evidence import final_values, gap_between, show_percent
from proxylib.study.claims.statistics import by_seed, interval, require
from proxylib.study.methods import BASELINES, METHODS


@claim(
    "C10",
    statement="Training stays stable when batches are larger.",
    source="the design of this study, after the paper's set-up; the patent's text does not say it",
    rule="Reproduced if R@1 at batch 128 is within 2 points of R@1 at batch 32, in the mean, each "
    "with settings of its own.",
    likely_cause="At an equal budget of samples the larger batch takes a quarter of the steps, and "
    "settings that suit one batch size need not suit the other.",
)
def c10(batch: pd.DataFrame) -> Finding:
    require(batch, "batch", "batch_size", "seed", "recall_at_1")
    effect = gap_between(batch, 128, 32, key="batch_size")
    evidence = f"R@1 at batch 128 minus that at batch 32: {effect.show()}"
    if effect.mean > 2:
        evidence += "; the larger batch is better, which by the letter isn't within 2 points either"
    verdict = verdict_of(abs(effect.mean) <= 2, known=not effect.is_unknown)
    return Finding(evidence + ".", verdict, effect)


@claim(
    "C11",
    statement="Keeping all embeddings and all proxies at equal norms costs nothing.",
    source="training with proxies, the passage on the norms N_P and N_X",
    rule="Reproduced if the interval of R@1 with fixed norms minus that with free ones, each "
    "tuned, is not below −1 point.",
    likely_cause="The product of the norms acts as an inverse temperature; the free norms may find "
    "a better one than the fixed product.",
)
def c11(benchmark: pd.DataFrame) -> Finding:
    effect = gap_between(final_values(benchmark), FIXED.method, PATENTED.method)
    evidence = f"R@1 with fixed norms minus that with free ones: {effect.show()}."
    return Finding(evidence, verdict_of(effect.low >= -1, known=not effect.is_unknown), effect)


@claim(
    "C12",
    statement="Embeddings hardly change when the pictured object is turned.",
    source="FIG. 5 (Stanford Products)",
    rule="Proxy-NCA with free norms: reproduced if R@1 of queries turned by 30° is at least 90 % "
    "of that of upright ones, the gallery being upright; partly if it is at 15°.",
    likely_cause="Training images are turned little or not at all, and the direction of strokes "
    "tells characters apart; objects photographed from all sides are another matter.",
)
def c12(rotation: pd.DataFrame) -> Finding:
    require(rotation, "rotation", "method", "seed", "angle", "recall_at_1")
    kept, zero = {}, []
    turned = {FIXED.method, *BASELINES} & {*rotation["method"]}
    for method in (PATENTED.method, *(name for name in METHODS if name in turned)):
        part = rotation[rotation["method"] == method]
        wide = by_seed(part, (0, 15, 30), key="angle")
        if (wide[0] == 0).any():
            zero.append(METHODS[method].label)
        else:
            kept[method] = {angle: interval(wide[angle] / wide[0]) for angle in (15, 30)}
    if PATENTED.method not in kept:
        text = "A seed of Proxy-NCA has an upright R@1 of 0, so there is no share of it to keep."
        return Finding(text, NOT_TESTED, unit="of upright R@1")
    own = kept.pop(PATENTED.method)
    evidence = (
        f"Proxy-NCA keeps {show_percent(own[15].mean)} of its upright R@1 at 15° and "
        f"{show_percent(own[30].mean)} at 30°"
    )
    if kept:
        others = [f"{METHODS[name].label} {show_percent(at[30].mean)}" for name, at in kept.items()]
        evidence += f" ({', '.join(others)} at 30°)"
    if zero:
        evidence += f"; a seed of {' and one of '.join(zero)} has an upright R@1 of 0"
    known = not own[30].is_unknown
    verdict = verdict_of(own[30].mean >= 0.9, own[15].mean >= 0.9, known=known)
    return Finding(evidence + ".", verdict, own[30], "of upright R@1")
