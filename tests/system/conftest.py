# SPDX-License-Identifier: Apache-2.0
"""The fixtures of all system tests are in fixtures.py, so that tests/clients can use them too."""

from fixtures import *  # noqa: F401,F403

# What is about the kernel alone: of no interest with sanitizers in the daemons.
KERNEL_ONLY = {"test_bfd", "test_edge", "test_probe", "test_soak", "test_takeover"}


def pytest_collection_modifyitems(items):
    for item in items:
        if item.module.__name__ in KERNEL_ONLY:
            item.add_marker("kernel_only")
