# SPDX-License-Identifier: Apache-2.0
"""TLS of listening addresses: which certificate, who is let in, sessions, certificates that change, and clients that
speak no TLS, or too slowly."""

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest

import harness
import http1
from harness import digest_of, free_port, randomness
from tls_files import Authority, openssl

pytestmark = pytest.mark.skipif(harness.KIND != "fairlead", reason="tests Fairlead's own TLS")

MIB = 1 << 20


class TlsRegistry(harness.FairleadRegistry):
    """Addresses: in clear, `plain`; with certificates, `open`; with clients' certificates, `asked` and `closed`."""

    def __init__(self, **options):
        super().__init__(**options)
        self.ca = Authority(self.folder / "tls")
        self.ports = {name: free_port() for name in ("open", "asked", "closed")}
        self.certificates = {
            "one": self.ca.issue("one", "one.test", "127.0.0.1"),
            "two": self.ca.issue("two", "two.test", "*.two.test"),
            "rsa": self.ca.issue("rsa", "one.test", "127.0.0.1", kind="rsa"),
            "people": {"ca": str(self.ca.cert)},
        }
        self.certificates["one"]["ocsp"] = self.ca.revoke_nothing("one")
        self.certificates["brief"] = self.ca.issue("brief", "brief.test") | {"ocsp": self.ca.staple("brief", -60)}
        self.ca.issue("client")

    def config(self):
        config = super().config()
        tls = {
            "open": {"certificates": ["one", "two", "rsa", "brief"]},
            "asked": {"certificates": ["one"], "client_ca": "people", "client_auth": "optional"},
            "closed": {"certificates": ["one"], "client_ca": "people", "client_auth": "required"},
        }
        config["listen"] += [{"address": f"127.0.0.1:{port}", "service": "registry", "tls": tls[name]}
                             for name, port in self.ports.items()]
        config["certificates"] = self.certificates
        return config

    def context(self, client=None, version=None, name=None):
        context = ssl.create_default_context(cafile=str(self.ca.cert))
        context.check_hostname = False
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        if client:
            context.load_cert_chain(self.ca.folder / f"{client}.pem", self.ca.folder / f"{client}.key")
        if version:
            context.minimum_version = context.maximum_version = version
        return context

    def connect(self, to="open", name="one.test", context=None, session=None, **options):
        raw = socket.create_connection(("127.0.0.1", self.ports[to]), timeout=20)
        return (context or self.context(**options)).wrap_socket(raw, server_hostname=name, session=session)

    def metric(self, name):
        text = http1.Client(("127.0.0.1", self.admin_port)).exchange("GET", "/metrics").body.decode()
        return sum(float(x) for x in re.findall(r"^fairlead_%s(?:\{[^}]*\})? (\S+)$" % name, text, re.M))

    def closed(self, reason):
        text = http1.Client(("127.0.0.1", self.admin_port)).exchange("GET", "/metrics").body.decode()
        found = re.findall(r'^fairlead_\w*clos\w*\{[^}]*reason="%s"[^}]*\} (\S+)$' % reason, text, re.M)
        return sum(map(float, found))

    def s_client(self, *arguments, to="open", feed="", **options):
        done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{self.ports[to]}", "-CAfile",
                               str(self.ca.cert), *arguments], input=feed, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=60, universal_newlines=True, **options)
        return done.stdout


@pytest.fixture(scope="module")
def registry():
    registry = TlsRegistry()
    try:
        yield registry.start()
    finally:
        registry.close()


