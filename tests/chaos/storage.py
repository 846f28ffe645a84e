# SPDX-License-Identifier: Apache-2.0
"""Nodes that lose what they hold, and what has to be true of a cluster that repairs itself.

One node at a time loses bytes, or does not count any more; while others are killed, stopped and cut off. Before the next one
does, all is well again: each blob is on as many nodes as are wanted. So nothing may ever be lost.
"""

import collections
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import subprocess

import http1
import netlab
from cluster_lab import Cluster
from harness import BUILD
from nodes import HostNode

COPIES = 2
REST_S = 300  # on a machine under load; what nobody comes to is tried again ever more rarely
SETTINGS = {
    "repair.grace": "1s", "scrub.interval": "5s", "scrub.rate": 1 << 30,
    # Longer than a push takes, or its end: what is older without a row, or without a name, is garbage.
    "registry.commit_timeout": "2s", "gc.grace": "6s", "gc.interval": "2s", "gc.spare": "3s", "gc.untagged": "3s",
    "registry.upload_expiry": "5s", "proxy.idle_timeout": "1s",
}
HARMED_MAX = 4
MIB = 1 << 20


class Rows:
    """What a node's names say of blobs and repositories (tests/tools/names_rows.c)."""

    def __init__(self, node):
        path = node.folder / "state/names.mdb"
        done = subprocess.run([BUILD / "tools/names_rows", path], capture_output=True, text=True, timeout=60, check=True)
        self.applied, self.links, self.holders, self.sizes, self.repos = 0, {}, {}, {}, {}
        for line in done.stdout.splitlines():
            kind, *words = line.split()
            if kind == "applied":
                self.applied = int(words[0])
            elif kind == "repo":
                self.repos[words[0]] = tuple(int(word) for word in words[1:])
            else:
                self.links[words[0]], self.sizes[words[0]] = int(words[1]), int(words[2])
                self.holders[words[0]] = {int(word) for word in words[3:]}

    def linked(self):
        return {digest for digest, links in self.links.items() if links}


