# SPDX-License-Identifier: Apache-2.0
"""How much memory of user space does an idle kept-alive connection take?"""

import measure
from servers import Nginx

TITLE = "Memory of an idle kept-alive connection, 10,000 of them open"
CONNECTIONS, SIZE = 10_000, 1000


def memory(bench, cls, blob):
    """One run, on a server that was just started: an idle connection has served one request."""
    path, digest = blob
    with bench.server(cls) as server:
        target = server.add_blob(path, digest)
        bench.load(server, "get", 1, "-n", 1, "-l", SIZE, target)
        return measure.memory_held([bench.load_tool, "idle", server.port, CONNECTIONS, "-l", SIZE, target], server,
                                   CONNECTIONS)


def run(bench):
    subject = bench.subject.name
    blob = bench.make_file("blob", SIZE)
    results = measure.interleave({cls.name: lambda cls=cls: memory(bench, cls, blob) for cls in (bench.subject, Nginx)})
    return [
        measure.row("growth of the memory / connections", "bytes (PSS)", "grown", results, subject, Nginx.name,
                    less_is_better=True, at_least=2.0),
        measure.row("all memory, pools included / connections", "bytes (PSS)", "all", results, subject, Nginx.name,
                    less_is_better=True, at_least=2.0),
    ]
