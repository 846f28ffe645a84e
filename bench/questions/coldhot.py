# SPDX-License-Identifier: Apache-2.0
"""Are pulls of what is in memory held up by pulls of what is not?"""

import subprocess

import measure
from servers import Nginx

TITLE = "Pulls of hot 1 MiB blobs while cold 16 MiB blobs are pulled beside them"
HOT_SIZE, HOT_BLOBS, HOT_CONNECTIONS, SECONDS = 1 << 20, 16, 8, 3
COLD_SIZE, COLD_BLOBS, COLD_CONNECTIONS = 16 << 20, 32, 4


def trial(bench, server, hot, cold):
    """The cold pulls begin before the hot ones and end after them; each cold file is dropped from the page cache
    before it is asked for again."""
    drops = [option for _, digest in cold for option in ("-d", server.file_of(digest))]
    command = [bench.load_tool, "get", server.port, COLD_CONNECTIONS, "-t", SECONDS + 1, "-l", COLD_SIZE, *drops,
               *(path for path, _ in cold)]
    beside = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)
    try:
        beside.wait(0.5)
    except subprocess.TimeoutExpired:
        pass
    result = bench.load(server, "get", HOT_CONNECTIONS, "-t", SECONDS, "-l", HOT_SIZE, *hot)
    output, errors = beside.communicate(timeout=60)
    if beside.returncode:
        raise measure.BenchError(f"{server.name}, cold: {errors.decode().strip()[:500]}")
    result["cold_gb_per_s"] = measure.figures({"cpu_s": 0, **measure.json.loads(output)})["gb_per_s"]
    return result


def run(bench):
    subject = bench.subject.name
    hot = [bench.make_file(f"hot{i}", HOT_SIZE, i) for i in range(HOT_BLOBS)]
    cold = [bench.make_file(f"cold{i}", COLD_SIZE, i) for i in range(COLD_BLOBS)]
    with bench.server(bench.subject) as registry, bench.server(Nginx, aio=True) as nginx:
        trials = {}
        for server in (registry, nginx):
            hot_paths = [server.add_blob(path, digest) for path, digest in hot]
            cold_paths = [(server.add_blob(path, digest), digest) for path, digest in cold]
            trials[server.name] = lambda server=server, hot_paths=hot_paths, cold_paths=cold_paths: trial(
                bench, server, hot_paths, cold_paths)
        results = measure.interleave(trials)
    peer = nginx.name
    return [
        measure.row("time of a hot pull, 99th percentile", "us", "p99_us", results, subject, peer,
                    less_is_better=True, at_least=1.0, aim=2.0),
        measure.row("time of a hot pull, median", "us", "p50_us", results, subject, peer, less_is_better=True),
        measure.row("hot pulls", "requests/s", "requests_per_s", results, subject, peer),
        measure.row("cold pulls beside them", "GB/s", "cold_gb_per_s", results, subject, peer),
    ]
