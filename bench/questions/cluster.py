# SPDX-License-Identifier: Apache-2.0
"""What does a cluster of 1, 3 and 5 managers do in a second, how long is it without a leader, what do copies and workers cost?

Hosts are network namespaces on a bridge, so every fsync of all of them goes to one disk, and all processes share the processors.
etcd runs on the same hosts, one after the other; a write there is a put through its JSON gateway, here repo.create through
the control socket.
"""

import contextlib
import http.client
import json
import os
import statistics
import subprocess
import time

import measure
from cluster_hosts import EtcdMembers, FairleadManagers, Tool, lab_tools, traffic, wait_for
from questions.failover import limit_row, p99, row
from questions.manifest import manifest
from questions.push import SIZE as BLOB_BYTES
from questions.push import Blobs
from relays import make_certificate
from servers import MANIFEST_TYPE, REPOSITORY, make_file

TITLE = "Clusters of 1, 3 and 5 managers: commits, the kernel's maps, the loss of a leader, copies, workers"
QUICK = measure.QUICK
MANAGERS = ("a", "b", "c", "d", "e")
SIZES = (1, 3) if QUICK else (1, 3, 5)
SECONDS = 0.5 if QUICK else 2
CHANGES, CHANGE_PAUSE_MS, EFFECT_AIM_MS = (20 if QUICK else 500), 3, 20.0
LOSSES = {3: 1 if QUICK else 20, 5: 10}  # trials of each event
LOSS_EVENTS = ("kill -9", "link down")
LOSS_INTERVAL_US, LOSS_AIM_MS, LOSS_WATCH_S = 5000, 1000.0, 20
PUSHES = 10 if QUICK else 100
JOINS = 1 if QUICK else 3
FOLLOWERS = int(os.environ.get("BENCH_FOLLOWERS", "50" if QUICK else "1000"))
FOLLOWED_S = 1 if QUICK else 5
FETCH_PORT, SERVICE, BACKEND = 7443, "bench", "10.99.0.250:80"


def tool(bench, name):
    return bench.load_tool.parent / name


def say(text):
    print(f"  {text}", flush=True)


# ---------------------------------------------------------------- commits

class Commits:
    """Writes by bench/commits.c; no name is used twice."""

    def __init__(self, bench):
        self.tool, self.number = tool(bench, "commits"), 0

    def prefix(self):
        self.number += 1
        return f"bench{os.getpid()}/r{self.number}x"

    def load(self, site, name, links, depth, seconds=SECONDS):
        """Through one node."""
        done = site.lab[site.names[0]].run(self.tool, "load", site.kind, links, depth, seconds, self.prefix(), site.target(name))
        return json.loads(done.stdout)

    def steady(self, site, names):
        return Tool(site.lab[names[0]], self.tool, "steady", site.kind, site.steady_links, site.steady_depth, LOSS_INTERVAL_US,
                    self.prefix(), *(site.target(name) for name in names))


def commits(commits_by, site, etcd):
    """Rows of how many, and how fast; through the leader, of Fairlead through another manager too."""
    rows, many = [], site.links * site.depth
    leaders = {of.name: of.leader() for of in (site, etcd)}
    trials = {(of.name, how): lambda of=of, how=how: commits_by.load(
        of, leaders[of.name], *((1, 1) if how == "one" else (of.links, of.depth)))
        for of in (site, etcd) for how in ("one", "many")}
    through = f"{site.name} through a follower"
    if len(site.names) > 1:
        trials[through, "one"] = lambda: commits_by.load(site, site.others()[0], 1, 1)
        trials[through, "many"] = lambda: commits_by.load(site, site.others()[0], site.links, site.depth)
    results = measure.interleave(trials)
    of = f"{len(site.names)} manager{'s' if len(site.names) > 1 else ''}"
    for how, text in (("one", "1 at a time"), ("many", f"{many} at a time")):
        found = {name: values for (name, which), values in results.items() if which == how}
        for peer in list(found)[1:]:
            rows += [measure.row(f"commits, {of}, {text}", "a second", "per_s", found, site.name, peer),
                     measure.row(f"commit, {of}, {text}, median", "us", "p50_us", found, site.name, peer, True),
                     measure.row(f"commit, {of}, {text}, 99th percentile", "us", "p99_us", found, site.name, peer, True)]
    return rows


