"""Bad inputs against every boundary of the package, and a table of what came of them.

`make attack` runs all, some 10 minutes; `python tests/attacks.py archives -v` one area, with every
answer. A case is *refused* as is due if the package's own error (ValueError, TypeError, OSError; at
the command line a message of a screenful at most) names what came. A case that names nothing is
*handled*: its task asserts what is documented. Each runs in a process and a folder of its own, so
none can hang the others, fill the memory or leave anything behind.
"""

import contextlib
import functools
import io
import json
import math
import os
import pickle
import resource
import select
import shlex
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from conftest import grow
from matplotlib.figure import Figure
from PIL import Image
from scipy.io import savemat

import proxylib as core
from proxylib import datasets, samplers
from proxylib.datasets import cub200, fetch, sop
from proxylib.datasets.caching import cached
from proxylib.study import bound_search, distance_model, figures, notebooks, settings
from proxylib.study.cli import app
from proxylib.study.methods import METHODS, complete_options
from proxylib.study.parameters import INJECTED, check
from proxylib.study.presets import read_presets
from proxylib.study.runs import RunConfig
from proxylib.study.runs.checkpoints import write

LIMIT = 60  # seconds for a case; more is a hang
MEMORY = 6 * 2**30  # bytes that a case may ask for beside what is there
LINES = 25  # of an error: a screenful
NAN, INF = math.nan, math.inf
VERDICTS = ("clear", "traceback", "wrong", "hang")
COMMON = Path(tempfile.mkdtemp(prefix="attacks-"))  # what several cases start from, never changed
TREE, MODEL = COMMON / "tree", COMMON / "model"
AREAS: dict[str, Callable[[], Iterator["Case"]]] = {}


class Case(NamedTuple):
    """One bad input; the working directory is an empty folder."""

    what: str
    task: Callable[[], object]
    named: tuple[str, ...]  # what the error must say; empty = handled, no error


class Refused(Exception):
    """What a command said before it ended with an error."""


def area(name: str) -> Callable:
    return lambda cases: AREAS.setdefault(name, cases)


def each(what: str, task: Callable, values: Iterable, *named: str) -> Iterator[Case]:
    """The task with each of the values, which all are refused with the same words."""
    for value in values:
        tensor = torch.is_tensor(value)
        shown = f"{tuple(value.shape)} {value.dtype}" if tensor else f"{value!r:.40}"
        yield Case(f"{what}: {shown}", partial(task, value), named)


def by_keyword(what: str, task: Callable, values: dict[str, Iterable], *named: str):
    """The same with each of the values of each keyword."""
    for name, bad in values.items():
        yield from each(f"{what} {name}", lambda v, n=name: task(**{n: v}), bad, *named)


def lines(table: str, run: Callable, before: str = "") -> Iterator[Case]:
    """A command line for each `words | what its error names`."""
    for line in filter(None, table.format(tree=TREE, model=MODEL, file=__file__).splitlines()):
        words, named = line.rsplit("|", 1)
        yield Case(
            f"{before} {words}", partial(run, *shlex.split(words)), (named.strip(), "Error: ")
        )


