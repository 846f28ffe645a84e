# SPDX-License-Identifier: Apache-2.0
"""What does it cost the server to send large blobs that are in the page cache?"""

import measure
from servers import Bare, Nginx

TITLE = "Pull of 256 MiB blobs: processor time of the server"
SIZE = 256 << 20
# Connections, and how many blobs are pulled in one run.
CASES = ((1, 8), (64, 64))


def run(bench):
    rows = []
    path, digest = bench.make_file("blob", SIZE)
    subject = bench.subject.name
    with bench.server(bench.subject) as registry, bench.server(Nginx) as nginx, bench.server(Bare, file=path) as bare:
        paths = {server.name: server.add_blob(path, digest) for server in (registry, nginx)}
        paths[bare.name] = "/"
        for connections, blobs in CASES:
            results = measure.interleave({
                server.name: lambda server=server: bench.load(
                    server, "get", connections, "-n", blobs, "-l", SIZE, paths[server.name])
                for server in (registry, nginx, bare)})
            where = f"{connections} connection{'s' if connections > 1 else ''}"
            rows.append(measure.row(f"server, {where}", "CPU-s per GB", "cpu_s_per_gb", results, subject, nginx.name,
                                    less_is_better=True, at_least=1.0))
            rows.append(measure.row(f"server, {where}", "CPU-s per GB", "cpu_s_per_gb", results, subject, bare.name,
                                    less_is_better=True, at_least=1 / 1.05))
            rows.append(measure.row(f"throughput, {where}", "GB/s", "gb_per_s", results, subject, nginx.name))
            rows.append(measure.row(f"throughput, {where}", "GB/s", "gb_per_s", results, subject, bare.name))
    return rows
