"""The public face: names, and every example of the core's docstrings."""

import doctest
import functools
import importlib
import pkgutil

import pytest
import torch

import proxylib

UPPER = {"__main__", "datasets", "study"}  # floors above the core


def core_modules():
    """The package itself and all modules of the core, those of `bounds` included."""
    yield proxylib
    for info in pkgutil.walk_packages(proxylib.__path__, "proxylib."):
        if info.name.split(".")[1] not in UPPER:
            yield importlib.import_module(info.name)


def examples():
    """The docstrings that have an example which is not skipped, by name."""
    finder, found = doctest.DocTestFinder(), {}
    for module in core_modules():
        for test in finder.find(module, module.__name__):
            if any(not example.options.get(doctest.SKIP) for example in test.examples):
                found[test.name] = test
    return found


EXAMPLES = examples()


def test_names_exist_and_are_sorted():
    assert proxylib.__all__ == sorted(set(proxylib.__all__))
    for name in proxylib.__all__:
        assert callable(getattr(proxylib, name)), name


def test_nothing_public_is_left_out_of_the_list():
    names = {name for name, value in vars(proxylib).items() if callable(value) and name[0] != "_"}
    assert names == set(proxylib.__all__)


def test_each_public_name_says_what_it_is():
    for name in proxylib.__all__:
        assert (getattr(proxylib, name).__doc__ or "").strip(), name


def test_the_examples_are_found():
    modules = {module.__name__ for module in core_modules()}
    assert {"proxylib.losses", "proxylib.bounds.triplets", "proxylib.proxy_nca"} <= modules
    assert not {name.split(".")[1] for name in modules - {"proxylib"}} & UPPER
    assert {"proxylib", "proxylib.losses.nca_loss", "proxylib.proxy_nca.ProxyNCA"} <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name):
    """With torch, functools and the public names at hand, as after `from proxylib import *`."""
    test, report = EXAMPLES[name], []
    if name != "proxylib":  # the package's own example brings what it needs
        public = {public: getattr(proxylib, public) for public in proxylib.__all__}
        test.globs = {"torch": torch, "functools": functools, **public, **test.globs}
    else:
        test.globs = {}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    state = torch.get_rng_state()
    try:
        result = runner.run(test, out=report.append, clear_globs=False)
    finally:
        torch.set_rng_state(state)
    assert result.attempted > 0
    assert result.failed == 0, "".join(report)
