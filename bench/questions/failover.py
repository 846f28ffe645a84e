# SPDX-License-Identifier: Apache-2.0
"""How long until a dead, silent or frozen backend is out, and until no connection is lost to it any more?

Hosts are network namespaces on a bridge. A client starts a connection every millisecond to the service's address (Fairlead:
steered in the kernel on the client's host; HAProxy: on the client's host too) and notes how each ends. Detection is the
time from the event to the verdict (Fairlead: the kernel's history; HAProxy: its log line's arrival; bfdd: its log's time). The
window is from the event to the start of the last connection that failed: 0 if none did.
"""

import collections
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import cdf
import measure

ROOT = pathlib.Path(__file__).resolve().parents[2]
TITLE = "Failover: from an event at a backend to its being out"
TRIALS = int(os.environ.get("BENCH_FAILOVER_TRIALS", "200"))
BACKENDS, VIP, PORT = ("b1", "b2", "b3"), "10.96.0.1", 80
TICK_MS, HEARTBEAT_MS, MULTIPLIER = 5, 10, 3
EVENTS = ("process death", "host silence", "frozen process")
START_S, BACK_S, WATCH_S = 60.0, 6.0, 0.25
RATIO_MAX = 1000.0
SUSPECT, DOWN = 2, 3
STATES = {SUSPECT: "suspect", DOWN: "down"}
REASONS = re.findall(r"ABI_REASON\(\w+, \"([\w-]+)\"", (ROOT / "include/abi.h").read_text())
COLLECT_TRIALS = 10
PROGRESS_TRIALS = 50


def lab_tools(build):
    """The hosts of the system tests."""
    os.environ["FAIRLEAD_BUILD"] = str(build)
    sys.path.insert(0, str(ROOT / "tests/system"))
    import netlab
    return netlab


def now_ns():
    return time.monotonic_ns()


class Progress:
    """Tells how far a series is."""

    def __init__(self, what, trials):
        self.what, self.trials, self.began = what, trials, time.monotonic()

    def tell(self, number):
        if number % PROGRESS_TRIALS == 0 or number == self.trials:
            print(f"  {self.what}: {number} of {self.trials} trials, {time.monotonic() - self.began:.0f} s",
                  file=sys.stderr, flush=True)


class Site:
    """Three hosts with a server each, and a client's. Subclasses put a product there."""

    name = ""
    address, port = VIP, PORT

    def __init__(self, netlab):
        self.lab = netlab.Lab("client", *BACKENDS)

    def __enter__(self):
        self.lab.__enter__()
        try:
            self.servers = {name: self.lab[name].pong(PORT) for name in BACKENDS}
            self.deploy()
        except BaseException:
            self.lab.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.withdraw()
        self.lab.__exit__()

    def deploy(self):
        raise NotImplementedError

    def withdraw(self):
        pass

    def is_up(self, name):
        raise NotImplementedError

    def detections(self):
        """[(time in ns, backend)] of all downs."""
        raise NotImplementedError

    def wait_up(self, name, seconds=BACK_S):
        end = time.monotonic() + seconds
        while not self.is_up(name):
            if time.monotonic() > end:
                raise measure.BenchError(f"{self.name}: {name} does not come back")
            time.sleep(0.01)

    def pause(self, seconds):
        """What a trial waits by."""
        time.sleep(seconds)

    def trial(self, event, name):
        """Makes the event happen, undoes it. Returns when it happened."""
        if event == "process death":
            server = self.servers[name]
            at = now_ns()
            server.kill()
            server.wait()
            self.pause(WATCH_S)
            self.servers[name] = self.lab[name].pong(PORT)
        elif event == "frozen process":
            at = now_ns()
            self.servers[name].send_signal(signal.SIGSTOP)
            self.pause(WATCH_S)
            self.servers[name].send_signal(signal.SIGCONT)
        else:
            at = self.lab[name].silence()
            self.pause(WATCH_S)
            self.lab[name].unsilence()
        self.wait_up(name)
        self.pause(0.02)
        return at

    def ways(self, happened):
        """How each was detected, counted, where the product says it."""
        return {}

    def tell_ways(self, event, happened):
        for way, count in sorted(self.ways(happened).items(), key=lambda item: -item[1]):
            print(f"  {self.name}, {event}: {count} of {len(happened)} {way}", file=sys.stderr)

    def series(self, event, trials):
        """Returns {"detection": [ms], "window": [ms]}; a detection that was not seen in the time is an error."""
        for name in BACKENDS:
            self.wait_up(name, START_S)
        client = self.lab["client"].reach(self.address, self.port, interval_us=1000, timeout_ms=200)
        time.sleep(0.2)
        happened, progress = [], Progress(f"{self.name}, {event}", trials)
        for number in range(trials):
            name = BACKENDS[number % len(BACKENDS)]
            happened.append((self.trial(event, name), name))
            if number % COLLECT_TRIALS == COLLECT_TRIALS - 1:
                self.detections()  # before the kernel's history goes round
            progress.tell(number + 1)
        attempts = client.stop()
        downs = self.detections()
        found = {"detection": [], "window": []}
        self.tell_ways(event, happened)
        for number, (at, name) in enumerate(happened):
            until = at + int(WATCH_S * 1e9)
            seen = [when for when, whom in downs if whom == name and at <= when < until]
            if not seen:
                raise measure.BenchError(f"{self.name}: {event} of {name} was not detected (trial {number + 1})")
            found["detection"].append((min(seen) - at) / 1e6)
            lost = [start for start, _, result in attempts if result.startswith("-") and at <= start < until]
            found["window"].append((max(lost) - at) / 1e6 if lost else 0.0)
        return found


