# SPDX-License-Identifier: Apache-2.0
"""`make soak`: under full load of the processors no backend is called down that is not. SOAK_SECONDS says how long."""

import os
import subprocess
import sys
import time

import pytest

import netlab
from test_freeze import BACKENDS, Site, VIP, PORT, wait_up

pytestmark = [netlab.needed, pytest.mark.slow]

SECONDS = int(os.environ.get("SOAK_SECONDS", "120"))
HOGS_PER_PROCESSOR = 4
LOOK_S = 5
REPORT_S = 60
DOWN = 3  # abi.h


class History:
    """All changes of verdicts of a node from now on, out of the kernel's own ring, which is read before it goes round."""

    def __init__(self, node):
        self.node, self.changes = node, []
        self.ids = [backend["id"] for backend in node.json("backend", "ls")]
        self.seen = self.head()
        self.before = self.totals()

    def head(self):
        return self.node.kernel_element("history_head", 0)

    def follow(self):
        """Returns the changes since the last look."""
        head = self.head()
        if head == self.seen:
            return []
        whole = {change["number"]: change for change in self.node.kernel_map("history") if change["time_ns"]}
        new = [whole[number] for number in range(self.seen, head)]  # a KeyError: the ring has gone round meanwhile
        self.seen = head
        self.changes += new
        return new

    def downs(self):
        return [change for change in self.changes if change["after"] & 0xff == DOWN]

    def totals(self):
        states = [self.node.kernel_element("probe_state", backend) for backend in self.ids]
        return {key: sum(state[key] for state in states)
                for key in ("probes", "answers", "timeouts", "http_probes", "http_answers", "http_failures")}

    def summary(self):
        totals = self.totals()
        clock = self.node.kernel_element("tick_state", 0)
        return ", ".join([*(f"{totals[key] - self.before[key]} {key}" for key in totals),
                          f"{len(self.changes)} changes, {len(self.downs())} of them down",
                          f"the clock's longest gap {clock['max_gap_ns'] / 1e6:.1f} ms, it stood still {clock['stale']} times"])


def soak(history, seconds):
    """Follows the history for so long. What goes down is told at once, with what is known of its probes soon after."""
    began = told = time.monotonic()
    while time.monotonic() < began + seconds:
        time.sleep(LOOK_S)
        for change in history.follow():
            if change["after"] & 0xff == DOWN:
                print("down:", change, history.node.kernel_element("probe_state", change["backend"]), file=sys.stderr)
        if time.monotonic() > told + REPORT_S or time.monotonic() > began + seconds:
            told = time.monotonic()
            print(f"{told - began:.0f} s, load {os.getloadavg()[0]:.0f}: {history.summary()}", file=sys.stderr, flush=True)


@pytest.mark.timeout(SECONDS + 300)
def test_nobody_is_called_down_under_full_load():
    with netlab.Lab("client", *BACKENDS) as lab:
        site = Site(lab)
        for server in site.servers.values():  # a server that does not get to answer is not well: only they are above the load
            subprocess.run(["chrt", "-f", "-p", "60", str(server.pid)], check=True)
        history = History(site.client)
        client = lab["client"].reach(VIP, PORT, interval_us=5000, timeout_ms=5000)
        hogs = [subprocess.Popen(["sh", "-c", "while :; do :; done"])
                for _ in range(HOGS_PER_PROCESSOR * os.cpu_count())]
        try:
            soak(history, SECONDS)
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()
        attempts = client.stop()
        wait_up(site.client)
        history.follow()
        assert not history.downs(), history.downs()
        lost = [attempt for attempt in attempts if attempt[2][0] == "-"]
        assert not lost, lost[:5]
        assert len(attempts) > SECONDS  # the client ran
