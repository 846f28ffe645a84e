# SPDX-License-Identifier: Apache-2.0
"""A small HTTP/1.1 client for tests: strict about what the server sends, free in what the test sends.

It does not repair, retry or follow anything. A response that is not framed exactly as RFC 9112 says raises
ProtocolError, so every test of the suite also checks the framing. Bytes can be sent raw, in parts, or pipelined.
"""

import json
import re
import socket
import time
import urllib.parse

HEAD_BYTES_MAX = 1 << 20
RECV_BYTES = 1 << 18
STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) ?([\t\x20-\x7e]*)")
FIELD_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")


class ProtocolError(Exception):
    """The server sent something that RFC 9112 does not allow."""


class ConnectionEnded(Exception):
    """The server closed the connection where a response, or the rest of one, was due."""


class Headers:
    """Field lines in the order received; names compare without case."""

    def __init__(self, pairs):
        self.pairs = pairs

    def all(self, name):
        return [value for field, value in self.pairs if field.lower() == name.lower()]

    def get(self, name, default=None):
        values = self.all(name)
        if len(values) > 1:
            raise ProtocolError(f"{name} given {len(values)} times: {values}")
        return values[0] if values else default

    def __contains__(self, name):
        return bool(self.all(name))

    def __repr__(self):
        return repr(self.pairs)


class Response:
    def __init__(self, status, headers, body, interim=()):
        self.status = status
        self.headers = headers
        self.body = body
        self.interim = list(interim)

    def header(self, name, default=None):
        return self.headers.get(name, default)

    def json(self):
        return json.loads(self.body)

    def codes(self):
        """The error codes of an error body; the body's shape is checked as well."""
        media_type = (self.header("Content-Type") or "").split(";")[0]
        assert media_type == "application/json", f"error body of type {media_type!r}: {self!r}"
        errors = self.json()["errors"]
        assert errors, self
        for error in errors:
            assert isinstance(error["code"], str) and re.fullmatch(r"[A-Z_]+", error["code"]), error
            assert isinstance(error.get("message", ""), str), error
        return [error["code"] for error in errors]

    def closes(self):
        """Did the server announce that it closes the connection after this response?"""
        tokens = ",".join(self.headers.all("Connection")).lower().split(",")
        return "close" in [token.strip() for token in tokens]

    def __repr__(self):
        return f"<{self.status} {self.headers!r} {self.body[:300]!r}>"


