# SPDX-License-Identifier: Apache-2.0
"""What can be done to a node: one alone on loopback, or hosts of a cluster."""

import contextlib
import os
import signal

import http1
import netlab
from cluster_lab import Cluster
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


class HostNode:
    """A node of a cluster (cluster_lab.py). Clients are on its own host, so that they reach it in any partition."""

    FAULTS = ("kill_dataplane", "kill_control", "kill_all", "pause", "pause_control", "cut_off", "deaf", "mute")
    TABLE = "chaos"

    def __init__(self, cluster, node):
        self.cluster, self.node, self.name, self.host = cluster, node, node.name, node.host
        self.stopped = []

    def connect(self):
        return netlab.in_namespace(self.host.netns, lambda: http1.Connection(("127.0.0.1", 5000), timeout_s=10))

    def exchange(self, *args, **options):
        with self.connect() as connection:
            return connection.exchange(*args, **options)

    def signal(self, pids, signum):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    def dataplane(self):
        return [pid for pid in self.node.pids() if pid != self.node.process.pid]

    def kill_dataplane(self):
        self.signal(self.dataplane(), signal.SIGKILL)

    def kill_control(self):
        self.node.process.kill()
        self.node.process.wait()

    def kill_all(self):
        self.node.kill()

    def pause(self):
        self.stopped = self.node.pids()
        self.signal(self.stopped, signal.SIGSTOP)

    def pause_control(self):
        self.stopped = [self.node.process.pid]
        self.signal(self.stopped, signal.SIGSTOP)

    def cut_off(self):
        self.host.silence()

    def deaf(self):
        self.drop("input")

    def mute(self):
        self.drop("output")

    def drop(self, hook):
        """One way only, as a broken cable or a filter does."""
        device = "iifname" if hook == "input" else "oifname"
        self.host.run("nft", f"table inet {self.TABLE} {{ chain c {{ type filter hook {hook} priority 0; {device} eth0 drop; }}; }}")

    def undo(self):
        self.signal(self.stopped, signal.SIGCONT)
        self.stopped = []
        self.host.unsilence()
        self.host.run("nft", "delete", "table", "inet", self.TABLE, check=False)
        if self.node.process.poll() is not None:
            self.node.start()


@contextlib.contextmanager
def hosts(*names):
    with Cluster(*names) as cluster:
        cluster.form()
        yield [HostNode(cluster, node) for node in cluster.nodes.values()]