def ask(tls, target="/v2/", more=""):
    """Status and body of a GET on a connection that stays."""
    tls.sendall(f"GET {target} HTTP/1.1\r\nHost: one.test\r\n{more}\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        piece = tls.recv(65536)
        assert piece, head
        head += piece
    head, _, body = head.partition(b"\r\n\r\n")
    body, length = bytearray(body), int(re.search(rb"content-length: (\d+)", head, re.I)[1])
    while len(body) < length:
        piece = tls.recv(1 << 20)
        assert piece, f"{len(body)} of {length} bytes"
        body += piece
    return int(head.split()[1]), bytes(body)


def subject(tls):
    return dict(pair for row in tls.getpeercert()["subject"] for pair in row)["commonName"]


@pytest.mark.parametrize("name,expected", [("one.test", "one"), ("ONE.test", "one"), ("two.test", "two"),
                                           ("a.two.test", "two"), ("a.b.two.test", "one"), ("unknown.test", "one"),
                                           (None, "one")])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_certificate_by_name(registry, name, expected, version):
    with registry.connect(name=name, version=version) as tls:
        assert subject(tls) == expected
        assert ask(tls)[0] == 200


def test_key_that_the_client_can_check(registry):
    seen = registry.s_client("-servername", "one.test", "-tls1_2", "-sigalgs", "RSA-PSS+SHA256")
    assert "CN = rsa" in seen, seen


@pytest.mark.parametrize("offer,expected", [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1"), (["spdy/1"], None)])
def test_alpn(registry, offer, expected):
    context = registry.context()
    context.set_alpn_protocols(offer)
    with registry.connect(context=context) as tls:
        assert tls.selected_alpn_protocol() == expected


def test_old_versions_are_refused(registry):
    for version in ("-tls1", "-tls1_1"):
        assert "Cipher is (NONE)" in registry.s_client(version, "-cipher", "DEFAULT@SECLEVEL=0")


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_sessions_are_resumed(registry, tmp_path, version):
    session = str(tmp_path / "session")
    first = registry.s_client(version, "-sess_out", session, "-servername", "one.test", "-ign_eof",
                              feed="GET /v2/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert "New, TLS" in first
    again = registry.s_client(version, "-sess_in", session, "-servername", "one.test")
    assert "Reused, TLS" in again, again


def test_ticket_is_not_good_for_another_way_of_asking(registry, tmp_path):
    """A session that was made without a certificate must not get in where one is required."""
    session = str(tmp_path / "session")
    request = "GET /v2/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    registry.s_client("-tls1_3", "-sess_out", session, "-ign_eof", feed=request)
    seen = registry.s_client("-tls1_3", "-sess_in", session, "-ign_eof", to="closed", feed=request)
    assert "HTTP/1.1 200" not in seen and "Reused" not in seen


def test_ocsp_response_is_stapled(registry):
    assert "OCSP Response Status: successful" in registry.s_client("-servername", "one.test", "-status")
    assert "no response sent" in registry.s_client("-servername", "two.test", "-status")


def test_only_what_is_in_date_is_stapled(registry):
    """A response that has expired is none, from the start or while it runs; a new file is taken by itself."""
    def stapled():
        seen = registry.s_client("-servername", "brief.test", "-status")
        assert "CN = brief" in seen, seen
        return "OCSP Response Status: successful" in seen

    def left():
        text = http1.Client(("127.0.0.1", registry.admin_port)).exchange("GET", "/metrics").body.decode()
        return int(re.search(r'^fairlead_ocsp_response_expiry_seconds\{name="brief"\} (-?\d+)$', text, re.M)[1])

    said = "the OCSP response of certificate 'brief' has expired"
    told = registry.log().count(said)
    assert not stapled() and left() <= -60 and told
    brief_s = 3
    while True:  # long enough for this machine to see it
        registry.ca.staple("brief", brief_s)
        if http1.wait_until(stapled, brief_s + 3):
            break
        brief_s *= 2
        assert brief_s < 100, registry.report("a new response is not stapled")
    assert http1.wait_until(lambda: not stapled(), brief_s + 20)
    assert http1.wait_until(lambda: registry.log().count(said) > told, 20)
    registry.ca.staple("brief", 86400)
    assert http1.wait_until(stapled, 20)
    assert http1.wait_until(lambda: 80000 < left() <= 86400, 20), left()  # each ring takes it when its batch is over
    registry.ca.staple("brief", 86400, begins_s=3600)
    assert http1.wait_until(lambda: not stapled(), 20)


def test_no_renegotiation_and_no_compression(registry):
    seen = registry.s_client("-tls1_2", "-servername", "one.test", feed="R\n")
    assert "Compression: NONE" in seen
    assert "no renegotiation" in seen or "handshake failure" in seen, seen


def test_clients_certificates(registry, tmp_path):
    stranger = Authority(tmp_path, "stranger")
    stranger.issue("client")
    with registry.connect("closed", client="client") as tls:
        assert ask(tls)[0] == 200
    with registry.connect("asked", client="client") as tls:
        assert ask(tls)[0] == 200
    with registry.connect("asked") as tls:
        assert ask(tls)[0] == 200
    wrong = registry.context()
    wrong.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
    for to, context in (("closed", registry.context()), ("closed", wrong), ("asked", wrong)):
        before = registry.closed("tls_certificate")
        with pytest.raises((ssl.SSLError, ConnectionError)), registry.connect(to, context=context) as tls:
            ask(tls)
        assert http1.wait_until(lambda: registry.closed("tls_certificate") > before)


def test_clear_text_is_told(registry):
    before = registry.closed("tls_clear")
    answer = http1.Client(("127.0.0.1", registry.ports["open"])).exchange("GET", "/v2/")
    assert answer.status == 400 and b"https" in answer.body
    assert http1.wait_until(lambda: registry.closed("tls_clear") > before)


@pytest.mark.parametrize("garbage", [b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"\x41" * 70000, b"SSH-2.0-x\r\n", b"\x15",
                                     b"\x16\x03\x01\x00\x04\x02\x00\x00\x00"])
def test_garbage(registry, garbage):
    before = registry.metric("tls_handshakes_failed_total")
    with socket.create_connection(("127.0.0.1", registry.ports["open"]), timeout=20) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(garbage)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
    assert http1.wait_until(lambda: registry.metric("tls_handshakes_failed_total") > before)
    with registry.connect() as tls:
        assert ask(tls)[0] == 200


def test_blob_there_and_back(registry):
    """A push and a pull of more than any buffer, in both versions."""
    data = randomness("tls").randbytes(40 * MIB + 12345)
    digest = digest_of(data)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with registry.connect(version=version) as tls:
            tls.sendall(f"POST /v2/t/{version.name.lower()}/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: a\r\n"
                        f"Content-Length: {len(data)}\r\n\r\n".encode())
            tls.sendall(data)
            answer = tls.recv(65536)
            assert b" 201 " in answer.split(b"\r\n")[0], answer
            status, body = ask(tls, f"/v2/t/{version.name.lower()}/blobs/{digest}")
            assert status == 200 and digest_of(body) == digest
            assert ask(tls, f"/v2/t/{version.name.lower()}/blobs/{digest}", "Range: bytes=1000-9999999\r\n") == (
                206, data[1000:10000000])


def blob_file(registry, digest):
    found = list(registry.state.glob("store/blobs/sha256/*/" + digest.split(":")[1]))
    assert len(found) == 1
    return found[0]


def drop_from_memory(path):
    """Out of the page cache, as far as the file system does that."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def test_cold_blobs(registry):
    """What is not in memory is waited for, by several at a time and from several places, and comes out the same."""
    data = randomness("cold").randbytes(20 * MIB + 777)
    digest = registry.repository("t/cold").push_blob(data)
    wrong = []

    def pull(start):
        with registry.connect() as tls:
            got = ask(tls, f"/v2/t/cold/blobs/{digest}", f"Range: bytes={start}-\r\n")
            if got != (206, data[start:]):
                wrong.append(start)

    for _ in range(3):
        drop_from_memory(blob_file(registry, digest))
        threads = [threading.Thread(target=pull, args=(start,)) for start in (0, 5, 7 * MIB + 3, 19 * MIB)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


@pytest.mark.parametrize("cold", [False, True])
def test_file_that_becomes_shorter_is_no_whole_answer(registry, cold):
    data = randomness("short", cold).randbytes(32 * MIB)
    digest = registry.repository("t/short").push_blob(data)
    raw = socket.create_connection(("127.0.0.1", registry.ports["open"]), timeout=20)
    with registry.context().wrap_socket(raw, server_hostname="one.test", suppress_ragged_eofs=False) as tls:
        tls.sendall(f"GET /v2/t/short/blobs/{digest} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        got = bytearray(tls.recv(1000))
        os.truncate(blob_file(registry, digest), 24 * MIB + 5)  # more than sockets can hold
        if cold:
            drop_from_memory(blob_file(registry, digest))
        with pytest.raises((ssl.SSLError, ConnectionError)):  # an end without close_notify, or a reset
            while True:
                piece = tls.recv(1 << 20)
                assert piece, "a clean end"
                got += piece
    assert len(got) < len(data)


def test_pull_of_a_slow_reader_holds_nobody(registry):
    data = randomness("slow").randbytes(8 * MIB)
    digest = registry.repository("t/slow").push_blob(data)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(registry.connect()) for _ in range(8)]
        for tls in slow:
            tls.sendall(f"GET /v2/t/slow/blobs/{digest} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        with registry.connect() as tls:
            assert digest_of(ask(tls, f"/v2/t/slow/blobs/{digest}")[1]) == digest
        for tls in slow:
            got = bytearray()
            while len(got) < len(data):
                piece = tls.recv(1 << 20)
                assert piece
                got += piece
            assert digest_of(got[-len(data):]) == digest or got.find(data) > 0


def test_end_without_close_notify_is_no_end(registry):
    """A request body that stops with the TCP connection is not taken for a whole one."""
    before = registry.metric("tls_truncated_total")
    tls = registry.connect()
    tls.sendall(b"POST /v2/t/cut/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n1234")
    raw = socket.socket(fileno=os.dup(tls.fileno()))
    raw.shutdown(socket.SHUT_WR)
    assert http1.wait_until(lambda: registry.metric("tls_truncated_total") > before)
    raw.close()
    tls.close()


@pytest.mark.parametrize("request_line", [b"GET /v2/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                                          b"GET /v2/_catalog HTTP/1.0\r\n\r\n", b"GET /v2/ HTTP/9.9\r\n\r\n"])
def test_close_notify_comes_with_the_end(registry, request_line):
    """A clean end is said in TLS: suppress_ragged_eofs would otherwise raise."""
    raw = socket.create_connection(("127.0.0.1", registry.ports["open"]), timeout=20)
    tls = registry.context().wrap_socket(raw, server_hostname="one.test", suppress_ragged_eofs=False)
    tls.sendall(request_line)
    got = b""
    while piece := tls.recv(65536):
        got += piece
    assert got.startswith(b"HTTP/1.1 ")
    tls.close()


def test_slow_handshakes_are_ended():
    with contextlib.closing(TlsRegistry(settings={"http.header_timeout": "1s"})) as registry:
        registry.start()
        with socket.create_connection(("127.0.0.1", registry.ports["open"]), timeout=20) as silent, \
                socket.create_connection(("127.0.0.1", registry.ports["open"]), timeout=20) as half:
            half.sendall(b"\x16\x03\x01\x02\x00\x01")
            for sock in (silent, half):
                with contextlib.suppress(ConnectionError):
                    assert sock.recv(100) == b""
        assert http1.wait_until(lambda: registry.closed("handshake_timeout") == 2)


def test_certificates_change_under_transfers():
    """The data plane swaps them without an open connection, or a handshake, noticing."""
    with contextlib.closing(TlsRegistry()) as registry:
        registry.start()
        data = randomness("swap").randbytes(16 * MIB)
        digest = registry.repository("t/swap").push_blob(data)
        stop, wrong, pulls = threading.Event(), [], []

        def pull():
            while not stop.is_set():
                try:
                    with registry.connect() as tls:
                        body = ask(tls, f"/v2/t/swap/blobs/{digest}")[1]
                    (pulls if digest_of(body) == digest else wrong).append(len(body))
                except (OSError, AssertionError) as error:
                    wrong.append(error)

        threads = [threading.Thread(target=pull) for _ in range(3)]
        for thread in threads:
            thread.start()
        with registry.connect() as held:
            first = held.getpeercert()["serialNumber"]
            serials = {first}
            for _ in range(3):
                before = len(serials)
                registry.ca.issue("one", "one.test", "127.0.0.1")

                def renewed():
                    with registry.connect() as tls:
                        serials.add(tls.getpeercert()["serialNumber"])
                    return len(serials) > before

                assert http1.wait_until(renewed, 20), registry.report("the new certificate is not used")
            assert ask(held)[0] == 200
        stop.set()
        for thread in threads:
            thread.join()
        assert pulls and not wrong


def test_files_that_do_not_fit_leave_what_was(tmp_path):
    with contextlib.closing(TlsRegistry()) as registry:
        registry.start()
        with registry.connect() as tls:
            serial = tls.getpeercert()["serialNumber"]
        (registry.ca.folder / "one.key").write_bytes((registry.ca.folder / "two.key").read_bytes())
        assert http1.wait_until(lambda: "another certificate's key" in registry.log(), 20), registry.report("?")
        registry.write_config()
        registry.process.send_signal(signal.SIGHUP)
        assert http1.wait_until(lambda: "the configuration was read again" in registry.log())
        with registry.connect() as tls:
            assert tls.getpeercert()["serialNumber"] == serial


def test_restart_of_either_process_keeps_the_certificates():
    with contextlib.closing(TlsRegistry()) as registry:
        registry.start()
        with registry.connect() as held:
            assert ask(held)[0] == 200
            registry.kill_control()
            registry.start()
            assert ask(held)[0] == 200
        with registry.connect() as tls:
            assert ask(tls)[0] == 200
        registry.kill_dataplane()

        def back():
            try:
                with registry.connect() as tls:
                    return ask(tls)[0] == 200
            except (OSError, AssertionError):
                return False

        assert http1.wait_until(back, 20)


@pytest.mark.parametrize("change,complaint", [
    (lambda c: c["certificates"]["one"].pop("key"), "has a cert but no key"),
    (lambda c: c["certificates"].pop("two"), "there is no certificate 'two'"),
    (lambda c: c["certificates"]["people"].update(ca="/nowhere/ca.pem"), "/nowhere/ca.pem: No such file"),
    (lambda c: c["certificates"].update({"a b": {"ca": "x"}}), "cannot name a certificate"),
    (lambda c: c["listen"][2]["tls"].pop("client_ca"), "nobody can check"),
    (lambda c: c["listen"][2]["tls"].update(client_auth="maybe"), "is not a way to ask"),
    (lambda c: c["listen"][1].update(tls={}), "names no certificate"),
])
def test_configuration_errors(tmp_path, change, complaint):
    registry = TlsRegistry(folder=tmp_path / "node")
    config = registry.config()
    change(config)
    (registry.folder / "config.yaml").write_text(json.dumps(config, indent=1))
    done = subprocess.run(registry.command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60,
                          universal_newlines=True)
    assert done.returncode != 0 and complaint in done.stdout, done.stdout


def test_key_that_others_may_read_is_refused(tmp_path):
    registry = TlsRegistry(folder=tmp_path / "node")
    (registry.ca.folder / "one.key").chmod(0o644)
    registry.write_config()
    done = subprocess.run(registry.command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60,
                          universal_newlines=True)
    assert done.returncode == 1 and "others may read it" in done.stdout, done.stdout


def test_secrets_are_nowhere(registry):
    """Neither in logs nor in what the control socket shows; nor may others look into the processes."""
    key = "".join((registry.ca.folder / "one.key").read_text().split("\n")[1:-2])
    for path in registry.folder.rglob("*"):
        if path.is_file() and path.parent.name != "tls" and path.suffix != ".sock":
            assert key[:40].encode() not in path.read_bytes(), path
    for pid in registry.dataplane_pids():
        assert "fairlead-certs" not in os.listdir(f"/proc/{pid}/fd")


@pytest.mark.slow
def test_many_handshakes_beside_a_transfer(registry):
    """A transfer in clear on the same rings goes on while a thousand handshakes are made."""
    data = randomness("beside").randbytes(4 * MIB)
    digest = registry.repository("t/beside").push_blob(data)
    stop, pulled = threading.Event(), []

    def pull():
        while not stop.is_set():
            answer = registry.repository("t/beside").blob(digest)
            assert digest_of(answer.body) == digest
            pulled.append(1)

    thread = threading.Thread(target=pull)
    thread.start()
    context = registry.context()
    for _ in range(1000):
        with registry.connect(context=context):
            pass
    stop.set()
    thread.join()
    assert pulled
    assert registry.metric("tls_handshakes_total") >= 1000
