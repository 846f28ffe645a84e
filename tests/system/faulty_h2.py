# SPDX-License-Identifier: Apache-2.0
"""A backend of blobs that speaks HTTP/2 and fails as told: the commands are those of tests/tools/faulty.c, the faults those
of HTTP/2. In clear by prior knowledge, or over TLS.

    faulty_h2.py [-c CERTIFICATE -k KEY] tcp:ADDRESS:PORT | tls:ADDRESS:PORT ...

A "chunked" blob is one whose length is not told. At an offset: reset (of the stream), abort (of the connection), fin (of
it, too early), ended (the stream's end, too early), goaway (the stream is said to be unprocessed), garbage (a frame that
breaks the rules), hold, rate, corrupt; in the head: status, whole, etag, size."""

import fcntl
import hashlib
import random
import select
import socket
import ssl
import struct
import sys
import termios
import threading
import time

import hpack

from http2 import (ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, WINDOW,
                   WINDOW_UPDATE, frame)

PIECE = 16384
lock = threading.Condition()
blobs = {}
held = turn = total = 0


class Blob:
    def __init__(self, seed, size, length_told):
        self.content = random.Random(seed).randbytes(size)
        self.hex = hashlib.sha256(self.content).hexdigest()
        self.length_told = length_told
        self.rules, self.seen = [], [0, 0]

    def rule(self, ranged):
        """Counts the request; (fault, offset, value) of what goes wrong with it."""
        global total
        with lock:
            total += 1
            self.seen[ranged] += 1
            for rule in self.rules:
                when, left, *what = rule
                if when in ("any", "range" if ranged else "plain") and left != 0:
                    rule[1] = left - 1
                    return what
        return "none", -1, 0