# ---------------------------------------------------------------- the kernel's maps

def effect(bench, site):
    """From the request at a node that does not lead until every node's kernel has it."""
    first = site[site.names[0]]
    first.set("kernel.enabled", "true")
    first.cli("service", "create", SERVICE, "10.96.0.77:80", "kind=tcp", "check.kind=none")
    first.cli("backend", "add", SERVICE, BACKEND)
    number = first.json("backend", "ls")[0]["id"]

    def known():
        with contextlib.suppress(StopIteration, AssertionError, OSError):
            return all(site[name].kernel_element("backends", number)["admin"] for name in site.names)
        return False

    wait_for("the backend is in every map", known, 60)
    backend = first.json("backend", "ls")[0]["name"]
    asked = site.others()[0]
    words = [tool(bench, "effect"), site.target(asked), SERVICE, backend, number, CHANGES, CHANGE_PAUSE_MS,
             *(site[name].pin("backends") for name in site.names)]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise measure.BenchError(f"effect: {done.stderr.strip()[:500]}")
    found = {key: [us / 1e3 for us in values] for key, values in json.loads(done.stdout).items()}
    first.cli("service", "rm", SERVICE, "--yes", check=False)
    first.set("kernel.enabled", "false")
    of = f"{len(site.names)} managers"
    # Less than zero: it was in all maps before the node that was asked knew that it was committed.
    behind = [max(0.001, done - answered) for done, answered in zip(found["all"], found["answer"])]
    return [limit_row(f"{of}: from the request to all kernels' maps, p99", p99, found["all"], EFFECT_AIM_MS, EFFECT_AIM_MS),
            row(f"{of}: from the request to all kernels' maps, median", statistics.median, found["all"], "to the answer", found["answer"]),
            row(f"{of}: from the request to all kernels' maps, p99", p99, found["all"], "to the first map", found["first"]),
            limit_row(f"{of}: from the answer to all kernels' maps, p99", p99, behind, EFFECT_AIM_MS, EFFECT_AIM_MS)]


# ---------------------------------------------------------------- the loss of a leader

def lose(commits_by, site, event):
    """From the event until a write is acknowledged that was begun after it, ms."""
    leader, others = site.leader(), site.others()
    writer = commits_by.steady(site, others)
    try:
        time.sleep(0.3)
        if event == "kill -9":
            at = time.monotonic_ns()
            site.kill(leader)
        else:
            at = site.lab[leader].silence()
        # Long enough for what waited to be answered, too.
        end, seen = time.monotonic() + LOSS_WATCH_S, None
        while time.monotonic() < end and (seen is None or time.monotonic() < seen + 1.0):
            seen = seen or (time.monotonic() if heard(site, others, leader) else None)
            time.sleep(0.05)
        said = writer.stop()
    finally:
        writer.kill()
        if event == "kill -9":
            site.start(leader)
        else:
            site.lab[leader].unsilence()
    site.whole()
    writes = [(int(start), int(done), how) for start, done, how in (line.split() for line in said.splitlines())]
    answered = [done for start, done, how in writes if start > at and how == "ok"]
    if not answered:
        raise measure.BenchError(f"{site.name}, {event}: no write in {LOSS_WATCH_S} s")
    return (min(answered) - at) / 1e6


def heard(site, others, leader):
    """Whether those that are left agree on another leader."""
    if site.kind == "etcd":
        said = [site.status(name) for name in others]
        old = site.member_of[leader]
        return all(s and s.get("leader", "0") not in ("0", old) for s in said)
    return any(other["leader"] and other["name"] != leader for other in site[others[0]].nodes().values() if "leader" in other)


