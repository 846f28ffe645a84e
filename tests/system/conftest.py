# SPDX-License-Identifier: Apache-2.0
"""The fixtures of all system tests are in fixtures.py, so that tests/clients can use them too."""

from fixtures import *  # noqa: F401,F403
