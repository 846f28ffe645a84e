# SPDX-License-Identifier: Apache-2.0
"""Clusters of hosts as namespaces.

    with Cluster("a", "b", "c") as cluster:
        cluster.form()                       # the first one begins, the others join it by token
        cluster["b"].cli("set", "http.idle_timeout", "7s")
        cluster["a"].kill()
"""

import json

import http1
import netlab

PORT = 5010
START_S = 60    # on a machine under load, under a sanitizer
ELECTION_S = 60


class Node(netlab.Node):
    """A node whose programs for the kernel are not wanted."""

    def __init__(self, host, listen=True, more="", name=None):
        super().__init__(host)
        self.name = name or host.name
        self.listen, self.more = listen, more
        self.address = f"{host.v4}:{PORT}"

    def write_config(self):
        cluster = f"cluster:\n  name: {self.name}\n" + (f"  listen: ['{self.address}']\n" if self.listen else "")
        self.config_path.write_text(
            f"state: {self.folder}/state\n"
            f"run: {self.folder}/run\n"
            f"control:\n  socket: {self.socket}\n"
            f"log:\n  access: none\n"
            f"dataplane:\n  rings: 1\n"
            + cluster + self.more)

    def remove(self):
        if self.process and self.process.poll() is None:
            self.kill()

    # What it says.

    def status(self):
        return json.loads(self.cli("status", "--json").stdout)

    def nodes(self):
        """Rows of `fairlead node ls` by name; empty while it cannot be asked."""
        done = self.cli("node", "ls", "--json", check=False)
        return {row["name"]: row for line in done.stdout.splitlines() for row in rows_of(json.loads(line))}

    def setting(self, key):
        done = self.cli("get", key, "--json", check=False)
        return json.loads(done.stdout)["value"] if done.returncode == 0 else None

    def set(self, key, value, check=True):
        return self.cli("set", key, value, check=check)

    def token(self, role="manager", *more):
        """A cluster that was made just now does not know its version yet, and says so."""
        def ask():
            done = self.cli("node", "join-token", "--role", role, *more, "--json", check=False)
            return done if done.returncode == 0 or "the cluster runs version" not in done.stderr else None
        done = http1.wait_until(ask, START_S)
        assert done and done.returncode == 0, done.stderr if done else self.log()
        return json.loads(done.stdout)["token"]

    def join(self, manager, token, check=True):
        done = self.cli("node", "join", manager.address, "--token", token, check=check)
        if done.returncode == 0:
            # The same process begins anew, as another node.
            assert http1.wait_until(self.ready, START_S), self.log()
        return done

    def full_log(self):
        return self.log_path.read_text(errors="replace")


def rows_of(answer):
    return answer["nodes"] if isinstance(answer, dict) and "nodes" in answer else [answer]


class Cluster:
    def __init__(self, *names, **options):
        self.names, self.options = names, options
        self.lab = netlab.Lab(*names)
        self.nodes = {}

    def __enter__(self):
        self.lab.__enter__()
        return self

    def __exit__(self, *_):
        for node in self.nodes.values():
            node.remove()
        self.lab.__exit__()

    def __getitem__(self, name):
        return self.nodes[name]

    def prepare(self, name, **options):
        self.nodes[name] = Node(self.lab[name], **{**self.options, **options})
        return self.nodes[name]

    def start(self, name, **options):
        return self.prepare(name, **options).start()

    def form(self):
        """All of them become one cluster of managers."""
        first = self.start(self.names[0])
        for name in self.names[1:]:
            self.start(name).join(first, first.token())
            assert self.wait_until_whole(self.nodes), self.report()  # one after the other, as for an operator
        assert self.wait_until_whole(), self.report()
        return self

    def alive(self):
        return [node for node in self.nodes.values() if node.process and node.process.poll() is None]

    def wait_until_whole(self, names=None, seen_by=None):
        """Each that lives (or of those that are given) shows all of them as managers that vote and are ready."""
        wanted = set(names or self.names)

        def whole():
            return all(
                {name for name, row in node.nodes().items() if row["state"] == "ready" and row["role"] == "manager"} >= wanted
                for node in (seen_by or self.alive()))
        return http1.wait_until(whole, START_S)

    def leader(self):
        """The node that the living ones agree leads, or None."""
        said = {tuple(sorted(name for name, row in node.nodes().items() if row.get("leader"))) for node in self.alive()}
        names = said.pop() if len(said) == 1 else ()
        node = self.nodes.get(names[0]) if len(names) == 1 else None
        return node if node in self.alive() else None

    def wait_for_leader(self):
        assert http1.wait_until(lambda: self.leader() is not None, ELECTION_S), self.report()
        return self.leader()

    def wait_for_setting(self, key, value, nodes=None):
        nodes = nodes or self.alive()
        assert http1.wait_until(lambda: all(node.setting(key) == value for node in nodes), ELECTION_S), \
            f"{key}: {[(node.name, node.setting(key)) for node in nodes]}\n{self.report()}"

    def report(self):
        return "\n".join(f"--- {node.name} ---\n{node.log()}" for node in self.nodes.values())

