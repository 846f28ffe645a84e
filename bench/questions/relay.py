# SPDX-License-Identifier: Apache-2.0
"""What does it cost to pass bytes, requests, TLS and tunnels on, beside HAProxy and nginx, with the same backend and clients?"""

import time

import measure
import plot
from relays import BareRelay, FairleadFiles, Haproxy, NginxFiles, NginxProxy, Origin, make_certificate, origin_digest, syscalls
from servers import WORKERS

TITLE = "Relaying, with HAProxy (splice-auto), nginx and a bare splice loop in front of the same backend"
QUICK = measure.QUICK
SECONDS = 0.3 if QUICK else 2
BIG = (16 if QUICK else 256) << 20
BIG_CASES = ((1, 2), (64, 64)) if QUICK else ((1, 12), (64, 64))  # connections, bodies of one run
SMALL = 1024
CONNECTIONS = 64
IDLE, TUNNELS = (200, 100) if QUICK else (15_000, 7_000)
TRACED = 200 if QUICK else 2000  # requests under strace
SIZES = [1 << shift for shift in range(10, 27, 4 if QUICK else 2)]  # 1 KiB to 64 MiB
SIZE_BYTES = (16 if QUICK else 1024) << 20  # moved for each size, at least one body a connection, at most:
SIZE_REQUESTS = 2000 if QUICK else 20_000
SIZE_CONNECTIONS = 8


class Fronts:
    """Servers that are started together, in front of one backend."""

    def __init__(self, bench, *classes, **options):
        self.bench, self.classes, self.options = bench, classes, options

    def __enter__(self):
        self.started = []
        try:
            self.origin = self.start(Origin)
            self.servers = [self.start(cls, backend=self.origin.port, **self.options) for cls in self.classes]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for server in reversed(self.started):
            server.__exit__(None, None, None)

    def start(self, cls, **options):
        server = self.bench.server(cls, **options).__enter__()
        self.started.append(server)
        return server

    def interleave(self, trial, servers=None, **options):
        """trial(server) for each."""
        return measure.interleave({server.name: lambda server=server: trial(server)
                                   for server in servers or self.servers}, **options)


def visit(bench, server, connections, length, path, *flags):
    """As Bench.load, by threads: over TLS, with new connections."""
    pids = server.pids()
    before = measure.cpu_seconds(pids)
    command = [bench.visit_tool, "get", server.port, connections, SECONDS, length, *flags, path]
    result = measure.run_client(command, server.name)
    result["cpu_s"] = measure.cpu_seconds(pids) - before
    result["handshakes_per_s"] = result["handshakes"] / result["seconds"]
    result["cpu_s_per_1k_handshakes"] = result["cpu_s"] / max(1, result["handshakes"]) * 1e3
    return per_core(measure.figures(result))


def per_core(result):
    result["requests_per_cpu_s"] = result["requests"] / result["cpu_s"] if result["cpu_s"] else 0
    return result


def big_bodies(bench):
    """GB/s and processor time of large bodies."""
    rows = []
    subject, path = bench.relay.name, f"/{BIG}"
    with Fronts(bench, bench.relay, Haproxy, NginxProxy, BareRelay) as fronts:
        front = fronts.servers[0]
        moved = front.technique(lambda: bench.load(front, "get", 1, "-n", 1, "-l", BIG, path))
        for connections, bodies in BIG_CASES:
            results = fronts.interleave(lambda server: bench.load(server, "get", connections, "-n", bodies, "-l", BIG, path))
            where = f"{connections} connection{'s' if connections > 1 else ''}, by {moved}"
            for peer, at_least, aim in ((Haproxy.name, 1.0, 1 / 0.7 if connections > 1 else None), (NginxProxy.name, None, None),
                                        (BareRelay.name, None, 1 / 1.1)):
                rows.append(measure.row(f"big bodies, {where}", "CPU-s per GB", "cpu_s_per_gb", results, subject, peer, True,
                                        at_least or aim, aim if at_least else None))
            for peer, at_least in ((Haproxy.name, 1.0), (NginxProxy.name, None), (BareRelay.name, None)):
                rows.append(measure.row(f"big bodies, {where}", "GB/s", "gb_per_s", results, subject, peer, at_least=at_least))
    return rows