def losses(commits_by, site, etcd):
    rows, trials = [], LOSSES[len(site.names)]
    etcd.member_of = {name: etcd.status(name)["header"]["member_id"] for name in etcd.names}
    found = {(of.name, event): [] for of in (site, etcd) for event in LOSS_EVENTS}
    for number in range(trials):
        for event in LOSS_EVENTS:
            for of in (site, etcd):
                found[of.name, event].append(lose(commits_by, of, event))
        say(f"loss of the leader of {len(site.names)}: {number + 1} of {trials}: "
            + ", ".join(f"{name} {event} {values[-1]:.0f} ms" for (name, event), values in found.items()))
    for event in LOSS_EVENTS:
        ours, theirs = found[site.name, event], found[etcd.name, event]
        name = f"{len(site.names)} managers, leader lost by {event}: next write"
        rows += [row(f"{name}, median", statistics.median, ours, etcd.name, theirs),
                 row(f"{name}, slowest", max, ours, etcd.name, theirs),
                 limit_row(f"{name}, slowest", max, ours, LOSS_AIM_MS, LOSS_AIM_MS)]
    return rows


# ---------------------------------------------------------------- what is pushed, and what is on a peer

class Registry:
    """A node's registry, as its own host sees it."""

    def __init__(self, site, name):
        self.site, self.name, self.node = site, name, site[name]

    def connection(self):
        netlab = lab_tools(self.site.build)[0]

        def connect():
            connection = http.client.HTTPConnection("127.0.0.1", 5000, timeout=60)
            connection.connect()
            return connection
        return netlab.in_namespace(self.node.host.netns, connect)

    def push(self, tool_path, *files):
        """"FILE:DIGEST" each."""
        self.node.host.run(tool_path, "push", 5000, 1, "-r", REPOSITORY, *files)

    def pull(self, tool_path, digest, size):
        done = self.node.host.run(tool_path, "get", 5000, 1, "-n", 1, "-l", size, f"/v2/{REPOSITORY}/blobs/{digest}")
        return {"gb_per_s": size / json.loads(done.stdout)["seconds"] / 1e9}

    def file_of(self, digest):
        hexes = digest.split(":")[1]
        return self.node.folder / "state/store/blobs/sha256" / hexes[:2] / hexes


def put_manifests(connection, template, count, number):
    """One after the other: milliseconds of each."""
    took = []
    for i in range(count):
        body = template.replace(b'"x', b'"%06d.%06dx' % (number, i), 1)
        began = time.perf_counter()
        connection.request("PUT", f"/v2/{REPOSITORY}/manifests/t{i}", body, {"Content-Type": MANIFEST_TYPE})
        response = connection.getresponse()
        said = response.read()
        took.append((time.perf_counter() - began) * 1e3)
        if response.status != 201:
            raise measure.BenchError(f"PUT of a manifest: {response.status} {said[:200]}")
    return {"p50_ms": statistics.median(took), "p99_ms": p99(took)}


def set_copies(site, copies):
    site[site.names[0]].cli("cluster", "set", "--copies", copies)
    wait_for("the number of copies is known", lambda: all(
        json.loads(site[name].cli("cluster", "show", "--json").stdout)["cluster"]["copies"] == copies for name in site.names))


def pushes(bench, site):
    """A manifest's PUT, by how many copies are wanted."""
    config, config_digest = bench.make_file("config", 2)
    layer, layer_digest = bench.make_file("layer", 1024)
    registry = Registry(site, site.others()[0])
    registry.push(bench.load_tool, f"{config}:{config_digest}", f"{layer}:{layer_digest}")
    template, connection = manifest(config_digest, layer_digest), registry.connection()
    number = 0

    def trial(copies):
        nonlocal number
        set_copies(site, copies)
        number += 1
        return put_manifests(connection, template, PUSHES, number)

    results = measure.interleave({f"copies {n}": lambda n=n: trial(n) for n in (1, 2, 3)})
    connection.close()
    set_copies(site, 2)
    return [measure.row(f"push of a manifest, copies {n}, {what}", "ms", key, results, f"copies {n}", "copies 1", True)
            for n in (2, 3) for what, key in (("median", "p50_ms"), ("99th percentile", "p99_ms"))]


