# SPDX-License-Identifier: Apache-2.0
"""Backends that fail as told (tests/tools/faulty.c), and a puller that says what came of a pull."""

import contextlib
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import sys
import threading

import http1
import http2
from harness import BUILD, digest_of
from netlab import in_namespace

TOOL = BUILD / "tools/faulty"
PULL_TIMEOUT_S = 30


def make_certificate(folder, name="backend", addresses=("127.0.0.1",)):
    """A self-signed certificate and its key as PEM files; returns both paths."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    names = ",".join(["DNS:localhost", *(f"IP:{address}" for address in addresses)])
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-keyout", key, "-out", certificate, "-days", "30", "-subj", f"/CN={name}", "-addext",
                    f"subjectAltName={names}"], check=True, capture_output=True, timeout=60)
    certificate.chmod(0o644)
    key.chmod(0o600)
    return certificate, key


class Faulty:
    """A process with listeners, as "tcp:10.0.0.1:80"; port 0 is chosen. `start` begins a command, as Popen does. blobs:
    (first seed, count, size) of those that it has from the beginning, every other one chunked."""

    tool = (TOOL,)

    def __init__(self, *listeners, certificate=None, blobs=None, start=subprocess.Popen):
        self.listeners = listeners
        self.certificate = certificate
        self.blobs = blobs
        self.start_process = start
        self.process = None

    def start(self):
        tls = ["-c", self.certificate[0], "-k", self.certificate[1]] if self.certificate else []
        blobs = ["-b", "{}:{}:{}".format(*self.blobs)] if self.blobs else []
        command = [str(word) for word in (*self.tool, *tls, *blobs, *self.listeners)]
        self.process = self.start_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        ready = self.process.stdout.readline().split()
        assert ready and ready[0] == "ready", f"{command} does not start"
        self.ports = [int(port) for port in ready[1:]]
        # The same ones when it starts again.
        self.listeners = [f"{each.rpartition(':')[0]}:{port}" if port else each
                          for each, port in zip(self.listeners, self.ports)]
        return self

    def command(self, *words):
        self.process.stdin.write(" ".join(str(word) for word in words) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().split()
        assert answer and answer[0] == "ok", (words, answer)
        return answer[1:]

    def blob(self, seed, size, chunked=False):
        """Returns its digest in hex."""
        return self.command("blob", seed, size, *(["chunked"] if chunked else []))[0]

    def rule(self, digest, when, count, fault, at=0, value=0):
        self.command("rule", digest, when, count, fault, at, value)

    def held(self):
        return int(self.command("held")[0])

    def seen(self, digest):
        """(requests without Range, with)."""
        return tuple(int(word) for word in self.command("seen", digest))

    def signal(self, number):
        self.process.send_signal(number)

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
        if self.process:
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()

    def restart(self):
        self.kill()
        return self.start()


class FaultyH2(Faulty):
    """The same over HTTP/2: faulty_h2.py says what its faults are."""

    tool = (sys.executable, pathlib.Path(__file__).parent / "faulty_h2.py")


def trusting(protocol=None):
    """TLS of a client that takes any certificate: who is who is tested elsewhere."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocol:
        context.set_alpn_protocols([protocol])
    return context


def pull(address, target, digest, tls=None, namespace=None, timeout_s=PULL_TIMEOUT_S):
    """What a client sees of one GET: "right", "wrong" (an end that looks right, of other bytes), "aborted", a status other
    than 200, or "stalled" (no end in the time)."""
    late = threading.Event()

    def give_up(connection):
        late.set()
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    try:
        connect = lambda: http1.Connection(address, timeout_s=timeout_s)
        with in_namespace(namespace, connect) if namespace else connect() as connection:
            timer = threading.Timer(timeout_s, give_up, [connection])
            timer.start()
            try:
                if tls:
                    connection.sock = tls.wrap_socket(connection.sock, server_hostname=address[0])
                answer = connection.exchange("GET", target)
            finally:
                timer.cancel()
    except (OSError, http1.ConnectionEnded):
        return "stalled" if late.is_set() else "aborted"
    return judged(answer, digest)


def judged(answer, digest):
    if answer.status != 200:
        return str(answer.status)
    return "right" if digest_of(bytes(answer.body)) == f"sha256:{digest}" else "wrong"


def pull_h2(address, target, digest, tls=None, namespace=None, timeout_s=PULL_TIMEOUT_S):
    """The same over a session of HTTP/2 of its own."""
    connect = lambda: socket.create_connection(address, timeout_s)
    try:
        sock = in_namespace(namespace, connect) if namespace else connect()
        with http2.Session(address, sock=tls.wrap_socket(sock, server_hostname=address[0]) if tls else sock,
                           timeout_s=timeout_s) as session:
            answer = session.exchange("GET", target)
    except TimeoutError:
        return "stalled"
    except OSError:
        return "aborted"
    return judged(answer, digest) if answer.ended and answer.reset is None else "aborted"
