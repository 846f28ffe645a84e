# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 frame by frame, for tests: whatever a test wants to send, and everything that comes, in order."""

import socket
import struct
import threading
import time

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 7, 8, 9, 11
WINDOW = 65535


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


class Frame:
    def __init__(self, kind, flags, stream, payload):
        self.kind, self.flags, self.stream, self.payload = kind, flags, stream, payload

    @property
    def code(self):
        return struct.unpack(">I", self.payload[4:8] if self.kind == GOAWAY else self.payload[:4])[0]

    @property
    def ends(self):
        return bool(self.flags & END_STREAM)

    def __repr__(self):
        return f"<{self.kind} flags {self.flags} stream {self.stream} {self.payload[:40]!r}>"


class Answer:
    def __init__(self):
        self.heads, self.body, self.reset, self.ended = [], bytearray(), None, False

    @property
    def status(self):
        return next((int(dict(head)[":status"]) for head in self.heads if dict(head)[":status"] >= "200"), None)

    @property
    def fields(self):
        return dict(next(head for head in self.heads if dict(head).get(":status", "0") >= "200"))

    def __repr__(self):
        return f"<{self.heads} {len(self.body)} bytes, ended {self.ended}, reset {self.reset}>"


class Session:
    """A client. Its own settings are the defaults unless given; windows grow only where a test lets them."""

    def __init__(self, address, settings=(), timeout_s=20, sock=None):
        self.sock = sock or socket.create_connection(address, timeout=timeout_s)
        self.sock.settimeout(timeout_s)
        self.host = "%s:%d" % tuple(address[:2])
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.buffer = b""
        self.next_stream = 1
        self.answers = {}
        self.goaway = None
        self.closed = False
        self.frames = []
        self.grow = True
        self.sending = threading.Lock()
        self.room, self.first_room = {0: WINDOW}, WINDOW  # what the server's windows leave
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        payload = b"".join(struct.pack(">HI", key, value) for key, value in settings)
        self.send(PREFACE + frame(SETTINGS, payload=payload))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data):
        """False if the other side has closed."""
        try:
            with self.sending:
                self.sock.sendall(data)
        except OSError:
            return False
        return True

    def fields(self, method="GET", path="/v2/", more=(), **replaced):
        pairs = [(":method", method), (":scheme", "http"), (":path", path), (":authority", self.host)]
        return [(name, replaced.get(name[1:], value)) for name, value in pairs] + list(more)

    def request(self, *args, end=True, fields=None, **kwargs):
        """Sends a HEADERS frame; returns the stream's number."""
        stream = self.next_stream
        self.next_stream += 2
        block = self.encoder.encode(fields if fields is not None else self.fields(*args, **kwargs))
        self.send(frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block))
        return stream

    def data(self, stream, content, end=False):
        self.send(frame(DATA, END_STREAM if end else 0, stream, content))

    def reset(self, stream, code=CANCEL):
        self.send(frame(RST_STREAM, 0, stream, struct.pack(">I", code)))

    def window(self, stream, n):
        self.send(frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", n)))

    def receive(self, n):
        while len(self.buffer) < n:
            try:
                part = self.sock.recv(1 << 16)
            except ConnectionError:
                part = b""
            if not part:
                self.closed = True
                return None
            self.buffer += part
        taken, self.buffer = self.buffer[:n], self.buffer[n:]
        return taken

    def next(self):
        """The next frame, taken into account; None at the end."""
        head = self.receive(9)
        if head is None:
            return None
        length, kind, flags, stream = struct.unpack(">I", b"\0" + head[:3])[0], head[3], head[4], \
            struct.unpack(">I", head[5:])[0]
        payload = self.receive(length) if length else b""
        if payload is None:
            return None
        got = Frame(kind, flags, stream, payload)
        self.frames.append(got)
        self.account(got)
        return got

    def account(self, got):
        answer = self.answers.setdefault(got.stream, Answer()) if got.stream else None
        if got.kind == HEADERS:
            assert got.flags & END_HEADERS and not got.flags & (PADDED | 32), got
            answer.heads.append(self.decoder.decode(got.payload))
            answer.ended = got.ends
        elif got.kind == DATA:
            answer.body += got.payload
            answer.ended = got.ends
            if self.grow and got.payload:
                self.window(0, len(got.payload))
                if not got.ends:
                    self.window(got.stream, len(got.payload))
        elif got.kind == RST_STREAM:
            answer.reset = got.code
        elif got.kind == GOAWAY:
            self.goaway = got.code
        elif got.kind == WINDOW_UPDATE:
            self.room[got.stream] = self.room.get(got.stream, self.first_room) + got.code
        elif got.kind == SETTINGS and not got.flags & ACK:
            for i in range(0, len(got.payload), 6):
                key, value = struct.unpack(">HI", got.payload[i:i + 6])
                if key == 4:
                    self.room = {s: n + (value - self.first_room if s else 0) for s, n in self.room.items()}
                    self.first_room = value
            self.send(frame(SETTINGS, ACK))
        elif got.kind == PING and not got.flags & ACK:
            self.send(frame(PING, ACK, payload=got.payload))

    def answer(self, stream):
        """Reads until that stream has ended or was reset, or everything has."""
        self.answers.setdefault(stream, Answer())
        while not self.answers[stream].ended and self.answers[stream].reset is None:
            if self.next() is None:
                break
        return self.answers[stream]

    def send_body(self, stream, body):
        """In frames, as the windows allow."""
        self.room.setdefault(stream, self.first_room)
        at = 0
        while at < len(body):
            n = min(self.room[0], self.room[stream], 16384, len(body) - at)
            if n <= 0:
                if self.next() is None or self.answers.get(stream, Answer()).reset is not None:
                    return
                continue
            self.data(stream, body[at:at + n], at + n == len(body))
            self.room[0] -= n
            self.room[stream] -= n
            at += n

    def exchange(self, *args, body=None, **kwargs):
        stream = self.request(*args, end=body is None, **kwargs)
        self.send_body(stream, body or b"")
        return self.answer(stream)

    def until(self, kind, seconds=20):
        """The next frame of that kind."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            got = self.next()
            assert got is not None, f"closed, goaway {self.goaway}"
            if got.kind == kind:
                return got
        raise AssertionError(f"no frame of kind {kind}")

    def drain(self):
        """Everything to the end; then the code of GOAWAY, if one came."""
        while self.next() is not None:
            pass
        return self.goaway
