# SPDX-License-Identifier: Apache-2.0
"""Clusters of hosts as network namespaces for the question `cluster`: Fairlead's managers, and etcd's members on the same hosts."""

import http.client
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

from measure import BenchError, cpu_seconds

ROOT = pathlib.Path(__file__).resolve().parents[1]
START_S, SETTLE_S = 60, 30
ETCD_CLIENTS, ETCD_PEERS = 2379, 2380
ETCD_HEARTBEAT_MS, ETCD_ELECTION_MS = 10, 100


def lab_tools(build):
    """The hosts of the system tests: (netlab, cluster_lab)."""
    os.environ["FAIRLEAD_BUILD"] = str(build)
    sys.path.insert(0, str(ROOT / "tests/system"))
    import cluster_lab
    import netlab
    return netlab, cluster_lab


def wait_for(what, check, seconds=SETTLE_S, pause=0.02):
    end = time.monotonic() + seconds
    while not (found := check()):
        if time.monotonic() > end:
            raise BenchError(f"{what}: not within {seconds} s")
        time.sleep(pause)
    return found


class Tool:
    """A program of the benchmarks in a host's namespace, which says a first line and runs until its input ends."""

    def __init__(self, host, *words):
        self.process = subprocess.Popen(host.inside(words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.first = self.process.stdout.readline().strip()
        if not self.first:
            self.process.wait(10)
            raise BenchError(f"{pathlib.Path(words[0]).name} ended")

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def stop(self):
        """The rest of what it says."""
        said, _ = self.process.communicate(timeout=60)
        return said

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def traffic(host):
    """Bytes that a host has sent and received."""
    shown = json.loads(host.ip("-j", "-s", "link", "show", "eth0").stdout)[0]["stats64"]
    return shown["tx"]["bytes"] + shown["rx"]["bytes"]


class FairleadManagers:
    """Managers on the hosts `names`; further hosts have nothing on them yet."""

    name = "fairlead"
    kind = "fairlead"
    links, depth = 32, 8  # of many writes at a time
    steady_links, steady_depth = 16, 32

    def __init__(self, build, names, more=()):
        netlab, cluster_lab = lab_tools(build)

        class Node(cluster_lab.Node):
            """One with programs for the kernel, where kernel.enabled says so."""

            def write_config(self):
                self.more = f"kernel:\n  instance: {self.instance}\n  cgroup: {self.host.cgroup}\n"
                super().write_config()

            def remove(self):
                netlab.Node.remove(self)

        class Cluster(cluster_lab.Cluster):
            def prepare(self, name, **options):
                self.nodes[name] = Node(self.lab[name], **options)
                return self.nodes[name]

        self.cluster = Cluster(*names, *more)
        self.cluster.names = names
        self.lab, self.names = self.cluster.lab, names

    def __enter__(self):
        self.cluster.__enter__()
        try:
            self.cluster.form()
            self.cluster[self.names[0]].set("kernel.enabled", "false")
            self.cluster.wait_for_setting("kernel.enabled", "false")
        except AssertionError as error:
            self.cluster.__exit__()
            raise BenchError(f"{self.name}: {error}") from error
        except BaseException:
            self.cluster.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.cluster.__exit__()

    def __getitem__(self, name):
        return self.cluster[name]

    def leader(self):
        return self.cluster.wait_for_leader().name

    def others(self):
        leader = self.leader()
        return [name for name in self.names if name != leader]

    def target(self, name):
        return self.cluster[name].socket

    def kill(self, name):
        self.cluster[name].kill()

    def start(self, name):
        self.cluster[name].start()

    def whole(self):
        if not self.cluster.wait_until_whole():
            raise BenchError(f"{self.name}: not whole:\n{self.cluster.report()}")

    def cpu(self, name):
        """Processor time of what a node's control took."""
        return cpu_seconds([self.cluster[name].process.pid])


class EtcdMembers:
    """On the same hosts, over plain HTTP: no TLS between members."""

    name = f"etcd, {ETCD_HEARTBEAT_MS} ms / {ETCD_ELECTION_MS} ms"
    kind = "etcd"
    links, depth = 256, 1
    steady_links, steady_depth = 400, 1

    def __init__(self, site):
        self.lab, self.names = site.lab, site.names
        self.netlab = sys.modules["netlab"]
        self.processes = {}

    def __enter__(self):
        try:
            for name in self.names:
                self.start(name)
            self.whole()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()

    def start(self, name):
        def url(of, port):
            return f"http://{self.lab[of].v4}:{port}"

        folder = self.lab.folder / f"etcd-{name}"
        everybody = ",".join(f"{of}={url(of, ETCD_PEERS)}" for of in self.names)
        with open(self.lab.folder / f"etcd-{name}.log", "ab") as log:
            self.processes[name] = self.lab[name].start(
                "etcd", "--name", name, "--data-dir", folder, "--listen-peer-urls", url(name, ETCD_PEERS),
                "--initial-advertise-peer-urls", url(name, ETCD_PEERS), "--listen-client-urls", url(name, ETCD_CLIENTS),
                "--advertise-client-urls", url(name, ETCD_CLIENTS), "--initial-cluster", everybody, "--initial-cluster-state", "new",
                "--heartbeat-interval", ETCD_HEARTBEAT_MS, "--election-timeout", ETCD_ELECTION_MS, "--log-level", "error",
                "--quota-backend-bytes", 8 << 30, stdout=log, stderr=log)

    def status(self, name):
        """What a member says of itself; None if it does not."""
        def talk():
            connection = http.client.HTTPConnection(self.lab[name].v4, ETCD_CLIENTS, timeout=2)
            try:
                connection.request("POST", "/v3/maintenance/status", "{}")
                return json.loads(connection.getresponse().read())
            except (OSError, ValueError, http.client.HTTPException, socket.timeout):
                return None
            finally:
                connection.close()
        return self.netlab.in_namespace(self.lab[name].netns, talk)

    def alive(self):
        return [name for name, process in self.processes.items() if process.poll() is None]

    def agreed(self):
        """The member that all that live take for the leader, or None."""
        said = {name: self.status(name) for name in self.alive()}
        leads = {s.get("leader", "0") if s else "0" for s in said.values()}
        return next((name for name, s in said.items() if s and leads == {s["header"]["member_id"]}), None)

    def leader(self):
        return wait_for("etcd elects", self.agreed)

    def others(self):
        leader = self.leader()
        return [name for name in self.names if name != leader]

    def whole(self):
        wait_for("etcd is whole", lambda: len(self.alive()) == len(self.names) and self.agreed(), START_S)

    def target(self, name):
        return f"{self.lab[name].v4}:{ETCD_CLIENTS}"

    def kill(self, name):
        self.processes[name].kill()
        self.processes[name].wait()
