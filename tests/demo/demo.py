# SPDX-License-Identifier: Apache-2.0
"""make demo: three managers with replicas and a client, each a host of its own (a network namespace), for half a minute.

An image is pushed to one service address and pulled in a loop while the leader of the cluster is killed, and comes back.
Everything is removed at the end. The exit code is 1 if a single pull failed.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "system"))
import http1  # noqa: E402
import netlab  # noqa: E402
from cluster_lab import Cluster  # noqa: E402
from harness import Repository  # noqa: E402

ADDRESS, PORT = "10.96.0.1", 5000
REPLICAS = ("north", "east", "west")
LAYERS = (400_000, 3_000_000)
LIVE = sys.stdout.isatty()


class Client(netlab.Node):
    """A host with Fairlead as its front door: the service address goes to whichever replica is up."""

    def write_config(self):
        backends = "".join(f"      - name: {name}\n        address: {self.host.lab[name].v4}:5000\n" for name in REPLICAS)
        self.config_path.write_text(
            f"state: {self.folder}/state\nrun: {self.folder}/run\ncontrol:\n  socket: {self.socket}\nlog:\n  access: none\n"
            f"kernel:\n  instance: {self.instance}\n  cgroup: {self.host.cgroup}\n"
            f"services:\n  - name: registry\n    address: {ADDRESS}:{PORT}\n    kind: registry\n    path: proxy\n"
            f"    check:\n      kind: http\n      path: /v2/\n      interval: 50ms\n    backends:\n{backends}")


class Screen:
    def __init__(self, cluster, client):
        self.cluster, self.client = cluster, client
        self.story, self.last, self.rate, self.slowest_ms = "", {}, 0.0, 0.0
        self.lines, self.began = 0, time.monotonic()

    def follow(self, puller):
        before, since = 0, time.monotonic()
        for line in puller.stdout:
            self.last = json.loads(line)
            self.slowest_ms = max(self.slowest_ms, self.last["slowest_ms"])
            now = time.monotonic()
            if now - since >= 0.5:
                self.rate, before, since = (self.last["pulls"] - before) / (now - since), self.last["pulls"], now

    def tell(self, text):
        self.story = text
        if not LIVE:
            print(f"{time.monotonic() - self.began:5.1f} s  {text}", flush=True)

    def draw(self):
        if not LIVE:
            return
        text = [f"\x1b[1m{self.story}\x1b[0m", "",
                f"  service address {ADDRESS}:{PORT} on the client, front door: fairlead", ""]
        rows = {row["name"]: row for row in self.client.json("backend", "ls")[0].get("backends", [])} if self.client else {}
        leader = self.cluster.leader()
        for name in REPLICAS:
            row = rows.get(name, {})
            alive = self.cluster[name] in self.cluster.alive()
            mark = "\x1b[32m●\x1b[0m" if alive else "\x1b[31m○\x1b[0m"
            text.append(f"  {mark} {name:6} {'leads the cluster' if leader and leader.name == name else 'follows' if alive else 'killed':18}"
                        f" the kernel says: {row.get('verdict', {}).get('state', '-') if isinstance(row.get('verdict'), dict) else row.get('verdict', '-')}")
        said = self.last
        text += ["", f"  pulls {said.get('pulls', 0):7}   {self.rate:7.0f} a second   {said.get('bytes', 0) / 1e9:6.2f} GB, every byte checked",
                 f"  failed {said.get('failed', 0):6}   slowest {self.slowest_ms:7.0f} ms", ""]
        if self.lines:
            sys.stdout.write(f"\x1b[{self.lines}A")
        sys.stdout.write("".join(f"\x1b[2K{line}\n" for line in text))
        sys.stdout.flush()
        self.lines = len(text)

    def watch(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.draw()
            time.sleep(0.25)


class Inside:
    """Calls from a host to an address."""

    def __init__(self, host, address):
        self.host, self.address = host, address

    def exchange(self, *arguments):
        return netlab.in_namespace(self.host.netns, lambda: http1.Client(self.address, timeout_s=20).exchange(*arguments))


def push(host, address):
    layers = [os.urandom(size) for size in LAYERS]
    return Repository(Inside(host, address), "demo/app").push_image("1", *layers)


def warm(cluster, digests):
    """Each replica fetches from another one what it lacks, and keeps it: from now on any of them may go."""
    for node in cluster.nodes.values():
        repo = Repository(Inside(node.host, ("127.0.0.1", 5000)), "demo/app")
        assert http1.wait_until(lambda repo=repo: repo.manifest("1").status == 200, 20)
        for digest in digests:
            assert repo.blob(digest).status == 200


def play(cluster, client, screen, puller):
    screen.tell("An image is pulled in a loop")
    screen.watch(5)
    victim = cluster.wait_for_leader()
    screen.tell(f"kill -9 of everything on {victim.name}, which leads the cluster")
    victim.kill()
    killed = time.monotonic()
    screen.watch(1)
    leader = cluster.wait_for_leader()
    screen.tell(f"{leader.name} leads, {time.monotonic() - killed:.1f} s later at most; a tag is written through it")
    _, body = push(leader.host, ("127.0.0.1", 5000))
    screen.watch(5)
    screen.tell(f"{victim.name} is started again")
    victim.start()
    repo = Repository(Inside(victim.host, ("127.0.0.1", 5000)), "demo/app")
    assert http1.wait_until(lambda: repo.manifest("1").body == body, 30), "it did not catch up"
    screen.tell(f"{victim.name} is back and has what was written meanwhile")
    screen.watch(4)
    puller.terminate()
    puller.wait()


def main():
    why = netlab.available()
    if why:
        print(f"make demo: {why}", file=sys.stderr)
        return 2
    print(__doc__.splitlines()[0].removeprefix("make demo: ").capitalize(), flush=True)
    with Cluster(*REPLICAS, "client", more="listen:\n  - address: '0.0.0.0:5000'\n    service: registry\n    allow_all: true\n") as cluster, \
            contextlib.ExitStack() as stack:
        cluster.names = REPLICAS
        screen = Screen(cluster, None)
        screen.tell("Three managers form a cluster: the first begins, the others join by token, over mutual TLS")
        cluster.form()
        client = Client(cluster.lab["client"])
        stack.callback(client.remove)
        client.start()
        where = Inside(client.host, (ADDRESS, PORT))
        assert http1.wait_until(lambda: reachable(where), 20), client.log()
        screen.tell("An image is pushed to the service address")
        _, body = push(client.host, (ADDRESS, PORT))
        manifest = json.loads(body)
        warm(cluster, [part["digest"] for part in (manifest["config"], *manifest["layers"])])
        screen.client = client
        puller = client.host.start(sys.executable, pathlib.Path(__file__).with_name("puller.py"), ADDRESS, PORT, stdout=subprocess.PIPE,
                                   text=True)
        follower = threading.Thread(target=screen.follow, args=(puller,))
        follower.start()
        play(cluster, client, screen, puller)
        follower.join()
        said = screen.last
        screen.tell("The end")
        screen.draw()
        print(f"{said['pulls']} pulls, {said['bytes'] / 1e9:.2f} GB, {said['failed']} failed"
              + (f" ({said['why']})" if said["failed"] else "") + f"; the slowest took {screen.slowest_ms:.0f} ms")
        return 1 if said["failed"] or not said["pulls"] else 0


def reachable(where):
    try:
        return where.exchange("GET", "/v2/").status == 200
    except (OSError, http1.ConnectionEnded):
        return False


if __name__ == "__main__":
    sys.exit(main())
