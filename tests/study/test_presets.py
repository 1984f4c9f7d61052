"""The file of tuned settings: written, read, refused, and found."""

import warnings

import pytest

from proxylib.datasets.paths import PROJECT
from proxylib.study import paths
from proxylib.study.methods import METHODS
from proxylib.study.presets import find_presets, read_presets, write_presets
from proxylib.study.runs import describe
from proxylib.study.settings import SHARED, STARTS, resolve

KANJI_FULL = PROJECT / "figures" / "kanji-full" / "presets.yaml"


def complete():
    """A file's content in which no method is missing."""
    starts = {start: [n for n, m in METHODS.items() if start in m.starts] for start in STARTS}
    return {
        start: {name: {field: getattr(METHODS[name], field) for field in SHARED} for name in names}
        for start, names in starts.items()
    }


def test_presets_are_written_and_read(tmp_path):
    path = tmp_path / "deep" / "presets.yaml"
    write_presets(path, complete(), "By hand.")
    assert read_presets(path) == complete()
    assert path.read_text().startswith("# By hand.\n")


def test_the_committed_presets_are_complete():
    for file in (KANJI_FULL, PROJECT / "figures" / "omniglot-full" / "presets.yaml"):
        tuned = read_presets(file)
        for start in ("random", "pretrained"):
            methods = tuned[start]
            wanted = {n for n, m in METHODS.items() if start in m.starts}
            # softmax, which walks from a random start only, keeps what it chose there
            assert methods.keys() == wanted | {"softmax"}
            for name, values in methods.items():
                config = resolve(name, start=start, presets=tuned)
                got = describe(config) | dict(config.options)
                assert {field: got[field] for field in values} == values
                assert config.init == start


def test_presets_need_not_be_complete(tmp_path):
    """What lacks is told when it is run, see `Study.runs`."""
    with pytest.warns(UserWarning, match="nothing was tuned for this recipe: all settings are def"):
        assert read_presets(None) == {}
    path = tmp_path / "presets.yaml"
    path.write_text("random: {nca: {lr: 0.5}}\npretrained:\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_presets(path) == {"random": {"nca": {"lr": 0.5}}, "pretrained": {}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected lines of 'name: value', got list"),
        ("", "got NoneType"),
        ("random: [1", "not YAML"),
        ("random: é", "not YAML|can't decode"),
        ("random: &a [*a]", r"not YAML \(an alias \(\*\), which is not read here\)"),
        ("{}", "settings of methods under random, pretrained, other_batch; got none"),
        ("other_batch: {svm: {}}", "got svm"),
        ("random: 3", "got 3"),
        ("random: {nca: 3}", r"presets\.yaml: random, nca: 'int' object is not iterable"),
        ("random: {nca: {lr: fast}}", "random, nca: lr='fast': expected float"),
        ("random: {nca: {lr: .nan}}", "random, nca: lr=nan: expected a finite number"),
        ("random: {nca: {foo: 1}}", "random, nca: nca has no option foo"),
        ("random: {proxy_nca: {}, svm: {}}", "got svm"),
        ("random: {proxy_nca: {}}\nimagenet: {nca: {}}", "got imagenet"),
        ("proxy_nca: {lr: 1}", "got proxy_nca, lr"),
    ],
)
def test_bad_presets_are_refused(tmp_path, content, message):
    path = tmp_path / "presets.yaml"
    path.write_bytes(content.encode("latin1"))
    with pytest.raises(ValueError, match=message):
        read_presets(path)


def test_presets_may_hold_what_only_the_recipes_network_has(tmp_path):
    path = tmp_path / "presets.yaml"
    path.write_text("random: {nca: {crop: 200, dropout: 0.2}}")
    assert read_presets(path)["random"] == {"nca": {"crop": 200, "dropout": 0.2}}


def test_presets_are_looked_for_where_the_tuning_leaves_them(home):
    assert find_presets("folder") == find_presets("kanji") == KANJI_FULL
    assert find_presets("omniglot").parent.name == "omniglot-full"
    mine = paths.figures("folder", "full") / "presets.yaml"
    assert mine == home / "figures" / "folder-full" / "presets.yaml"
    write_presets(mine, complete(), "Mine.")
    assert find_presets("folder") == find_presets("folder", recipe="study") == mine
    assert find_presets("kanji", str(mine)) == mine
    with pytest.raises(FileNotFoundError, match=r"presets='x\.yaml': no such file; A1_tuning"):
        find_presets("folder", "x.yaml")


def test_presets_of_another_network_are_not_taken(home):
    """Kanji's are for the study's own network, and a data set's for its usual recipe."""
    assert find_presets("cub200") is None
    assert find_presets("kanji", recipe="today") is None
    assert find_presets("cub200", recipe="study") == KANJI_FULL
    mine = paths.figures("cub200", "full") / "presets.yaml"
    write_presets(mine, complete(), "Mine.")
    assert find_presets("cub200") == find_presets("cub200", recipe="patent") == mine
    assert find_presets("cub200", recipe="today") is None
    assert find_presets("cub200", recipe="study") == KANJI_FULL
    assert find_presets("kanji", str(mine), recipe="today") == mine