class StorageNode(HostNode):
    """A replica of a cluster of several."""

    LOSSES = ("empty_store", "replace", "harm", "drain")
    absent = drained = emptied = False

    def __init__(self, cluster, node, role):
        super().__init__(cluster, node)
        self.role, self.sound_files = role, {}

    def connect(self):
        if self.absent:  # it is a cluster of its own until it has joined
            raise ConnectionRefusedError(f"{self.name} is no node of the cluster")
        return super().connect()

    # What it has.

    def path(self, digest):
        hexes = digest.partition(":")[2]
        return self.node.folder / "state/store/blobs/sha256" / hexes[:2] / hexes

    def files(self):
        found = (self.node.folder / "state/store/blobs").glob("sha*/*/*")
        return {f"{path.parent.parent.name}:{path.name}" for path in found}

    def sound(self, digest):
        """Whether the file is the blob. One that has not changed since is not read again."""
        try:
            stat = self.path(digest).stat()
            seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if self.sound_files.get(digest) != seen:
                if hashlib.sha256(self.path(digest).read_bytes()).hexdigest() != digest.partition(":")[2]:
                    return False
                self.sound_files[digest] = seen
            return True
        except OSError:
            return False

    def uploads(self):
        with contextlib.suppress(OSError):
            return os.listdir(self.node.folder / "state/store/uploads")
        return []

    def open_files(self):
        """What its descriptors are, but for those that wait for the next reader of a blob, and for programs and maps of the
        kernel, which are there or not as the cluster needs them."""
        found = []
        for pid in self.node.pids():
            for path in pathlib.Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    found.append(os.readlink(path))
        return [path for path in found if "anon_inode:b" not in path and ("/store/blobs/" not in path or "(deleted)" in path)]

    def memory(self):
        """Bytes that are neither a file's nor shared."""
        return sum(int(line.split()[1]) * 1024 for pid in self.node.pids()
                   for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Anonymous:"))

    # What it says; None while it cannot be asked.

    def json(self, *words):
        done = self.node.cli(*words, "--json", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    # What it loses. storage is the cluster as it knows it; make_good() is undo() for all of these.

    def empty_store(self, storage, _rng):
        self.kill_all()
        shutil.rmtree(self.node.folder / "state/store")
        self.emptied = True

    def replace(self, storage, _rng):
        self.absent = True
        self.kill_all()
        storage.order(self, "node", "rm", self.name, "--force", "--yes")

    def drain(self, storage, _rng):
        self.drained = True
        storage.order(self, "node", "drain", self.name)

    def harm(self, storage, rng):
        """Other bytes, fewer bytes, or no file, of some that another one has."""
        chosen = storage.redundant(self)
        for digest in rng.sample(chosen, min(len(chosen), HARMED_MAX)):
            storage.workload.harmed.add((self.name, digest))
            with contextlib.suppress(OSError):  # it may be gone by now
                self.harm_file(self.path(digest), rng)

    @staticmethod
    def harm_file(path, rng):
        size, how = path.stat().st_size, rng.choice(("flip", "truncate", "unlink"))
        if how == "flip":
            with open(path, "r+b") as out:
                out.seek(rng.randrange(size))
                byte = out.read(1)
                out.seek(-1, os.SEEK_CUR)
                out.write(bytes([byte[0] ^ 1]))
        elif how == "truncate":
            os.truncate(path, rng.randrange(size))
        else:
            path.unlink()

    def make_good(self, storage):
        if self.absent:
            shutil.rmtree(self.node.folder / "state")
            self.node.start()
            assert http1.wait_until(lambda: self.joins(storage), REST_S), storage.report("cannot join")
            assert http1.wait_until(self.node.ready, REST_S), storage.report("is not ready")
            self.absent = False
        self.undo()
        if self.emptied:  # it does not take the empty folder for its store before it is told to
            accepts = lambda: self.node.cli("store", "accept", "--yes", check=False).returncode == 0
            assert http1.wait_until(accepts, REST_S), storage.report("does not take its store")
            self.emptied = False
        if self.drained:
            storage.order(self, "node", "active", self.name)
            self.drained = False

    def joins(self, storage):
        manager = storage.manager_beside(self)
        more = ("--replica", "yes") if self.role == "worker" else ()
        with contextlib.suppress(subprocess.TimeoutExpired):
            made = manager.json("node", "join-token", "--role", self.role, *more)
            return made and self.node.cli("node", "join", manager.node.address, "--token", made["token"], check=False).returncode == 0
        return False


class Storage:
    """The whole of it."""

    def __init__(self, nodes, workload):
        self.nodes, self.workload = nodes, workload
        self.waits = ""  # why it is not at rest

    def report(self, what):
        shown = [f"{node.name}: {node.json('cluster', 'show')}\n{node.node.full_log()[-8000:]}" for node in self.nodes]
        return "\n".join([what, *shown])

    def manager_beside(self, node):
        return next(each for each in self.nodes if each is not node and each.role == "manager")  # no more than one is away

    def order(self, node, *words):
        """By another one."""
        manager = self.manager_beside(node)
        assert http1.wait_until(lambda: manager.node.cli(*words, check=False).returncode == 0, REST_S), self.report(words)

    def holders(self, without=None):
        """{digest: nodes that hold it, and have it} of all that is linked somewhere."""
        manager = self.manager_beside(without).node
        shown, rows = manager.nodes(), Rows(manager)
        ids = {shown[node.name]["id"]: node for node in self.nodes if node is not without and node.name in shown}
        return {digest: [ids[i] for i in rows.holders[digest] if i in ids and ids[i].sound(digest)] for digest in rows.linked()}

    def redundant(self, node):
        """What it holds and another one, too, of what is to stay."""
        wanted = self.workload.contents()
        return sorted(digest for digest, held in self.holders().items() if digest in wanted and node in held and len(held) > 1)

    def unrest(self, wanted, without, final):
        """What is still to be done; empty: all is well, but for the one that is away, or drained. What is pushed meanwhile does
        not count: where a node is drained, some of it is always on its way."""
        for node in self.nodes:
            if node is without:
                continue
            shown, status = node.json("cluster", "show"), node.json("status")
            if not shown or not status:
                return f"{node.name} cannot be asked"
            repair, damaged = shown["repair"], status["blobs"]["damaged_count"]
            left = [repair[key] for key in ("endangered", "lost", "surplus", "under_way")]
            if repair["state"] in ("paused", "checking") or damaged or (final and any(left)):
                return f"{node.name}: {damaged} are damaged, {repair}"
        held = self.holders(without)
        few = [digest for digest in wanted if len(held.get(digest, ())) < COPIES]
        return f"{len(few)} blobs are on too few nodes, as {few[0]} on {[n.name for n in held.get(few[0], ())]}" if few else ""

    def rest(self, without=None, final=False):
        wanted = list(self.workload.contents())

        def rests():
            self.waits = self.unrest(wanted, without, final)
            return not self.waits
        assert http1.wait_until(rests, REST_S, 0.2) or self.workload.errors, self.report(f"not at rest: {self.waits}")
        if not without:
            self.workload.harmed.clear()

    # ------------------------------------------------------------------ afterwards

    def measure(self):
        return {node.name: (len(node.open_files()), node.memory()) for node in self.nodes}

    def clean(self):
        """Nothing is left that is not named: the same on all nodes, and files are what rows say."""
        rows = {node.name: Rows(node.node) for node in self.nodes}
        totals = {name: (each.links, each.sizes, each.holders, each.repos) for name, each in rows.items()}
        first = next(iter(totals.values()))
        if any(each != first for each in totals.values()):
            return "nodes differ"
        named = {digest for digest in rows[self.nodes[0].name].links}
        if named != rows[self.nodes[0].name].linked():
            return "rows of nothing are left"
        for node in self.nodes:
            if node.files() - named:
                return f"{node.name} has {len(node.files() - named)} files that nothing names"
            if node.uploads():
                return f"{node.name} has sessions: {node.uploads()}"
            if any("/store/" in path and "(deleted)" in path for path in node.open_files()):
                return f"{node.name} has removed files open"
        return ""

    def accounts(self):
        """Each node's own sums of space."""
        said = []
        for node in self.nodes:
            done = node.node.cli("repo", "ls", "--json", check=False)
            said.append(sorted(done.stdout.splitlines()) if done.returncode == 0 else None)
        return said[0] is not None and all(each == said[0] for each in said)

    def verify(self, before):
        """All nodes are up again and reachable, and nobody pushes any more."""
        manager = self.nodes[0].node
        manager.set("gc.grace", "1s")
        self.rest(final=True)

        def clean():
            self.waits = self.clean()
            return not self.waits
        assert http1.wait_until(clean, REST_S, 0.5), self.report(self.waits)
        self.rest(final=True)
        assert http1.wait_until(self.accounts, REST_S), self.report("space is counted otherwise")

        def flat():
            after = self.measure()
            wrong = [name for name in after if after[name][0] > before[name][0] + 24 or after[name][1] > before[name][1] + 64 * MIB]
            self.waits = f"{wrong}: {before} -> {after} {[(n.name, collections.Counter(n.open_files()).most_common(30)) for n in self.nodes if n.name in wrong]}"
            return not wrong
        assert http1.wait_until(flat, REST_S, 0.5), self.waits


@contextlib.contextmanager
def storage_hosts(managers, workers):
    """Managers and workers, all of them replicas, each with programs in the kernel: their heartbeats tell Raft who is silent."""
    more = "settings:\n  store.cache_bytes: 1MiB\n  store.open_files: 16\n"
    with Cluster(*managers, *workers) as cluster, contextlib.ExitStack() as ends:
        for name in (*managers, *workers):
            host = cluster.lab[name]
            kernel = f"kernel:\n  instance: {host.netns}\n  cgroup: {host.cgroup}\n"
            node = cluster.start(name, more=more + kernel)
            ends.callback(netlab.Node.remove, node)  # its programs, too
            first = cluster[managers[0]]
            if name in managers[1:]:
                node.join(first, first.token())
                assert cluster.wait_until_whole(cluster.nodes), cluster.report()
            elif name in workers:
                node.join(first, first.token("worker", "--replica", "yes"))
        nodes = [StorageNode(cluster, node, "manager" if name in managers else "worker") for name, node in cluster.nodes.items()]
        assert http1.wait_until(lambda: knows_holders(nodes), REST_S), cluster.report()
        first.cli("cluster", "set", "--copies", COPIES, "--copies-min", COPIES)
        for key, value in SETTINGS.items():
            first.set(key, value)
        cluster.wait_for_setting("repair.grace", first.setting("repair.grace"))
        yield nodes


def knows_holders(nodes):
    """A cluster's version is raised when all its nodes have said what they know."""
    said = [node.json("cluster", "show") for node in nodes]
    return all(each and each["cluster"]["version"] >= 3 and each["cluster"]["replicas"] == len(nodes) for each in said)
