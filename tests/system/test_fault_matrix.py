# SPDX-License-Identifier: Apache-2.0
"""Backends fail in every way, at every place of a body: a client gets the right bytes from those that are left, and an
unmistakable error where none is left. Never an end that looks right of bytes that are not.

Three backends on two hosts: one on `bad`, whose process and link are ended too, two on `good`. For each service (splice or
copy, in clear or TLS on both sides) the kernel's checks are on where bytes are copied, so that half of the rows are found out by
what the transfer itself shows, half by whatever comes first. One more verifies nothing (resume.verify never): bytes that are wrong
at the backend that goes on reach its clients, and no other wrong ones do.
"""

import collections
import concurrent.futures
import contextlib
import itertools
import json
import signal
import subprocess
import time

import pytest

import fronts
import harness
import netlab
from faulty import TOOL, Faulty, FaultyH2, make_certificate, pull, pull_h2, trusting
from fronts import Service, new_front
from harness import BUILD, randomness
from http1 import wait_until

pytestmark = [netlab.needed, pytest.mark.skipif(not TOOL.exists() or bool(fronts.missing()),
                                                reason=fronts.missing() or "tests/tools is not built")]

SIZE = 700_001
PLACES = {"first byte": 1, "middle": SIZE // 2, "last byte": SIZE - 1}
STALL_MS = 2000 if harness.SANITIZED else 1000
CLIENT_TIMEOUT_S = 60 if fronts.KIND == "fairlead" else 4
CHURN_CLIENTS = 500
CHURN_PACE = 5 if harness.SANITIZED else 1  # a request must be shorter than what happens to it
CHURN_PORT = 9000
CHURN_BLOBS = (1000, 16, 200_000)
FIELDS = {"resume.stall_rate": "1KiB/s", "resume.stall_time": f"{STALL_MS}ms", "queue.timeout": "3s", "resume.max": 6,
          "eject.failures": 0}
# Of whole hosts: all bodies of a test come to a halt before it happens, on a slow machine, too.
HOST_TIME = "6s" if harness.SANITIZED else "1500ms"
HOST_FIELDS = {**FIELDS, "resume.stall_time": HOST_TIME, "queue.timeout": "3s", "response_timeout": HOST_TIME, "check.kind": "tcp"}

# What goes wrong: rules (when, fault, value), or what is done to the whole host while its bodies stand still.
FAULTS = {
    "reset": [("plain", "reset", 0)],
    "FIN": [("plain", "fin", 0)],
    "FIN without close_notify": [("plain", "cut", 0)],
    "broken chunk": [("plain", "garbage", 0)],
    "silence": [("plain", "hold", 0)],
    "1 byte/s": [("plain", "rate", 1)],
    "longer on resume": [("plain", "reset", 0), ("range", "size", 100)],
    "shorter on resume": [("plain", "reset", 0), ("range", "size", -1)],
    "500 on resume": [("plain", "reset", 0), ("range", "status", 500)],
    "404 on resume": [("plain", "reset", 0), ("range", "status", 404)],
    "200 without Range": [("plain", "reset", 0), ("range", "whole", 0)],
    "other ETag on resume": [("plain", "reset", 0), ("range", "etag", 0)],
    "wrong bytes on resume": [("plain", "reset", 0), ("range", "corrupt", 0)],
    "twice": [("plain", "reset", 0), ("range", "fin", 0)],
}
HOST_FAULTS = ("kill -9", "SIGSTOP", "link down")
# With these the client may see an error although a good backend is left: what is sent is sent. Never wrong bytes.
MAY_ABORT = {"wrong bytes on resume"}
# Nobody knows the length of a chunked body before its end: that it was another one is known by the digest alone.
MAY_ABORT_CHUNKED = {"longer on resume", "shorter on resume"}
# HTTP/2 on both sides. What ends a connection ends all that is under way on it.
H2_FAULTS = {
    "RST_STREAM": [("plain", "reset", 0)],
    "RST": [("plain", "abort", 0)],
    "FIN": [("plain", "fin", 0)],
    "END_STREAM too early": [("plain", "ended", 0)],
    "GOAWAY as if unprocessed": [("plain", "goaway", 0)],
    "broken frame": [("plain", "garbage", 0)],
    "silence": [("plain", "hold", 0)],
    "1 byte/s": [("plain", "rate", 1)],
    "longer on resume": [("plain", "reset", 0), ("range", "size", 100)],
    "shorter on resume": [("plain", "reset", 0), ("range", "size", -1)],
    "500 on resume": [("plain", "reset", 0), ("range", "status", 500)],
    "404 on resume": [("plain", "reset", 0), ("range", "status", 404)],
    "200 without Range": [("plain", "reset", 0), ("range", "whole", 0)],
    "other ETag on resume": [("plain", "reset", 0), ("range", "etag", 0)],
    "wrong bytes on resume": [("plain", "reset", 0), ("range", "corrupt", 0)],
    "twice": [("plain", "reset", 0), ("range", "fin", 0)],
}
H2_OF_CONNECTIONS = {"RST", "FIN", "GOAWAY as if unprocessed", "broken frame", "twice"}
# Every answer is as usable as a good one.
SURVIVES_EVERYWHERE = {"200 without Range"}
# The last byte of all comes in a second.
MAY_END_WELL = {"1 byte/s"}

Case = collections.namedtuple("Case", "service chunked place")


class Site:
    """The hosts, the backends, the front."""

    def __init__(self):
        self.lab = netlab.Lab("front", "bad", "good")
        self.seeds = itertools.count(1)
        self.bad = self.good = None
        self.h1, self.h2 = (None, None), (None, None)

    def __enter__(self):
        lab = self.lab.__enter__()
        try:
            self.certificate = make_certificate(lab.folder, addresses=[host.v4 for host in lab.hosts.values()])
            self.start(lab)
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self, lab):
        at = lambda host, *ports: [f"{kind}:{lab[host].v4}:{port}" for kind, port in ports]
        self.bad = Faulty(*at("bad", ("tcp", 80), ("tls", 443)), certificate=self.certificate,
                          start=lab["bad"].start_words).start()
        self.good = Faulty(*at("good", ("tcp", 80), ("tls", 443), ("tcp", 81), ("tls", 444)),
                           certificate=self.certificate, start=lab["good"].start_words).start()
        self.h1 = self.bad, self.good
        self.h2 = tuple(FaultyH2(*at(name, *ports), certificate=self.certificate, start=lab[name].start_words).start()
                        for name, ports in (("bad", (("tcp", 82), ("tls", 445))),
                                            ("good", (("tcp", 82), ("tls", 445), ("tcp", 83), ("tls", 446)))))
        self.services = {}
        for number, (technique, tls) in enumerate(itertools.product(("splice", "copy"), (False, True))):
            name = f"{technique}-{'tls' if tls else 'clear'}"
            self.add(name, 8000 + number, tls, **FIELDS | {
                "technique": technique, "check.kind": "tcp" if technique == "copy" else "none"})
            self.add(f"host-{name}", 8030 + number, tls, **HOST_FIELDS | {"technique": technique})
        self.add("splice-never", 8020, False, **FIELDS | {"technique": "splice", "check.kind": "none", "resume.verify": "never"})
        for number, tls in enumerate((False, True)):
            self.add(f"always-{'tls' if tls else 'clear'}", 8010 + number, tls,
                     **FIELDS | {"check.kind": "none", "resume.verify": "always"})
            if fronts.KIND == "fairlead":
                self.add_h2(f"h2-{'tls' if tls else 'clear'}", 8050 + number, tls, **FIELDS | {"check.kind": "none"})
                self.add_h2(f"host-h2-{'tls' if tls else 'clear'}", 8060 + number, tls, **HOST_FIELDS)
        self.front = new_front(lab, "front", list(self.services.values()), self.certificate).start()

    def add(self, name, port, tls, **fields):
        bad, good = self.lab["bad"].v4, self.lab["good"].v4
        first, second = (443, 444) if tls else (80, 81)
        backends = [("bad", f"{bad}:{first}"), ("good1", f"{good}:{first}"), ("good2", f"{good}:{second}")]
        if fronts.KIND == "haproxy":
            fields = {}
        self.services[name] = Service(name, port, backends, tls=tls, client_tls=tls, **fields)

    def add_h2(self, name, port, tls, **fields):
        bad, good = self.lab["bad"].v4, self.lab["good"].v4
        first, second = (445, 446) if tls else (82, 83)
        backends = [("bad", f"{bad}:{first}"), ("good1", f"{good}:{first}"), ("good2", f"{good}:{second}")]
        self.services[name] = Service(name, port, backends, tls=tls, client_tls=tls,
                                      **fields | {"backend.http": 2, "http2": True})

    @contextlib.contextmanager
    def over_h2(self):
        """The backends are those that speak HTTP/2."""
        self.bad, self.good = self.h2
        try:
            yield
        finally:
            self.bad, self.good = self.h1

    def __exit__(self, *_):
        for faulty in (*self.h1, *self.h2):
            if faulty:
                faulty.kill()
        self.lab.__exit__()

    def both(self):
        return [faulty for faulty in (self.bad, self.good) if faulty.alive()]

    def blob(self, chunked, rules, at, faulted):
        """A blob that every backend has; those that are faulted have rules for it."""
        seed = next(self.seeds)
        for faulty in self.both():
            digest = faulty.blob(seed, SIZE, chunked)
            for when, count, fault, value in rules if faulty in faulted else ():
                faulty.rule(digest, when, count, fault, at, value)
        return digest

    def pull(self, service, digest):
        h2 = "h2" in service
        service = self.services[service]
        tls = trusting("h2" if h2 else None) if service.client_tls else None
        return (pull_h2 if h2 else pull)((self.lab["front"].v4, service.port), f"/v2/x/blobs/sha256:{digest}", digest, tls,
                                         self.lab["front"].netns, CLIENT_TIMEOUT_S)

    def run(self, rules, group="", while_held=None, together=True):
        """All cases at the same time (or one after the other); returns {case: what its client saw}. With while_held the rules
        are those of `bad`, where everything stands still until it was called."""
        faulted = [self.bad] if while_held else self.both()
        cases = [Case(*each) for each in itertools.product(self.named(group), (False, True), PLACES)]
        digests = {case: self.blob(case.chunked, rules, PLACES[case.place], faulted) for case in cases}
        with concurrent.futures.ThreadPoolExecutor(len(cases) if together else 1) as pool:
            pulls = {case: pool.submit(self.pull, case.service, digests[case]) for case in cases}
            if while_held:
                while_held(len(cases), pulls)
            found = {case: pulled.result() for case, pulled in pulls.items()}
        for faulty in self.both() if not while_held else ():
            faulty.command("go")
        assert self.front.alive(), self.front.log()
        return found

    def named(self, group):
        """The services of a group: "" are the plain ones."""
        h1 = {"": ("splice", "copy"), "host-": ("host-splice", "host-copy")}
        return [name for name in self.services if name.startswith(h1.get(group, group))]

    def drain(self, group, names, drain=True):
        for name in self.named(group):
            self.front.drain(self.services[name], names, drain)

    def settle(self, group):
        """Waits until no backend is thought to be down any more because of what was done to its host before."""
        services = {self.services[name].name for name in self.named(group)}
        assert wait_until(lambda: not self.front.down(services), 60), f"{self.front.down(services)}\n{self.front.log()}"


