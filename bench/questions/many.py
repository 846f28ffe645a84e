# SPDX-License-Identifier: Apache-2.0
"""How many idle connections does one host keep, and what do they cost? More than a process may have descriptors for, so several
nodes, each with its own state, sockets and ports, beside as many nginx."""

import contextlib
import subprocess

import measure
from servers import Nginx

SERVERS, CONNECTIONS = (2, 500) if measure.QUICK else (7, 14_500)
SIZE = 1000
ROUNDS = 1 if measure.QUICK else 3
TITLE = f"Memory of idle kept-alive connections, {SERVERS * CONNECTIONS:,} of them open to {SERVERS} servers of one host"


def held(bench, servers, target):
    """Clients that hold all of them at the same time; each connection has served one request."""
    clients = [subprocess.Popen([str(word) for word in (bench.load_tool, "idle", server.port, CONNECTIONS, "-l", SIZE, target)],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for server in servers]
    try:
        for client, server in zip(clients, servers):
            if client.stdout.readline() != "ready\n":
                raise measure.BenchError(f"{server.name}: the connections did not open")
        return sum(server.pss_bytes() for server in servers)
    finally:
        for client in clients:
            client.communicate(timeout=120)


def memory(bench, cls, blob):
    path, digest = blob
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(bench.server(cls)) for _ in range(SERVERS)]
        targets = {server.add_blob(path, digest) for server in servers}
        (target,) = targets
        for server in servers:
            bench.load(server, "get", 1, "-n", 1, "-l", SIZE, target)
        before = sum(server.pss_bytes() for server in servers)
        after = held(bench, servers, target)
    count = SERVERS * CONNECTIONS
    return {"grown": (after - before) / count, "all": after / count}


def run(bench):
    subject, blob = bench.subject.name, bench.make_file("blob", SIZE)
    results = measure.interleave({cls.name: lambda cls=cls: memory(bench, cls, blob) for cls in (bench.subject, Nginx)}, ROUNDS)
    return [
        measure.row("growth of the memory / connections", "bytes (PSS)", "grown", results, subject, Nginx.name,
                    less_is_better=True, at_least=2.0),
        measure.row("all memory, pools included / connections", "bytes (PSS)", "all", results, subject, Nginx.name,
                    less_is_better=True, at_least=1.0),
    ]
