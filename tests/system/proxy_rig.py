# SPDX-License-Identifier: Apache-2.0
"""One ring with one proxied service (tests/tools/proxy_ring), and backends that behave as their path says."""

import json
import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time

import harness

RING = harness.BUILD / "tools" / "proxy_ring"
KINDS = {"http": 2, "registry": 3, "docker": 4, "kubernetes": 5}
TECHNIQUES = {"auto": 0, "splice": 1, "copy": 2}


class Ring:
    """The process. backends: addresses, or paths of Unix sockets; options as proxy_ring takes them."""

    def __init__(self, *backends, kind="http", technique="auto", **options):
        words = [f"{key.replace('__', '.')}={value}" for key, value in options.items()]
        words += [f"kind={KINDS[kind]}", f"technique={TECHNIQUES[technique]}"]
        words += [b if isinstance(b, str) else "%s:%d" % b for b in backends]
        self.process = subprocess.Popen([RING, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline().split()[1])
        self.address = ("127.0.0.1", self.port)
        self.log, self.marks = [], 0
        self.reader = threading.Thread(target=self._read_log, daemon=True)
        self.reader.start()

    def _read_log(self):
        for line in self.process.stderr:
            self.log.append(line)

    def verdict(self, backend, state):
        """What the kernel says of a backend: "down" or "up"."""
        self.counters(f"{state} %s" % (backend if isinstance(backend, str) else "%s:%d" % backend))

    def counters(self, line=""):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def wait_counter(self, name, value, seconds=20):
        """Until the counter has that value, or a test calls true."""
        wanted = value if callable(value) else lambda n: n == value
        end = time.monotonic() + seconds
        while not wanted(n := self.counters()[name]):
            assert time.monotonic() < end, f"{name} is {n}"
            time.sleep(0.02)
        return n

    def lines(self):
        """What the access log has of requests, after all of them have ended."""
        self.wait_counter("streams_open", 0)
        self.marks += 1
        mark, end = f"mark {self.marks}\n", time.monotonic() + 20
        self.counters(mark.strip())
        while mark not in self.log:
            assert time.monotonic() < end, self.log[-3:]
            time.sleep(0.01)
        return [json.loads(line) for line in self.log if line.startswith("{")]

    def wait_lines(self, count, seconds=20):
        """The access log, once it has so many lines."""
        end = time.monotonic() + seconds
        while len(found := [json.loads(line) for line in self.log if line.startswith("{")]) < count:
            assert time.monotonic() < end, found
            time.sleep(0.02)
        return found

    def connect(self):
        sock = socket.create_connection(self.address, timeout=30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def rss_kb(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    def stop(self):
        alive = self.process.poll() is None
        if alive:
            self.process.stdin.close()
        try:
            code = self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.reader.join(10)
        assert alive and code == 0, f"proxy_ring: {code}: {''.join(self.log[-20:])}"

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()


def read_head(file):
    """(first line, [(name, value)], raw bytes), or None at the end."""
    raw = b""
    while not raw.endswith(b"\r\n\r\n"):
        line = file.readline()
        if not line:
            return None
        raw += line
    lines = raw.decode("latin-1").split("\r\n")
    fields = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:] if line)]
    return lines[0], fields, raw


def field(fields, name):
    found = [value for n, value in fields if n.lower() == name.lower()]
    return found[0] if found else None


def read_chunks(file):
    """(content, trailers); None where the coding is cut off."""
    content = b""
    while True:
        line = file.readline()
        if not line.endswith(b"\r\n"):
            return None
        size = int(line.split(b";")[0], 16)
        if size == 0:
            break
        part = file.read(size + 2)
        if len(part) != size + 2:
            return None
        content += part[:-2]
    trailers = []
    while (line := file.readline()) != b"\r\n":
        if not line:
            return None
        name, _, value = line.decode("latin-1").partition(":")
        trailers.append((name, value.strip()))
    return content, trailers


def read_body(file, fields):
    if field(fields, "Transfer-Encoding"):
        return read_chunks(file)
    length = int(field(fields, "Content-Length") or 0)
    body = file.read(length)
    return (body, []) if len(body) == length else None