@pytest.fixture(scope="module")
def site():
    with Site() as made:
        yield made


def check(site, found, allowed):
    """Every client saw something that is allowed (a set, or a function of the case); others are listed with their case."""
    of = allowed if callable(allowed) else lambda case: allowed
    bad = {case: seen for case, seen in found.items() if seen not in of(case)}
    listed = "\n".join(f"  {case.service}, {'chunked' if case.chunked else 'length'}, {case.place}: {seen}"
                       for case, seen in bad.items())
    assert not bad, f"{len(bad)} of {len(found)} clients saw what they must not:\n{listed}\n{site.front.log()}"


def errors():
    """What is unmistakable: the connection ends in the middle, or a status says that there is no answer."""
    return {"aborted", "502", "503", "504"} | (set() if site_survives() else {"stalled"})


def unseen(case, fault):
    """What a client may see of wrong bytes: the service does not look at them, and neither length nor ETag gives them away."""
    differs = fault in MAY_ABORT or (case.chunked and fault in MAY_ABORT_CHUNKED)
    return {"wrong"} if differs and case.service == "splice-never" else set()


def survivors(case, fault):
    """What clients may see when a good backend is left."""
    if not site_survives() or fault in MAY_ABORT or (case.chunked and fault in MAY_ABORT_CHUNKED):
        return {"right", *errors(), *unseen(case, fault)}
    return {"right"}


