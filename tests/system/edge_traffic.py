#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Traffic for tests of the edge; each command runs inside a namespace and prints JSON.

serve ADDRESS PORT NAME        a server until its input closes; answers the first line of each connection
connect ADDRESS PORT COUNT     short connections one after another
bulk ADDRESS PORT BYTES        so many bytes down, then up, digests compared
pull ADDRESS PORT BYTES        so many bytes down, not looked at
hold ADDRESS PORT COUNT        long connections: each speaks all the time until the input closes
offload DEVICE on|off          checksums and segmentation of what is sent by the device
"""

import array
import fcntl
import hashlib
import json
import os
import select
import socket
import struct
import sys
import threading
import time

PIECE = 1 << 20
BLOCK = bytes(range(256)) * (PIECE // 256)
TIMEOUT_S = 15


def say(**what):
    print(json.dumps(what), flush=True)


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


# ---------------------------------------------------------------- the server

def send_blob(connection, count):
    """Blocks of the pattern, from a file in memory, so that they go out in large segments."""
    file = os.memfd_create("blob")
    os.write(file, BLOCK)
    left = count
    while left:
        sent = os.sendfile(connection.fileno(), file, 0, min(left, PIECE))
        rest = min(left, PIECE) - sent
        if rest:
            connection.sendall(BLOCK[sent:sent + rest])
        left -= min(left, PIECE)
    os.close(file)


def read_blob(stream, count):
    digest, buffer = hashlib.sha256(), bytearray(PIECE)
    while count:
        got = stream.readinto(memoryview(buffer)[:min(count, PIECE)])
        if not got:
            raise ConnectionError(f"{count} bytes are missing")
        digest.update(memoryview(buffer)[:got])
        count -= got
    return digest.hexdigest()


def answer(connection, name):
    try:
        with connection, connection.makefile("rb") as stream:
            while words := stream.readline().split():
                if words[0] == b"name":
                    connection.sendall(f"{name} {connection.getpeername()[0]}\n".encode())
                elif words[0] == b"down":
                    send_blob(connection, int(words[1]))
                elif words[0] == b"up":
                    connection.sendall(read_blob(stream, int(words[1])).encode() + b"\n")
    except OSError:
        pass


def serve(address, port, name):
    listener = socket.socket(family(address))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, int(port)))
    listener.listen(1024)
    say(ready=name)
    while True:
        readable, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in readable:
            os._exit(0)  # pylint: disable=protected-access
        threading.Thread(target=answer, args=(listener.accept()[0], name), daemon=True).start()


# ---------------------------------------------------------------- clients

def open_to(address, port):
    connection = socket.socket(family(address))
    connection.settimeout(TIMEOUT_S)
    connection.connect((address, int(port)))
    return connection


def ask_name(connection):
    connection.sendall(b"name\n")
    reply = b""
    while not reply.endswith(b"\n"):
        got = connection.recv(200)
        if not got:
            raise ConnectionError("closed")
        reply += got
    return reply.decode().split()


def connect(address, port, count):
    names, sources, errors, slowest, started = {}, set(), {}, 0.0, time.monotonic()
    for _ in range(int(count)):
        begun = time.monotonic()
        try:
            with open_to(address, port) as connection:
                name, source = ask_name(connection)
                names[name] = names.get(name, 0) + 1
                sources.add(source)
        except OSError as error:
            kind = type(error).__name__
            errors[kind] = errors.get(kind, 0) + 1
        slowest = max(slowest, time.monotonic() - begun)
    say(names=names, sources=sorted(sources), errors=errors, slowest_s=slowest, seconds=time.monotonic() - started)


def bulk(address, port, count):
    count = int(count)
    wanted = hashlib.sha256()
    for at in range(0, count, PIECE):
        wanted.update(BLOCK[:min(PIECE, count - at)])
    begun = time.monotonic()
    with open_to(address, port) as connection, connection.makefile("rb") as stream:
        connection.sendall(f"down {count}\n".encode())
        down = read_blob(stream, count)
        middle = time.monotonic()
        connection.sendall(f"up {count}\n".encode())
        send_blob(connection, count)
        up = stream.readline().decode().strip()
    say(right=down == up == wanted.hexdigest(), down_s=middle - begun, up_s=time.monotonic() - middle)


def pull(address, port, count):
    left, buffer = int(count), bytearray(PIECE)
    with open_to(address, port) as connection:
        begun = time.monotonic()
        connection.sendall(f"down {count}\n".encode())
        while left:
            got = connection.recv_into(buffer, min(left, PIECE))
            if not got:
                raise ConnectionError(f"{left} bytes are missing")
            left -= got
        say(seconds=time.monotonic() - begun)


def keep_talking(connection, stop, result):
    try:
        with connection:
            first = ask_name(connection)[0]
            result["name"] = first
            while not stop.is_set():
                if ask_name(connection)[0] != first:
                    raise ConnectionError("another backend answered")
                result["rounds"] += 1
                time.sleep(0.01)
    except OSError as error:
        result["error"] = f"{type(error).__name__}: {error}"


def hold(address, port, count):
    stop, results, threads = threading.Event(), [], []
    for _ in range(int(count)):
        results.append({"rounds": 0, "error": None, "name": None})
        threads.append(threading.Thread(target=keep_talking, args=(open_to(address, port), stop, results[-1])))
        threads[-1].start()
    say(open=len(threads))
    for _ in sys.stdin:
        say(results=results)
    stop.set()
    for thread in threads:
        thread.join()
    say(results=results)


# ---------------------------------------------------------------- devices

def offload(device, state):
    """ETHTOOL_STXCSUM, ETHTOOL_SSG and ETHTOOL_STSO of <linux/ethtool.h> by SIOCETHTOOL."""
    on = int(state == "on")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in ((0x17, 0x19, 0x1f) if on else (0x1f, 0x19, 0x17)):
            value = array.array("B", struct.pack("II", command, on))
            request = struct.pack("16sP8x", device.encode(), value.buffer_info()[0])
            fcntl.ioctl(control, 0x8946, request)


if __name__ == "__main__":
    {"serve": serve, "connect": connect, "bulk": bulk, "pull": pull, "hold": hold, "offload": offload}[sys.argv[1]](*sys.argv[2:])