class Connection:
    def __init__(self, sock):
        self.sock = sock
        sock.setblocking(False)
        self.using, self.framing = threading.Lock(), threading.Lock()
        self.changed = threading.Condition()
        self.first_window, self.windows = WINDOW, {0: WINDOW}
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.buffer = b""
        self.gone = False

    # Two threads must not be within the same TLS connection.
    def attempt(self, call, *args):
        with self.using:
            try:
                return call(*args)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return None

    def send(self, data):
        """data may be a function: what it makes goes out in the order in which it was made."""
        with self.framing:
            view = memoryview(data() if callable(data) else data)
            while view and not self.gone:
                n = self.attempt(self.sock.send, view)
                if n is None:
                    select.select([], [self.sock], [], 0.1)
                else:
                    view = view[n:]

    def receive(self, n):
        while len(self.buffer) < n:
            part = self.attempt(self.sock.recv, 65536)
            if part == b"" or self.gone:
                raise EOFError
            if part is None:
                select.select([self.sock], [], [], 0.1)
            self.buffer += part or b""
        taken, self.buffer = self.buffer[:n], self.buffer[n:]
        return taken

    def run(self):
        try:
            assert self.receive(len(PREFACE)) == PREFACE
            self.send(frame(SETTINGS, payload=struct.pack(">HI", 3, 100)))
            while True:
                head = self.receive(9)
                self.handle(head[3], head[4], int.from_bytes(head[5:], "big"), self.receive(int.from_bytes(head[:3], "big")))
        except (EOFError, OSError):
            pass
        with self.changed:
            self.gone = True
            self.changed.notify_all()
        with self.using:
            self.sock.close()

    def handle(self, kind, flags, stream, payload):
        if kind == SETTINGS and not flags & ACK:
            with self.changed:
                for at in range(0, len(payload), 6):
                    key, value = struct.unpack(">HI", payload[at:at + 6])
                    if key == 4:
                        more, self.first_window = value - self.first_window, value
                        self.windows = {id: n + (more if id else 0) for id, n in self.windows.items()}
                self.changed.notify_all()
            self.send(frame(SETTINGS, ACK))
        elif kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, payload=payload))
        elif kind == WINDOW_UPDATE:
            with self.changed:
                self.windows[stream] = self.windows.get(stream, self.first_window) + int.from_bytes(payload, "big")
                self.changed.notify_all()
        elif kind == RST_STREAM:
            with self.changed:
                self.windows[stream] = None
                self.changed.notify_all()
        elif kind == HEADERS:
            assert flags & END_HEADERS
            with self.changed:
                self.windows.setdefault(stream, self.first_window)
            fields = dict(self.decoder.decode(payload))
            threading.Thread(target=self.answer, args=(stream, fields), daemon=True).start()

    # ------------------------------------------------------------ answers

    def head(self, stream, fields, end=False):
        self.send(lambda: frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, self.encoder.encode(fields)))

    def room(self, stream, want):
        """So many bytes may be sent now, at least one; 0: nobody wants them any more."""
        with self.changed:
            while not self.gone and self.windows[stream] is not None:
                n = min(want, PIECE, self.windows[0], self.windows[stream])
                if n > 0:
                    self.windows[0] -= n
                    self.windows[stream] -= n
                    return n
                self.changed.wait()
        return 0

    def content(self, stream, content):
        while content:
            n = self.room(stream, len(content))
            if n == 0:
                return False
            self.send(frame(DATA, 0, stream, content[:n]))
            content = content[n:]
        return True

    def drain(self):
        """What was written is with the other end before more happens."""
        for _ in range(2000):
            queued = fcntl.ioctl(self.sock.fileno(), termios.TIOCOUTQ, b"\0" * 4)
            if queued == b"\0" * 4:
                return
            time.sleep(0.001)

    def end(self, how):
        self.drain()
        if how == "abort":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.gone = True  # the reading thread closes it

    def fault(self, stream, fault):
        """Whether the stream goes on."""
        if fault == "hold":
            hold(self)
            return True
        if fault == "reset":
            self.send(frame(RST_STREAM, 0, stream, struct.pack(">I", 2)))
        elif fault == "ended":
            self.send(frame(DATA, END_STREAM, stream))
        elif fault == "goaway":
            self.send(frame(GOAWAY, 0, 0, struct.pack(">II", 0, 0)))
        elif fault == "garbage":
            self.send(frame(DATA, 0, 0, b"of no stream"))
        else:
            self.end(fault)
        return False

    def body(self, stream, blob, rule, first, end):
        fault, at, value = rule
        content = blob.content + b"x" * max(0, end - len(blob.content))
        if at < first and fault not in ("corrupt", "rate"):
            at = first
        if fault in ("reset", "ended", "goaway", "garbage", "abort", "fin", "hold") and at <= end:
            if not self.content(stream, content[first:at]) or not self.fault(stream, fault):
                return
            first = at
        elif fault == "corrupt":
            at = max(at, first)
            if not self.content(stream, content[first:at]):
                return
            content, first = bytes(b ^ 0x55 for b in content[at:end]), 0
            end = len(content)
        elif fault == "rate":
            if not self.content(stream, content[first:max(at, first)]):
                return
            for byte in range(max(at, first), end):
                time.sleep(1 / value)
                if not self.content(stream, content[byte:byte + 1]):
                    return
            first = end
        if self.content(stream, content[first:end]):
            self.send(frame(DATA, END_STREAM, stream))

    def answer(self, stream, fields):
        try:
            self.respond(stream, fields)
        except (OSError, ValueError):  # the connection is closed
            pass

    def respond(self, stream, fields):
        blob = blobs.get(fields[":path"][-64:])
        if not blob:
            self.head(stream, [(":status", "404"), ("content-length", "0")], end=True)
            return
        asked = fields.get("range")
        fault, at, value = rule = blob.rule(asked is not None)
        size = len(blob.content) + (value if fault == "size" else 0)
        if fault == "status":
            self.head(stream, [(":status", str(value)), ("content-length", "0")], end=True)
            return
        first, end = 0, size
        if fault == "whole":
            asked = None
        if asked:
            low, _, high = asked.removeprefix("bytes=").partition("-")
            first, end = int(low), min(int(high) + 1, size) if high else size
        head = [(":status", "206" if asked else "200"), ("content-type", "application/octet-stream"),
                ("etag", '"%s%s"' % ("another-" if fault == "etag" else "", blob.hex)),
                ("docker-content-digest", f"sha256:{blob.hex}")]
        if asked:
            head.append(("content-range", f"bytes {first}-{end - 1}/{size}"))
        if blob.length_told:
            head.append(("content-length", str(end - first)))
        self.head(stream, head)
        self.body(stream, blob, rule, first, end)


def hold(connection):
    global held
    connection.drain()
    with lock:
        since = turn
        held += 1
        while turn == since:
            lock.wait()
        held -= 1


def serve(listener, context):
    def begin(sock):
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            Connection(context.wrap_socket(sock, server_side=True) if context else sock).run()
        except OSError:
            sock.close()

    while True:
        sock, _ = listener.accept()
        threading.Thread(target=begin, args=(sock,), daemon=True).start()


def command(word, *args):
    global turn
    if word == "blob":
        blob = Blob(int(args[0]), int(args[1]), "chunked" not in args)
        blobs[blob.hex] = blob
        return blob.hex
    with lock:
        if word == "rule":
            digest, when, count, fault, at, value = args
            blobs[digest].rules.append([when, int(count) or -1, fault, int(at), int(value)])
            return ""
        if word == "held":
            return str(held)
        if word == "go":
            turn += 1
            lock.notify_all()
            return ""
        assert word == "seen", word
        return "%d %d" % tuple(blobs[args[0]].seen)


def main(args):
    context = None
    if args[0] == "-c":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(args[1], args[3])
        context.set_alpn_protocols(["h2"])
        args = args[4:]
    ports = []
    for each in args:
        kind, address, port = each.split(":")
        listener = socket.create_server((address, int(port)), backlog=512)
        ports.append(str(listener.getsockname()[1]))
        threading.Thread(target=serve, args=(listener, context if kind == "tls" else None), daemon=True).start()
    print("ready", *ports, flush=True)
    for line in sys.stdin:
        print("ok", command(*line.split()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