class FairleadSite(Site):
    name = "fairlead"

    def deploy(self):
        def peer(name, host):
            return (f"  - name: {name}\n    address: {host.v4}\n    interval: {HEARTBEAT_MS}ms\n"
                    f"    multiplier: {MULTIPLIER}\n")

        settings = f"settings:\n  kernel.tick: {TICK_MS}ms\n"
        for name in BACKENDS:
            self.lab.node(name, config=settings + "peers:\n" + peer("client", self.lab["client"]))
        backends = "".join(f"      - name: {name}\n        address: {self.lab[name].v4}:{PORT}\n        node: {name}\n"
                           for name in BACKENDS)
        self.node = self.lab.node("client", config=(
            f"{settings}services:\n  - name: web\n    address: {VIP}:{PORT}\n    kind: http\n    steer: true\n    check:\n"
            f"      kind: http\n      path: /\n      interval: {HEARTBEAT_MS}ms\n      http_interval: {HEARTBEAT_MS}ms\n"
            f"      http_timeout: {HEARTBEAT_MS}ms\n      fall: 2\n      rise: 2\n    backends:\n{backends}peers:\n"
            + "".join(peer(name, self.lab[name]) for name in BACKENDS)))
        self.ids, self.changes = {}, {}

    def is_up(self, name):
        """Its host too: heartbeats begin slowly (RFC 5880, 6.8.3) and take up their interval when the session is up."""
        peer = next(p for p in self.node.json("status")[0]["peers"] if p["name"] == name)
        return (peer["state"] == "up" and peer["detection_ms"] < 2 * HEARTBEAT_MS * MULTIPLIER and
                any(b["name"] == name and b["state"] == "up" for b in self.node.json("backend", "ls")))

    def wait_up(self, name, seconds=BACK_S):
        super().wait_up(name, seconds)
        if not self.ids:
            self.ids = {b["id"]: b["name"] for b in self.node.json("backend", "ls")}

    def history(self):
        pins = next(pathlib.Path(f"/sys/fs/bpf/fairlead-{self.node.instance}").glob("v*"))
        shown = subprocess.run(["bpftool", "-j", "map", "dump", "pinned", str(pins / "history")], check=True,
                               stdout=subprocess.PIPE).stdout
        return [entry["formatted"]["value"] for entry in json.loads(shown)]

    def detections(self):
        self.changes |= {change["number"]: change for change in self.history() if change["time_ns"]}
        return sorted((change["time_ns"], self.ids.get(change["backend"])) for change in self.changes.values()
                      if change["after"] & 0xff == DOWN)

    def ways(self, happened):
        """Which evidence led to each detection: {"suspect by canary, down by probe-refused": count}."""
        changes = sorted(self.changes.values(), key=lambda change: change["time_ns"])
        found = collections.Counter()
        for at, name in happened:
            words = []
            for change in changes:
                state, reason = change["after"] & 0xff, REASONS[change["after"] >> 8 & 0xff]
                if change["time_ns"] < at or self.ids.get(change["backend"]) != name or state not in STATES:
                    continue
                words.append(f"{STATES[state]} by {reason}")
                if state == DOWN:
                    break
            found[", ".join(words)] += 1
        return found