class Connection:
    """One TCP connection. `received` counts the bytes of bodies read so far."""

    def __init__(self, address, timeout_s=30.0, receive_buffer_bytes=None):
        self.sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        if receive_buffer_bytes:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.sock.settimeout(timeout_s)
        self.sock.connect(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.host = ("[%s]:%d" if ":" in address[0] else "%s:%d") % (address[0], address[1])
        self.buffer = b""
        self.received = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def reset(self):
        """Closes with RST, as a client does whose process or machine went away with data unread."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.sock.close()

    def half_close(self):
        self.sock.shutdown(socket.SHUT_WR)

    def send(self, data):
        self.sock.sendall(data)

    def head(self, method, target, headers=()):
        """The bytes of a request head, Host added unless given."""
        pairs = list(headers.items() if isinstance(headers, dict) else headers)
        if not any(name.lower() == "host" for name, _ in pairs):
            pairs.insert(0, ("Host", self.host))
        lines = [f"{method} {target} HTTP/1.1"] + [f"{name}: {value}" for name, value in pairs]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def request(self, method, target, body=None, headers=()):
        """Sends one request. bytes go with Content-Length; any other iterable goes chunked unless the headers
        give a Content-Length."""
        pairs = list(headers.items() if isinstance(headers, dict) else headers)
        given = {name.lower() for name, _ in pairs}
        if isinstance(body, (bytes, bytearray, memoryview)):
            if "content-length" not in given:
                pairs.append(("Content-Length", str(len(body))))
            head = self.head(method, target, pairs)
            if len(body) < 65536:
                self.send(head + bytes(body))
            else:
                self.send(head)
                self.send(body)
        elif body is None:
            if method in ("POST", "PUT", "PATCH") and not given & {"content-length", "transfer-encoding"}:
                pairs.append(("Content-Length", "0"))
            self.send(self.head(method, target, pairs))
        elif "content-length" in given:
            self.send(self.head(method, target, pairs))
            for piece in body:
                self.send(piece)
        else:
            pairs.append(("Transfer-Encoding", "chunked"))
            self.send(self.head(method, target, pairs))
            for piece in body:
                if piece:
                    self.send(b"%x\r\n" % len(piece) + piece + b"\r\n")
            self.send(b"0\r\n\r\n")

    def response(self, method="GET", sink=None):
        """Reads one final response (1xx are collected in `interim`). With a sink, body pieces go to it."""
        interim = []
        while True:
            status, headers = self._read_head()
            if status >= 200 or status == 101:
                break
            interim.append((status, headers))
        body = self._read_body(method, status, headers, sink)
        return Response(status, headers, body, interim)

    def exchange(self, method, target, body=None, headers=(), sink=None):
        """Request and response. A server may answer early and close while the body is still being sent: the
        answer is what counts then."""
        try:
            self.request(method, target, body, headers)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return self.response(method, sink)

    def closed_by_server(self, timeout_s=5.0):
        """True if the connection ends, with nothing more sent, before the time is up."""
        self.sock.settimeout(timeout_s)
        try:
            return not self.buffer and self.sock.recv(1) == b""
        except ConnectionResetError:
            return True
        except socket.timeout:
            return False

    def read_some(self):
        """The next raw bytes, b"" at the end."""
        if self.buffer:
            data, self.buffer = self.buffer, b""
            return data
        return self.sock.recv(RECV_BYTES)

    def read_to_end(self):
        parts = []
        while True:
            data = self.read_some()
            if not data:
                return b"".join(parts)
            parts.append(data)

    def _fill(self):
        data = self.sock.recv(RECV_BYTES)
        if not data:
            raise ConnectionEnded(f"after {len(self.buffer)} unread bytes: {self.buffer[:200]!r}")
        self.buffer += data

    def _read_head(self):
        while b"\r\n\r\n" not in self.buffer:
            if len(self.buffer) > HEAD_BYTES_MAX:
                raise ProtocolError("endless response head")
            self._fill()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        lines = head.split(b"\r\n")
        match = STATUS_LINE.fullmatch(lines[0])
        if not match:
            raise ProtocolError(f"status line {lines[0]!r}")
        return int(match.group(1)), Headers([self._field(line) for line in lines[1:]])

    @staticmethod
    def _field(line):
        match = FIELD_LINE.fullmatch(line)
        if not match:
            raise ProtocolError(f"field line {line!r}")
        return match.group(1).decode(), match.group(2).decode("latin-1")

    def _read_body(self, method, status, headers, sink):
        coding = headers.get("Transfer-Encoding")
        length = headers.get("Content-Length")
        if coding is not None and length is not None:
            raise ProtocolError("both Transfer-Encoding and Content-Length")
        if status == 204 and (coding or length):
            raise ProtocolError("204 with framing of a body")
        if method == "HEAD" or status in (101, 204, 304):
            return b""
        parts = []
        keep = sink or parts.append
        if coding is not None:
            if coding.lower() != "chunked":
                raise ProtocolError(f"Transfer-Encoding {coding!r}")
            self._read_chunked(keep)
        elif length is not None:
            if not re.fullmatch("[0-9]+", length):
                raise ProtocolError(f"Content-Length {length!r}")
            self._read_exactly(int(length), keep)
        else:
            data = self.read_to_end()
            self.received += len(data)
            keep(data)
        return b"".join(parts)

    def _read_exactly(self, length, keep):
        while length:
            if not self.buffer:
                self._fill()
            data = self.buffer[:length]
            self.buffer = self.buffer[length:]
            length -= len(data)
            self.received += len(data)
            keep(data)

    def _read_line(self):
        while b"\r\n" not in self.buffer:
            self._fill()
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    def _read_chunked(self, keep):
        while True:
            line = self._read_line()
            if not re.fullmatch(rb"[0-9a-fA-F]{1,16}", line):
                raise ProtocolError(f"chunk size {line!r}")
            size = int(line, 16)
            if size == 0:
                break
            self._read_exactly(size, keep)
            if self._read_line() != b"":
                raise ProtocolError("chunk data not followed by CRLF")
        while self._read_line() != b"":
            pass


class Client:
    """Makes a connection for each exchange, so that a restart of the server is not the test's business."""

    def __init__(self, address, timeout_s=30.0):
        self.address = address
        self.timeout_s = timeout_s

    def connect(self, **options):
        return Connection(self.address, **{"timeout_s": self.timeout_s, **options})

    def exchange(self, method, target, body=None, headers=(), sink=None):
        with self.connect() as connection:
            return connection.exchange(method, target, body, headers, sink)


def target_of(location):
    """Path and query of a Location, absolute or relative to the root."""
    parts = urllib.parse.urlsplit(location)
    assert parts.path.startswith("/"), f"Location {location!r} is not usable from any request"
    return parts.path + ("?" + parts.query if parts.query else "")


def with_query(target, *pairs):
    """The target with query parameters added; values are escaped."""
    query = urllib.parse.urlencode(pairs, safe=":/")
    return target + ("&" if "?" in target else "?") + query


def wait_until(condition, timeout_s=10.0, step_s=0.02):
    """Polls until the condition gives something true, which is returned; False when the time is up."""
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(step_s)
