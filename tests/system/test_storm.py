# SPDX-License-Identifier: Apache-2.0
"""A storm of requests that are right, cut, broken, pipelined, slow or reset, at a registry, at a proxied service before it
and at a tunnel to it: the data plane lives, and nothing of it is left when it is over."""

import hashlib
import os
import random
import re
import socket
import struct
import threading
import time

import pytest

import harness
import http1
from harness import IMAGE_TYPE, KIND, SEED, free_port, image_manifest

pytestmark = pytest.mark.skipif(KIND != "fairlead", reason="about this server's processes")
SECONDS = float(os.environ.get("FAIRLEAD_TEST_STORM_S", "8"))
THREADS = 6
IMPATIENT = {"http.header_timeout": 400, "http.body_timeout": 400, "http.idle_timeout": 500, "http.send_timeout": 400,
             "http.body_rate_grace": 300, "http.linger_timeout": 200, "kernel.enabled": False}
TIGHT = {"http.streams_max": 16, "http.connections_max": 64, "registry.manifests_inflight": 1, "http.requests_max": 20,
         "store.open_files": 16}


class Site(harness.FairleadRegistry):
    def __init__(self, **options):
        super().__init__(**options)
        self.proxy_port, self.tunnel_port = free_port(), free_port()

    def config(self):
        service = lambda name, port, kind: {"name": name, "address": f"127.0.0.1:{port}", "path": "proxy", "kind": kind,
                                            "backends": [{"address": self.host}]}
        return super().config() | {"services": [service("proxied", self.proxy_port, "registry"),
                                                service("tunnel", self.tunnel_port, "tcp")]}

    def address_of(self, rng):
        ports = (self.proxy_port, self.tunnel_port, self.port, self.admin_port)
        return ("127.0.0.1", rng.choices(ports, (75, 10, 10, 5))[0])

    def open_now(self):
        """Connections and requests, without the one that asks."""
        text = http1.Client(("127.0.0.1", self.admin_port)).exchange("GET", "/metrics").body.decode()
        return [sum(map(int, re.findall(r"^fairlead_%s(?:{.*})? (\d+)" % name, text, re.M))) - 1
                for name in ("connections_open", "streams_open")]


class Author:
    """Writes requests."""

    def __init__(self, rng, blobs, manifest, locations):
        self.rng, self.blobs, self.manifest, self.locations = rng, blobs, manifest, locations

    def often(self, share):
        return self.rng.random() < share

    def fields(self):
        lines = [b"Host: x"]
        for share, line in ((.1, b"Connection: close"), (.1, b"Expect: 100-continue"), (.1, b'If-None-Match: "x"'),
                            (.1, b"X-Long: " + b"y" * self.rng.choice([100, 3000, 9000, 20000])),
                            (.2, b"Range: bytes=" + self.rng.choice([b"0-", b"-5", b"3-9", b"9999999-", b"1-0"]))):
            lines += [line] if self.often(share) else []
        return b"\r\n".join(lines) + b"\r\n"

    def body(self, data):
        """(field, bytes): framed one way or the other, sometimes wrongly or with less than was said."""
        if self.often(.5):
            more = self.rng.choice([0, 0, 0, 0, 1, 100000])
            return b"Content-Length: %d\r\n" % (len(data) + more), data
        out, at = b"", 0
        while at < len(data):
            part = data[at:at + self.rng.choice([1, 7, 300, 4000, 60000])]
            at += len(part)
            out += b"%x\r\n" % len(part) + part + (b"\r\n" if self.often(.998) else b"\n")
        end = self.rng.choice([b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"", b"0\r\n", b"zz\r\n"])
        return b"Transfer-Encoding: chunked\r\n", out + end

    def upload(self):
        return (self.rng.choice(self.locations) if self.often(.8) else "/v2/storm/x/blobs/uploads/" + "0" * 32).encode()

    def request(self):
        base, rng = b"/v2/storm/x/", self.rng
        data = bytes(rng.choice([0, 1, 100, 5000, 70000, 300000])) + bytes([rng.randrange(256)])
        digest = b"sha256:" + hashlib.sha256(data if self.often(.7) else b"").hexdigest().encode()
        read = rng.choice([b"GET ", b"HEAD "])
        kind = rng.choices(range(7), (25, 10, 10, 15, 25, 10, 5))[0]
        if kind < 3:
            target = (base + b"blobs/" + rng.choice(self.blobs).encode(), base + b"manifests/a",
                      rng.choice([base + b"tags/list", b"/v2/_catalog", b"/metrics", b"/v2/", b"*", b"/x%00y"]))[kind]
            return read + target + b" HTTP/1.1\r\n" + self.fields() + b"\r\n"
        start, more = (
            (b"POST " + base + b"blobs/uploads/?digest=" + digest, b""),
            (rng.choice([b"PATCH ", b"PATCH ", b"PUT ", b"DELETE "]) + self.upload(), b""),
            (b"PUT " + base + b"manifests/" + rng.choice([b"a", b"b", b"c?tag=d", digest]),
             b"Content-Type: " + IMAGE_TYPE.encode() + b"\r\n"),
            (rng.choice([b"OPTIONS *", b"PUT /", b"FOO /v2/", b"GET http://h/v2/"]), b""))[kind - 3]
        data = self.manifest + b" " * rng.choice([0, 9000, 200000]) if kind == 5 else data
        field, content = self.body(data)
        return start + rng.choice([b" HTTP/1.1\r\n"] * 9 + [b" HTTP/1.0\r\n"]) + self.fields() + more + field + b"\r\n" + content

    def text(self):
        out = bytearray(b"".join(self.request() for _ in range(self.rng.choice([1, 1, 1, 2, 3, 8, 40]))))
        for _ in range(self.rng.choice([0, 0, 1, 4])):
            at, step = self.rng.randrange(len(out)), self.rng.randrange(1, 30)
            out[at:at + self.rng.choice([0, 1, step])] = self.rng.choice([b"", self.rng.randbytes(3)])
            out = out or bytearray(b"x")
        return bytes(out[:self.rng.choice([len(out), len(out), self.rng.randrange(len(out) + 1)])])


