"""The registry: every method's options, and every method trains through the one loop."""

import dataclasses
import inspect
import re
from functools import partial

import pytest
import torch

from proxylib import losses
from proxylib.baselines import InstanceLoss, LiftedStructure, NPairs, SemiHardTriplet, Softmax
from proxylib.datasets import Dataset
from proxylib.dynamic import DynamicProxyLoss
from proxylib.models import ConvNet
from proxylib.objectives import ProxyLoss
from proxylib.struct_clust import StructClust
from proxylib.study.methods import (
    BASELINES,
    BENCHMARK,
    METHODS,
    REFERENCES,
    SUCCESSORS,
    Method,
    build_objective,
    complete_options,
)
from proxylib.study.runs import pretraining
from proxylib.study.runs.config import RunConfig
from proxylib.study.runs.execution import Machine
from proxylib.study.runs.fit import fit
from proxylib.study.runs.pretraining import pretrained_model

OURS = [name for name in METHODS if name not in SUCCESSORS]  # those: test_peers.py
LABELS = torch.arange(10).repeat_interleave(4)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def toy():
    """Ten classes of noisy patterns, four images each."""
    patterns = 255 * torch.rand(10, 1, 16, 16, generator=rng())
    noise = 40 * torch.randn(40, 1, 16, 16, generator=rng(1))
    images = (patterns[LABELS] + noise).clamp(0, 255).to(torch.uint8)
    return Dataset("toy", images, LABELS, tuple("abcdefghij"))


def run(method, steps=12, model=None, **options):
    torch.manual_seed(0)
    data, generator = toy(), rng()
    model = model or ConvNet(1, 16, 8, widths=(8, 8)).normalize_like(data.images)
    objective = build_objective(method, data.labels, 8, generator, **options)
    settings = {"steps": steps, "batch_size": 8, "eval_every": 4, "augment": False}
    config = RunConfig(method=method, options=options, **settings)
    return fit(config, Machine(), model, objective, data, generator)


@pytest.mark.parametrize("method", OURS)
def test_trains_and_repeats_bit_for_bit(method):
    history = run(method)
    assert history["step"].tolist() == [0, 4, 8, 12]
    assert history["samples"].tolist() == [0, 32, 64, 96]
    losses = history["loss"].tolist()[1:]
    assert losses[-1] < losses[0]
    assert run(method)["loss"].tolist()[1:] == losses


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("proxy_nca", {"ratio": 0.5}),
        ("proxy_nca", {"ratio": 2.5}),
        ("proxy_nca", {"assignment": "dynamic", "reassign_every": 5}),
        (
            "dynamic",
            {
                "restart_dead": True,
                "reassign_every": 2,
                "n_triplets": 100,
                "n_triplet_negatives": 3,
            },
        ),
        ("dynamic", {"n_triplets": 0, "ratio": 0.5}),
        ("dynamic", {"assignment": "static"}),
        ("proxy_nca", {"n_negatives": 3, "embedding_norm": None, "proxy_norm": None}),
        ("proxy_triplet", {"assignment": "dynamic", "drop_positive": True}),
    ],
    ids=str,
)
def test_proxy_variants_train(method, options):
    history = run(method, **options)
    assert history["loss"][1:].notna().all()
    n_proxies = round(10 * options.get("ratio", 1))
    assert history["proxies_in_use"].between(1, n_proxies).all()
    if options.get("assignment", METHODS[method].options["assignment"]) != "dynamic":
        assert history["proxies_in_use"].eq(n_proxies).all()


