"""The cache's fingerprint of code: an edit changes the results it may change, and no others."""

import ast
import hashlib
import re

import pytest

from proxylib.datasets import code
from proxylib.study import rotation
from proxylib.study.methods import METHODS, SUCCESSORS
from proxylib.study.runs import pretraining
from proxylib.study.runs.execution import execute

# one code, told apart by their options
NCA = {"proxy_nca", "proxy_nca_free", "dynamic", "dynamic_free"}
PROXY = {*NCA, "proxy_triplet"}
TUPLE = {"npairs", "struct_clust", "lifted", "semihard", "nca", "contrastive"}
PEERS = set(SUCCESSORS)  # one code, told apart by the name of their loss
NONE, ALL = set(), PROXY | TUPLE | {"softmax"} | PEERS
LOSSES, SAMPLERS, BASELINES = "proxylib.losses", "proxylib.samplers", "proxylib.baselines"
PROXIES, RUNS, REGISTRY = "proxylib.proxies", "proxylib.study.runs", "proxylib.study.methods"


class Copy:
    """A package's sources in a folder of their own, to be edited."""

    def __init__(self, folder, sources):
        self.folder = folder
        for module, text in sources.items():
            inner = any(other.startswith(f"{module}.") for other in sources)
            path = self.file(module, inner)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def file(self, module, inner=False):
        path = self.folder.joinpath(*module.split(".")[1:])
        return path / "__init__.py" if inner or path.is_dir() else path.with_suffix(".py")

    def change(self, module, old, new):
        """Replace a text that is there exactly once; nobody has loaded the new one yet."""
        text = self.file(module).read_text()
        assert text.count(old) == 1, f"{module}: {text.count(old)} × {old!r}"
        self.file(module).write_text(text.replace(old, new))

    def insert(self, module, name, statement):
        """A statement at the end of a function, method (Class.method) or class."""
        body = ast.parse(self.file(module).read_text()).body
        for part in name.split("."):
            [node] = [n for n in body if getattr(n, "name", None) == part]
            body = node.body
        lines = self.file(module).read_text().splitlines()
        lines.insert(body[-1].end_lineno, " " * body[-1].col_offset + statement)
        self.file(module).write_text("\n".join(lines) + "\n")

    def load(self):
        """What a new process would find."""
        code.SOURCES.clear()
        code.SOURCES.update(code._read_sources())
        code._reach.cache_clear()

    def changed(self):
        """The methods whose fingerprint is another than before the edits."""
        self.load()
        now = fingerprints()
        return {name for name in METHODS if now[name] != self.before[name]}


def fingerprints():
    return {name: code.code_of(execute, *method.code()) for name, method in METHODS.items()}


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The package as it is, and the methods' fingerprints."""
    found = Copy(tmp_path / "proxylib", code.SOURCES)
    monkeypatch.setattr(code, "PACKAGE", found.folder)
    monkeypatch.setattr(code, "SOURCES", dict(code.SOURCES))
    found.before = fingerprints()
    yield found
    code._reach.cache_clear()


def test_all_methods_are_told_apart_but_those_that_share_all_code(copy):
    assert copy.before.keys() == ALL
    for same in (NCA, PEERS):  # the configuration tells them apart
        assert len({copy.before[name] for name in same}) == 1
    assert len(set(copy.before.values())) == len(ALL) - len(NCA) - len(PEERS) + 2
    assert all(re.fullmatch(r"[0-9a-f]{16}", value) for value in copy.before.values())


def test_the_copy_is_the_package(copy):
    assert copy.changed() == NONE


