# SPDX-License-Identifier: Apache-2.0
"""What can be done to a node, and to one node alone on this machine."""

import contextlib
import os
import signal

import http1
from harness import FairleadRegistry, stand_still


class LocalNode:
    """A registry of harness.py on loopback."""

    def __init__(self, name, registry):
        self.name, self.registry = name, registry

    def connect(self):
        return http1.Connection(self.registry.address, timeout_s=10)

    def exchange(self, *args, **options):
        with self.connect() as connection:
            return connection.exchange(*args, **options)

    # What goes wrong; undo() makes it good again.
    def kill_dataplane(self):
        self.registry.kill_dataplane()

    def kill_control(self):
        self.registry.kill_control()

    def kill_all(self):
        self.registry.kill()

    def pause(self):
        self.stopped = self.registry.pids()
        for pid in self.stopped:
            with contextlib.suppress(OSError):
                stand_still(pid)

    def pause_control(self):
        self.stopped = [self.registry.process.pid]
        stand_still(self.registry.process.pid)

    def undo(self):
        for pid in getattr(self, "stopped", ()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.stopped = ()
        if self.registry.process is None:
            self.registry.start()

    def is_well(self):
        return self.exchange("GET", "/readyz").status == 200

    FAULTS = ("kill_dataplane", "kill_control", "kill_all", "pause", "pause_control")


@contextlib.contextmanager
def one_node():
    registry = FairleadRegistry(settings={"registry.commit_timeout": 3000})
    try:
        registry.start()
        yield [LocalNode("one", registry)]
        registry.stop()
    finally:
        registry.kill()
        registry.close()