def test_batch_norm_centres_the_embedding():
    images = toy().images
    model = ConvNet(1, 16, 8, widths=(8, 8), batch_norm=True).normalize_like(images)
    embeddings = model(images)
    torch.testing.assert_close(embeddings.mean(0), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(embeddings.var(0, correction=0), torch.ones(8), atol=1e-2, rtol=0)


@pytest.mark.parametrize(("channels", "batch_norm"), [(1, False), (3, True)])
def test_pretrained_start_is_made_once(channels, batch_norm, tmp_path, monkeypatch):
    monkeypatch.setenv("PROXYLIB_HOME", str(tmp_path))
    trained = []
    original = pretraining.train

    def counting(*args, **options):
        trained.append(1)
        return original(*args, **options)

    monkeypatch.setattr(pretraining, "train", counting)
    first = pretrained_model(channels, 16, 8, batch_norm, steps=2)
    again = pretrained_model(channels, 16, 8, batch_norm, steps=2)
    assert len(trained) == 1
    images = torch.full((2, channels, 16, 16), 99, dtype=torch.uint8)
    assert torch.equal(first.eval()(images), again.eval()(images))
    assert not torch.equal(first.embedding.weight, ConvNet(channels, 16, 8).embedding.weight)
    monkeypatch.setattr(pretraining, "code_of", lambda *definitions: "other code")
    pretrained_model(channels, 16, 8, batch_norm, steps=2)
    assert len(trained) == 2


def test_the_pretrained_start_depends_on_nothing_around_it(tmp_path, monkeypatch):
    ends = []
    for seed in (1, 2):
        monkeypatch.setenv("PROXYLIB_HOME", str(tmp_path / str(seed)))
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        ends.append(pretrained_model(1, 16, 8, steps=3).state_dict())
        drawn = torch.get_rng_state()
        torch.manual_seed(seed)
        ConvNet(1, 16, 8)  # only the network to be loaded draws
        assert torch.equal(torch.get_rng_state(), drawn) and not torch.equal(drawn, before)
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


@pytest.mark.parametrize("method", OURS)
def test_diverged_training_names_step_and_points(method):
    class Broken(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(8))

        def forward(self, images):
            values = torch.full((len(images), 8), torch.nan if self.training else 1.0)
            return self.weight * values

    with pytest.raises(FloatingPointError, match=r"at step 1 \(embeddings of training points \["):
        run(method, model=Broken())


# the registry

PROXY_OPTIONS = {
    "embedding_norm": 3.0,
    "proxy_norm": 3.0,
    "squared": True,
    "drop_positive": False,
    "n_negatives": None,
    "shared_negatives": False,
    "ratio": 1.0,
    "assignment": "static",
    "n_triplets": 0,
    "n_triplet_negatives": 32,
    "reassign_every": 100,
    "restart_dead": False,
}
OPTIONS = {
    "proxy_nca": {**PROXY_OPTIONS, "include_positive": False},
    "proxy_triplet": {**PROXY_OPTIONS, "margin": 0.3, "embedding_norm": 1.0, "proxy_norm": 1.0},
    "npairs": {"l2": 0.02, "embedding_norm": None},
    "struct_clust": {"gamma": 1.0, "gamma_decay": 0.94, "per_class": 4, "embedding_norm": 1.0},
    "lifted": {"margin": 1.0, "per_class": 4, "embedding_norm": None},
    "semihard": {"margin": 0.5, "per_class": 4},
    "nca": {"include_positive": False, "squared": True, "per_class": 4, "embedding_norm": 3.0},
    "contrastive": {"margin": 1.0, "pull": 1.0, "per_class": 4, "embedding_norm": 1.0},
    "proxy_nca_free": {
        **{**PROXY_OPTIONS, "include_positive": False},
        **{"embedding_norm": None, "proxy_norm": None},
    },
    "softmax": {},
    "dynamic": {
        **PROXY_OPTIONS,
        "include_positive": False,
        "assignment": "dynamic",
        "n_triplets": 64_000,
        "reassign_every": 25,
        "restart_dead": True,
    },
}
OPTIONS["dynamic_free"] = {**OPTIONS["dynamic"], "embedding_norm": None, "proxy_norm": None}
# learning rates of network and proxies, batch size, augment, batch_norm, normalize
SETTINGS = {
    "proxy_nca": (1e-3, 0.1, 32, True, False, True),
    "proxy_triplet": (1e-3, 0.1, 32, True, False, True),
    "npairs": (1e-3, 0.1, 32, False, False, True),
    "struct_clust": (1e-3, 0.1, 32, False, False, True),
    "lifted": (2e-3, 0.1, 32, True, False, False),
    "semihard": (1e-3, 0.1, 32, False, False, True),
    "nca": (1e-3, 0.1, 32, False, False, True),
    "contrastive": (1e-3, 0.1, 32, True, False, True),
    "proxy_nca_free": (1e-3, 0.1, 32, True, True, True),
    "softmax": (1e-3, 1e-3, 32, True, False, True),
    "dynamic": (1e-3, 0.02, 32, False, True, True),
    "dynamic_free": (1e-3, 0.02, 32, False, True, True),
}


@pytest.mark.parametrize("method", OURS)
def test_options_and_settings_are_what_the_study_was_made_with(method):
    entry = METHODS[method]
    assert entry.options == OPTIONS[method]
    names = ("lr", "proxy_lr", "batch_size", "augment", "batch_norm", "normalize")
    assert tuple(getattr(entry, name) for name in names) == SETTINGS[method]


def test_the_groups_of_methods():
    proxies = [name for name in OURS if METHODS[name].has_proxies]
    dynamic = ("dynamic", "dynamic_free")
    assert proxies == ["proxy_nca", "proxy_nca_free", "proxy_triplet", *dynamic]
    assert REFERENCES == ("softmax",)
    assert (*BENCHMARK, *REFERENCES, *dynamic, *SUCCESSORS) == tuple(METHODS)
    assert BENCHMARK[3:] == BASELINES and len(BASELINES) == 6


def test_methods_of_one_figure_look_different():
    for look in ("label", "color", "marker"):
        looks = [getattr(METHODS[name], look) for name in (*BENCHMARK, *REFERENCES)]
        assert len(set(looks)) == len(looks)
    assert len({method.label for method in METHODS.values()}) == len(METHODS)


def test_every_option_is_explained_where_it_belongs():
    words = {
        name: " ".join(
            inspect.getdoc(part)
            for part in [*method.code(), *method.code()[0].__mro__[1:-1]]
            if part.__doc__
        )
        for name, method in ((name, METHODS[name]) for name in OURS)
        if inspect.isclass(method.code()[0])
    }
    proxies = [METHODS["proxy_nca"].objective, ProxyLoss, DynamicProxyLoss]
    for name, loss in (("proxy_nca", losses.nca_loss), ("proxy_triplet", losses.triplet_loss)):
        words[name] = " ".join(inspect.getdoc(part) for part in [*proxies, loss])
    words["contrastive"] += inspect.getdoc(losses.contrastive_loss)
    words |= dict.fromkeys(("proxy_nca_free", "dynamic", "dynamic_free"), words["proxy_nca"])
    for name in OURS:
        assert not [opt for opt in METHODS[name].options if opt not in words[name]], name


@pytest.mark.parametrize(
    ("method", "kind", "loss"),
    [
        ("proxy_nca", ProxyLoss, losses.nca_loss),
        ("proxy_triplet", ProxyLoss, losses.mean_triplet_loss),
        ("npairs", NPairs, None),
        ("struct_clust", StructClust, None),
        ("lifted", LiftedStructure, None),
        ("semihard", SemiHardTriplet, None),
        ("nca", InstanceLoss, losses.nca_loss),
        ("contrastive", InstanceLoss, losses.mean_contrastive_loss),
        ("proxy_nca_free", ProxyLoss, losses.nca_loss),
        ("softmax", Softmax, None),
        ("dynamic", DynamicProxyLoss, losses.nca_loss),
        ("dynamic_free", DynamicProxyLoss, losses.nca_loss),
    ],
)
def test_a_method_is_its_objective_with_its_loss(method, kind, loss):
    objective = build_objective(method, LABELS, 8, rng())
    assert type(objective) is kind
    if loss:
        assert objective.loss.func is loss
    assert kind in METHODS[method].code() or METHODS[method].has_proxies
    assert loss is None or loss in METHODS[method].code()


def test_every_option_reaches_the_objective_or_its_loss():
    """Each option with a value of its own, looked for where it should have arrived."""
    for name in OURS:
        given = {
            option: {
                "ratio": 0.5,
                "assignment": "dynamic",
                "n_triplets": 0,
                "reassign_every": 7,
                "n_negatives": 3,
                "per_class": 3,
            }.get(option, (not value) if isinstance(value, bool) else 1.25)
            for option, value in METHODS[name].options.items()
            if option != "n_triplet_negatives"
        }
        objective = build_objective(name, LABELS, 8, rng(), **given)
        of_loss = objective.loss.keywords if METHODS[name].loss else {}
        assert of_loss.keys() <= {"margin", "pull", "include_positive"}
        for option, value in given.items():
            if option not in ("ratio", "assignment", "n_triplets"):
                assert {**vars(objective), **of_loss}[option] == value, (name, option)
        if METHODS[name].has_proxies:
            assert objective.n_proxies == 5 and type(objective) is DynamicProxyLoss
    triplets = build_objective("dynamic", LABELS, 8, rng(), n_triplets=9, n_triplet_negatives=2)
    assert triplets.triplets.shape == (9, 4) and triplets.labels is None
    assert build_objective("contrastive", LABELS, 8, rng()).squared is False


def test_static_assignment_takes_no_notice_of_what_only_dynamic_knows():
    plain = build_objective("proxy_nca", LABELS, 8, rng())
    other = build_objective("proxy_nca", LABELS, 8, rng(), reassign_every=1, restart_dead=True)
    assert type(other) is ProxyLoss
    assert torch.equal(plain.proxies, other.proxies)
    assert torch.equal(plain.assignment, other.assignment)


def test_a_new_method_is_one_entry(monkeypatch):
    """Its options come from the signatures, its loss from the entry."""

    def doubled(d_pos, d_neg, mask=None, *, weight=2.0, margin=0.5):
        return weight * losses.mean_triplet_loss(d_pos, d_neg, mask, margin=margin)

    objective = partial(InstanceLoss, squared=False)
    new = Method("New", objective, doubled, 8, "h", (), {"per_class": 2, "weight": 3.0})
    monkeypatch.setitem(METHODS, "new", new)
    expected = {"weight": 3.0, "margin": 0.5, "per_class": 2, "embedding_norm": 3.0}
    assert new.options == expected
    assert RunConfig(method="new").options == tuple(sorted(expected.items()))
    built = build_objective("new", LABELS, 8, rng(), margin=0.25)
    assert built.loss.keywords == {"weight": 3.0, "margin": 0.25}
    assert (built.squared, built.per_class) == (False, 2)
    assert run("new")["loss"].notna().sum() == 3
    with pytest.raises(ValueError, match="new has no option squared"):
        complete_options("new", {"squared": True})


def test_entries_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        METHODS["nca"].lr = 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RunConfig(method="svm"), "unknown method 'svm', expected one of"),
        (lambda: build_objective("lifted", LABELS, 8, rng(), l2=1), "lifted has no option l2; it"),
        (lambda: build_objective("proxy_nca", LABELS, 8, rng(), head=1), "has no option head"),
        (lambda: build_objective("contrastive", LABELS, 8, rng(), squared=True), "no option squ"),
        (lambda: build_objective("proxy_nca", LABELS, 8, rng(), assignment="x"), "assignment='x'"),
        (
            lambda: build_objective("proxy_nca", LABELS, 8, rng(), assignment="random"),
            "assignment='random': expected one of static, dynamic",
        ),
        (lambda: build_objective("proxy_nca", LABELS, 8, rng(), ratio=0.01), "n_proxies=0"),
        (lambda: build_objective("proxy_nca", LABELS, 8, rng(), ratio=9), "fewer than their"),
        (lambda: build_objective("svm", LABELS, 8, rng()), "unknown method 'svm', expected one of"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [
        (
            "proxy_nca",
            {"embedding_norm": 0},
            ValueError,
            "embedding_norm=0.0: expected more than 0",
        ),
        ("proxy_nca", {"proxy_norm": -3.0}, ValueError, "proxy_norm=-3.0: expected more than 0"),
        (
            "proxy_nca",
            {"proxy_norm": float("nan")},
            ValueError,
            "nan: expected a finite",
        ),
        ("proxy_nca", {"ratio": float("inf")}, ValueError, "ratio=inf: expected a finite number"),
        ("proxy_nca", {"squared": "no"}, TypeError, "squared='no': expected bool"),
        ("proxy_nca", {"ratio": True}, TypeError, "ratio=True: expected float"),
        ("proxy_nca", {"n_triplets": 5.0}, TypeError, "n_triplets=5.0: expected int"),
        ("proxy_nca", {"n_negatives": 0}, ValueError, "n_negatives=0: expected at least 1"),
        ("proxy_nca", {"assignment": "random"}, ValueError, "expected one of static, dynamic"),
        ("dynamic", {"reassign_every": -1}, ValueError, "reassign_every=-1: expected at least 0"),
        ("proxy_triplet", {"margin": float("nan")}, ValueError, "margin=nan: expected a finite"),
        ("semihard", {"per_class": 1}, ValueError, "per_class=1: expected at least 2"),
        ("npairs", {"l2": -0.1}, ValueError, "l2=-0.1: expected at least 0"),
        ("contrastive", {"pull": -0.1}, ValueError, "pull=-0.1: expected at least 0"),
    ],
)
def test_options_are_checked(method, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        complete_options(method, options)


def test_a_whole_number_is_the_float_it_stands_for():
    assert complete_options("proxy_nca", {"ratio": 1})["ratio"] == 1.0
    assert type(complete_options("proxy_nca", {"ratio": 1})["ratio"]) is float
    assert complete_options("proxy_nca", {"embedding_norm": None})["embedding_norm"] is None
