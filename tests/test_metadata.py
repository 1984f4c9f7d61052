"""Files about the project for machines: one version, one Python, JSON that says what it is."""

import json
import re
import tomllib

import yaml

import proxylib
from proxylib.datasets.kanji import load
from proxylib.datasets.paths import PROJECT

project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]


def test_all_name_the_same_version_and_licence():
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text(encoding="utf-8"))
    codemeta = json.loads((PROJECT / "codemeta.json").read_text(encoding="utf-8"))
    assert proxylib.__version__ == citation["version"] == codemeta["version"]
    assert project["license"] == citation["license"] == codemeta["license"].rpartition("/")[2]


def test_ci_runs_the_one_script_on_every_python_from_the_oldest_we_support():
    workflow = yaml.safe_load((PROJECT / ".github" / "workflows" / "test.yml").read_text())
    job = workflow["jobs"]["test"]
    versions = job["strategy"]["matrix"]["python"]
    assert project["requires-python"] == f">={versions[0]}" and len(versions) == 3
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]


def test_binder_installs_what_the_lock_pins():
    lines = (PROJECT / ".binder" / "requirements.txt").read_text().splitlines()
    constraint = next(line.split()[1] for line in lines if line.startswith("--constraint"))
    assert (PROJECT / ".binder" / constraint).resolve() == PROJECT / "requirements.lock"
    assert ".[study]" in lines


def test_commits_are_linted_by_the_ruff_of_the_tests():
    hooks = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"].split()[:2] for hook in hooks] == [
        [".venv/bin/ruff", "check"],
        [".venv/bin/ruff", "format"],
    ]


def test_croissant_describes_kanji_as_it_is():
    croissant = json.loads((PROJECT / "data" / "croissant.json").read_text(encoding="utf-8"))
    dataset = load()
    counts = [int(n) for n in re.findall(r"(\d+) (?:Japanese|images)", croissant["description"])]
    assert counts == [dataset.n_classes, len(dataset) // dataset.n_classes]
    size = " x ".join(map(str, dataset.images.shape[2:]))
    assert size in croissant["description"] and croissant["name"] == dataset.name
    sources = {source["@id"] for source in croissant["distribution"]}
    for record in croissant["recordSet"]:
        for field in record["field"]:
            assert field["source"]["fileSet"]["@id"] in sources
