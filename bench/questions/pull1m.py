# SPDX-License-Identifier: Apache-2.0
"""How many blobs of the most common size are pulled in a second?"""

import measure
from servers import WORKERS, DockerRegistry, Nginx

TITLE = "Pull of 1 MiB blobs over 64 connections"
SIZE, BLOBS, CONNECTIONS, SECONDS = 1 << 20, 64, 64, 2


def run(bench):
    subject = bench.subject.name
    files = [bench.make_file(f"blob{i}", SIZE, i) for i in range(BLOBS)]
    with bench.server(bench.subject) as registry, bench.server(Nginx) as nginx, bench.server(DockerRegistry) as docker:
        trials = {}
        for server in (registry, nginx, docker):
            paths = [server.add_blob(path, digest) for path, digest in files]
            trials[server.name] = lambda server=server, paths=paths: bench.load(
                server, "get", CONNECTIONS, "-t", SECONDS, "-j", WORKERS, "-l", SIZE, *paths)
        results = measure.interleave(trials)
    rows = []
    for peer, at_least, aim in ((nginx.name, 1.0, 1.2), (docker.name, 5.0, 10.0)):
        rows.append(measure.row("pulls", "requests/s", "requests_per_s", results, subject, peer,
                                at_least=at_least, aim=aim))
        rows.append(measure.row("server", "CPU-s per GB", "cpu_s_per_gb", results, subject, peer, less_is_better=True))
        rows.append(measure.row("time of a pull, 99th percentile", "us", "p99_us", results, subject, peer,
                                less_is_better=True))
    return rows
