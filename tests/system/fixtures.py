# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the system tests and of the tests with real clients."""

import contextlib
import itertools
import re

import pytest

import harness

numbers = itertools.count()


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes minutes or gigabytes; left out of `make test`")
    config.addinivalue_line("markers", "kernel_only: about the kernel, not about the processes of the product")


def pytest_report_header():
    return f"registry: {harness.KIND}, seed: FAIRLEAD_TEST_SEED={harness.SEED}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """A failed test shows the end of the logs of the registries it used."""
    outcome = yield
    report = outcome.get_result()
    if not report.failed:
        return
    for value in item.funcargs.values():
        for registry in getattr(value, "registries", [value]):
            if isinstance(registry, harness.Registry):
                report.sections.append((f"log of {registry.kind}", registry.log()[-4000:]))


@pytest.fixture(scope="module")
def registry():
    """One registry for the tests of a module; each test takes repositories of its own in it."""
    instance = harness.new_registry()
    try:
        yield instance.start()
    finally:
        instance.close()


class Factory:
    def __init__(self):
        self.registries = []

    def __call__(self, **options):
        instance = harness.new_registry(**options)
        self.registries.append(instance)
        return instance.start()


@pytest.fixture
def make_registry():
    """A registry for one test alone, with settings; started."""
    factory = Factory()
    try:
        yield factory
    finally:
        with contextlib.ExitStack() as stack:
            for instance in factory.registries:
                stack.callback(instance.close)


@pytest.fixture
def repo(request, registry):
    """A repository that no other test uses."""
    return registry.repository(repository_name(request.node.name))


def repository_name(test_name):
    words = re.sub("[^a-z0-9]+", "-", test_name.lower()).strip("-")[:60].strip("-")
    return f"test/{words}-{next(numbers)}"