def client(site, author):
    rng, text, at = author.rng, author.text(), 0
    with socket.socket() as sock:
        if author.often(.3):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rng.choice([2048, 4096, 20000]))
        sock.settimeout(3)
        sock.connect(site.address_of(rng))
        while at < len(text) and author.often(.99):
            step = rng.choice([1, 3, 40, 500, 5000, 70000, 1 << 20])
            sock.sendall(text[at:at + step])
            at += step
            time.sleep(rng.choice([.001, .01, .6]) if author.often(.05) else 0)
        end = rng.random()
        if end < .2:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif end < .3:
            return
        elif end < .5:
            sock.shutdown(socket.SHUT_WR)
        while end > .2 and sock.recv(1 << 16) and author.often(.99):
            pass


@pytest.mark.parametrize("settings", ({}, pytest.param(TIGHT, marks=pytest.mark.slow)), ids=("roomy", "tight"))
def test_storm(settings):
    site = Site(settings=IMPATIENT | settings)
    try:
        site.start()
        assert http1.wait_until(lambda: site.log().count("listens on") >= 4, 20), site.log()
        repo = site.repository("storm/x")
        blobs = [repo.push_blob(bytes(n)) for n in (0, 1, 5000, 70000, 3 << 20)]
        manifest = image_manifest(repo.push_blob(b"{}"), 2, [(blobs[2], 5000)])
        repo.push_manifest("a", manifest)
        locations = [http1.target_of(repo.start_upload().header("Location")) for _ in range(10)]
        pids, end = site.dataplane_pids(), time.monotonic() + SECONDS

        def run(number):
            author = Author(random.Random(f"{SEED}/{number}"), blobs, manifest, locations)
            while time.monotonic() < end:
                try:
                    client(site, author)
                except OSError:
                    pass
        threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert site.dataplane_pids() == pids, site.report("the data plane died")
        assert http1.wait_until(lambda: site.open_now() == [0, 0], 30), site.open_now()
        repo.push_blob(b"as before")
        through = harness.Repository(http1.Client(("127.0.0.1", site.proxy_port)), "storm/x")
        assert http1.wait_until(lambda: through.blob(blobs[2]).body == bytes(5000), 20)
    finally:
        site.close()