# Which methods an edited definition concerns.
REACHED = [
    # losses
    (LOSSES, "triplet_loss", {"proxy_triplet", "semihard"}),
    (LOSSES, "mean_triplet_loss", {"proxy_triplet"}),
    (LOSSES, "nca_loss", {*NCA, "nca"}),
    (LOSSES, "contrastive_loss", {"contrastive"}),
    (LOSSES, "mean_contrastive_loss", {"contrastive"}),
    (LOSSES, "_mean_of_violating", {"proxy_triplet", "contrastive"}),
    (LOSSES, "mean_over_anchors", PROXY | {"nca", "contrastive"}),
    (LOSSES, "sums_over_negatives", PROXY),
    (LOSSES, "unwrapped", PROXY),
    (LOSSES, "_check", PROXY | {"nca", "contrastive", "semihard"}),
    (LOSSES, "ranking_loss", NONE),
    # objectives
    ("proxylib.objectives", "ProxyLoss.score", PROXY),
    ("proxylib.objectives", "Objective.metrics", ALL),
    ("proxylib.dynamic", "DynamicProxyLoss.reassign", PROXY),
    ("proxylib.fused", "fused_loss", PROXY),
    ("proxylib.fused", "_FusedLoss.backward", PROXY),
    (BASELINES, "NPairs", {"npairs"}),
    (BASELINES, "LiftedStructure.batch_loss", {"lifted"}),
    (BASELINES, "SemiHardTriplet", {"semihard"}),
    (BASELINES, "InstanceLoss", {"nca", "contrastive"}),
    (BASELINES, "positive_pairs", {"nca", "contrastive", "semihard", "lifted"}),
    (BASELINES, "BatchObjective.forward", TUPLE),
    (BASELINES, "Softmax", ALL),  # of the pre-trained start, which any method may have
    ("proxylib.struct_clust", "StructClust.before_step", {"struct_clust"}),
    ("proxylib.struct_clust", "worst_medoids", {"struct_clust"}),
    ("proxylib.struct_clust", "batch_nmi", {"struct_clust"}),
    ("proxylib.study.peers", "PeerLoss.forward", PEERS),
    ("proxylib.proxy_nca", "ProxyNCA", NONE),  # for users, not for the study
    # proxies and batches
    (PROXIES, "init_proxies", PROXY),
    (PROXIES, "assign_static", PROXY),
    (PROXIES, "assign_nearest", PROXY),
    (PROXIES, "draw_distinct", PROXY),
    (PROXIES, "assign_by_label", NONE),
    (SAMPLERS, "Stream.__next__", ALL),
    (SAMPLERS, "class_batches", TUPLE | PEERS),
    (SAMPLERS, "pair_batches", PROXY),
    (SAMPLERS, "triplet_batches", PROXY),
    (SAMPLERS, "draw_triplets", PROXY),
    # what every run goes through
    ("proxylib.training", "train", ALL),
    ("proxylib.distances", "pairwise_distance", ALL - PEERS - {"npairs", "softmax"}),
    ("proxylib.models", "ConvNet.forward", ALL),
    ("proxylib.models", "ConvNet.normalize_like", ALL),
    (f"{RUNS}.backbones", "Backbone.forward", ALL),
    ("proxylib.retrieval", "embed", ALL),
    ("proxylib.retrieval", "nearest_neighbors", ALL),
    ("proxylib.retrieval", "nmi", ALL),
    ("proxylib.study.experiments", "raw_pixels", NONE),
    (f"{RUNS}.augmentation", "random_affine", ALL),
    (f"{RUNS}.execution", "execute", ALL),
    (f"{RUNS}.execution", "starting_network", ALL),
    (f"{RUNS}.fit", "fit", ALL),
    (f"{RUNS}.fit", "build_optimizer", ALL),
    (f"{RUNS}.loading", "Batches.__iter__", ALL),
    (f"{RUNS}.pretraining", "_pretrain", ALL),
    (f"{RUNS}.trunk", "_outputs", ALL),
    (f"{RUNS}.cache", "sweep", NONE),
    (f"{RUNS}.cache", "fingerprint", NONE),
    (f"{RUNS}.config", "RunConfig", NONE),  # its values are the cache's key themselves
    (REGISTRY, "build_objective", ALL),
    (REGISTRY, "proxies_by_label", PROXY),
    (REGISTRY, "Axis", NONE),
    # what only looks at results, or chooses runs
    ("proxylib.study.tuning", "tune", NONE),
    ("proxylib.study.settings", "resolve", NONE),
    ("proxylib.study.experiments", "Study.runs", NONE),
    ("proxylib.study.rotation", "turn", NONE),
    ("proxylib.study.cli", "run_study", NONE),
    ("proxylib.study.cli_model", "run_train", NONE),
    ("proxylib.study.distance_model", "save_model", NONE),
    ("proxylib.study.notebooks", "plan", NONE),
    # data is hashed by its content
    ("proxylib.datasets", "load", NONE),
    ("proxylib.datasets.kanji", "load", NONE),
    ("proxylib.datasets.files", "read_file", NONE),
    ("proxylib.datasets.base", "zero_shot_split", NONE),
    ("proxylib.datasets.code", "code_of", NONE),
]