def site_survives():
    return fronts.FRONTS[fronts.KIND].survives


@pytest.mark.parametrize("fault", FAULTS)
def test_another_backend_goes_on(site, fault):
    check(site, site.run([(when, 1, what, value) for when, what, value in FAULTS[fault]]),
          lambda case: survivors(case, fault))


@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_where_none_is_left(site, fault):
    rules = FAULTS[fault]
    if len(rules) == 1:  # what is wrong with the first answer is wrong with each
        rules = [("any", *rules[0][1:])]
    found = site.run([(when, 0, what, value) for when, what, value in rules])
    if fault in SURVIVES_EVERYWHERE and site_survives():
        check(site, found, {"right"})
    else:
        check(site, found, lambda case: errors() | unseen(case, fault) | ({"right"} if fault in MAY_END_WELL else set()))


h2_only = pytest.mark.skipif(fronts.KIND != "fairlead", reason="of Fairlead's own HTTP/2")


@h2_only
@pytest.mark.parametrize("fault", H2_FAULTS)
def test_another_backend_goes_on_over_http2(site, fault):
    with site.over_h2():
        found = site.run([(when, 1, what, value) for when, what, value in H2_FAULTS[fault]], "h2",
                         together=fault not in H2_OF_CONNECTIONS)
    # An end in order of a body whose length nobody told is known by the digest alone, and not at the first backend.
    short = {"wrong"} if fault == "END_STREAM too early" else set()
    check(site, found, lambda case: survivors(case, fault) | (short if case.chunked else set()))