class HaproxySite(Site):
    """Checks every 10 ms, out after 2 misses, watches the traffic's connects; redispatch on a failed connect."""

    name = "haproxy"
    address, port = "127.0.0.1", 8080

    def deploy(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="fairlead-haproxy-"))
        self.log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.log.bind(str(self.folder / "log"))
        self.log.setblocking(False)
        self.downs, self.ups = [], {name: True for name in BACKENDS}
        servers = "".join(f"  server {name} {self.lab[name].v4}:{PORT}\n" for name in BACKENDS)
        (self.folder / "haproxy.cfg").write_text(
            f"global\n  log {self.folder}/log local0\n  spread-checks 0\n"
            "defaults\n  mode http\n  log global\n  timeout connect 20ms\n  timeout client 5s\n  timeout server 150ms\n"
            "  timeout check 10ms\n  retries 3\n  option redispatch 1\n"
            f"frontend in\n  bind {self.address}:{self.port}\n  no log\n  default_backend web\n"
            "backend web\n  balance random\n  option httpchk GET / HTTP/1.0\n"
            "  default-server check inter 10ms fastinter 5ms fall 2 rise 2 observe layer4 error-limit 1 on-error mark-down\n"
            + servers)
        self.process = self.lab["client"].start("haproxy", "-f", self.folder / "haproxy.cfg", "-db",
                                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(1)
        if self.process.poll() is not None:
            raise measure.BenchError("haproxy does not start")

    def withdraw(self):
        if hasattr(self, "process"):
            self.process.kill()
            self.process.wait()
            self.log.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def drain(self, seconds=0.0):
        end = time.monotonic() + seconds
        while True:
            try:
                message = self.log.recv(4096).decode(errors="replace")
            except BlockingIOError:
                if time.monotonic() >= end:
                    return
                time.sleep(0.0002)
                continue
            at = now_ns()
            for name in BACKENDS:
                if f"web/{name} is DOWN" in message:
                    self.downs.append((at, name))
                    self.ups[name] = False
                elif f"web/{name} is UP" in message:
                    self.ups[name] = True

    def pause(self, seconds):
        self.drain(seconds)

    def is_up(self, name):
        self.drain(0.001)
        return self.ups[name]

    def detections(self):
        self.drain()
        return self.downs


def bfdd_config(lab, log, own, others):
    lines = ["log timestamp precision 6", f"log file {log}", "debug bfd peer", "bfd"]
    for other in others:
        lines += [f" peer {lab[other].v4} local-address {lab[own].v4} interface eth0",
                  f"  transmit-interval {HEARTBEAT_MS}", f"  receive-interval {HEARTBEAT_MS}",
                  f"  detect-multiplier {MULTIPLIER}", "  no shutdown", "!"]
    return lines


def bfdd_silence(netlab, trials):
    """bfdd against bfdd, 10 ms x 3: detection of silence. A host's session comes back while the others have their turn."""
    import test_bfd
    with netlab.Lab("client", *BACKENDS) as lab:
        daemons = []
        try:
            lab.folder.chmod(0o755)
            for own, others in (("client", BACKENDS), *((name, ("client",)) for name in BACKENDS)):
                log = lab.folder / f"bfdd-{own}.log"
                log.touch()
                shutil.chown(log, "frr", "frr")
                daemons.append(test_bfd.Bfdd(lab[own], bfdd_config(lab, log, own, others)))
            found, progress = [], Progress("frr bfdd, host silence", trials)
            for number in range(trials):
                found.append(bfdd_trial(lab, daemons[0], BACKENDS[number % len(BACKENDS)]))
                progress.tell(number + 1)
            return {"detection": found}
        finally:
            for daemon in daemons:
                daemon.close()


def bfdd_trial(lab, client, name):
    end = time.monotonic() + 15
    while client.status(lab[name].v4) != "up":
        if time.monotonic() > end:
            raise measure.BenchError("bfdd's session does not come up")
        time.sleep(0.05)
    time.sleep(0.1)
    lab[name].silence()
    found = watch_log(lab.folder / "bfdd-client.log", time.time(), lab[name].v4)
    lab[name].unsilence()
    return found


def watch_log(log, at, address):
    """Milliseconds until the log says that the peer's session went down."""
    time.sleep(0.3)
    for line in reversed(log.read_text(errors="replace").splitlines()):
        if "state-change" in line and f"peer:{address} " in line and "up -> down" in line:
            stamp, _, micros = line[:26].partition(".")
            when = time.mktime(time.strptime(stamp, "%Y/%m/%d %H:%M:%S")) + float("0." + micros)
            if when >= at - 0.001:
                return (when - at) * 1e3
    raise measure.BenchError("bfdd's log shows no detection")


def p99(values):
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def row(name, statistic, values, peer, peer_values, at_least=None, aim=None):
    """A row whose figure is a percentile of all trials; less is better."""
    def ratio(value, peer_value):
        if not value:  # nothing was lost
            return RATIO_MAX if peer_value else 1.0
        return min(peer_value / value, RATIO_MAX)

    value, peer_value = statistic(values), statistic(peer_values)
    low, high = measure.interval(values, peer_values, ratio, statistic=statistic)
    return {"name": name, "unit": "ms", "value": value, "min": min(values), "max": max(values), "runs": len(values),
            "peer": peer, "peer_value": peer_value, "ratio": ratio(value, peer_value), "ratio_low": low, "ratio_high": high,
            "peer_min": min(peer_values), "peer_max": max(peer_values), "subject": "fairlead", "at_least": at_least,
            "aim": aim, "samples": values, "peer_samples": peer_values}


def limit_row(name, statistic, values, limit, aim):
    """The peer is a bound: a ratio above 1 keeps it."""
    made = row(name, statistic, values, f"limit {limit:g} ms", [limit])
    return {**made, "at_least": 1.0, "aim": limit / aim}


def run(bench):
    netlab = lab_tools(bench.subject.build)
    results = {}
    for site in (FairleadSite, HaproxySite):
        with site(netlab) as here:
            for event in EVENTS:
                here.series(event, 3)
                results[site.name, event] = here.series(event, TRIALS)
    results["frr bfdd", "host silence"] = bfdd_silence(netlab, TRIALS)
    interval = HEARTBEAT_MS * MULTIPLIER
    bounds = {"process death": (5.0, 2.0), "host silence": (interval + 10.0, interval + 1.0)}
    rows = []
    for event in EVENTS:
        ours = results["fairlead", event]
        if event in bounds:
            rows.append(limit_row(f"{event}: detection, p99", p99, ours["detection"], *bounds[event]))
        for (product, other), theirs in results.items():
            if product == "fairlead" or other != event:
                continue
            for key in theirs:
                rows.append(row(f"{event}: {key}, p99", p99, ours[key], product, theirs[key]))
                rows.append(row(f"{event}: {key}, median", statistics.median, ours[key], product, theirs[key]))
    return rows


def draw(result):
    panels = {}
    for r in result["rows"]:
        if not r["name"].endswith("median"):
            continue
        series = panels.setdefault(r["name"].rpartition(",")[0], {})
        series["fairlead"] = r["samples"]
        series[r["peer"]] = r["peer_samples"]
    return cdf.draw(TITLE, panels, "ms after the event (share of trials)")