@pytest.mark.parametrize(
    ("module", "name", "expected"), REACHED, ids=[f"{m[9:]}.{n}" for m, n, _ in REACHED]
)
def test_an_edit_changes_the_methods_that_reach_it(copy, module, name, expected):
    copy.insert(module, name, "edited = True")
    assert copy.changed() == expected


@pytest.mark.parametrize("floor", ["figures", "claims"])
def test_no_figure_and_no_claim_is_part_of_a_run(copy, floor):
    files = sorted((copy.folder / "study" / floor).glob("*.py"))
    assert len(files) > 3
    for file in files:
        file.write_text(file.read_text().replace("return ", "return 0 or ") + "\nedited = True\n")
    assert copy.changed() == NONE


@pytest.mark.parametrize(
    ("module", "old", "new", "expected"),
    [
        # constants, and attributes that are set outside
        (LOSSES, "nca_loss.sums_over_negatives = True", "nca_loss.sums_over_negatives = False",
         {*NCA, "nca"}),
        ("proxylib.objectives", "NORM = 3.0", "NORM = 4.0", PROXY | {"nca", "contrastive"}),
        (BASELINES, "PER_CLASS = 4", "PER_CLASS = 2", TUPLE - {"npairs"}),
        (BASELINES, "    per_class = 2\n", "    per_class = 4\n", {"npairs"}),
        ("proxylib.struct_clust", "DECAY_STEPS = 100", "DECAY_STEPS = 200", {"struct_clust"}),
        ("proxylib.struct_clust", "swaps: int = SWAPS", "swaps: int = 3", {"struct_clust"}),
        (f"{RUNS}.config", '"float16": torch.float16', '"float16": torch.bfloat16', ALL),
        (f"{RUNS}.config", "LinearLR(optimizer, 1.0, 0.0,", "LinearLR(optimizer, 1.0, 0.1,", ALL),
        (f"{RUNS}.execution", "BOUND_ANCHORS = 400", "BOUND_ANCHORS = 300", ALL),
        (REGISTRY, "(ProxyLoss) | _keywords(DynamicProxyLoss)", "(ProxyLoss)", PROXY),
        # another definition under the same name
        (BASELINES, "import Loss, mean_over_anchors, triplet_loss",
         "import Loss, mean_over_anchors\nfrom proxylib.losses import ranking_loss as triplet_loss",
         {"semihard"}),
        # the registry: what a run takes from it stands in the run's configuration
        (REGISTRY, '"Proxy-NCA", proxies_by_label', '"Proxy NCA", proxies_by_label', NONE),
        (REGISTRY, "        lr=2e-3,\n", "        lr=3e-3,\n", NONE),
        (REGISTRY, '    "nca": Method(', '    "new": Method("New", NPairs, None, 8, "1", ()),\n'
         '    "nca": Method(', NONE),
        (REGISTRY, '"per_class": (2, True)', '"per_class": (3, True), "new": (0, False)', NONE),
        # words
        (LOSSES, '"""NCA: d(x, y)', '"""NCA, well known: d(x, y)', NONE),
        (LOSSES, '"""Losses as pure functions', '"""The losses as pure functions', NONE),
        (LOSSES, "stays finite here (its", "stays finite (its", NONE),
        (LOSSES, "    loss = d_pos + torch.logsumexp(logits, 1)\n",
         "    # Eq. 4\n\n    loss = (\n        d_pos + torch.logsumexp(logits, 1)\n    )\n", NONE),
        (LOSSES, "mask: Tensor | None = None, *, include_positive: bool = False",
         "mask: object = None, *, include_positive: int = False", NONE),
        (LOSSES, "Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]",
         "Loss = Callable[[Tensor, Tensor, Tensor], Tensor]", NONE),
        (BASELINES, '    """Multi-class N-pair loss', '    """The N-pair loss', NONE),
        (BASELINES, "self, labels: Tensor, *, l2: float = 0.02", "self, labels, *, l2 = 0.02",
         NONE),
    ],
)  # fmt: skip
def test_an_edited_text_changes_the_methods_that_reach_it(copy, module, old, new, expected):
    copy.change(module, old, new)
    assert copy.changed() == expected


