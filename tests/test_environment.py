"""pyproject.toml, requirements.lock and environment.yml say the same."""

import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical

from proxylib.datasets.paths import PROJECT

FIXED = {"torch", "torchvision", "jupyterlab", "papermill", "matplotlib", "seaborn", "pandas"}
FIXED |= {"scikit-learn", "nbval"}
project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
wanted = project["dependencies"] + extras["study"] + extras["test"]
lock = [
    Requirement(line)
    for line in (PROJECT / "requirements.lock").read_text().splitlines()
    if line and not line.startswith("#")
]


def test_every_dependency_is_locked_within_its_range():
    for requirement in map(Requirement, wanted):
        pins = [pin for pin in lock if pin.name == canonical(requirement.name)]
        assert pins, f"{requirement.name} is not in requirements.lock: run make lock"
        for pin in pins:
            [exact] = pin.specifier
            assert exact.operator == "=="
            assert exact.version in requirement.specifier, f"{pin} is outside {requirement}"


def test_conda_installs_the_same_at_the_locked_versions():
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())
    python, _, pip = environment["dependencies"]
    assert python == "python" + project["requires-python"]
    assert pip["pip"] == ["--constraint requirements.lock", *wanted, "--editable ."]


def test_the_packages_that_the_user_fixed_are_in_all_three():
    names = {Requirement(text).name for text in wanted}
    assert names.issuperset(FIXED)
    assert {pin.name for pin in lock}.issuperset(FIXED)


def test_cuda_packages_are_for_linux_only():
    for pin in lock:
        if pin.name.startswith(("nvidia-", "cuda-", "triton")):
            assert pin.marker and not pin.marker.evaluate({"sys_platform": "darwin"}), pin