def verified_bodies(bench):
    """The same as blobs whose digest is known, all of them checked on their way (resume.verify: always); the peers check
    nothing."""
    path = f"/v2/bench/blobs/sha256:{origin_digest(BIG)}?n={BIG}"
    connections, bodies = BIG_CASES[-1]
    with Fronts(bench, Haproxy) as fronts:
        fronts.servers.insert(0, fronts.start(bench.relay, backend=fronts.origin.port, kind="registry", verify="always"))
        results = fronts.interleave(lambda server: bench.load(server, "get", connections, "-n", bodies, "-l", BIG, path))
    where = f"big bodies, {connections} connections, verify: always"
    return [measure.row(where, "CPU-s per GB", "cpu_s_per_gb", results, bench.relay.name, Haproxy.name, True),
            measure.row(where, "GB/s", "gb_per_s", results, bench.relay.name, Haproxy.name)]


def small_requests(bench):
    """1 KB calls: how many, what they cost, what is added to their time, system calls."""
    rows, subject, path = [], bench.relay.name, f"/{SMALL}"
    with Fronts(bench, bench.relay, Haproxy, NginxProxy) as fronts:
        kept = fronts.interleave(lambda server: per_core(bench.load(
            server, "get", CONNECTIONS, "-t", SECONDS, "-j", WORKERS, "-l", SMALL, path)))
        fresh = fronts.interleave(lambda server: visit(bench, server, CONNECTIONS // 4, SMALL, path, "-f"))
        for what, results, aim in (("keep-alive", kept, 1.3), ("a connection each", fresh, None)):
            for peer, at_least in ((Haproxy.name, 1.0), (NginxProxy.name, None)):
                wanted = aim if at_least else None
                rows += [measure.row(f"1 KB calls, {what}", "requests/s", "requests_per_s", results, subject, peer,
                                     at_least=at_least),
                         measure.row(f"1 KB calls, {what}", "requests per CPU-s", "requests_per_cpu_s", results, subject, peer,
                                     at_least=at_least, aim=wanted),
                         measure.row(f"1 KB calls, {what}", "CPU-s per 100,000", "cpu_s_per_100k", results, subject, peer, True)]
        rows += added_latency(bench, fronts, path)
        rows += calls(bench, fronts, path)
    return rows


def added_latency(bench, fronts, path):
    """What each takes longer than the backend itself, in the same round."""
    trial = lambda server: bench.load(server, "get", 1, "-t", SECONDS, "-l", SMALL, path)
    results = fronts.interleave(trial, [fronts.origin, *fronts.servers])
    keys = ("p50_us", "p99_us", "p999_us")
    added = {name: [{key: max(1, one[key] - direct[key]) for key in keys}
                    for one, direct in zip(values, results[fronts.origin.name])] for name, values in results.items()}
    return [measure.row(f"added to a 1 KB call, {what}", "us", key, added, bench.relay.name, peer, True,
                        1.0 if peer == Haproxy.name else None)
            for key, what in zip(keys, ("median", "99th percentile", "99.9th percentile"))
            for peer in (Haproxy.name, NginxProxy.name)]


def calls(bench, fronts, path):
    """System calls of all threads; orders given to a ring are none."""
    def trial(server):
        table = bench.folder / "strace"
        found, _ = syscalls(server.pids(), table, lambda: bench.load(
            server, "get", CONNECTIONS, "-n", TRACED, "-l", SMALL, path))
        return {"calls": found / TRACED}

    results = fronts.interleave(trial, runs=1 if QUICK else 3)
    return [measure.row(f"system calls, {CONNECTIONS} connections", "a request", "calls", results, bench.relay.name, peer, True)
            for peer in (Haproxy.name, NginxProxy.name)]


def over_tls(bench):
    """Handshakes, calls and bodies with TLS towards the clients."""
    rows, subject = [], bench.relay.name
    with Fronts(bench, bench.relay, Haproxy, NginxProxy, tls=True) as fronts:
        full = fronts.interleave(lambda server: visit(bench, server, CONNECTIONS // 4, SMALL, f"/{SMALL}", "-s", "-f"))
        again = fronts.interleave(lambda server: visit(bench, server, CONNECTIONS // 4, SMALL, f"/{SMALL}", "-s", "-f", "-r"))
        big = fronts.interleave(lambda server: visit(bench, server, CONNECTIONS // 4, BIG, f"/{BIG}", "-s"))
        for peer, at_least in ((Haproxy.name, 1.0), (NginxProxy.name, 1.0)):
            for what, results in (("full handshakes", full), ("resumed handshakes", again)):
                rows += [measure.row(f"TLS, {what}", "a second", "handshakes_per_s", results, subject, peer, at_least=at_least),
                         measure.row(f"TLS, {what}", "CPU-s per 1,000", "cpu_s_per_1k_handshakes", results, subject, peer,
                                     True)]
            rows += [measure.row("TLS, big bodies", "GB/s", "gb_per_s", big, subject, peer, at_least=at_least),
                     measure.row("TLS, big bodies", "CPU-s per GB", "cpu_s_per_gb", big, subject, peer, True)]
    return rows


def files_over_tls(bench):
    """Blobs of the registry over TLS, files of nginx over TLS."""
    path, digest = bench.make_file("file", BIG)
    make_certificate(bench.folder / "tls")
    with bench.server(FairleadFiles) as registry, bench.server(NginxFiles) as nginx:
        paths = {server.name: server.add_blob(path, digest) for server in (registry, nginx)}
        results = measure.interleave({server.name: lambda server=server: visit(
            bench, server, CONNECTIONS // 4, BIG, paths[server.name], "-s") for server in (registry, nginx)})
    return [measure.row("TLS, files", "GB/s", "gb_per_s", results, registry.name, nginx.name, at_least=1.0, aim=1.2),
            measure.row("TLS, files", "CPU-s per GB", "cpu_s_per_gb", results, registry.name, nginx.name, True, 1.0, 1.2)]


def memory(bench):
    """PSS of servers that were just started, with connections that wait, and with tunnels that wait."""
    def trial(cls, command):
        with Fronts(bench, cls) as fronts:
            server = fronts.servers[0]
            bench.load(server, "get", 1, "-n", 1, "-l", SMALL, f"/{SMALL}")
            return measure.memory_held([word if word != "PORT" else server.port for word in command], server,
                                       int(command[3]))

    rows = []
    for what, command in ((f"idle client connections, {IDLE:,}", [bench.load_tool, "idle", "PORT", IDLE, "-l", SMALL, f"/{SMALL}"]),
                          (f"tunnels, {TUNNELS:,}", [bench.visit_tool, "tunnels", "PORT", TUNNELS, 0, 0, "/exec"])):
        classes = (bench.relay, Haproxy, NginxProxy)
        results = measure.interleave({cls.name: lambda cls=cls, command=command: trial(cls, command) for cls in classes},
                                     1 if QUICK else 3)
        for peer in (Haproxy.name, NginxProxy.name):
            rows += [measure.row(f"{what}: memory grown / each", "bytes (PSS)", "grown", results, bench.relay.name, peer, True,
                                 1.0 if peer == Haproxy.name else None),
                     measure.row(f"{what}: all memory / each", "bytes (PSS)", "all", results, bench.relay.name, peer, True)]
    return rows


def by_size(bench):
    """Processor time against body size, spliced and copied: where the choice is to change."""
    rows = []
    with Fronts(bench) as fronts:
        chosen = {}
        for technique in ("splice", "copy", "auto"):
            server = fronts.start(bench.relay, backend=fronts.origin.port, technique=technique)
            server.name = technique
            chosen[technique] = server
        for size in SIZES:
            count = max(SIZE_CONNECTIONS, min(SIZE_REQUESTS, SIZE_BYTES // size))
            results = fronts.interleave(lambda server: bench.load(
                server, "get", SIZE_CONNECTIONS, "-n", count, "-l", size, f"/{size}"), chosen.values(),
                runs=1 if QUICK else 3)
            rows += [measure.row(f"bodies of {size >> 10:,} KiB", "CPU-s per GB", "cpu_s_per_gb", results, "auto", peer, True)
                     | {"size": size} for peer in ("splice", "copy")]
    return rows


def run(bench):
    rows = []
    parts = (big_bodies, verified_bodies, small_requests, over_tls, files_over_tls, memory, by_size)
    started = time.monotonic()
    for number, part in enumerate(parts, 1):
        print(f"relay: {number} of {len(parts)}, {part.__name__}, after {time.monotonic() - started:.0f} s", flush=True)
        try:
            rows += part(bench)
        except (measure.BenchError, OSError) as error:
            if not rows:
                raise
            print(f"relay, {part.__name__}: {error}", flush=True)
    return rows


def draw(result):
    """The bars, and the curves of cost against size below them."""
    sizes = [r for r in result["rows"] if "size" in r]
    bars = {**result, "rows": [r for r in result["rows"] if "size" not in r]}
    if not sizes:
        return plot.draw(bars)
    curves = {"auto": [], "splice": [], "copy": []}
    for r in sizes:
        curves[r["peer"]].append((r["size"], r["peer_value"]))
        if r["peer"] == "splice":
            curves["auto"].append((r["size"], r["value"]))
    return plot.with_curves(plot.draw(bars), "CPU-s per GB against the size of bodies", "KiB", curves, scale=1024)