def fetch(bench, site):
    """A blob that only another node has, against the least of: a pull where it is; TLS, SHA-256 and write alone."""
    set_copies(site, 1)
    here, there = (Registry(site, name) for name in site.names[:2])
    blobs, host, fixed = Blobs(bench, 1), site.lab[there.name], bench.folder / "fixed"
    make_file(fixed, BLOB_BYTES, "fixed")
    certificate, key, _ = make_certificate(bench.folder / "tls")
    bare = tool(bench, "bare_fetch")
    server = Tool(host, bare, "serve", FETCH_PORT, fixed, certificate, key)
    kept = {}

    def fresh():
        (path, digest), = blobs.fresh(1)
        there.push(bench.load_tool, f"{path}:{digest}")
        os.sync()
        return digest

    def peer_trial():
        digest = fresh()
        found = here.pull(bench.load_tool, digest, BLOB_BYTES)
        wait_for("the blob is kept", lambda: here.file_of(digest).exists(), 60)
        for registry in (here, there):
            registry.file_of(digest).unlink()
        return found

    def local_trial():
        if "digest" not in kept:
            kept["digest"] = fresh()
        return there.pull(bench.load_tool, kept["digest"], BLOB_BYTES)

    def bare_trial():
        out = bench.folder / "fetched"
        done = site.lab[here.name].run(bare, "get", host.v4, FETCH_PORT, BLOB_BYTES, out)
        out.unlink()
        return {"gb_per_s": BLOB_BYTES / json.loads(done.stdout)["seconds"] / 1e9}

    try:
        results = measure.interleave({"fairlead": peer_trial, "a local pull": local_trial, "bare TLS, SHA-256, write": bare_trial})
    finally:
        server.kill()
        set_copies(site, 2)
    least = min(("a local pull", "bare TLS, SHA-256, write"), key=lambda name: statistics.median(r["gb_per_s"] for r in results[name]))
    return [measure.row("pull of what only a peer has", "GB/s", "gb_per_s", results, "fairlead", peer,
                        **({"at_least": 0.7, "aim": 0.9} if peer == least else {})) for peer in list(results)[1:]]


# ---------------------------------------------------------------- workers

def catch_up(site, workers):
    """A new worker: from the command until it has all that the managers have."""
    leader = site[site.leader()]
    leader.set("http.send_timeout", "77s")
    before = leader.status()["state"]["applied_index"]
    results = {"fairlead": [], "until it answers as a node": []}
    for name in workers:
        token = leader.token("worker")
        worker = site.cluster.start(name)
        began = time.perf_counter()
        worker.join(leader, token)
        results["until it answers as a node"].append({"s": time.perf_counter() - began})
        wait_for("the worker has all", lambda worker=worker: worker.setting("http.send_timeout") == leader.setting("http.send_timeout"), 120)
        results["fairlead"].append({"s": time.perf_counter() - began})
        size = sum(path.stat().st_size for path in (worker.folder / "state").glob("*.mdb")) >> 20
        say(f"a new worker has everything after {results['fairlead'][-1]['s']:.2f} s: {size} MiB of files, {before} entries")
        leader.cli("node", "rm", name, "--yes", "--force", check=False)
        worker.remove()
        site.cluster.nodes.pop(name)
    return [measure.row("a new worker has everything", "s", "s", results, "fairlead", "until it answers as a node", True)]


def followed(commits_by, site, seconds):
    """What commits cost the managers: processor time and bytes for each."""
    leader, others = site.leader(), site.others()
    cpu = {name: site.cpu(name) for name in site.names}
    wire = {name: traffic(site.lab[name]) for name in site.names}
    found = commits_by.load(site, leader, 1, 8, seconds)
    count = found["commits"]
    spent = {name: (site.cpu(name) - cpu[name]) / count * 1e6 for name in site.names}
    sent = {name: (traffic(site.lab[name]) - wire[name]) / count for name in site.names}
    return {**found, "leader_us": spent[leader], "others_us": statistics.mean(spent[name] for name in others),
            "leader_bytes": sent[leader], "others_bytes": statistics.mean(sent[name] for name in others)}


def idle(site, seconds):
    """Processor time a second while nothing is written: (of the leader, of another one)."""
    leader, others = site.leader(), site.others()
    before = {name: site.cpu(name) for name in site.names}
    time.sleep(seconds)
    spent = {name: (site.cpu(name) - before[name]) / seconds * 1e3 for name in site.names}
    return {"leader_idle_ms": spent[leader], "others_idle_ms": statistics.mean(spent[name] for name in others)}


