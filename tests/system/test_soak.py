# SPDX-License-Identifier: Apache-2.0
"""`make soak`: under full load of the processors no backend is called down that is not. SOAK_SECONDS says how long."""

import os
import subprocess
import time

import pytest

import netlab
from test_freeze import BACKENDS, Site, VIP, PORT, wait_up

pytestmark = [netlab.needed, pytest.mark.slow]

SECONDS = int(os.environ.get("SOAK_SECONDS", "120"))
HOGS_PER_PROCESSOR = 4


def changes(site):
    """Changes of all verdicts so far."""
    return [change for service in ("web", "web6") for name in BACKENDS
            for change in site.client.json("backend", "show", service, name)[0]["history"]]


@pytest.mark.timeout(SECONDS + 300)
def test_nobody_is_called_down_under_full_load():
    with netlab.Lab("client", *BACKENDS) as lab:
        site = Site(lab)
        before = changes(site)
        client = lab["client"].reach(VIP, PORT, interval_us=5000, timeout_ms=5000)
        hogs = [subprocess.Popen(["sh", "-c", "while :; do :; done"])
                for _ in range(HOGS_PER_PROCESSOR * os.cpu_count())]
        try:
            time.sleep(SECONDS)
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()
        attempts = client.stop()
        wait_up(site.client)
        downs = [change for change in changes(site) if change not in before and change["state"] == "down"]
        assert not downs, downs
        lost = [attempt for attempt in attempts if attempt[2][0] == "-"]
        assert not lost, lost[:5]
        assert len(attempts) > SECONDS  # the client ran