@h2_only
@pytest.mark.parametrize("fault", H2_FAULTS)
def test_an_error_over_http2_where_none_is_left(site, fault):
    rules = H2_FAULTS[fault]
    if len(rules) == 1:
        rules = [("any", *rules[0][1:])]
    with site.over_h2():
        found = site.run([(when, 0, what, value) for when, what, value in rules], "h2")
    if fault in SURVIVES_EVERYWHERE:
        check(site, found, {"right"})
        return
    short = {"wrong"} if fault == "END_STREAM too early" else set()
    check(site, found, lambda case: errors() | ({"right"} if fault in MAY_END_WELL else set()) |
          (short if case.chunked else set()))


@pytest.mark.parametrize("place", ["resumed", "whole"])
def test_wrong_bytes_never_end_well(site, place):
    """`verify: always` sees them in every body, the default in what was continued."""
    if not site_survives():
        pytest.skip("verifies nothing")
    rules = [("plain", 0, "corrupt", 0)] if place == "whole" else [("plain", 0, "reset", 0), ("range", 0, "corrupt", 0)]
    check(site, site.run(rules, "always" if place == "whole" else ""), lambda case: errors() | unseen(case, "wrong bytes on resume"))


class HostFault:
    """Ends a host's bodies while they stand still, and undoes it."""

    def __init__(self, site, fault):
        self.site, self.fault = site, fault

    def do(self, name):
        faulty, host = getattr(self.site, name), self.site.lab[name]
        if self.fault == "kill -9":
            faulty.kill()
        elif self.fault == "SIGSTOP":
            faulty.signal(signal.SIGSTOP)
        else:
            host.silence()

    def undo(self, name):
        faulty, host = getattr(self.site, name), self.site.lab[name]
        if self.fault == "kill -9":
            faulty.restart()
        elif self.fault == "SIGSTOP":
            faulty.signal(signal.SIGCONT)
        else:
            host.unsilence()
        faulty.command("go")


