import gzip
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from proxylib.datasets.caching import finished
from proxylib.study import recording
from proxylib.study.cli import app
from proxylib.study.occupancy import occupancy
from proxylib.study.rotation import rotation
from proxylib.study.runs import RunConfig, cache, history, records, run, sweep

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
    assert recording.record("kanji") == 2
    elsewhere()
    found = sweep(RUNS, **QUIET)
    assert not [*finished(cache._run)]
    pd.testing.assert_frame_equal(history(found), trained, check_exact=True)
    assert [one.metrics["nmi"] for one in found] == trained["nmi"].dropna().tolist()[1::2]


def test_what_was_not_recorded_is_trained_when_asked_for(elsewhere):
    [first] = sweep(RUNS[:1], **QUIET)
    recording.record("kanji")
    elsewhere()
    [found] = sweep(RUNS[:1], **QUIET)
    assert isinstance(found, cache.RecordedRun)
    assert np.array_equal(found.embeddings, first.embeddings)
    assert not found.model().training
    with pytest.raises(AttributeError, match="loss"):
        _ = found.loss


def test_a_record_is_of_its_own_configuration_code_and_data_only(elsewhere, monkeypatch):
    sweep(RUNS[:1], **QUIET)
    recording.record("kanji")
    key = cache.fingerprint(RUNS[0])
    assert records.find("_run", RUNS[0], key)
    assert not records.find("_run", RUNS[1], key)
    assert not records.find("_run", RUNS[0], f"{key} other")
    assert not records.find("occupancy", RUNS[0], key)
    assert not records.find("_run", replace(RUNS[0], dataset="omniglot"), key)
    monkeypatch.setattr(recording, "fingerprint", lambda config: "that of other code")
    assert recording.record("kanji") == 1 and len(lines()) == 1  # it stays, nothing comes


def test_occupancy_and_turned_queries_are_recorded_too(elsewhere, monkeypatch):
    options = {"assignment": "dynamic", "ratio": 0.5, "n_triplets": 50}
    config = RunConfig(**SMALL, method="dynamic", eval_every=2, options=options)
    [seen] = sweep([config], **QUIET, work=occupancy)
    turned = rotation([config], [0, 90], **QUIET)
    assert recording.record("kanji") == 4  # the run that was turned is one, too
    elsewhere()
    monkeypatch.setattr("proxylib.study.occupancy.execute", None)
    monkeypatch.setattr("proxylib.study.rotation._turned_recall", None)
    [found] = sweep([config], **QUIET, work=occupancy)
    pd.testing.assert_frame_equal(found.table(), seen.table(), check_exact=True)
    assert np.array_equal(found.points, seen.points)
    pd.testing.assert_frame_equal(rotation([config], [0, 90], **QUIET), turned, check_exact=True)


def test_records_add_up_and_the_same_make_the_same_file(elsewhere):
    made = [records.record_of("_run", config, "key", history={"loss": [0.1]}) for config in RUNS]
    assert records.add("kanji", made) == 2
    before = records.file_of("kanji").read_bytes()
    assert records.add("kanji", made[::-1]) == 2
    assert records.file_of("kanji").read_bytes() == before
    newer = records.record_of("_run", RUNS[0], "key", history={"loss": [float("nan")]})
    assert records.add("kanji", [newer]) == 2
    losses = [record["history"]["loss"][0] for record in lines()]
    assert losses.count(0.1) == 1 and np.isnan(losses).sum() == 1
    assert records.find("_run", RUNS[1], "key") == made[1]


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


def test_no_folder_of_this_machine_is_recorded(elsewhere):
    config = RunConfig(dataset="folder", data_root="/home/somebody/pictures")
    made = records.record_of("_run", config, "key")
    assert "somebody" not in json.dumps(made)
    records.add("folder", [made])
    assert records.find("_run", replace(config, data_root="/elsewhere"), "key") == made


def test_the_command_says_how_many_and_where(elsewhere):
    run(RUNS[0])
    result = CliRunner().invoke(app, ["record", "kanji"])
    assert result.exit_code == 0, result.output
    assert result.output == f"1 runs in {records.file_of('kanji')}\n"
    assert [line["run"]["seed"] for line in lines()] == [0]
    nothing = CliRunner().invoke(app, ["record", "omniglot"])
    assert nothing.output.startswith("0 runs in ")
    wrong = CliRunner().invoke(app, ["record", "hiragana"])
    assert wrong.exit_code == 2 and "is not one of" in wrong.output