def test_code_reads_the_same_with_every_version_of_python():
    """Python 3.11 has no `type_params`, 3.13 leaves empty lists out of `ast.dump`."""
    source = "def f(a, *, b: int = 1, **c):\n    return None if a else [b'x', f'{a!r}b', ...]\n"
    text = code._text(ast.parse(source).body[0])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "4f9f5ef8cc730b8f"


def test_other_results_have_fingerprints_of_their_own(copy):
    """Pre-trained networks do not depend on the study's loop, nor turned queries on a loss.

    But those ask for a run, whose own fingerprint is in theirs.
    """
    roots = {"start": (pretraining._pretrain,), "turned": (rotation._turned_recall,)}
    for module, name, expected in (
        (LOSSES, "nca_loss", NONE),
        (BASELINES, "NPairs", NONE),
        (f"{RUNS}.fit", "fit", {"turned"}),
        (BASELINES, "Softmax", {"start", "turned"}),
        ("proxylib.training", "train", {"start", "turned"}),
        ("proxylib.retrieval", "nearest_neighbors", {"turned"}),
        ("proxylib.study.rotation", "turn", {"turned"}),
        ("proxylib.study.rotation", "rotation", NONE),
    ):
        copy.load()
        first = {name: code.code_of(*definitions) for name, definitions in roots.items()}
        copy.insert(module, name, "edited = True")
        copy.load()
        second = {name: code.code_of(*definitions) for name, definitions in roots.items()}
        assert {name for name in roots if first[name] != second[name]} == expected, name


def test_the_code_of_data_counts_where_it_is_asked_for(copy):
    def prints():
        copy.load()
        return [code.code_of((f"proxylib.datasets.{m}", n)) for m, n in (
            ("kanji", "load"), ("files", "read_file"), ("base", "zero_shot_split")
        )]  # fmt: skip

    first = prints()
    copy.insert("proxylib.datasets.files", "read_file", "edited = True")
    second = prints()
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False, True]


def test_a_file_that_was_edited_after_it_was_loaded_is_refused_by_name(copy):
    copy.insert(LOSSES, "nca_loss", "edited = True")
    for name, method in METHODS.items():
        if name in {"npairs", "struct_clust", "lifted", "softmax"} | PEERS:  # reach nothing there
            assert code.code_of(execute, *method.code()) == copy.before[name]
        else:
            with pytest.raises(RuntimeError, match=r"proxylib/losses\.py has changed since"):
                code.code_of(execute, *method.code())
    copy.load()  # as a new process would
    assert fingerprints()["nca"] != copy.before["nca"]
    copy.file(LOSSES).unlink()
    with pytest.raises(RuntimeError, match=r"proxylib/losses\.py has changed since"):
        fingerprints()


def test_better_words_after_loading_do_not_matter(copy):
    copy.change("proxylib.training", '"""Algorithm 1', '"""The Algorithm 1')
    assert fingerprints() == copy.before