def followers(bench, commits_by, site, host):
    """Commits with many workers that follow, and with none. The first ones are as workers, the second ones hold leases."""
    def measured():
        return {**followed(commits_by, site, FOLLOWED_S), **idle(site, FOLLOWED_S)}

    runs = range(1 if QUICK else 3)
    results = {"without workers": [measured() for _ in runs]}
    leader = site[site.leader()]
    sim = Tool(host, tool(bench, "followers"), FOLLOWERS, leader.token("worker"), host.v4,
               ",".join(site[name].address for name in site.names), *(site[name].address for name in site.others()))
    say(f"{FOLLOWERS} workers: {sim.first} s")
    names = {"workers": f"{FOLLOWERS} workers", "leases": f"{FOLLOWERS} workers with leases"}
    try:
        wait_for("all follow", lambda: sim.ask("show")["following"] == FOLLOWERS, 120, 0.2)
        for which, name in names.items():
            if which == "leases":
                sim.ask("+")
                time.sleep(1)
            before = sim.ask("show")
            results[name] = [measured() for _ in runs]
            said = wait_for("all have all", lambda: (s := sim.ask("show"))["lowest"] == s["highest"] and s, 60, 0.05)
            entries = said["entries"] - before["entries"]
            say(f"{name}: {entries} entries in {said['frames'] - before['frames']} frames, {said['bytes'] - before['bytes']} bytes, "
                f"{said['cpu_s'] - before['cpu_s']:.2f} CPU-s there, {said['torn']} torn, {said['ends']} connections lost")
    finally:
        sim.kill()
    figures = (("leader, a commit", "CPU-us", "leader_us"), ("other managers, a commit", "CPU-us", "others_us"),
               ("leader, a commit", "bytes on the wire", "leader_bytes"), ("other managers, a commit", "bytes on the wire", "others_bytes"),
               ("leader, idle", "CPU-ms a second", "leader_idle_ms"), ("other managers, idle", "CPU-ms a second", "others_idle_ms"),
               ("commit, 8 at a time, median", "us", "p50_us"), ("commit, 8 at a time, 99th percentile", "us", "p99_us"))
    return [measure.row(f"{name}: {what}", unit, key, results, name, "without workers", True)
            for name in names.values() for what, unit, key in figures]


# ---------------------------------------------------------------- all of it

def part(name, rows, make):
    """One part that fails does not take the others with it."""
    began = time.monotonic()
    try:
        rows += make()
    except (measure.BenchError, OSError, AssertionError, subprocess.SubprocessError) as error:
        print(f"cluster, {name}: {error}", flush=True)
        rows.append({"failed": name})
    print(f"cluster: {name}, {time.monotonic() - began:.0f} s", flush=True)


def run(bench):
    if os.geteuid() != 0:
        raise measure.BenchError("hosts as namespaces need root")
    build, rows, commits_by = bench.load_tool.parents[1], [], Commits(bench)
    workers = [f"w{number}" for number in range(JOINS)]
    for size in SIZES:
        with FairleadManagers(build, MANAGERS[:size], ("sim", *workers) if size == 3 else ()) as site:
            site.build = build
            with EtcdMembers(site) as etcd:
                part(f"commits of {size}", rows, lambda: commits(commits_by, site, etcd))
                if size > 1:
                    part(f"losses of {size}", rows, lambda: losses(commits_by, site, etcd))
            if size > 1:
                part(f"effect of {size}", rows, lambda: effect(bench, site))
            if size == 3:
                part("pushes", rows, lambda: pushes(bench, site))
                part("fetch", rows, lambda: fetch(bench, site))
                part("catch-up", rows, lambda: catch_up(site, workers))
                part("followers", rows, lambda: followers(bench, commits_by, site, site.lab["sim"]))
    failed = [r["failed"] for r in rows if "failed" in r]
    rows = [r for r in rows if "failed" not in r]
    if not rows:
        raise measure.BenchError("nothing was measured")
    if failed:
        print(f"cluster: without {', '.join(failed)}", flush=True)
    return rows