@h2_only
@pytest.mark.parametrize("fault", HOST_FAULTS)
def test_a_whole_host_over_http2(site, fault):
    with site.over_h2():
        whole_host(site, fault, "another left", "host-h2")


@pytest.mark.parametrize("left", ["another left", pytest.param("none left", marks=pytest.mark.slow)])
@pytest.mark.parametrize("fault", HOST_FAULTS)
def test_a_whole_host(site, fault, left):
    whole_host(site, fault, left, "host-")


def whole_host(site, fault, left, group):
    """Every body comes from `bad` and stands still at its place; then it happens."""
    host = HostFault(site, fault)
    site.settle(group)
    ended = ("bad",) if left == "another left" else ("good", "bad")  # nobody goes on in between
    site.drain(group, ["good1", "good2"])

    def strike(count, pulls):
        assert wait_until(lambda: site.bad.held() == count, 20), "\n".join((
            f"{site.bad.held()} of {count}", *(f"{case}: {pull.result()}" for case, pull in pulls.items() if pull.done()),
            site.front.log()))
        if left == "another left":
            site.drain(group, ["good1", "good2"], False)
        for name in ended:
            host.do(name)
        if left == "none left":  # only now, or a slow machine would let one go on
            site.drain(group, ["good1", "good2"], False)

    try:
        found = site.run([("plain", 0, "hold", 0)], group, strike)
    finally:
        for name in ended:
            host.undo(name)
    check(site, found, (lambda case: survivors(case, fault)) if left == "another left" else errors())


def churn(site, seconds):
    """Backends are killed and started again at random, one at a time, while clients pull."""
    random = randomness("churn")
    lab = site.lab
    first, count, size = CHURN_BLOBS
    farm = [Faulty(f"tcp:{lab['good'].v4}:{90 + i}", blobs=CHURN_BLOBS, start=lab["good"].start_words).start()
            for i in range(4)]
    digests = [farm[0].blob(first + i, size, i % 2 == 1) for i in range(count)]
    site.front.create(Service(f"churn{seconds}", CHURN_PORT + seconds, [(f"b{i}", f"{lab['good'].v4}:{90 + i}") for i in range(4)],
                              **{"check.kind": "tcp"}))
    command = ["nice", BUILD / "tools/pull", lab["front"].v4, CHURN_PORT + seconds, CHURN_CLIENTS, seconds, size, "/v2/x/blobs/sha256:",
               *(f"{first + i}:{digest}" for i, digest in enumerate(digests))]
    pulls = lab["front"].start(*command, stdout=subprocess.PIPE, text=True)
    end, killed = time.monotonic() + seconds, 0
    try:
        while time.monotonic() < end:
            victim = random.choice(farm)
            victim.kill()
            killed += 1
            time.sleep(random.uniform(0.05, 0.5) * CHURN_PACE)
            victim.start()
            time.sleep(random.uniform(0.05, 0.5) * CHURN_PACE)
        output, _ = pulls.communicate(timeout=60)
    finally:
        for faulty in farm:
            faulty.kill()
    return json.loads(output), killed


@pytest.mark.parametrize("seconds", [10, pytest.param(60, marks=pytest.mark.slow)])
def test_no_pull_fails_while_backends_die_at_random(site, seconds):
    if not site_survives():
        pytest.skip("continues nothing")
    result, killed = churn(site, seconds)
    assert killed
    assert result["failed"] == 0, (result, site.front.log())
    assert result["good"] >= CHURN_CLIENTS