def test_what_is_not_there_is_refused():
    with pytest.raises(LookupError, match="lossez"):
        code.code_of((LOSSES, "lossez"))
    with pytest.raises(LookupError, match="sqrt"):
        code.code_of(("math", "sqrt"))


# What `code_of` can follow. A module that does something else would be followed in part only.

SHAPES = [
    ("def f(): return g()\ndef g(): return 1", True),
    ("f = lambda: g()\ndef g(): return 1", True),
    ("f, h = (lambda: g()), 1\ndef g(): return 1", True),
    ("def f(x=lambda: g()): return x\ndef g(): return 1", True),
    ("f: object = [1]\nf += [lambda: g()]\ndef g(): return 1", True),
    ("f = {}\nf['g'] = lambda: g()\ndef g(): return 1", True),
    ("def f(): pass\nf.help = lambda: g()\ndef g(): return 1", True),
    ("class f(h): pass\nclass h:\n    def m(self): return g()\ndef g(): return 1", True),
    ("@h\ndef f(): pass\ndef h(x): return g()\ndef g(): return 1", True),
    ("from proxylib.b import g\ndef f(): return g()", True),
    ("from proxylib.b import g as h\ndef f(): return h()", True),
    ("from proxylib import b\ndef f(): return b.g()", True),
    ("from proxylib import b as c\ndef f(): return c.g()", True),
    ("def f():\n    from proxylib.b import g\n    return g()", True),
    ("from proxylib.c import g\ndef f(): return g()", True),  # which has it from b
    (
        "def f():\n    from proxylib.b import g\n    return g()\n"
        "def h():\n    from proxylib.d import g\n    return g()",  # another g
        True,
    ),
    (
        "def f():\n    from proxylib.d import g\n    return g()\n"
        "def h():\n    from proxylib.b import g\n    return g()",
        False,
    ),
    ("def f(): pass\ndef h(): return g()\ndef g(): return 1", False),
    ("from proxylib.b import g\ndef f(): return 1", False),
]


@pytest.mark.parametrize(("text", "reached"), SHAPES, ids=[text for text, _ in SHAPES])
def test_whatever_form_a_definition_has(tmp_path, monkeypatch, text, reached):
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "proxylib")
    monkeypatch.setattr(code, "SOURCES", {})
    prints = []
    for value in (1, 2):
        own = text.replace("return 1", f"return {value}") if "def g" in text else text
        others = {
            "proxylib.b": f"def g(): return {value}",
            "proxylib.c": "from proxylib.b import g",
            "proxylib.d": "def g(): return 0",
        }
        sources = {"proxylib": "", "proxylib.a": own, **others}
        Copy(tmp_path / "proxylib", sources).load()
        prints.append(code.code_of(("proxylib.a", "f")))
    code._reach.cache_clear()
    assert (prints[0] != prints[1]) == reached


def test_the_package_is_written_so_that_it_can_be_followed():
    """No module that decides a result imports or defines in ways that `code_of` does not see."""
    roots = [execute, pretraining._pretrain, rotation._turned_recall]
    roots += [part for method in METHODS.values() for part in method.code()]
    reached = code._reach(tuple((root.__module__, root.__name__) for root in roots))
    modules = {module for module, _ in reached}
    assert {LOSSES, REGISTRY, f"{RUNS}.fit", "proxylib.bounds.triplets"} <= modules
    seen = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign | ast.AugAssign
    for module in modules:
        tree = ast.parse(code.SOURCES[module])
        for node in tree.body:
            text = ast.unparse(node)
            words = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            types = isinstance(node, ast.If) and text.startswith("if TYPE_CHECKING:\n")
            imports = isinstance(node, ast.Import | ast.ImportFrom)
            assert isinstance(node, seen) or words or types or imports, f"{module}: {text}"
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not any(a.name.startswith("proxylib") for a in node.names), module
            elif isinstance(node, ast.ImportFrom):
                assert not node.level and node.names[0].name != "*", module
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
                assert not ast.unparse(node).startswith("proxylib."), module
