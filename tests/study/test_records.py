import gzip
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from proxylib.datasets import code
from proxylib.datasets.caching import finished
from proxylib.study import recording
from proxylib.study.cli import app
from proxylib.study.occupancy import occupancy
from proxylib.study.rotation import rotation, turned_recall
from proxylib.study.runs import RunConfig, cache, fingerprint, history, records, run, sweep

QUIET = {"jobs": 1, "progress": False}
SMALL = {"data_options": {"n_classes": 8, "n_images": 4}, "batch_size": 8, "steps": 4}
RUNS = [RunConfig(**SMALL, eval_every=2, seed=seed) for seed in (0, 1)]


@pytest.fixture
def elsewhere(home, tmp_path, monkeypatch):
    """Empties the cache, as on another machine; the project's records are in a folder of a test."""
    monkeypatch.setattr(records, "PROJECT", tmp_path / "project")
    return lambda: monkeypatch.setenv("PROXYLIB_HOME", str(tmp_path / "elsewhere"))


def lines():
    with gzip.open(records.file_of("kanji"), "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_recorded_runs_are_not_trained_again(elsewhere):
    trained = history(sweep(RUNS, **QUIET))
    assert recording.record("kanji") == recording.Recorded(2, 2, 0)
    assert recording.record("kanji") == recording.Recorded(0, 2, 0)
    elsewhere()
    found = sweep(RUNS, **QUIET)
    assert not [*finished(cache.train_run)]
    pd.testing.assert_frame_equal(history(found), trained, check_exact=True)
    assert [one.metrics["nmi"] for one in found] == trained["nmi"].dropna().tolist()[1::2]
    assert [one.n_proxies for one in found] == [4, 4]


def test_a_record_stays_when_its_run_is_trained_again(elsewhere):
    [first] = sweep(RUNS[:1], **QUIET)
    recording.record("kanji")
    before = records.file_of("kanji").read_bytes()
    elsewhere()
    [again] = sweep(RUNS[:1], **QUIET, whole=True)
    assert not again.history["seconds"].equals(first.history["seconds"])
    assert recording.record("kanji").new == 0
    assert records.file_of("kanji").read_bytes() == before


def test_a_recorded_run_has_no_network_unless_it_is_asked_for_whole(elsewhere):
    [first] = sweep(RUNS[:1], **QUIET)
    recording.record("kanji")
    elsewhere()
    [found] = sweep(RUNS[:1], **QUIET)
    for name in ("embeddings", "model", "proxies"):
        with pytest.raises(AttributeError, match=f"{name}: .* whole=True"):
            getattr(found, name)
    [whole] = sweep(RUNS[:1], **QUIET, whole=True)
    assert np.array_equal(whole.embeddings, first.embeddings)
    assert sweep(RUNS[:1], **QUIET)[0].embeddings is not None  # now it is in the cache


def test_a_record_is_of_its_own_configuration_code_and_data_only(elsewhere, monkeypatch):
    sweep(RUNS[:1], **QUIET)
    recording.record("kanji")
    key = fingerprint(RUNS[0])
    assert records.find("train_run", RUNS[0], key)
    assert not records.find("train_run", RUNS[1], key)
    assert not records.find("train_run", RUNS[0], f"{key} other")
    assert not records.find("train_run", RUNS[0], key, 30.0)
    assert not records.find("occupancy", RUNS[0], key)
    monkeypatch.setattr(recording, "fingerprint", lambda config, work: "that of other code")
    assert recording.record("kanji") == recording.Recorded(0, 1, 1)  # what is there stays


def test_what_can_no_longer_be_checked_is_left_out(elsewhere, monkeypatch):
    sweep(RUNS, **QUIET)

    def vanished(config, work):
        if config.seed:
            return fingerprint(config, work)
        raise FileNotFoundError("its images")

    monkeypatch.setattr(recording, "fingerprint", vanished)
    assert recording.record("kanji") == recording.Recorded(1, 1, 1)


def test_the_work_counts_as_code():
    keys = {fingerprint(RUNS[0], work) for work in (cache.train_run, occupancy, turned_recall)}
    assert len(keys) == 3
    assert fingerprint(RUNS[0]).startswith(
        code.code_of(cache.execute, *cache.METHODS["proxy_nca"].code())
    )


def test_occupancy_and_turned_queries_are_recorded_too(elsewhere, monkeypatch):
    options = {"assignment": "dynamic", "ratio": 0.5, "n_triplets": 50}
    config = RunConfig(**SMALL, method="dynamic", eval_every=2, options=options)
    [seen] = sweep([config], **QUIET, work=occupancy)
    turned = rotation([config], [0, 90], **QUIET)
    assert recording.record("kanji").new == 4  # the run that was turned is one, too
    elsewhere()
    [found] = sweep([config], **QUIET, work=occupancy)
    pd.testing.assert_frame_equal(found.table(), seen.table(), check_exact=True)
    assert np.array_equal(found.points, seen.points)
    pd.testing.assert_frame_equal(rotation([config], [0, 90], **QUIET), turned, check_exact=True)
    assert not any([*finished(work)] for work in (cache.train_run, occupancy, turned_recall))


def test_the_same_records_make_the_same_file_in_whatever_order(elsewhere):
    made = [records.record_of("train_run", config, "key") | {"n_proxies": 4} for config in RUNS]
    records.save("kanji", made)
    before = records.file_of("kanji").read_bytes()
    records.save("kanji", [*made[::-1], made[0]])
    assert records.file_of("kanji").read_bytes() == before
    assert records.find("train_run", RUNS[1], "key") == made[1]
    records.save("kanji", made[:1])
    assert lines() == made[:1]


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(b'{"work": '), gzip.compress(b"[1]\n"), gzip.compress(b"{}\n")[:-6]],
    ids=["not gzipped", "half a line", "no record", "cut off"],
)
def test_a_damaged_file_is_named_with_what_to_do(elsewhere, content):
    file = records.file_of("kanji")
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"runs\.jsonl\.gz: expected gzipped .* or delete it"):
        sweep(RUNS[:1], **QUIET)
    result = CliRunner().invoke(app, ["record", "kanji"])
    assert result.exit_code == 1 and "or delete it" in result.output
    assert file.read_bytes() == content


def test_no_folder_of_this_machine_is_recorded(elsewhere):
    config = RunConfig(dataset="folder", data_root="/home/somebody/pictures")
    made = records.record_of("train_run", config, "key")
    assert "somebody" not in json.dumps(made)
    records.save("folder", [made])
    assert records.find("train_run", replace(config, data_root="/elsewhere"), "key") == made


def test_the_command_says_how_many_and_where(elsewhere, monkeypatch):
    run(RUNS[0])
    result = CliRunner().invoke(app, ["record", "kanji"])
    assert result.exit_code == 0, result.output
    assert result.output == f"1 new, 1 in all, in {records.file_of('kanji')}\n"
    assert [line["run"]["seed"] for line in lines()] == [0]
    assert CliRunner().invoke(app, ["record", "omniglot"]).output.startswith("0 new, 0 in all")
    monkeypatch.setattr(recording, "fingerprint", lambda config, work: "other code")
    assert "\n1 left out" in CliRunner().invoke(app, ["record", "kanji"]).output
    wrong = CliRunner().invoke(app, ["record", "hiragana"])
    assert wrong.exit_code == 2 and "is not one of" in wrong.output