def pattern(length, seed=0):
    """Bytes of which every place is known."""
    block = bytes((i * 7 + seed + (i >> 8)) & 255 for i in range(65536))
    return (block * (length // 65536 + 1))[:length]


def chunked(content, size):
    parts = [content[i:i + size] for i in range(0, len(content), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Backend:
    """A server whose behaviour is a function (self, connection, head) for each path's first word.

    Keeps what it was asked: requests (first line, fields, body or None), and how many connections came."""

    def __init__(self, path=None, **behaviours):
        self.behaviours = behaviours
        self.requests = []
        self.connections = 0
        self.open = []
        family = socket.AF_UNIX if path else socket.AF_INET
        self.listener = socket.socket(family)
        self.listener.bind(path or ("127.0.0.1", 0))
        self.listener.listen(256)
        self.address = path or self.listener.getsockname()
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self.open.append(sock)
            if sock.family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        with sock, sock.makefile("rb") as file:
            try:
                while head := read_head(file):
                    if not self.answer(sock, file, *head):
                        return
            except (OSError, ValueError):
                return

    def answer(self, sock, file, first, fields, raw):
        path = first.split()[1]
        word, _, rest = path.lstrip("/").partition("/")
        behaviour = self.behaviours.get(word)
        if behaviour:
            return behaviour(self, sock, file, first, fields, rest)
        body = read_body(file, fields)
        self.requests.append((first, fields, body and body[0]))
        if body is None:
            return False
        handler = getattr(self, "on_" + word.replace("-", "_"), None)
        if not handler:
            sock.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return True
        return handler(sock, first.split()[0], rest, body, fields)

    def on_length(self, sock, method, rest, body, fields):
        content = pattern(int(rest))
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Backend: 1\r\n\r\n" % len(content)
        sock.sendall(head if method == "HEAD" else head + content)
        return True

    def on_chunked(self, sock, method, rest, body, fields):
        length, size = (int(n) for n in rest.split("/"))
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
        coded = chunked(pattern(length), size)[:-2] + b"X-Sum: %d\r\n\r\n" % length
        sock.sendall(head if method == "HEAD" else head + coded)
        return True

    def on_close(self, sock, method, rest, body, fields):
        sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + pattern(int(rest)))
        return False

    def on_old(self, sock, method, rest, body, fields):
        sock.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + pattern(int(rest)))
        return False

    def on_status(self, sock, method, rest, body, fields):
        sock.sendall(b"HTTP/1.1 %s Fine\r\n%s\r\n" % (rest.encode(),
                                                     b"" if rest in ("204", "304") else b"Content-Length: 0\r\n"))
        return True

    def on_echo(self, sock, method, rest, body, fields):
        content = body[0]
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
        return True

    def on_echo_chunked(self, sock, method, rest, body, fields):
        content, trailers = body
        coded = chunked(content, 5000)[:-2] + b"".join(b"%s: %s\r\n" % (n.encode(), v.encode()) for n, v in trailers)
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + coded + b"\r\n")
        return True

    def on_raw(self, sock, method, rest, body, fields):
        """The answer is in the path, in hex."""
        sock.sendall(bytes.fromhex(rest))
        return True

    def on_cut(self, sock, method, rest, body, fields):
        """length/N/M, chunked/N/M or old/N/M: of N bytes of content, M come; then reset or FIN as the word behind says."""
        how, length, sent, end = rest.split("/")
        content = pattern(int(length))[:int(sent)]
        if how == "length":
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n" % length.encode() + content)
        elif how == "chunked":
            sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(content, 7000)[:-5])
        else:
            sock.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + content)
        if end == "reset":
            time.sleep(0.2)
            reset(sock)
        return False

    def stop(self):
        self.listener.shutdown(socket.SHUT_RDWR) if self.listener.family == socket.AF_INET else None
        self.listener.close()
        for sock in self.open:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.thread.join(0.2)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()


class Client:
    """One connection to the ring."""

    def __init__(self, ring):
        self.sock = ring.connect()
        self.file = self.sock.makefile("rb")

    def send(self, data):
        self.sock.sendall(data if isinstance(data, bytes) else data.encode("latin-1"))

    def ask(self, path, method="GET", fields=(), body=b""):
        lines = [f"{method} {path} HTTP/1.1", "Host: front.example:8080", *fields]
        self.send("\r\n".join(lines + ["", ""]).encode("latin-1") + body)

    def head(self):
        got = read_head(self.file)
        assert got, "the connection ended without an answer"
        return int(got[0].split()[1]), got[1]

    def answer(self, head_only=False):
        """(status, fields, content, trailers); content None: it was cut off."""
        status, fields = self.head()
        if head_only or status in (204, 304) or status < 200:
            return status, fields, b"", []
        if field(fields, "Transfer-Encoding"):
            got = read_chunks(self.file)
            return (status, fields, *got) if got else (status, fields, None, [])
        length = field(fields, "Content-Length")
        if length is None:
            return status, fields, self.file.read(), []
        content = self.file.read(int(length))
        return status, fields, content if len(content) == int(length) else None, []

    def get(self, path, **more):
        self.ask(path, **more)
        return self.answer(head_only=more.get("method") == "HEAD")

    def ended(self):
        """Whether nothing more comes: "fin", "reset", or None within a moment."""
        if not select.select([self.sock], [], [], 5)[0]:
            return None
        try:
            return None if self.sock.recv(1, socket.MSG_PEEK) else "fin"
        except ConnectionResetError:
            return "reset"

    def close(self):
        self.file.close()
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
