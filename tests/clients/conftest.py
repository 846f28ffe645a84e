# SPDX-License-Identifier: Apache-2.0
"""Uses the harness of the system tests."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "system"))

from fixtures import *  # noqa: E402,F401,F403
