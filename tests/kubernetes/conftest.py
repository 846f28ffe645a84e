# SPDX-License-Identifier: Apache-2.0
"""Uses the harness of the system tests. One cluster for all tests of the run."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "system"))

from fixtures import *  # noqa: E402,F401,F403
from kube_lab import Cluster  # noqa: E402
import netlab  # noqa: E402


@pytest.fixture(scope="session")
def cluster():
    if netlab.available():
        pytest.fail(f"hosts as namespaces: {netlab.available()}")
    with Cluster() as made:
        yield made


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """A failed test shows the ends of the cluster's logs."""
    outcome = yield
    report = outcome.get_result()
    cluster = item.funcargs.get("cluster")
    if report.failed and cluster:
        report.sections += [(f"log of {name}", text) for name, text in cluster.logs()]