def command(*words: object) -> None:
    """A command line in this process; raises `Refused`."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            app.main([str(word) for word in words], prog_name="proxylib")
    except SystemExit as end:
        if end.code:
            raise Refused(said.getvalue()) from None


def judged(case: Case) -> tuple[str, str]:
    try:
        case.task()
    except (Refused, ValueError, TypeError, OSError) as error:
        text, flat = str(error), " ".join(str(error).split())
        if missing := [word for word in case.named if word not in flat]:
            return "wrong", f"says nothing of {missing}: {type(error).__name__}: {flat:.300}"
        if "Traceback" in text or text.count("\n") > LINES:
            return "traceback", f"{text:.300}"
        return ("clear", flat) if case.named else ("wrong", f"refused: {flat:.300}")
    except AssertionError as error:
        return "wrong", f"not as documented: {error}"
    except BaseException as error:
        return "traceback", f"{type(error).__name__}: {error!s:.300}"
    return ("wrong", "accepted") if case.named else ("clear", "handled")


def isolated(case: Case) -> tuple[str, str]:
    """The verdict on a case from a process of its own."""
    folder = tempfile.mkdtemp(dir=COMMON)
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        os.setsid()
        os.chdir(folder)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nowhere, number)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
        torch.set_num_threads(1)  # renews torch's pool, before two threads do it at once
        verdict = judged(case)
        if Path("evil").exists():
            verdict = "wrong", "ran what stands in the file"
        os.write(writing, json.dumps(verdict).encode()[:60_000])
        os._exit(0)
    os.close(writing)
    in_time = select.select([reading], [], [], LIMIT)[0]
    answer = os.read(reading, 60_000) if in_time else b""
    os.close(reading)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    shutil.rmtree(folder, ignore_errors=True)
    if not in_time:
        return "hang", f"more than {LIMIT} s"
    return tuple(json.loads(answer)) if answer else ("traceback", "the process died")


WHOLE = [0, -1, 1.5, True, "many", None, [1], NAN]
SEEDS = [[], [0, 0], [-1], [2**32], [0.5], [True], "0", [[0]], None]
RATIOS = [[0], [-1.0], [NAN], [INF], [0.5, 0.5], ["a"], 1.0, [2000]]
PATHS = ["/nowhere", "~nobody-at-all/x", 3, "/tmp", "a\0b", None]
SHOWN, SWITCH = [0, 51, -1, 10**5, 2.5, NAN], [1, "yes", None]
BAD = {
    **{"dataset": ["mnist", "", 3, ["kanji"]], "data_root": [3, None], "out": [3, None]},
    **{"tier": ["../x", "", "a b", 3, "a/b"], "recipe": ["best", 3, None], "steps": WHOLE},
    **{"seeds": SEEDS, "distortion_seeds": SEEDS, "batch_size": [1, *WHOLE], "jobs": [0, -2, 1.5]},
    **{
        "sweep_seeds": SEEDS[1:],
        "passes": WHOLE,
        "norms": [[], ["both"], ["free", "free"], "free", [3]],
    },
    **{"steps_pretrained": WHOLE, "dynamic_steps": WHOLE, "bound_steps": WHOLE, "axes": [-1, 1.5]},
    **{"ratios": [[], *RATIOS], "static_ratios": [[], *RATIOS], "dynamic_ratios": RATIOS},
    **{"angles": [[], [-1], [361], [0, 0], [NAN]], "distortions": [[0.0], [11], [NAN], 1.5]},
    **{"methods": [["nobody"], ["nca", "nca"], "nca", [3], [["nca"]]], "presets": PATHS},
    **{"n_queries": SHOWN, "n_neighbors": SHOWN, "query_image": PATHS},
    **{"tries": WHOLE, "n_classes": [-1, 15, 1.5, "all"]},
    **{"progress": SWITCH, "interactive": SWITCH, "repeats": WHOLE, "parallel_runs": [-1, 1.5]},
    **{"proxies": [[], [1], [98, 98], [9.5], 98], "points": [[], [999], [2000, 2000], 2000]},
}
TEXTS = {"steps": ["many", "3.5", "1e3", "[1", "1,2", "", "1" + "0" * 5000], "progress": ["1", "x"]}
TEXTS["seeds"] = ["1,a", "[[1", "{1}", "0 1", "-1", "*a", "!!python/name:os.system"]
STUDY = """
--tier medium | medium
--dataset mnist | mnist
--dataset folder | data_root
--dataset folder -p data_root /nowhere | /nowhere
--dataset folder -p data_root {file} | attacks.py
--dataset folder -p data_root ~nobody-at-all/x | nobody-at-all
--dataset folder -p data_root {model} | model
-p data_root {tree} | data_root
-p dataset kanji | --dataset
-p out x | --out
--only nothing | nothing
--only '' | no notebook ''
--jobs all | all
--jobs 0 | jobs=0
--backend dask | --scheduler
--scheduler tcp://a:1 | --backend
-f /nowhere.yaml | /nowhere.yaml
-f /tmp | /tmp
-p steps | -p
--nothing | --nothing
"""


@area("notebooks' parameters")
def parameters() -> Iterator[Case]:
    for name, values in BAD.items():
        yield from each(f"notebook, {name}", lambda v, n=name: check({n: v}), values, f"{name}=")
    for book in notebooks.notebooks():
        for name in notebooks.parameters(book):
            bad = [{name: v} for v in BAD[name] if type(v) is not str][:2]
            run = partial(notebooks.plan, [book])
            yield from each(book.stem, run, bad, f"{name}=", "valid parameters")
    for name, texts in TEXTS.items():
        run = partial(command, "study", "--only", "03", "-p", name)
        yield from each(f"-p {name}", run, texts, f"{name}=", "expect")
    for injected in ("stepz = 3", "Steps = 3", "steps = 3; x = 1"):
        cells = ["", "steps: int = 3", f"{INJECTED}\n{injected}"]
        yield from each("papermill", check, [{"In": cells}], "no notebook has a parameter")
    yield from lines(STUDY, partial(command, "study"), "study")


LAUGHS = "\n".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9 if i else 'ha'}]" for i in range(12))
NOT_YAML = {
    **{"empty": b"", "list": b"- steps", "word": b"steps", "two colons": b"a: b: c"},
    **{"tab": b"steps:\n\t- 3", "unclosed": b"seeds: [1", "binary": bytes(range(256))},
    **{"Latin-1": "steps: é".encode("latin1"), "UTF-16": "steps: 3".encode("utf-16")},
    **{"code": b"steps: !!python/object/apply:os.mkdir ['evil']", "loop": b"seeds: &a [*a]"},
    **{"deep": b"seeds: " + b"[" * 20_000, "long number": b"steps: 1" + b"0" * 5000},
    **{"no name": b"? [1]\n: 2", "billion laughs": f"{LAUGHS}\nseeds: *a11".encode()},
}
VALUES = """stepz: 3; steps: .nan; steps:; steps: yes; seeds: {a: 1}; 1: 2; jobs: 2; dataset: folder
steps: 2020-01-01; seeds: [.inf]; tier: full; out: x; progress: maybe; data_root: [a]"""
PRESETS = """random: 3; random: {nca: 3}; random: {nobody: {lr: 1}}; warm: {nca: {lr: 1}}
random: {nca: {lr: fast}}; random: {nca: {lr: -1}}; random: {nca: {foo: 1}}; random: [nca]
random: {nca: {lr: .nan}}; random: {nca: {batch_size: 0}}; random: {nca: {per_class: [1]}}
random: {nca: {batch_size: many}}; random: {nca: }; steps: 2020-01-01; random: {3: {lr: 1}}"""


@area("YAML files of parameters and presets")
def yaml_files() -> Iterator[Case]:
    def study(content: bytes) -> None:
        Path("p.yaml").write_bytes(content)
        command("study", "--only", "03", "-f", "p.yaml")

    def presets(content: bytes) -> None:
        Path("p.yaml").write_bytes(content)
        settings.resolve("nca", presets=read_presets(Path("p.yaml")))

    for what, content in NOT_YAML.items():
        yield Case(f"-f, {what}", partial(study, content), ("p.yaml",))
        yield Case(f"presets, {what}", partial(presets, content), ("p.yaml",))
    for text in VALUES.replace("\n", "; ").split("; "):
        yield Case(f"-f, {text}", partial(study, text.encode()), (text.split(":")[0],))
    for text in PRESETS.replace("\n", "; ").split("; "):
        yield Case(f"presets, {text}", partial(presets, text.encode()), ("p.yaml",))


@area("options of methods, settings of runs, of kanji")
def options() -> Iterator[Case]:
    owners = {option: name for name, entry in METHODS.items() for option in entry.options}
    for option, method in owners.items():
        bad = [{option: value} for value in ("many", NAN, -1e9, [1], -INF)]
        yield from each(method, partial(complete_options, method), bad, f"{option}=", "expected")
    for name, field in RunConfig.__dataclass_fields__.items():
        number = {int, float} & {field.type, *get_args(field.type)}
        bad = [v for v in ("many", -1, NAN, [1], {}) if (name, v) != ("data_root", "many")]
        bad += [INF] if number else [10**30]
        if "options" not in name:
            run = lambda v, n=name: RunConfig(**{n: v}).data()  # noqa: E731
            yield from each(f"RunConfig {name}", run, bad, name)
    more = {"seed": [2**70], "optimizer": ["LBFGS", "__doc__"], "dropout": [1.0], "crop": [3]}
    more |= {"backbone": ["resnet"], "lr": [0], "proxy_lr": [0], "record_bounds": [1]}
    yield from by_keyword("RunConfig", RunConfig, more, "=")
    bad = [{"options": {"nothing": 1}}, {"method": "npairs", "record_bounds": True}]
    yield from each("RunConfig", lambda v: RunConfig(**v), bad, "has no")
    bad = {"n_classes": [1, 10**6, 2.5], "n_images": [1, 10**9], "size": [4, 10**6, 2.5, "big"]}
    bad |= {"distortion": [-1, 3, NAN], "seed": [-1, 2**70], "subset": ["mine", 3], "colour": [1]}
    for name, values in bad.items():
        run = lambda v, n=name: datasets.load("kanji", **{n: v})  # noqa: E731
        yield from each(f"kanji {name}", run, values, name)


@area("core: tensors and numbers")
def core_inputs() -> Iterator[Case]:
    torch.manual_seed(0)
    g, labels, points = torch.Generator(), torch.arange(8) // 2, torch.randn(8, 4)
    d_pos, d_neg, mask = torch.rand(8), torch.rand(8, 5), torch.ones(8, 5, dtype=torch.bool)
    unit = partial(torch.nn.functional.normalize, dim=-1)
    x, z = unit(points.double()), unit(torch.randn(8, 3, 4).double())
    triplets = core.Triplets(x, x.roll(1, 0), z, x, z.roll(1, 1))

    def no_negative() -> None:
        for k in (0, 3):
            loss = core.nca_loss(d_pos, d_neg[:, :k], mask[:, :k] & False)
            assert (loss == 0).all(), loss

    yield Case("nca_loss without negatives", no_negative, ())
    for name in (name for name in core.__all__ if name.endswith("_loss")):
        needs = {"margin": 1.0} if name in ("triplet_loss", "contrastive_loss") else {}
        loss = partial(getattr(core, name), **needs)
        for what, good in {"d_pos": d_pos, "d_neg": d_neg, "mask": mask}.items():
            fits = {"d_pos": d_pos, "d_neg": d_neg}
            bad = [good[0], good[:4], good[:, None], good[None], good[:0]]
            bad += [good.float()] if what == "mask" else []
            run = lambda v, w=what, f=fits, loss=loss: loss(**f | {w: v})  # noqa: E731
            yield from each(f"{name} {what}", run, bad, "expected")
    not_labels = (labels.float(), labels[None], labels[:0], labels - 1, labels * 2)
    proxies = partial(core.ProxyLoss, dim=4, loss=core.nca_loss)
    for make in (core.SemiHardTriplet, core.NPairs, core.StructClust, core.assign_by_label):
        yield from each(make.__name__, make, not_labels, "labels")
    yield from each("assign_static", lambda v: core.assign_static(v, 4, g), not_labels, "labels")
    yield from each("ProxyLoss", lambda v: proxies(labels, labels=v), not_labels, "labels")
    wrong = (0, -1, 9, 100)
    yield from each(
        "assign_static", lambda v: core.assign_static(labels, v, g), wrong, "n_proxies="
    )
    yield from each("assign_random", lambda v: core.assign_random(8, v, g), wrong, "n_proxies=")
    wrong = (labels.float(), labels[:4], labels - 1, labels * 2, labels[None], labels[:0])
    yield from each("ProxyLoss", lambda v: proxies(v, labels=labels), wrong[:2], "assignment")
    yield from each("ProxyLoss", lambda v: proxies(v, labels=labels), wrong[2:4], "prox")
    yield from each("ProxyLoss", lambda v: proxies(v, labels=labels), wrong[4:], "assignment:")
    norms, make = [0, -1.0, NAN, INF], partial(proxies, labels, labels=labels)
    bad = {"embedding_norm": norms, "proxy_norm": norms, "n_negatives": [0, -1, 4, 100]}
    yield from by_keyword("ProxyLoss", make, bad | {"loss": ["nca", 3]}, "expected")
    yield from by_keyword("ProxyLoss", make, {"dim": [0, -1], "n_proxies": [2, 9, -1]}, "prox")
    rows = torch.tensor([[0, 1, 2], [1, 0, 9]])
    wrong = (rows, rows[0], rows[:, :2], rows.float(), rows - 2, None)
    yield from each("ProxyLoss", lambda v: proxies(labels, triplets=v), wrong, "triplets")
    for make in (core.SemiHardTriplet, core.InstanceLoss, core.LiftedStructure, core.StructClust):
        if make is not core.SemiHardTriplet:  # whose norm is fixed
            run = partial(make, labels, **{"loss": core.nca_loss} if "Inst" in str(make) else {})
            yield from by_keyword(make.__name__, run, {"embedding_norm": norms}, "expected")
    yield from each("ProxyNCA", lambda v: core.ProxyNCA(v, 4), (1, 0, -3), "n_classes=")
    nca = core.ProxyNCA(4, 4)
    wrong = (labels + 1, labels - 1, labels.float(), labels[:4], labels[None])
    yield from each("ProxyNCA labels", lambda v: nca(points, v), wrong, "labels")
    wrong = (points[0], points[:, :3], points[:4], points[None], points.long())
    yield from each("ProxyNCA embeddings", lambda v: nca(v, labels), wrong, "embeddings")
    yield from each("rescale", partial(core.rescale, points), norms, "norm=")
    shapes = [points[0], points[:, :3], points[:, :, None], points[:0]]
    for name, run in {
        "assign_nearest": lambda v: core.assign_nearest(points, v),
        "assign_nearest of": lambda v: core.assign_nearest(v, points),
        "nearest_neighbors": lambda v: core.nearest_neighbors(points, 2, v),
        "nearest_neighbors of": lambda v: core.nearest_neighbors(v, 2, points),
        "recall_at_k": lambda v: core.recall_at_k(v, labels),
        "nmi": lambda v: core.nmi(v, labels),
    }.items():
        any_width = name in ("recall_at_k", "nmi")
        yield from each(name, run, [points[:5] if any_width else shapes[1]], "expected")
        yield from each(name, run, [shapes[0], *shapes[2:]], "expected (N, D) float")
        yield from each(name, run, (points * NAN, points / 0), "8 of 8", "not finite")
    yield from each("distance", lambda v: core.pairwise_distance(points, v), shapes[:3], "expected")
    yield from each("k", lambda v: core.nearest_neighbors(points, v), (0, -1, 8), "k=")
    ks = [(0,), (-1, 2), ()]
    yield from each("ks", lambda v: core.recall_at_k(points, labels, v), ks, "ks=")
    for stream in (samplers.anchor_batches, samplers.pair_batches, samplers.class_batches):
        more = {"per_class": 2} if stream is samplers.class_batches else {}
        run = lambda n, of=labels, s=stream, m=more: s(of, n, generator=g, **m)  # noqa: E731
        yield from each(stream.__name__, run, (0, -1, 100), "batch_size=")
        yield from each(stream.__name__, lambda v, r=run: r(4, v), [labels[1:]], "labels")
    draw = partial(samplers.draw_triplets, labels, n_triplets=1, n_negatives=1, generator=g)
    yield from by_keyword("draw", draw, dict.fromkeys(("n_triplets", "n_negatives"), (0, -1)), "=")
    net = lambda **v: core.ConvNet(**{"channels": 1, "size": 32} | v)  # noqa: E731
    yield from by_keyword(
        "ConvNet", net, {"channels": (0, -1), "size": (8, 0), "dim": (0, -1)}, "="
    )
    wrong = [triplets._replace(anchor=a) for a in (points, points * NAN, points[0], points[:4])]
    wrong += [triplets._replace(negatives=z) for z in (points, triplets.negatives[:, :0])]
    wrong += [core.Triplets(*(part[:0] for part in triplets))]
    words = {"distance": ("cosine", None), "constant": ("mine",), "epsilon_as": ("mine",)}
    for name in ("ranking_bound", "expected_ranking_bound", "nca_bound", "triplet_bound"):
        bound = partial(getattr(core, name), **{"margin": 1.0} if name == "triplet_bound" else {})
        yield from each(name, bound, wrong, "expected")
        bad = words | {"epsilon": (-1.0, 0.0, NAN)}
        bad |= {"embedding_norm": [*norms, 0.5]} if bound.keywords or name == "nca_bound" else {}
        yield from by_keyword(name, partial(bound, triplets), bad, "=")
    margins = (-1.0, NAN, INF)
    yield from each("margin", lambda v: core.triplet_bound(triplets, margin=v), margins, "margin=")
    yield from each("tight_example", bound_search.tight_example, (0, -1.0, 4.5, NAN), "epsilon=")
    yield from each("flip_example", bound_search.flip_example, (0, -1.0, 2.0, NAN), "epsilon=")
    fits = {"embeddings": points, "labels": labels, "proxies": points[:4], "assignment": labels}
    numbers = (points * NAN, points / 0, points * 0)
    bad = {"embeddings": shapes[:3], "proxies": shapes[:3], "distance": ("plain",)}
    bad |= {"assignment": (labels + 1, labels[:4], labels - 1), "labels": (labels[:4], labels * 0)}
    bad |= {"margin": margins, "embedding_norm": norms, "max_anchors": (0, -1)}
    statistics = lambda **v: core.bound_statistics(**{"margin": 1.0} | fits | v)  # noqa: E731
    yield from by_keyword("bound_statistics", statistics, bad, "expected")
    bad = {"embeddings": numbers, "proxies": numbers}
    yield from by_keyword("bound_statistics", statistics, bad, "expected finite vectors")
    yield from each("α", lambda v: statistics(embedding_norm=v), (0.1,), "α = 1/(N_x·N_p) = 10")
    wrong = (labels[:4], labels + 9, labels - 1)
    yield from each(
        "proxy_errors", lambda v: core.proxy_errors(points, points, v), wrong, "entries"
    )


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((40, 30), 50).save(path)
    return path


def says_size(path: Path, side: int) -> None:
    """A PNG file whose header says that it is side × side."""
    content = picture(path).read_bytes()
    header = b"IHDR" + struct.pack(">II", side, side) + content[24:29]
    path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])


def changed(path: Path, share: float, flip: bool = False) -> None:
    """The file cut there, or with one bit flipped."""
    content = bytearray(path.read_bytes())
    at = int(share * (len(content) - 1))
    if flip:
        content[at] ^= 1
    path.write_bytes(content if flip else content[:at])


def tiff(*values: float, kind: type = np.float32) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(np.array([values] * 8, kind)).save(path, "TIFF")


NOT_IMAGES: dict[str, Callable[[Path], object]] = {
    "empty": Path.touch,
    "text": lambda path: path.write_text("no image, but long enough to be one"),
    "PostScript": lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9"),
    "random": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + os.urandom(500)),
    "truncated": lambda path: changed(picture(path), 0.7),
    "header": lambda path: changed(picture(path), 0.1),
    "bit flipped": lambda path: changed(picture(path), 0.5, flip=True),
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "link to nowhere": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "JPEG of 20,000²": lambda path: Image.new("L", (20_000, 20_000)).save(path, "JPEG"),
    **{f"{n}²": lambda path, n=n: says_size(path, n) for n in (9_500, 20_000, 2_000_000)},
    "float TIFF": tiff(0, 0.5, 1),
    "negative TIFF": tiff(-1, 5, 9),
    "NaN TIFF": tiff(NAN, 5, 9),
    "32-bit TIFF": tiff(0, 2**20, kind=np.int32),
}
# What may be in a tree of images beside them, and what its error names; nothing = passed over.
IN_TREES: dict[str, tuple[Callable[[Path], object], str]] = {
    "loop of links": (lambda tree: (tree / "group0/class0/again").symlink_to(tree), "one folder"),
    "class twice": (lambda tree: (tree / "z").symlink_to(tree / "group0/class0"), "one folder"),
    "image beside folders": (lambda tree: picture(tree / "x.png"), "x.png"),
    "empty class": (lambda tree: (tree / "z").mkdir(), "z: an empty class"),
    "class of one": (lambda tree: picture(tree / "z/1.png"), "class z"),
    "text file": (lambda tree: (tree / "group0/class0/x.csv").write_text("a"), "x.csv"),
    "not UTF-8": (
        lambda tree: (tree / "group0/class0" / os.fsdecode(b"\xff.png")).touch(),
        r"\xff",
    ),
    "new line": (lambda tree: (tree / "group0/class0/a\nb.png").touch(), "b.png"),
    "hidden file": (lambda tree: (tree / "group0/class0/.x.png").touch(), ""),
    "hidden folder": (lambda tree: picture(tree / ".x/1.png"), ""),
    "Thumbs.db": (lambda tree: (tree / "group0/class0/Thumbs.db").touch(), ""),
    "no classes": (lambda tree: [shutil.rmtree(f) for f in tree.iterdir()], "no images"),
    "few classes": (lambda tree: [shutil.rmtree(tree / f"group{i}") for i in (1, 2)], "at least 4"),
}
IN_CUB = """
images.txt | 1 001 | one 001 | images.txt:1
images.txt | 2 001 | 1 001 | images.txt:2
images.txt | 1.jpg | 0.jpg | images.txt:2
images.txt | 1 001.bird/0.jpg | 1 | images.txt:1
image_class_labels.txt | 1 1 | 1 9 | image_class_labels.txt:1
image_class_labels.txt | 1 1 | 1 -1 | image_class_labels.txt:1
image_class_labels.txt | 1 1 | 1 1.5 | image_class_labels.txt:1
classes.txt | 4 004.bird | 9 004.bird | class 4
bounding_boxes.txt | 1 1.0 | 1 nan | images.txt:1
bounding_boxes.txt | 1 1.0 | 1 -9 | images.txt:1
bounding_boxes.txt | 20.0 | 1e300 | images.txt:1
bounding_boxes.txt | 20.0 | wide | bounding_boxes.txt:1
bounding_boxes.txt | 1 1.0 2.0 | 1 90.0 2.0 | outside of the picture
"""
ESCAPES = (
    "001.bird/../../../outside.jpg",
    "/etc/hostname",
    r"001.bird\..\a",
    "C:/a",
    "no/such.jpg",
)


def cub(name: str = "", old: str = "", new: str = "") -> None:
    """CUB of 4 × 3 images in the genuine format, with one change in an annotation file."""
    cub200.N_CLASSES, cub200.N_TRAIN, cub200.N_IMAGES = 4, 2, 12
    images = [f"{i // 3 + 1:03}.bird/{i}.jpg" for i in range(12)]
    for image in images:
        picture(Path("images") / image)
    for file, rows in {
        "classes.txt": [f"{c} {c:03}.bird" for c in range(1, 5)],
        "images.txt": [f"{i} {image}" for i, image in enumerate(images, 1)],
        "image_class_labels.txt": [f"{i} {(i + 2) // 3}" for i in range(1, 13)],
        "bounding_boxes.txt": [f"{i} 1.0 2.0 20.0 20.0" for i in range(1, 13)],
    }.items():
        text = "\n".join(rows)
        Path(file).write_text(text.replace(old, new, 1) if file == name else text)
    datasets.load("cub200", Path(), boxes=True)


def cars(name: str, value: object) -> None:
    record = {"relative_im_path": "car_ims/1.jpg", "class": 1, "test": 0} | {name: value}
    savemat("cars_annos.mat", {"annotations": [record], "class_names": ["a"]})
    picture(Path("car_ims/1.jpg"))
    datasets.load("cars196", Path())


def products(line: str) -> None:
    for name, *_ in sop.SPLITS:
        Path(name).write_text(f"image_id class_id super_class_id path\n{line}\n")
    datasets.load("sop", Path())


@area("images and annotations")
def images() -> Iterator[Case]:
    def read(make: Callable, size: int = 32, **options: object) -> None:
        make(Path("bad.png"))
        datasets.read_file("bad.png", size, **options)

    def tree(change: Callable[[Path], object]) -> None:
        shutil.copytree(TREE, "tree")
        change(Path("tree").absolute())
        data = datasets.load("folder", "tree")
        assert (data.n_classes, len(data)) == (8, 32), data.class_names

    for what, make in NOT_IMAGES.items():
        bad = "group0/class0/bad.png"
        yield Case(f"image, {what}", partial(read, make), ("bad.png",))
        yield Case(f"in a tree, {what}", partial(tree, lambda t, m=make, b=bad: m(t / b)), (bad,))
    for what, (change, named) in IN_TREES.items():
        yield Case(f"in a tree, {what}", partial(tree, change), tuple(filter(None, [named])))
    for box in ((50, 0, 60, 9), (9, 9, 9, 9), (9, 9, 3, 3)):
        yield Case(f"{box=}", partial(read, picture, box=box), ("bad.png", "outside"))
    yield from each("size", lambda v: read(picture, v), (0, -8, 2.5, "big"), "size=")
    run = lambda v: datasets.load("folder", TREE, size=v)  # noqa: E731
    yield from each("size", run, (0, 7, -32, 2.5, "big"), "size=")
    roots = ("", __file__, "/dev/stdin", "/nowhere")
    yield from each("root", lambda v: datasets.load("folder", v), roots, "folder")
    for path in ESCAPES:
        yield Case(
            f"cub200 {path}", partial(cub, "images.txt", "001.bird/0.jpg", path), (path[:6],)
        )
        yield Case(f"cars196 {path}", partial(cars, "relative_im_path", path), (path[:6],))
        yield Case(f"sop {path}", partial(products, f"1 1 1 {path}"), (path[:6],))
    for line in IN_CUB.split("\n")[1:-1]:
        *change, named = line.split(" | ")
        yield Case(f"cub200 {line}", partial(cub, *change), (named,))
    wrong = [("class", 0), ("class", 197), ("class", "x"), ("class", NAN), ("relative_im_path", 3)]
    yield from each("cars196", lambda v: cars(*v), wrong, "record 1")
    wrong = ("1 1 1", "a 1 1 x.jpg", "1 99999 1 x.jpg", "1 0 1 x.jpg", "1.5 1 1 x.jpg")
    yield from each("sop", products, wrong, ".txt:2:")


@area("archives")
def archives() -> Iterator[Case]:
    def zipped(name: str = "top/a", mode: int = 0) -> Path:
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16
        with zipfile.ZipFile("bad.zip", "w") as file:
            file.writestr("top/good.png", os.urandom(5000))
            file.writestr(member, "/etc/passwd")
        return Path("bad.zip")

    def tarred(name: str = "top/a", kind: bytes = tarfile.REGTYPE) -> Path:
        with tarfile.open("bad.tgz", "w:gz") as file:
            good, bad = tarfile.TarInfo("top/good.png"), tarfile.TarInfo(name)
            good.size, bad.type, bad.linkname = 5000, kind, "/etc/passwd"
            file.addfile(good, io.BytesIO(os.urandom(5000)))
            file.addfile(bad)
        return Path("bad.tgz")

    def unpack(make: Callable[[], Path], *damage: object) -> None:
        archive = make()
        if damage:
            changed(archive, *damage)
        try:
            fetch.unpack([archive], Path("deep/target").absolute(), lambda path: None)
        finally:
            left = {file.name for file in Path().rglob("*")} - {archive.name, "deep"}
            assert not left, f"left {left}"

    names = ("../evil", "top/../../evil", "/tmp/evil", r"top\..\..\evil", "C:/evil", "a:b", "..")
    makers = [partial(make, name) for name in names for make in (zipped, tarred)]
    modes, kinds = (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFBLK), (*b"1236",)
    makers += [partial(zipped, mode=mode | 0o777) for mode in modes]
    makers += [partial(tarred, kind=bytes([kind])) for kind in (*kinds, *b"4")]
    for make in makers:
        what = f"{make.func.__name__} {make.args or make.keywords}"
        yield Case(what, partial(unpack, make), ("bad.", "refused to unpack"))
    for make in (zipped, tarred):
        for damage in ((0,), (0.3,), (0.6,), (0.95,), *[(0.3, True)] * (make is zipped)):
            what = f"{make.__name__} damaged {damage}"
            yield Case(what, partial(unpack, make, *damage), ("bad.", "a damaged archive"))


TRAIN = """
-p stepz 3 | stepz
-p steps many | steps='many'
-p steps -1 | steps=-1
-p lr [1 | lr='[1'
-p lr *a | lr='*a'
-p lr 0 | lr=0
-p lr .nan | lr=nan
-p lr 1e30 | at step
-p dim 1000000000000 | Error
-p dim 1e3 | dim=1000.0
-p seed -1 | seed=-1
-p seed 99999999999999999999 | seed=99999999999999999999
-p batch_size 0 | batch_size=0
-p batch_size 1 | batch_size=1
-p batch_size -8 | batch_size=-8
-p batch_size many | batch_size='many'
-p optimizer SparseAdam | SparseAdam
-p optimizer Rprop2 | Rprop2
-p optimizer __doc__ | __doc__
-p schedule sine | sine
-p precision float8 | float8
-p backbone resnet | resnet
-p backbone inception_v3 | Error
-p backbone alexnet | Error
-p crop 24 | crop=24
-p split all | split='all'
-p init warm | init='warm'
-p method nca | method
-o rati 1 | rati
-o ratio 0 | ratio=0
-o ratio 0.0001 | n_proxies=0
-o ratio 1000 | proxies
-o margin -1 | margin
-o embedding_norm 0 | embedding_norm=0
-o n_negatives 99 | n_negatives=99
-o n_triplets 5 -o n_negatives 2 | n_negatives
-o squared thanks | squared
--method semihard -o per_class 9 | batch_size=8
--method semihard -o per_class 1 | per_class=1
--method best | best
--recipe best | best
-d size [32] | size='[32]'
-d size 12 | size=12
-d size 4 | size=4
-d size big | size='big'
-d colour 1 | colour
--data-root /nowhere | /nowhere
--data-root /dev/null | /dev/null
--data-root ~nobody-at-all/x | nobody-at-all
--dataset cub200 --data-root {tree} | images.txt
--dataset cub200 --data-root '' | cub200
--dataset kanji | data_root
--threads 0 | --threads
--checkpoint-every 0 | --checkpoint-every
--workers -1 | --workers
--device tpu | tpu
--out {model} | holds a run
--out {file} | attacks.py
"""
SEARCH = """
-k 0 | -k
-k 33 | k=33
-k two | two
--picture a.txt | a.txt
--picture a | --picture a
--picture /proc/a.png | /proc/a.png
--picture /dev/null/a.png | /dev/null/a.png
--picture . | --picture .
--gallery /nowhere | /nowhere
--gallery /dev/null | /dev/null
--gallery {model} | no images
"""


def train(*words: object) -> None:
    own = f"--no-progress --dataset folder --data-root {TREE} -p schedule cosine --out out"
    command("train", *own.split(), "-p", "steps", 2, "-p", "batch_size", 8, *words)


def search(*words: object, query: object = "", model: object = MODEL) -> None:
    command("search", model, query or TREE / "group0/class0/0.png", "--gallery", TREE, *words)


@area("train and search")
def train_and_search() -> Iterator[Case]:
    def search_for(make: Callable[[Path], object]) -> None:
        make(Path("bad.png"))
        search(query="bad.png")

    yield from lines(TRAIN, train, "train")
    yield from lines(SEARCH, search, "search")
    for name in ("history.csv", "checkpoint.pt", "model.safetensors", "card.json"):
        run = lambda v: (Path("out", v).mkdir(parents=True), train("--resume"))  # noqa: E731
        yield from each("train, a folder is", run, [name], "Error: ", f"out/{name}")
    for what, make in NOT_IMAGES.items():
        yield Case(f"search for {what}", partial(search_for, make), ("Error: ", "bad.png"))
    for model in ("/nowhere", "/dev/null", TREE, __file__, "~nobody-at-all/x"):
        yield Case(f"search by {model}", partial(search, model=model), ("Error: ", str(model)[-9:]))


class Evil:
    """Unpickling it leaves a folder."""

    def __reduce__(self):
        return os.mkdir, ("evil",)


@area("model cards and checkpoints")
def models() -> Iterator[Case]:
    card, state = json.loads((MODEL / "card.json").read_text()), torch.load(MODEL / "checkpoint.pt")

    def load(name: str, content: bytes | None) -> None:
        file = shutil.copytree(MODEL, "model") / Path(name)
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        distance_model.load_model("model")

    def load_card(part: str, name: str, value: object) -> None:
        other = json.loads(json.dumps(card))
        (other[part] if part else other)[name] = value
        load("card.json", json.dumps(other).encode())

    def resume(**changes: object) -> None:
        file = Path(shutil.copytree(MODEL, "out")) / "checkpoint.pt"
        kept = {k: v for k, v in {**state, **changes}.items() if v is not ...}
        torch.save(kept, file)
        train("--resume")

    def resume_with(content: bytes) -> None:
        (Path(shutil.copytree(MODEL, "out")) / "checkpoint.pt").write_bytes(content)
        train("--resume")

    for part in ("network", "images"):
        for name in (*card[part], "weights", "path"):
            run = partial(load_card, part, name)
            bad = (None, "many", -1, 0.5, 10**12, [], {})
            yield from each(f"card, {part}.{name}", run, bad, "card.json", part)
    yield from each("card", lambda v: load_card("images", "size", v), (16, 33, 64), "images: size=")
    for name in ("network", "images", "normalize"):
        yield from each(f"card, {name}", partial(load_card, "", name), (None, [], 1, "x"), name)
    evil, whole = pickle.dumps(Evil()), (MODEL / "model.safetensors").read_bytes()
    header = b"\xff" * 7 + b"\x7f" + whole[8:]
    weights = (None, b"", whole[:-100], header, evil, b"weights", whole[:200] + b"x" + whole[201:])
    yield from each("weights", partial(load, "model.safetensors"), weights, "model.safetensors")
    cards = (None, b"", b'{"network": {', b"[]", b"\xff\xfe\0", b"[" * 10**5, b"NaN", b"3", evil)
    yield from each("card", partial(load, "card.json"), cards, "card.json")
    for name, kept in state.items():
        others = [v for v in ({}, [], torch.zeros(3)) if not isinstance(v, type(kept))]
        bad = [..., "many", -1, None, *others]
        run = lambda v, n=name: resume(**{n: v})  # noqa: E731
        yield from each(f"checkpoint, {name}", run, bad, "Error: ", "checkpoint.pt")
    for part in state["parts"].keys() - {"scaler"}:  # which is empty without float16
        for value in ({}, None, "many"):
            run = partial(resume, parts=state["parts"] | {part: value})
            yield Case(f"checkpoint, {part}={value}", run, ("Error: ", "checkpoint.pt"))
    whole = (MODEL / "checkpoint.pt").read_bytes()
    bad = (b"", whole[:-99], whole[: len(whole) // 2], b"state", evil)
    yield from each("checkpoint", resume_with, bad, "Error: ", "checkpoint.pt")
    for changes in ({"rows": [Evil()]}, {"step": 3}, {"step": 0}, {"generator": torch.zeros(3)}):
        yield Case(f"checkpoint, {changes}", partial(resume, **changes), ("checkpoint.pt",))
    words = ("--resume", "-p", "lr", 0.5)
    run = lambda: (shutil.copytree(MODEL, "out"), train(*words))  # noqa: E731
    yield Case("resumed otherwise", run, ("of another run", "lr"))


def costly(x: int) -> np.ndarray:
    """What the cache holds in this script."""
    with open("calls", "a") as file:
        file.write("x")
    return np.arange(x)


costly.__module__ = "attacks"  # joblib names what is in __main__ by its file


@area("files of the cache")
def cache_files() -> Iterator[Case]:
    def again(name: str, change: Callable[[Path], object]) -> None:
        os.environ["PROXYLIB_HOME"] = str(Path("home").absolute())
        cached(costly, 1000)
        [file] = Path("home").rglob(name)
        change(file)
        calls = "x" if name == "metadata.json" else "xx"  # nobody reads that
        for _ in range(2):
            assert np.array_equal(cached(costly, 1000), np.arange(1000))
            assert Path("calls").read_text() == calls, "computed too often or not again"

    changes: dict[str, Callable[[Path], object]] = {
        **{f"bit {i}/8 flipped": lambda file, i=i: changed(file, i / 8, True) for i in range(9)},
        **{f"cut at {i}/4": lambda file, i=i: changed(file, i / 4) for i in range(4)},
        "missing": Path.unlink,
        "foreign pickle": lambda file: file.write_bytes(pickle.dumps(Evil())),
        "longer": lambda file: file.write_bytes(file.read_bytes() + b"x"),
        "link to nowhere": lambda file: (file.unlink(), file.symlink_to("nowhere")),
        "not UTF-8": lambda file: file.write_bytes(b"\xff\xfe"),
    }
    for name in ("output.pkl", "output.sha256", "metadata.json"):
        for what, change in changes.items():
            yield Case(f"{name}, {what}", partial(again, name, change), ())


@area("places, and disks that are full")
def places() -> Iterator[Case]:
    def study(out: object = "out", home: object = None) -> None:
        if home:
            os.environ["PROXYLIB_HOME"] = str(home)
        Path("file").touch()
        command("study", "--only", "01", "--out", out, "-p", "steps", 1)

    bad = ("file", "file/below", "/dev/null", "/proc/here", "/sys/here", "~nobody-at-all/x")
    bad += ("/dev/full", "x" * 300, "a/" * 2100)
    for place in bad:
        named = place.rstrip("x")[:9] or "xxx"
        yield from each("study --out", study, [place], named, "Error: ")
        run = lambda v: (Path("file").touch(), train("--out", v))  # noqa: E731
        yield from each("train --out", run, [place], named)
        yield from each("PROXYLIB_HOME", lambda v: study(home=v), [place], named, "Error: ")

    def on_disk(fill: Callable[[Path], object], options: str = "size=300k") -> None:
        """On a disk of its own; of a writable one a third is used."""
        (disk := Path("disk").absolute()).mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", disk], check=True)
        try:
            if options != "ro":
                (disk / "used").write_bytes(bytes(100_000))
            fill(disk)
        finally:
            left = [file.name for file in disk.iterdir() if file.name.startswith(".")]
            subprocess.run(["umount", "-l", disk], check=True)
            assert not left, f"left {left}"

    def kept(disk: Path) -> None:
        write(disk / "a", lambda file: file.write(b"whole"))
        try:
            write(disk / "a", lambda file: file.write(bytes(10**6)))
        finally:
            assert (disk / "a").read_bytes() == b"whole"

    def cache(disk: Path) -> None:
        """What can't be kept is computed again."""
        os.environ["PROXYLIB_HOME"] = str(disk)
        for _ in range(2):
            assert len(cached(costly, 10**5)) == 10**5

    noise, empty, table = Figure(), Figure(), pd.DataFrame({"x": range(10**5)})
    pixels = np.random.default_rng(0).random((300, 300))
    noise.add_subplot().imshow(pixels, interpolation="nearest")
    save = lambda figure, disk: figures.save(figure, "a", table, disk, {})  # noqa: E731
    fill = lambda disk: ((disk / "y").write_bytes(bytes(204_000)), study(disk))  # noqa: E731
    full = {
        "checkpoint": (lambda disk: train("--out", disk), "disk/checkpoint.pt", "No space left"),
        "figure": (partial(save, noise), "disk/a.png", "No space left"),
        "table": (partial(save, empty), "disk/a.csv", "No space left"),
        "notebook": (study, "disk/01_triplets_and_proxies.ipynb", "No space left", "in the cache"),
        "a file that was whole": (kept, "disk/a", "No space left"),
        "out": (fill, "disk: files can't be written there", "No space left"),
        "cache": (cache,),
    }
    read_only = {
        "study --out": study,
        "train --out": lambda disk: train("--out", disk / "new"),
        "PROXYLIB_HOME": lambda disk: study(home=disk / "new"),
        "search --picture": lambda disk: search("--picture", disk / "a.png"),
    }
    if os.geteuid() == 0:  # else nobody may mount a disk
        for what, (task, *named) in full.items():
            yield Case(f"full: {what}", partial(on_disk, task), tuple(named))
        for what, task in read_only.items():
            run = partial(on_disk, task, "ro")
            yield Case(f"read-only: {what}", run, ("disk", "Read-only file system"))


def prepare() -> None:
    """What cases start from: a tree of images, a trained model, the data sets' memory."""
    os.environ["PROXYLIB_HOME"] = str(COMMON / "home")
    torch.set_num_threads(1)  # a forked process has no other
    grow(TREE, 8, 4)
    train("--out", MODEL)
    datasets.load("kanji")
    notebooks.parameters = functools.cache(notebooks.parameters)
    for book in notebooks.notebooks():
        notebooks.parameters(book)


def main(wanted: list[str]) -> int:
    began, counts = time.monotonic(), {}
    prepare()
    for name, cases in AREAS.items():
        if not wanted or any(word in name for word in wanted):
            counts[name] = Counter()
            for case in cases():
                verdict, told = isolated(case)
                counts[name][verdict] += 1
                if verdict != "clear" or "-v" in sys.argv:
                    print(f"{verdict}: {name}: {case.what}\n    {told}", flush=True)
    table = pd.DataFrame(counts, VERDICTS).T.fillna(0).astype(int)
    table.loc["all"] = table.sum()
    table.insert(0, "tried", table.sum(axis=1))
    print(f"{table.to_string()}\n{time.monotonic() - began:.0f} s")
    shutil.rmtree(COMMON)
    return int(table.loc["all", "tried"] > table.loc["all", "clear"])


if __name__ == "__main__":
    sys.exit(main([word for word in sys.argv[1:] if word != "-v"]))
